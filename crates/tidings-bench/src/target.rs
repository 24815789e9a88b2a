//! The server under load: where it is, and how it is asked.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use jsonwebtoken::{EncodingKey, Header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::payload::Payload;

/// What RFC 3986 calls unreserved stays as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How long users' tokens are good for: longer than any run.
const TOKEN_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// An URL of a server, perhaps with a place for a name in it. Only plain HTTP.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Url {
    /// Where it is: a host's name is looked up once.
    pub(crate) address: SocketAddr,
    host: String,
    path: String,
}

impl Url {
    /// Reads an URL such as `http://127.0.0.1:7330/sub/{channel}`.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let refused = || format!("{text:?} is not accepted; accepted is http://HOST[:PORT][/PATH], without TLS");
        let rest = text.strip_prefix("http://").with_context(refused)?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let is_fit = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        anyhow::ensure!(!host.is_empty() && !host.contains('@') && is_fit(host) && is_fit(path), refused());
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
        let addresses: Vec<_> = with_port.to_socket_addrs().with_context(|| format!("looking up {host:?}"))?.collect();
        // Most servers listen to IPv4, and only there one machine has many loopback addresses.
        let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
        let address = *address.with_context(|| format!("{host:?} has no address"))?;
        Ok(Self { address, host: host.to_owned(), path: path.to_owned() })
    }

    /// Whether there is a place for this name.
    pub fn has(&self, name: &str) -> bool {
        self.path.contains(name)
    }

    /// Writes `METHOD path HTTP/1.1` and the host, with a value in the place of a name.
    fn begin(&self, out: &mut Vec<u8>, method: &str, name: &str, value: &str) {
        out.extend_from_slice(method.as_bytes());
        out.push(b' ');
        match self.path.split_once(name) {
            Some((before, after)) => {
                let _infallible = write!(out, "{before}{}{after}", utf8_percent_encode(value, ESCAPED));
            }
            None => out.extend_from_slice(self.path.as_bytes()),
        }
        let _infallible = write!(out, " HTTP/1.1\r\nhost: {}\r\n", self.host);
    }

    /// Writes a request for it without a body.
    pub(crate) fn write_get(&self, out: &mut Vec<u8>, name: &str, value: &str) {
        self.begin(out, "GET", name, value);
        out.extend_from_slice(b"\r\n");
    }
}

/// What kind of server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerKind {
    /// Tidings.
    Tidings,
    /// Any that serves event streams and takes messages by POST.
    Plain,
}

/// The server under load, and as whom to be there. It holds secrets, so it is not for showing.
#[derive(Clone, Serialize, Deserialize)]
pub struct Target {
    /// What kind it is.
    pub kind: ServerKind,
    subscribe: Url,
    publish: Option<Url>,
    api_key: Option<String>,
    jwt_secret: Option<String>,
    source_addresses: u8,
}

impl Target {
    /// A Tidings server, at an URL such as `http://127.0.0.1:7330`.
    pub fn tidings(url: &str, api_key: Option<String>) -> anyhow::Result<Self> {
        let base = Url::parse(url)?;
        let prefix = base.path.trim_end_matches('/');
        let at = |path: &str| Url { path: format!("{prefix}{path}"), ..base.clone() };
        Ok(Self {
            kind: ServerKind::Tidings,
            subscribe: at("/v1/subscribe?channel={channel}"),
            publish: Some(at("/v1/publish")),
            api_key,
            jwt_secret: None,
            source_addresses: 32,
        })
    }

    /// Any server that speaks plain event streams.
    pub fn plain(subscribe: &str, publish: Option<&str>, api_key: Option<String>) -> anyhow::Result<Self> {
        Ok(Self {
            kind: ServerKind::Plain,
            subscribe: Url::parse(subscribe)?,
            publish: publish.map(Url::parse).transpose()?,
            api_key,
            jwt_secret: None,
            source_addresses: 32,
        })
    }

    /// Signs tokens, so that each stream is one of a user of its own.
    #[must_use]
    pub fn with_users(mut self, jwt_secret: Option<String>) -> Self {
        self.jwt_secret = jwt_secret;
        self
    }

    /// Connects from so many addresses of this machine to a server on it.
    #[must_use]
    pub fn with_source_addresses(mut self, count: u8) -> Self {
        self.source_addresses = count;
        self
    }

    /// Where streams are opened.
    pub(crate) fn stream_address(&self) -> SocketAddr {
        self.subscribe.address
    }

    /// Where messages are published.
    pub(crate) fn publish_address(&self) -> anyhow::Result<SocketAddr> {
        let publish = self.publish.as_ref().context("how to publish is not known: give --publish-url too")?;
        Ok(publish.address)
    }

    /// Whether the streams are those of signed-in users.
    pub(crate) fn has_users(&self) -> bool {
        self.jwt_secret.is_some()
    }

    /// Streams on channels of their own need an URL that differs with the channel.
    pub(crate) fn ensure_channels(&self) -> anyhow::Result<()> {
        const PLACE: &str = "{channel}";
        let is_fit = self.kind == ServerKind::Tidings
            || (self.subscribe.has(PLACE) && self.publish.as_ref().is_none_or(|publish| publish.has(PLACE)));
        anyhow::ensure!(is_fit, "the URLs need a place for {PLACE}: each stream has a channel of its own");
        Ok(())
    }

    /// The address to connect from: one address has about 28,000 ports, and each stays taken for a
    /// minute after its connection, so that on loopback many are used in turn.
    pub(crate) fn source(&self, address: SocketAddr, number: u64) -> Option<Ipv4Addr> {
        match address.ip() {
            IpAddr::V4(ip) if ip.is_loopback() && self.source_addresses > 0 => {
                Some(Ipv4Addr::new(127, 0, 1, (number % u64::from(self.source_addresses)) as u8 + 1))
            }
            _ => None,
        }
    }

    /// The channel of a user.
    pub(crate) fn own_channel(&self, prefix: &str, number: u64) -> String {
        if self.has_users() { format!("user:u{number}") } else { format!("{prefix}{number}") }
    }

    /// Writes the request that opens a stream.
    pub(crate) fn write_stream_request(
        &self,
        out: &mut Vec<u8>,
        channel: &str,
        number: u64,
        cursor: Option<&str>,
    ) -> anyhow::Result<()> {
        self.subscribe.begin(out, "GET", "{channel}", channel);
        out.extend_from_slice(b"accept: text/event-stream\r\n");
        if let Some(secret) = &self.jwt_secret {
            let _infallible = write!(out, "authorization: Bearer {}\r\n", user_token(secret, number, channel)?);
        }
        if let Some(cursor) = cursor {
            let _infallible = write!(out, "last-event-id: {cursor}\r\n");
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Writes the request that publishes a message.
    pub(crate) fn write_message(&self, out: &mut Vec<u8>, message: &Message<'_>) {
        let mut body = Vec::with_capacity(message.data_bytes + 128);
        match self.kind {
            ServerKind::Plain => message.payload.write(&mut body, message.data_bytes),
            ServerKind::Tidings => {
                // The channel's characters are none that JSON would escape.
                let _infallible = write!(body, r#"{{"channel":"{}","data":"#, message.channel);
                message.payload.write(&mut body, message.data_bytes);
                if let Some(value) = message.conflate {
                    let _infallible = write!(body, r#","conflate":"{value}""#);
                }
                body.push(b'}');
            }
        }
        self.write_post(out, message.channel, "application/json", &body);
    }

    /// Writes the request that publishes this body.
    pub(crate) fn write_post(&self, out: &mut Vec<u8>, channel: &str, media_type: &str, body: &[u8]) {
        let Some(publish) = &self.publish else { return };
        publish.begin(out, "POST", "{channel}", channel);
        if let Some(key) = &self.api_key {
            let _infallible = write!(out, "authorization: Bearer {key}\r\n");
        }
        let _infallible = write!(out, "content-type: {media_type}\r\ncontent-length: {}\r\n\r\n", body.len());
        out.extend_from_slice(body);
    }
}

/// A message to be published.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) channel: &'a str,
    pub(crate) payload: Payload,
    pub(crate) data_bytes: usize,
    pub(crate) conflate: Option<&'a str>,
}

/// Checks what the channels' names begin with.
pub fn check_channel_prefix(prefix: &str) -> anyhow::Result<()> {
    let channel = format!("{prefix}0");
    tidings_protocol::Channel::parse(&channel).with_context(|| format!("a channel {channel:?}"))?;
    Ok(())
}

#[derive(Serialize)]
struct Claims {
    sub: String,
    iat: u64,
    exp: u64,
    tidings: Permissions,
}

#[derive(Serialize)]
struct Permissions {
    subscribe: [String; 1],
}

fn user_token(secret: &str, number: u64, channel: &str) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = Claims {
        sub: format!("u{number}"),
        iat: now,
        exp: now + TOKEN_LIFE.as_secs(),
        tidings: Permissions { subscribe: [channel.to_owned()] },
    };
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).context("signing a user's token")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn urls_are_plain_http() {
        assert_eq!(Url::parse("http://127.0.0.1/x").unwrap().address, "127.0.0.1:80".parse().unwrap());
        assert_eq!(Url::parse("http://[::1]:81").unwrap().address, "[::1]:81".parse().unwrap());
        for text in ["https://127.0.0.1", "127.0.0.1:80", "http://", "http://a b", "http://x:y@127.0.0.1/"] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_channel_takes_its_place_escaped() {
        let target = Target::plain("http://127.0.0.1/sub?c={channel}&x=1", Some("http://127.0.0.1/pub"), None).unwrap();
        let request = text(|out| target.write_stream_request(out, "a:b/c", 0, Some("cur")).unwrap());
        assert!(request.starts_with("GET /sub?c=a%3Ab%2Fc&x=1 HTTP/1.1\r\nhost: 127.0.0.1\r\n"), "{request}");
        assert!(request.ends_with("last-event-id: cur\r\n\r\n"), "{request}");
        assert!(target.ensure_channels().is_err());
    }

    #[test]
    fn tidings_is_given_event_json_and_others_the_data_alone() {
        let message = Message { channel: "a:b", payload: Payload { n: 1, t: 2 }, data_bytes: 0, conflate: Some("c") };
        let target = Target::tidings("http://127.0.0.1:7330/push/", Some("tk_x".to_owned())).unwrap();
        let request = text(|out| target.write_message(out, &message));
        assert!(request.starts_with("POST /push/v1/publish HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Bearer tk_x\r\n"), "{request}");
        let json = r#"{"channel":"a:b","data":{"n":1,"t":2,"pad":""},"conflate":"c"}"#;
        assert!(request.ends_with(&format!("content-length: {}\r\n\r\n{json}", json.len())), "{request}");
        let plain = Target::plain("http://127.0.0.1/", Some("http://127.0.0.1/{channel}"), None).unwrap();
        let request = text(|out| plain.write_message(out, &message));
        assert!(request.ends_with("\r\n\r\n{\"n\":1,\"t\":2,\"pad\":\"\"}"), "{request}");
    }
}
