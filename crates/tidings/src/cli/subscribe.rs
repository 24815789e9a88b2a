//! `tidings subscribe`
//!
//! A client such as others should be: it resumes from its cursor wherever the stream was cut, waits
//! as it is told to, and says so when something was lost.

use std::{io, time::Duration};

use rand::Rng as _;
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER},
};
use tidings_protocol::{
    envelope::{Closing, Connected, Gap},
    sse::{Parsed, Parser},
};

use super::{
    Exit, Failure, SubscribeArguments,
    client::{Server, refusal, visible},
    note,
    print_event::{Printer, Received},
};

/// Longest block of a stream. The largest `limits.max_data_bytes` is 64 MiB, and a frame may grow.
const BLOCK_MAX_BYTES: usize = 256 * 1024 * 1024;

/// What is waited before coming back, until the server says otherwise.
const RETRY_DEFAULT: Duration = Duration::from_secs(2);

/// Longest wait that a server may ask for. Beyond it, it is a mistake.
const RETRY_MAX: Duration = Duration::from_secs(60 * 60);

/// How far the random wait grows while a server stays away.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// How long the head of the answer may take; a stream's first bytes come at once.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn run(arguments: SubscribeArguments) -> Result<(), Failure> {
    let server = Server::new(&arguments.client)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::of(Exit::Failed, "cannot start the runtime", &error))?;
    // In a task of its own, so that an interrupt ends it even while a full pipe holds its output up.
    let result = runtime.block_on(async {
        let subscription = tokio::spawn(Subscription::new(server, arguments).run());
        tokio::select! {
            done = subscription => done.unwrap_or_else(|error| Err(Failure::of(Exit::Failed, "the stream failed", &error))),
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    });
    runtime.shutdown_background();
    result
}

/// Why one stream of the subscription is over.
enum End {
    /// All that was asked for has come.
    Enough,
    /// It was cut, or not opened; it is worth trying again.
    Cut {
        why: String,
        /// The least wait that this answer asked for.
        wait: Duration,
    },
}

struct Subscription {
    server: Server,
    url: Url,
    printer: Printer<io::Stdout>,
    /// Where to go on from.
    cursor: Option<String>,
    retry: Duration,
    /// How many events are still wanted, if they are counted.
    remaining: Option<u64>,
    /// Whether a stream was ever opened. Until then a server that does not answer is one that was
    /// misspelt rather than one that will be back.
    was_opened: bool,
    /// Attempts since something last came.
    attempts: u32,
}

impl Subscription {
    fn new(server: Server, arguments: SubscribeArguments) -> Self {
        let mut url = server.url("/v1/subscribe");
        {
            let mut query = url.query_pairs_mut();
            for channel in &arguments.channels {
                query.append_pair("channel", channel.as_str());
            }
            // With the envelope it is known which channel an event is of, and a string is told from
            // JSON that looks the same.
            query.append_pair("envelope", "1");
            if let Some(replay) = &arguments.replay {
                query.append_pair("replay", replay);
            }
        }
        Self {
            server,
            url,
            printer: Printer::to_stdout(arguments.json),
            cursor: arguments.from,
            retry: RETRY_DEFAULT,
            remaining: arguments.count,
            was_opened: false,
            attempts: 0,
        }
    }

    async fn run(mut self) -> Result<(), Failure> {
        loop {
            match self.stream().await? {
                End::Enough => return Ok(()),
                End::Cut { why, wait } => {
                    let delay = back_off(self.retry.max(wait), self.attempts);
                    self.attempts = self.attempts.saturating_add(1);
                    note(format_args!("# {why}; again in {:.1} s", delay.as_secs_f64()));
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Opens one stream and reads it to its end.
    async fn stream(&mut self) -> Result<End, Failure> {
        let mut response = match self.open().await? {
            Ok(response) => response,
            Err(end) => return Ok(end),
        };
        let mut parser = Parser::new(BLOCK_MAX_BYTES);
        let mut parsed = Vec::new();
        loop {
            let why = match response.chunk().await {
                Ok(Some(bytes)) => {
                    let read = parser.push(&bytes, |item| parsed.push(item));
                    for item in parsed.drain(..) {
                        if self.on_parsed(item)? {
                            self.printer.flush()?;
                            return Ok(End::Enough);
                        }
                    }
                    self.printer.flush()?;
                    read.map_err(|error| Failure::of(Exit::Failed, "the stream is not accepted", &error))?;
                    if !parser.last_event_id().is_empty() {
                        self.cursor = Some(parser.last_event_id().to_owned());
                    }
                    continue;
                }
                Ok(None) => "the server ended the stream".to_owned(),
                Err(error) => format!("the connection was lost ({})", innermost(&error.without_url())),
            };
            return Ok(End::Cut { why, wait: Duration::ZERO });
        }
    }

    /// Asks for the stream. The inner error is an end that is worth another try.
    async fn open(&mut self) -> Result<Result<Response, End>, Failure> {
        let mut request = self.server.get(self.url.clone()).header(ACCEPT, "text/event-stream");
        if let Some(cursor) = &self.cursor {
            request = request.header("last-event-id", cursor);
        }
        let response = match tokio::time::timeout(HEAD_TIMEOUT, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if self.was_opened => {
                let why = format!("no answer ({})", innermost(&error.without_url()));
                return Ok(Err(End::Cut { why, wait: Duration::ZERO }));
            }
            Ok(Err(error)) => return Err(self.server.unanswered(error)),
            Err(_) if self.was_opened => {
                return Ok(Err(End::Cut { why: "no answer in time".to_owned(), wait: Duration::ZERO }));
            }
            Err(_) => {
                let text = format!("no answer from {} within {} s", self.server.origin(), HEAD_TIMEOUT.as_secs());
                return Err(Failure::new(Exit::Unreachable, text));
            }
        };
        let status = response.status();
        match status {
            StatusCode::OK => {}
            StatusCode::NO_CONTENT => {
                return Err(Failure::new(Exit::Refused, "the server asks not to come back (204)"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                let why = format!("the server answered {status}");
                return Ok(Err(End::Cut { why, wait: retry_after(response.headers()) }));
            }
            _ if status.is_server_error() && self.was_opened => {
                let why = format!("the server answered {status}");
                return Ok(Err(End::Cut { why, wait: retry_after(response.headers()) }));
            }
            _ => return Err(refusal(response).await),
        }
        let is_event_stream = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream"));
        if !is_event_stream {
            let text = format!("{} answered with something else than an event stream", self.server.origin());
            return Err(Failure::new(Exit::Failed, text));
        }
        self.was_opened = true;
        Ok(Ok(response))
    }

    /// Takes what the parser found; true when that was the last that was asked for.
    fn on_parsed(&mut self, parsed: Parsed) -> Result<bool, Failure> {
        let (event, data, id) = match parsed {
            Parsed::Comment(_) => return Ok(false),
            Parsed::Retry(retry_ms) => {
                self.retry = Duration::from_millis(retry_ms).min(RETRY_MAX);
                return Ok(false);
            }
            Parsed::Event { event, data, id } => (event, data, id),
        };
        self.attempts = 0;
        match event.as_str() {
            "connected" => on_connected(&data),
            "gap" => on_gap(&data),
            "closing" => on_closing(&data),
            _ => {
                self.printer.print(&Received { event: &event, data: &data, id: &id })?;
                if let Some(remaining) = &mut self.remaining {
                    *remaining -= 1;
                    return Ok(*remaining == 0);
                }
            }
        }
        Ok(false)
    }
}

fn on_connected(data: &str) {
    if let Ok(Connected { node, user, channels, .. }) = serde_json::from_str(data) {
        let user = user.map(|user| format!(" as {}", visible(&user))).unwrap_or_default();
        note(format_args!("# connected to {}{user}: {}", visible(&node), visible(&channels.join(" "))));
    }
}

fn on_gap(data: &str) {
    match serde_json::from_str(data) {
        Ok(Gap { channels, reason }) => {
            note(format_args!("# gap: events are missing ({}) on {}", visible(&reason), visible(&channels.join(" "))));
        }
        Err(_) => note(format_args!("# gap: events are missing")),
    }
}

fn on_closing(data: &str) {
    if let Ok(Closing { reason, .. }) = serde_json::from_str(data) {
        note(format_args!("# closing: {}", visible(&reason)));
    }
}

/// The wait before the next attempt: what the server asks for, and on top, while it stays away, a
/// random part of a time that doubles (full jitter), so that clients do not come back in step.
fn back_off(retry: Duration, attempts: u32) -> Duration {
    if attempts == 0 {
        // The server has drawn `retry` at random already.
        return retry;
    }
    let doubled = retry.max(Duration::from_millis(100)).saturating_mul(1 << attempts.min(16));
    let most = doubled.min(BACK_OFF_MAX).as_secs_f64();
    retry + Duration::from_secs_f64(rand::rng().random_range(0.0..=most))
}

/// `Retry-After` in seconds (RFC 9110 §10.2.3); its other form, a date, Tidings does not send.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds =
        headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.trim().parse().ok());
    seconds.map_or(Duration::ZERO, Duration::from_secs).min(RETRY_MAX)
}

/// The cause at the bottom, which is the one that says something.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_never_shorter_than_asked_nor_grows_for_ever() {
        let retry = Duration::from_millis(1500);
        assert_eq!(back_off(retry, 0), retry);
        for attempts in 1..100 {
            let delay = back_off(retry, attempts);
            assert!(delay >= retry && delay <= retry + BACK_OFF_MAX, "{attempts}: {delay:?}");
        }
        assert!(back_off(Duration::ZERO, 1) <= Duration::from_millis(200));
        assert!(back_off(RETRY_MAX, u32::MAX) <= RETRY_MAX + BACK_OFF_MAX);
    }

    #[test]
    fn retry_after_is_read_in_seconds() {
        let wait = |text: &'static str| {
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, reqwest::header::HeaderValue::from_static(text))]))
        };
        assert_eq!(wait("3"), Duration::from_secs(3));
        assert_eq!(wait("99999999999"), RETRY_MAX);
        assert_eq!(wait("Wed, 21 Oct 2026 07:28:00 GMT"), Duration::ZERO);
    }
}
