//! `tidings notify`

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Exit, Failure, NotifyArguments,
    client::{Server, refusal, text},
    print,
    publish::data_of,
};

/// How long an answer may take: the server's own deadline for a body, twice.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct Body<'a> {
    to: To<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    push: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collapse: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum To<'a> {
    User(&'a str),
    Users(Vec<&'a str>),
    FollowersOf(&'a str),
    Everyone(bool),
}

pub(super) fn run(arguments: NotifyArguments) -> Result<(), Failure> {
    let server = Server::new(&arguments.client)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::of(Exit::Failed, "cannot start the runtime", &error))?;
    let data = arguments.data.as_deref().map(data_of).transpose()?;
    let body = serde_json::to_string(&body(&arguments, data.as_deref()))
        .map_err(|error| Failure::of(Exit::Failed, "cannot write the notification as JSON", &error))?;
    let answer = runtime.block_on(post(&server, body))?;
    print(&format!("{}\n", answer.trim_end()))
}

fn body<'a>(arguments: &'a NotifyArguments, data: Option<&'a RawValue>) -> Body<'a> {
    let recipients = &arguments.to;
    let to = match (&recipients.user, &recipients.followers_of) {
        (Some(user), _) => To::User(user.as_str()),
        (None, Some(channel)) => To::FollowersOf(channel.as_str()),
        (None, None) if recipients.everyone => To::Everyone(true),
        // clap asks for exactly one of them.
        (None, None) => To::Users(recipients.users.iter().map(|user| user.as_str()).collect()),
    };
    Body {
        to,
        kind: arguments.kind.as_ref().map(|kind| kind.as_str()),
        title: &arguments.title,
        body: arguments.body.as_deref(),
        url: arguments.target_url.as_deref(),
        data,
        key: arguments.key.as_deref(),
        // Rounded up: a fraction of a second is not none.
        expires_in: arguments.expires_in.map(|time| time.as_millis().div_ceil(1000) as u64),
        push: arguments.push.map(|mode| mode.as_str()),
        collapse: arguments.collapse.as_deref(),
    }
}

async fn post(server: &Server, body: String) -> Result<String, Failure> {
    let request = server.post(server.url("/v1/notifications")).header(CONTENT_TYPE, "application/json");
    let sent = request.timeout(ANSWER_TIMEOUT).body(body).send().await;
    let response = sent.map_err(|error| server.unanswered(error))?;
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    text(response).await.map_err(|error| server.unanswered(error))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tidings_protocol::notify::{Notify, NotifyLimits};

    use super::*;
    use crate::cli::{Cli, Command};

    /// What the command line says is what the server reads.
    #[test]
    fn a_command_line_is_a_notification() {
        let read = |line: &[&str], data: Option<&str>| {
            let line = ["tidings", "notify", "--title", "Hello"].iter().chain(line);
            let Command::Notify(arguments) = Cli::try_parse_from(line).unwrap().command else { panic!() };
            let data = data.map(|data| data_of(data).unwrap());
            let json = serde_json::to_vec(&body(&arguments, data.as_deref())).unwrap();
            Notify::parse(&json, NotifyLimits { data_max_bytes: 100 }).unwrap()
        };
        let of = |json: &str| Notify::parse(json.as_bytes(), NotifyLimits { data_max_bytes: 100 }).unwrap();
        for (line, to) in [
            (&["--user", "42"][..], r#"{"user":"42"}"#),
            (&["--users", "42,43"], r#"{"users":["42","43"]}"#),
            (&["--users", "42", "--users", "43"], r#"{"users":["42","43"]}"#),
            (&["--followers-of", "region:jeju"], r#"{"followers_of":"region:jeju"}"#),
            (&["--everyone"], r#"{"everyone":true}"#),
        ] {
            assert_eq!(read(line, None), of(&format!(r#"{{"to":{to},"title":"Hello"}}"#)), "{line:?}");
        }
        let line = [
            "--user",
            "42",
            "--kind",
            "festival.added",
            "--body",
            "b",
            "--target-url",
            "/f/7",
            "--key",
            "k",
            "--push",
            "always",
            "--collapse",
            "c",
            "--expires-in",
            "1500ms",
        ];
        let json = r#"{"to":{"user":"42"},"title":"Hello","kind":"festival.added","body":"b","url":"/f/7","key":"k",
            "push":"always","collapse":"c","expires_in":2,"data":{"id":7}}"#;
        assert_eq!(read(&line, Some(r#"{"id":7}"#)), of(json));
    }

    #[test]
    fn a_notification_is_for_somebody_and_for_one_of_them() {
        for line in ["", "--user 1 --everyone", "--users 1 --followers-of a", "--user a,b", "--user 1 --push maybe"] {
            let line = ["tidings", "notify", "--title", "t"].into_iter().chain(line.split_whitespace());
            assert!(Cli::try_parse_from(line.clone()).is_err(), "{:?}", line.collect::<Vec<_>>());
        }
        assert!(Cli::try_parse_from(["tidings", "notify", "--user", "1"]).is_err(), "without a title");
    }
}
