//! A backend that publishes over HTTP and repeats what was not acknowledged.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use hyper::Method;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::{
    endpoint::Endpoint,
    http::{Answer, HttpClient},
    wait,
};

/// How long an answer may take before the request is repeated.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// What the server promised about one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The event id.
    pub id: String,
    /// Whether the event was in the log already, from an attempt whose answer was lost.
    pub duplicate: bool,
}

/// Publishes, one request at a time.
#[derive(Debug)]
pub struct Publisher {
    client: HttpClient,
    authorization: Option<String>,
    attempts: u64,
}

/// Why an attempt did not succeed.
enum Failure {
    /// It may succeed when it is repeated: the answer was lost, or the server is down or busy.
    Passing(anyhow::Error),
    /// It never will.
    Lasting(anyhow::Error),
}

impl Publisher {
    /// A publisher to this server, with an API key or none.
    pub fn new(endpoint: impl Into<Endpoint>, api_key: Option<&str>) -> Self {
        let authorization = api_key.map(|key| format!("Bearer {key}"));
        Self { client: HttpClient::new(endpoint), authorization, attempts: 0 }
    }

    /// How many requests it has made.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// Publishes one event JSON, once, and gives the answer whatever it says.
    pub async fn publish(&mut self, event: &Value) -> anyhow::Result<Answer> {
        self.post("application/json", event.to_string()).await
    }

    /// Publishes events as NDJSON, once, and gives the answer whatever it says.
    pub async fn publish_lines(&mut self, events: &[Value]) -> anyhow::Result<Answer> {
        let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
        self.post("application/x-ndjson", lines).await
    }

    /// Publishes one event and expects it to be acknowledged at once.
    pub async fn acknowledged(&mut self, event: &Value) -> anyhow::Result<Acknowledgement> {
        let answer = self.publish(event).await?;
        ensure!(answer.status == 200, "status {} for {event}: {}", answer.status, answer.text());
        acknowledgement(&answer.json()?)
    }

    /// Publishes events until each is acknowledged, and gives the acknowledgements in the same order.
    ///
    /// Each event must have a `key`, so that repeating it is harmless. One event goes as JSON, several
    /// as NDJSON. A refusal (4xx except 408 and 429) is an error at once, and so is `limit`.
    pub async fn until_acknowledged(
        &mut self,
        events: &[Value],
        limit: Duration,
    ) -> anyhow::Result<Vec<Acknowledgement>> {
        let keyless = events.iter().find(|event| event["key"].as_str().is_none());
        ensure!(keyless.is_none(), "an event without a key cannot be repeated: {keyless:?}");
        let deadline = Instant::now() + limit;
        loop {
            let failure = match self.attempt(events).await {
                Ok(acknowledgements) => return Ok(acknowledgements),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(error)) => error,
            };
            if Instant::now() >= deadline {
                return Err(failure.context(format!("not acknowledged for {limit:?}; the last attempt failed")));
            }
            wait::back_off(Duration::from_millis(50)).await;
        }
    }

    async fn attempt(&mut self, events: &[Value]) -> Result<Vec<Acknowledgement>, Failure> {
        let answer = match events {
            [event] => self.publish(event).await,
            events => self.publish_lines(events).await,
        };
        let answer = answer.map_err(Failure::Passing)?;
        if answer.status != 200 {
            let error = anyhow::anyhow!("status {}: {}", answer.status, answer.text());
            let refused = (400..500).contains(&answer.status) && !matches!(answer.status, 408 | 429);
            return Err(if refused { Failure::Lasting(error) } else { Failure::Passing(error) });
        }
        // An answer that is cut short, or has an error on one line, has the whole batch repeated: what
        // is in the log already is answered as a duplicate.
        let text = answer.text();
        let acknowledgements: anyhow::Result<Vec<_>> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| {
                let value = serde_json::from_str(line).with_context(|| format!("not JSON: {line:?}"))?;
                acknowledgement(&value)
            })
            .collect();
        match acknowledgements {
            Ok(acknowledgements) if acknowledgements.len() == events.len() => Ok(acknowledgements),
            Ok(some) => Err(Failure::Passing(anyhow::anyhow!("{} answers to {} events", some.len(), events.len()))),
            Err(error) => Err(Failure::Passing(error)),
        }
    }

    async fn post(&mut self, content_type: &str, body: String) -> anyhow::Result<Answer> {
        self.attempts += 1;
        let mut headers = vec![("content-type".to_owned(), content_type.to_owned())];
        if let Some(authorization) = &self.authorization {
            headers.push(("authorization".to_owned(), authorization.clone()));
        }
        let send = self.client.send(Method::POST, "/v1/publish", &headers, Bytes::from(body));
        match timeout(ANSWER_LIMIT, send).await {
            Ok(answer) => answer,
            Err(_) => bail!("no answer for {ANSWER_LIMIT:?}"),
        }
    }
}

fn acknowledgement(value: &Value) -> anyhow::Result<Acknowledgement> {
    match (value["id"].as_str(), value["duplicate"].as_bool()) {
        (Some(id), Some(duplicate)) => Ok(Acknowledgement { id: id.to_owned(), duplicate }),
        _ => bail!("not an acknowledgement: {value}"),
    }
}
