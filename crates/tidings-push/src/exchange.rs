//! One request and its answer, within bounds.

use std::time::Duration;

use http::StatusCode;
use reqwest::{ClientBuilder, RequestBuilder, redirect};
use tidings_core::ports::{PushError, PushVerdict};
use tidings_protocol::Millis;

use crate::retry_after;

/// How long one attempt may take, all of it.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long connecting may take, of that.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection is kept for the next push.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Most of an answer that is read. What providers say fits many times.
const BODY_MAX_BYTES: usize = 64 * 1024;

/// Longest piece of an answer that is quoted to the operator, in characters.
const QUOTE_MAX_CHARS: usize = 200;

/// A whole answer; its body may have been cut.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) retry_after_ms: Option<u64>,
    pub(crate) body: Vec<u8>,
}

/// What all our clients have in common.
pub(crate) fn client() -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("tidings/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        // A connection that has died without a word is found out while something waits on it.
        .http2_keep_alive_interval(Duration::from_secs(5))
        .http2_keep_alive_timeout(Duration::from_secs(5))
        .redirect(redirect::Policy::none())
}

/// Sends a request and reads the answer. Errors come without the URL, which may be a secret.
pub(crate) async fn exchange(request: RequestBuilder, now: Millis) -> Result<Answer, reqwest::Error> {
    let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
    let status = response.status();
    let retry_after_ms = retry_after::from_headers(response.headers(), now);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        let room = BODY_MAX_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == BODY_MAX_BYTES {
            break;
        }
    }
    Ok(Answer { status, retry_after_ms, body })
}

/// It may work later.
pub(crate) fn retry(cause: impl Into<String>, after_ms: Option<u64>) -> PushError {
    PushError { verdict: PushVerdict::Retry { after_ms }, cause: cause.into() }
}

/// It will never work.
pub(crate) fn give_up(cause: impl Into<String>) -> PushError {
    PushError { verdict: PushVerdict::GiveUp, cause: cause.into() }
}

/// The beginning of what somebody else said, on one line.
pub(crate) fn quote(text: &str) -> String {
    let mut chars = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut quoted: String = chars.by_ref().take(QUOTE_MAX_CHARS).collect();
    if chars.next().is_some() {
        quoted.push('…');
    }
    quoted
}

/// An error and its sources in one line.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    quote(&text)
}
