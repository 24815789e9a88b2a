//! What the commands that talk to a server have in common.

use std::{io::Read as _, path::Path, time::Duration};

use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::{ClientArguments, Exit, Failure};
use crate::config::Secret;

/// How long connecting may take: twice the second try of a lost SYN, and some more.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Idle connections are probed, so that a stream whose server is gone without a word is found out:
/// 15 s of silence and three probes, 5 s apart.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);

/// Most of an answer that is kept. Answers are short, but the server may be anything.
const ANSWER_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Largest file of certificates. All that a system trusts take some 200 KiB.
const CA_MAX_BYTES: u64 = 4 * 1024 * 1024;

const TOKEN_VARIABLE: &str = "TIDINGS_TOKEN";
const API_KEY_VARIABLE: &str = "TIDINGS_API_KEY";

/// A server and who to be there.
#[derive(Debug, Clone)]
pub(super) struct Server {
    client: Client,
    url: Url,
    bearer: Option<Secret>,
}

impl Server {
    pub(super) fn new(arguments: &ClientArguments) -> Result<Self, Failure> {
        let url = Url::parse(&arguments.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                Failure::new(
                    Exit::Usage,
                    "--url is not accepted; accepted is http://… or https://…, as in http://127.0.0.1:7330",
                )
            })?;
        let bearer = credential(arguments, |name| std::env::var(name).ok());
        if bearer.as_ref().is_some_and(|secret| !secret.expose().bytes().all(|b| b.is_ascii_graphic())) {
            let text = "the token or API key is not accepted; accepted are visible ASCII characters without spaces";
            return Err(Failure::new(Exit::Usage, text));
        }
        let (keepalive, interval, retries) = KEEPALIVE;
        let mut client = Client::builder()
            .user_agent(concat!("tidings/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(keepalive)
            .tcp_keepalive_interval(interval)
            .tcp_keepalive_retries(retries);
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_local =
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if url.scheme() == "http" {
            // Without TLS no certificates are needed, and an image without any is no reason to fail.
            client = client.tls_certs_only([]);
        } else if let Some(path) = &arguments.ca {
            client = client.tls_certs_merge(certificates(path)?);
        }
        if is_local {
            // A proxy has another idea of which machine this is.
            client = client.no_proxy();
        }
        let client =
            client.build().map_err(|error| Failure::of(Exit::Failed, "cannot set up the HTTP client", &error))?;
        Ok(Self { client, url, bearer })
    }

    /// The URL of a path of the API, below whatever path the server itself has.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{path}", self.url.path().trim_end_matches('/')));
        url.set_query(None);
        url.set_fragment(None);
        url
    }

    pub(super) fn get(&self, url: Url) -> RequestBuilder {
        self.signed(self.client.get(url))
    }

    pub(super) fn post(&self, url: Url) -> RequestBuilder {
        self.signed(self.client.post(url))
    }

    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.bearer {
            Some(bearer) => request.bearer_auth(bearer.expose()),
            None => request,
        }
    }

    /// What to say when a request got no answer. Without the URL's path and query, which say nothing new.
    pub(super) fn unanswered(&self, error: reqwest::Error) -> Failure {
        let exit = if error.is_connect() || error.is_timeout() { Exit::Unreachable } else { Exit::Failed };
        Failure::of(exit, format_args!("no answer from {}", self.origin()), &error.without_url())
    }

    /// The server as it is named to people; its URL could hold a password.
    pub(super) fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, Failure> {
    let refused = |error: &dyn std::error::Error| {
        Failure::of(Exit::Usage, format_args!("--ca {} is not accepted", path.display()), error)
    };
    let mut pem = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(CA_MAX_BYTES).read_to_end(&mut pem));
    read.map_err(|error| refused(&error))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if certificates.is_empty() => {
            let text = format!("--ca {} is not accepted: it holds no certificate in PEM", path.display());
            Err(Failure::new(Exit::Usage, text))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(refused(&error)),
    }
}

/// The parts of an `application/problem+json` (RFC 9457) that are for people.
#[derive(Debug, Deserialize)]
pub(super) struct Problem {
    pub(super) code: String,
    #[serde(default)]
    pub(super) detail: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.detail.is_empty() {
            return f.write_str(&visible(&self.code));
        }
        write!(f, "{}: {}", visible(&self.code), visible(&self.detail))
    }
}

/// Whom to be: what the command line says, else the environment; a user's token before an API key.
/// Asked here and not through clap, to which a flag and a variable of another name are equals.
pub(super) fn credential(arguments: &ClientArguments, variable: impl Fn(&str) -> Option<String>) -> Option<Secret> {
    let said = arguments.token.clone().or_else(|| arguments.api_key.clone());
    let set = || [TOKEN_VARIABLE, API_KEY_VARIABLE].into_iter().filter_map(variable).find(|text| !text.is_empty());
    said.or_else(|| set().map(Secret::new))
}

/// The failure that an answer other than a success is.
pub(super) async fn refusal(response: Response) -> Failure {
    let status = response.status();
    let body = text(response).await.unwrap_or_default();
    let said = match serde_json::from_str::<Problem>(&body) {
        Ok(problem) => problem.to_string(),
        // Not from Tidings: a proxy's page in HTML, most likely, which is no use on a terminal.
        Err(_) => format!("the server answered {status}"),
    };
    Failure::new(if is_refusal(status) { Exit::Refused } else { Exit::Failed }, said)
}

fn is_refusal(status: StatusCode) -> bool {
    status.is_client_error()
}

/// The body of an answer as text.
pub(super) async fn text(mut response: Response) -> Result<String, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = ANSWER_MAX_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == ANSWER_MAX_BYTES {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// Text from elsewhere as a terminal may show it: control characters could move its cursor or
/// change its title, so they are written as escapes. Lines stay lines.
pub(super) fn visible(text: &str) -> std::borrow::Cow<'_, str> {
    let is_shown = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.chars().all(is_shown) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_shown(c) { out.push(c) } else { out.extend(c.escape_default()) }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Result<Server, Failure> {
        Server::new(&ClientArguments { url: url.to_owned(), api_key: None, token: None, ca: None })
    }

    #[test]
    fn the_server_may_lie_below_a_path() {
        let url = |base| server(base).unwrap().url("/v1/publish").to_string();
        assert_eq!(url("http://127.0.0.1:7330"), "http://127.0.0.1:7330/v1/publish");
        assert_eq!(url("https://example.org/push/?x=1#y"), "https://example.org/push/v1/publish");
        for url in ["127.0.0.1:7330", "ftp://example.org", ""] {
            assert_eq!(server(url).unwrap_err().exit, Exit::Usage, "{url}");
        }
    }

    #[test]
    fn what_the_command_line_says_comes_before_the_environment() {
        let set = |name: &str| Some(format!("{name} is set"));
        let mut arguments = ClientArguments { url: String::new(), api_key: None, token: None, ca: None };
        assert_eq!(credential(&arguments, |_| None), None);
        assert_eq!(credential(&arguments, |_| Some(String::new())), None);
        assert_eq!(credential(&arguments, set), Some(Secret::new("TIDINGS_TOKEN is set")));
        arguments.api_key = Some(Secret::new("key"));
        assert_eq!(credential(&arguments, set), Some(Secret::new("key")));
    }

    #[test]
    fn nothing_from_elsewhere_reaches_the_terminal_as_a_command() {
        assert_eq!(visible("a\u{1b}[2Jb\u{9b}c\r\n제주"), "a\\u{1b}[2Jb\\u{9b}c\\r\n제주");
        assert_eq!(visible("plain"), "plain");
    }
}
