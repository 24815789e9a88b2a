//! Public keys that are fetched, and how they are kept fresh.
//!
//! One task fetches ([`KeyCache::run`]); requests only read what it fetched, ask it to fetch sooner
//! and wait for it. So there is one fetch at a time however many requests ask, and no lock is held
//! while it runs. A fetch that fails leaves the old keys in place.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use super::keys::{KeyError, VerifyingKey, read_key_set};

/// How long a fetch may take, and how long a request waits for one.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest key set that is read, in bytes. Real ones have a few kilobytes.
const BODY_MAX_BYTES: usize = 1024 * 1024;

/// Most redirects that are followed.
const REDIRECTS_MAX: usize = 3;

/// How often tokens with an unknown `kid` may cause a fetch. Anybody can send such tokens, and the
/// issuer should not have to pay for it.
const ON_DEMAND_INTERVAL: Duration = Duration::from_secs(30);

/// How soon a failed fetch is tried again; doubled with each further failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How the fetching of keys fares, for readiness, metrics and the doctor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyFetchStatus {
    /// How many keys are in use.
    pub keys: usize,
    /// Fetches that brought keys.
    pub successes: u64,
    /// Fetches that did not.
    pub failures: u64,
    /// How long ago keys were last fetched; `None` if they never were.
    pub since_success: Option<Duration>,
    /// Why the last fetch failed; `None` if it did not. It does not name the URL, which may hold a password.
    pub last_error: Option<String>,
}

/// Why keys were not fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// Comes without the URL, which may hold a password.
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    #[error("the answer has status {0}")]
    Status(http::StatusCode),
    #[error("the answer is longer than {BODY_MAX_BYTES} bytes")]
    TooLong,
    #[error("the answer did not come within {FETCH_TIMEOUT:?}")]
    Timeout,
    #[error("the answer is not accepted")]
    Keys(#[source] KeyError),
}

/// Where a key set comes from. A port, so that refreshing can be tested without a network.
pub(crate) trait KeySource: Send + Sync {
    /// Fetches the JWK set.
    fn fetch(&self) -> BoxFuture<'_, Result<Vec<u8>, FetchError>>;
}

/// The keys of one source.
pub(crate) struct KeyCache {
    source: Box<dyn KeySource>,
    state: watch::Sender<State>,
    /// Wakes the fetching task before its time.
    wanted: Notify,
    on_demand: Mutex<Option<Demand>>,
}

#[derive(Clone, Default)]
struct State {
    keys: Arc<[VerifyingKey]>,
    started: u64,
    completed: u64,
    successes: u64,
    failures_in_row: u32,
    last_attempt: Option<Instant>,
    last_success: Option<Instant>,
    last_error: Option<String>,
}

/// The last fetch that a token asked for.
#[derive(Clone, Copy)]
struct Demand {
    at: Instant,
    /// It is satisfied when as many fetches have completed.
    completed: u64,
}

/// There are no keys to check a token with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoKeys {
    pub(crate) cause: String,
}

impl KeyCache {
    pub(crate) fn new(source: Box<dyn KeySource>) -> Self {
        Self { source, state: watch::Sender::new(State::default()), wanted: Notify::new(), on_demand: Mutex::new(None) }
    }

    /// Fetches at once, then whenever the keys are as old as `refresh`, sooner after a failure and on
    /// demand. Never returns; dropping it abandons the fetch under way, and another call takes over.
    pub(crate) async fn run(&self, refresh: Duration) {
        loop {
            let next = self.next_fetch(refresh);
            tokio::select! {
                () = self.wanted.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
            self.fetch().await;
        }
    }

    fn next_fetch(&self, refresh: Duration) -> Instant {
        let state = self.state.borrow();
        let (Some(last_attempt), true) = (state.last_attempt, state.started == state.completed) else {
            // None so far, or the last one was abandoned.
            return Instant::now();
        };
        let wait = match state.failures_in_row {
            0 => refresh,
            failures => RETRY_FIRST.saturating_mul(1 << (failures - 1).min(16)).min(RETRY_MAX).min(refresh),
        };
        last_attempt + wait
    }

    async fn fetch(&self) {
        self.state.send_modify(|state| state.started += 1);
        let fetched = match timeout(FETCH_TIMEOUT, self.source.fetch()).await {
            Ok(Ok(body)) => read_key_set(&body).map_err(FetchError::Keys),
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => Err(FetchError::Timeout),
        };
        let now = Instant::now();
        self.state.send_modify(|state| {
            // A call that was dropped left its fetch uncompleted; this one stands for both.
            state.completed = state.started;
            state.last_attempt = Some(now);
            match fetched {
                Ok(keys) => {
                    state.keys = keys.into();
                    state.successes += 1;
                    state.failures_in_row = 0;
                    state.last_success = Some(now);
                    state.last_error = None;
                }
                Err(error) => {
                    let cause = in_full(&error);
                    tracing::warn!(%cause, "the keys of tokens could not be fetched; the ones at hand stay in use");
                    state.failures_in_row = state.failures_in_row.saturating_add(1);
                    state.last_error = Some(cause);
                }
            }
        });
    }

    /// The keys at hand. Waits for the first fetch, if it has not ended yet.
    pub(crate) async fn keys(&self) -> Result<Arc<[VerifyingKey]>, NoKeys> {
        self.completed(1).await;
        let state = self.state.borrow();
        if state.last_success.is_some() {
            return Ok(state.keys.clone());
        }
        let cause = match &state.last_error {
            Some(error) => format!("no keys could be fetched from auth.jwks_url yet: {error}"),
            None => format!("no keys were fetched from auth.jwks_url within {FETCH_TIMEOUT:?}"),
        };
        Err(NoKeys { cause })
    }

    /// Keys that may be newer than the ones at hand, for a token whose `kid` is not among those. The
    /// ones at hand, if tokens have asked for newer ones too recently. An error if the last fetch
    /// failed: whether there is such a key is then not known.
    pub(crate) async fn newer_keys(&self) -> Result<Arc<[VerifyingKey]>, NoKeys> {
        let wanted = self.demand(Instant::now());
        self.completed(wanted).await;
        let state = self.state.borrow();
        if state.completed < wanted {
            return Err(NoKeys { cause: format!("auth.jwks_url was not fetched anew within {FETCH_TIMEOUT:?}") });
        }
        match &state.last_error {
            Some(error) => Err(NoKeys { cause: format!("auth.jwks_url could not be fetched anew: {error}") }),
            None => Ok(state.keys.clone()),
        }
    }

    /// Asks for a fetch, if that is allowed now. Returns how many fetches will have completed by the
    /// time that the last one asked for has.
    fn demand(&self, now: Instant) -> u64 {
        let mut last = self.on_demand.lock();
        match *last {
            Some(demand) if now.duration_since(demand.at) < ON_DEMAND_INTERVAL => demand.completed,
            _ => {
                // One that has started already may have read the keys before they changed.
                let completed = self.state.borrow().started + 1;
                *last = Some(Demand { at: now, completed });
                self.wanted.notify_one();
                completed
            }
        }
    }

    async fn completed(&self, count: u64) {
        if self.state.borrow().completed >= count {
            return;
        }
        let mut state = self.state.subscribe();
        // Whether it came in time is seen from the state; the sender lives as long as `self`.
        let _in_time_or_not = timeout(FETCH_TIMEOUT, state.wait_for(|state| state.completed >= count)).await;
    }

    pub(crate) fn status(&self) -> KeyFetchStatus {
        let state = self.state.borrow();
        KeyFetchStatus {
            keys: state.keys.len(),
            successes: state.successes,
            failures: state.completed - state.successes,
            since_success: state.last_success.map(|at| at.elapsed()),
            last_error: state.last_error.clone(),
        }
    }
}

/// A key set at a URL.
pub(crate) struct UrlSource {
    client: reqwest::Client,
    url: reqwest::Url,
}

impl UrlSource {
    pub(crate) fn new(url: reqwest::Url) -> Result<Self, reqwest::Error> {
        let redirects = reqwest::redirect::Policy::custom(|attempt| {
            // From https to http somebody on the way could give us keys; the other way is a mistake.
            let same_scheme = attempt.previous().first().is_some_and(|first| first.scheme() == attempt.url().scheme());
            if !same_scheme {
                attempt.error("a redirect to another scheme")
            } else if attempt.previous().len() > REDIRECTS_MAX {
                attempt.error("too many redirects")
            } else {
                attempt.follow()
            }
        });
        let client = reqwest::Client::builder()
            .timeout(FETCH_TIMEOUT)
            .redirect(redirects)
            .user_agent(concat!("tidings/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, url })
    }
}

impl KeySource for UrlSource {
    fn fetch(&self) -> BoxFuture<'_, Result<Vec<u8>, FetchError>> {
        Box::pin(async {
            // Errors come without the URL, which may hold a password.
            let request_error = |error: reqwest::Error| FetchError::Request(error.without_url());
            let request = self.client.get(self.url.clone()).header(http::header::ACCEPT, "application/json");
            let mut response = request.send().await.map_err(request_error)?;
            if response.status() != http::StatusCode::OK {
                return Err(FetchError::Status(response.status()));
            }
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(request_error)? {
                if body.len() + chunk.len() > BODY_MAX_BYTES {
                    return Err(FetchError::TooLong);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body)
        })
    }
}

/// An error and its sources in one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// The public key of RFC 8037, appendix A.2.
    fn key_set(kid: &str) -> Result<Vec<u8>, FetchError> {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        Ok(format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"{kid}"}}]}}"#).into_bytes())
    }

    fn refusal() -> Result<Vec<u8>, FetchError> {
        Err(FetchError::Status(http::StatusCode::BAD_GATEWAY))
    }

    type Answers = Mutex<VecDeque<Result<Vec<u8>, FetchError>>>;

    /// Answers from a list, then never.
    struct Script {
        answers: Arc<Answers>,
        fetches: Arc<AtomicUsize>,
    }

    impl KeySource for Script {
        fn fetch(&self) -> BoxFuture<'_, Result<Vec<u8>, FetchError>> {
            self.fetches.fetch_add(1, Ordering::Relaxed);
            let answer = self.answers.lock().pop_front();
            Box::pin(async {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            })
        }
    }

    fn scripted(
        answers: impl IntoIterator<Item = Result<Vec<u8>, FetchError>>,
    ) -> (Arc<KeyCache>, Arc<AtomicUsize>, Arc<Answers>) {
        let fetches = Arc::new(AtomicUsize::new(0));
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        let script = Script { answers: answers.clone(), fetches: fetches.clone() };
        (Arc::new(KeyCache::new(Box::new(script))), fetches, answers)
    }

    fn cache(answers: impl IntoIterator<Item = Result<Vec<u8>, FetchError>>) -> (Arc<KeyCache>, Arc<AtomicUsize>) {
        let (cache, fetches, _answers) = scripted(answers);
        (cache, fetches)
    }

    fn ask(cache: &Arc<KeyCache>) -> tokio::task::JoinHandle<Result<Arc<[VerifyingKey]>, NoKeys>> {
        let cache = cache.clone();
        tokio::spawn(async move { cache.newer_keys().await })
    }

    fn run(cache: &Arc<KeyCache>, refresh: Duration) -> tokio::task::JoinHandle<()> {
        let cache = cache.clone();
        tokio::spawn(async move { cache.run(refresh).await })
    }

    fn kid(keys: &[VerifyingKey]) -> &str {
        keys[0].key_id.as_deref().unwrap()
    }

    const REFRESH: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn keys_are_fetched_at_start_and_then_every_so_often() {
        let (cache, fetches) = cache([key_set("a"), key_set("b")]);
        let _task = run(&cache, REFRESH);
        assert_eq!(kid(&cache.keys().await.unwrap()), "a");
        tokio::time::advance(REFRESH - Duration::from_millis(1)).await;
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        cache.completed(2).await;
        assert_eq!(kid(&cache.keys().await.unwrap()), "b");
        assert_eq!(cache.status().since_success, Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_the_first_fetch_but_not_for_ever() {
        let (cache, _fetches) = cache([]);
        let started = Instant::now();
        assert!(cache.keys().await.is_err(), "nobody fetches");
        assert_eq!(started.elapsed(), FETCH_TIMEOUT);
        let _task = run(&cache, REFRESH);
        cache.completed(1).await;
        assert!(cache.keys().await.unwrap_err().cause.contains("did not come within 5s"));
        assert_eq!((cache.status().failures, cache.status().since_success), (1, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_keeps_the_keys_and_is_tried_again_soon_and_then_less_soon() {
        let no_keys = || Ok(br#"{"keys":[]}"#.to_vec());
        let (cache, fetches) = cache([key_set("a"), refusal(), no_keys(), refusal(), key_set("b")]);
        let _task = run(&cache, REFRESH);
        cache.completed(1).await;
        let mut count = 1;
        for wait_secs in [300, 1, 2, 4] {
            tokio::time::advance(Duration::from_secs(wait_secs) - Duration::from_millis(1)).await;
            assert_eq!(fetches.load(Ordering::Relaxed), count, "{wait_secs}");
            assert_eq!(kid(&cache.keys().await.unwrap()), "a");
            tokio::time::advance(Duration::from_millis(1)).await;
            count += 1;
            cache.completed(count as u64).await;
        }
        assert_eq!(kid(&cache.keys().await.unwrap()), "b");
        let status = cache.status();
        assert_eq!((status.keys, status.successes, status.failures, status.last_error), (1, 2, 3, None));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_id_fetches_once_in_a_while_for_all_that_ask() {
        let (cache, fetches) = cache([key_set("a"), key_set("b"), key_set("c")]);
        let _task = run(&cache, REFRESH);
        cache.keys().await.unwrap();
        let asked: Vec<_> = (0..10).map(|_| ask(&cache)).collect();
        for asked in asked {
            assert_eq!(kid(&asked.await.unwrap().unwrap()), "b");
        }
        tokio::time::advance(ON_DEMAND_INTERVAL - Duration::from_millis(1)).await;
        assert_eq!(kid(&cache.newer_keys().await.unwrap()), "b");
        assert_eq!(fetches.load(Ordering::Relaxed), 2);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(kid(&cache.newer_keys().await.unwrap()), "c");
        assert_eq!(fetches.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn whether_a_key_is_new_is_not_known_while_fetching_fails() {
        let (cache, _fetches) = cache([key_set("a"), refusal()]);
        let _task = run(&cache, REFRESH);
        cache.keys().await.unwrap();
        assert!(cache.newer_keys().await.is_err());
        assert_eq!(kid(&cache.keys().await.unwrap()), "a");
    }

    /// A reload drops the fetching task and starts another. Those who asked must not wait in vain.
    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_is_abandoned_is_made_by_the_next_task() {
        let (cache, fetches, script) = scripted([key_set("a")]);
        let task = run(&cache, REFRESH);
        cache.keys().await.unwrap();
        let asked = ask(&cache);
        let mut state = cache.state.subscribe();
        state.wait_for(|state| state.started == 2).await.unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        script.lock().push_back(key_set("b"));
        let _task = run(&cache, REFRESH);
        assert_eq!(kid(&asked.await.unwrap().unwrap()), "b");
        assert_eq!(fetches.load(Ordering::Relaxed), 3);
    }
}
