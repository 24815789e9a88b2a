//! `tidings push`

use std::{fmt::Write as _, time::Duration};

use serde::Deserialize;
use tidings_push::VapidKey;

use super::{
    Exit, Failure, PushCommand, PushDeadArguments, PushRetryArguments,
    client::{Server, refusal, text, visible},
    print,
};

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Most that are asked for at a time.
const PAGE: usize = 1000;

pub(super) fn run(command: PushCommand) -> Result<(), Failure> {
    match command {
        PushCommand::Keys { subject } => keys(&subject),
        PushCommand::PublicKey(config) => {
            let web_push = config.load(None)?.config.push.web_push;
            let none = || {
                Failure::new(Exit::Usage, "there is no push.web_push.vapid_private_key; `tidings push keys` makes one")
            };
            print(&format!("{}\n", web_push.public_key().ok_or_else(none)?))
        }
        PushCommand::Dead(arguments) => super::runtime()?.block_on(dead(&arguments)),
        PushCommand::Retry(arguments) => super::runtime()?.block_on(retry(&arguments)),
    }
}

/// In TOML, so that it can be added to the configuration as it is.
fn keys(subject: &str) -> Result<(), Failure> {
    let key = VapidKey::generate().map_err(|text| Failure::new(Exit::Failed, text))?;
    let subject = toml::Value::from(subject);
    print(&format!(
        "# Keep the private key secret, and keep it: subscriptions are made for one key.\n\
         # Pages subscribe with the public key, as `applicationServerKey`:\n\
         # {}\n\
         [push.web_push]\n\
         vapid_private_key = \"{}\"\n\
         subject = {subject}\n",
        key.public_key(),
        key.private_key(),
    ))
}

/// A push that was given up, as the API tells it.
#[derive(Deserialize)]
struct Dead {
    id: String,
    notification: String,
    user: String,
    device: String,
    provider: String,
    attempts: u32,
    cause: String,
    died_at: u64,
}

#[derive(Deserialize)]
struct Page {
    pushes: Vec<Box<serde_json::value::RawValue>>,
    next: Option<String>,
}

/// Prints those that were given up, newest first, a line each.
async fn dead(arguments: &PushDeadArguments) -> Result<(), Failure> {
    let server = Server::new(&arguments.client)?;
    let mut left = arguments.limit;
    let mut before: Option<String> = None;
    while left > 0 {
        let mut url = server.url("/v1/pushes/dead");
        url.query_pairs_mut().append_pair("limit", &left.min(PAGE).to_string());
        if let Some(before) = &before {
            url.query_pairs_mut().append_pair("before", before);
        }
        let request = server.get(url).timeout(ANSWER_TIMEOUT);
        let response = request.send().await.map_err(|error| server.unanswered(error))?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let body = text(response).await.map_err(|error| server.unanswered(error))?;
        let page: Page = read(&body)?;
        let mut out = String::new();
        for push in page.pushes.iter().take(left) {
            let _infallible = if arguments.json {
                writeln!(out, "{push}")
            } else {
                let push: Dead = read(push.get())?;
                writeln!(out, "{}", line(&push))
            };
        }
        print(&out)?;
        left = left.saturating_sub(page.pushes.len());
        match page.next {
            Some(next) if !page.pushes.is_empty() => before = Some(next),
            _ => break,
        }
    }
    Ok(())
}

fn line(push: &Dead) -> String {
    let Dead { id, notification, user, device, provider, attempts, cause, died_at } = push;
    let at = std::time::UNIX_EPOCH.checked_add(Duration::from_millis(*died_at));
    let at = at.map_or_else(|| died_at.to_string(), |at| humantime::format_rfc3339_seconds(at).to_string());
    let text = format!(
        "{id}  {at}  notification {notification}, user {user}, device {device} ({provider}), {attempts} attempts: {cause}"
    );
    // A line is a line, whatever a provider said.
    visible(&text).replace(['\n', '\t'], " ")
}

/// Has each tried again. Goes on after one that is not there, and fails in the end.
async fn retry(arguments: &PushRetryArguments) -> Result<(), Failure> {
    let server = Server::new(&arguments.client)?;
    let mut failure = None;
    for id in &arguments.ids {
        let request = server.post(server.url(&format!("/v1/pushes/{id}/retry"))).timeout(ANSWER_TIMEOUT);
        let response = request.send().await.map_err(|error| server.unanswered(error))?;
        if response.status().is_success() {
            print(&format!("{id} is tried again\n"))?;
            continue;
        }
        let is_missing = response.status() == reqwest::StatusCode::NOT_FOUND;
        let refused = refusal(response).await;
        if !is_missing {
            return Err(refused);
        }
        super::note(format_args!("tidings: {id}: {}", refused.text.as_deref().unwrap_or_default()));
        failure = Some(Failure { exit: refused.exit, text: None });
    }
    failure.map_or(Ok(()), Err)
}

fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Failure> {
    serde_json::from_str(json)
        .map_err(|error| Failure::of(Exit::Failed, "the server's answer is not understood", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_one_line_whatever_a_provider_said() {
        let push = Dead {
            id: "5".to_owned(),
            notification: "17".to_owned(),
            user: "42".to_owned(),
            device: "phone".to_owned(),
            provider: "fcm".to_owned(),
            attempts: 8,
            cause: "FCM answered 400:\n\u{1b}[2Jno".to_owned(),
            died_at: 1_764_000_000_000,
        };
        assert_eq!(
            line(&push),
            "5  2025-11-24T16:00:00Z  notification 17, user 42, device phone (fcm), 8 attempts: FCM answered 400: \\u{1b}[2Jno"
        );
    }
}
