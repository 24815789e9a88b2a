//! A stand-in for Firebase Cloud Messaging and for the token endpoint of Google.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow, ensure};
use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use hyper::{Method, Version};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{
    FcmAnswer,
    listener::{Listener, Reply, Request},
};
use crate::{certificates::Authority, wait};

const PROJECT_ID: &str = "tidings-test";
const EMAIL: &str = "sender@tidings-test.iam.gserviceaccount.com";
const KEY_ID: &str = "0123456789abcdef";
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// What FCM takes of notification and data together.
const CONTENT_MAX_BYTES: usize = 4096;

/// Fields that a message may have.
const FIELDS: [&str; 11] =
    ["name", "data", "notification", "android", "webpush", "apns", "fcm_options", "token", "fid", "topic", "condition"];

/// A message that came, whatever was answered.
#[derive(Debug, Clone, PartialEq)]
pub struct SentMessage {
    /// The token or the fid.
    pub address: String,
    /// All of it.
    pub message: Value,
    /// Whether it came by HTTP/2.
    pub is_http2: bool,
    /// What was answered; 200 is that it was taken.
    pub status: u16,
}

/// The stand-in.
#[derive(Debug)]
pub struct FakeFcm {
    listener: Listener,
    is_tls: bool,
    key_pem: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    public_key: Vec<u8>,
    token_url: String,
    state: Mutex<State>,
    is_held: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    answers: HashMap<String, VecDeque<FcmAnswer>>,
    standing: HashMap<String, FcmAnswer>,
    denials: VecDeque<(u16, String)>,
    messages: Vec<SentMessage>,
    issued: BTreeSet<String>,
    tokens_issued: usize,
    token_requests: usize,
    token_lifetime_secs: u64,
    under_way: usize,
    most_under_way: usize,
    complaints: Vec<String>,
}

impl FakeFcm {
    /// Starts it in cleartext.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(None).await
    }

    /// Starts it with TLS, by a certificate of this authority. It then prefers HTTP/2, as Google does.
    pub async fn start_tls(authority: &Authority) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        authority.write(&cert, &key)?;
        let chain = vec![CertificateDer::from_pem_file(&cert)?];
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&key)?)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::start_with(Some(Arc::new(config))).await
    }

    async fn start_with(tls: Option<Arc<ServerConfig>>) -> anyhow::Result<Self> {
        let key = KeyPair::generate(KeySize::Rsa2048).map_err(|_| anyhow!("no RSA key could be made"))?;
        let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| anyhow!("the RSA key cannot be written"))?;
        let (listener, addr) = Listener::bind().await?;
        let is_tls = tls.is_some();
        let scheme = if is_tls { "https" } else { "http" };
        let shared = Arc::new(Shared {
            public_key: key.public_key().as_ref().to_vec(),
            token_url: format!("{scheme}://{addr}/token"),
            state: Mutex::new(State {
                answers: HashMap::new(),
                standing: HashMap::new(),
                denials: VecDeque::new(),
                messages: Vec::new(),
                issued: BTreeSet::new(),
                tokens_issued: 0,
                token_requests: 0,
                token_lifetime_secs: 3600,
                under_way: 0,
                most_under_way: 0,
                complaints: Vec::new(),
            }),
            is_held: watch::Sender::new(false),
        });
        let handler = shared.clone();
        let listener = Listener::serve(listener, addr, tls, move |request| {
            let shared = handler.clone();
            async move { shared.answer(request).await }
        });
        Ok(Self { listener, is_tls, key_pem: pem("PRIVATE KEY", der.as_ref()), shared })
    }

    /// For `push.fcm.base_url`.
    pub fn base_url(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.listener.addr())
    }

    /// For `push.fcm.token_url`; the service account says it too.
    pub fn token_url(&self) -> &str {
        &self.shared.token_url
    }

    /// The project, which the service account says too.
    pub fn project_id(&self) -> &'static str {
        PROJECT_ID
    }

    /// The file of the service account, as Google gives it.
    pub fn service_account(&self) -> String {
        json!({
            "type": "service_account",
            "project_id": PROJECT_ID,
            "private_key_id": KEY_ID,
            "private_key": self.key_pem,
            "client_email": EMAIL,
            "client_id": "100000000000000000000",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": self.shared.token_url,
            "universe_domain": "googleapis.com",
        })
        .to_string()
    }

    /// Writes it, for `push.fcm.service_account`.
    pub fn write_service_account(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, self.service_account()).with_context(|| format!("writing {}", path.display()))
    }

    /// Gives this answer to the next message to a token or fid, after those that were asked for before. A
    /// message for which there is none is taken.
    pub fn answer(&self, address: &str, answer: FcmAnswer) {
        self.shared.state.lock().answers.entry(address.to_owned()).or_default().push_back(answer);
    }

    /// Gives it to all messages to a token or fid from now on; `None` takes them again.
    pub fn answer_always(&self, address: &str, answer: Option<FcmAnswer>) {
        let standing = &mut self.shared.state.lock().standing;
        match answer {
            Some(answer) => standing.insert(address.to_owned(), answer),
            None => standing.remove(address),
        };
    }

    /// Refuses the next request for an access token.
    pub fn deny_token(&self, status: u16, body: &str) {
        self.shared.state.lock().denials.push_back((status, body.to_owned()));
    }

    /// Knows none of the access tokens that it has issued any more.
    pub fn revoke_tokens(&self) {
        self.shared.state.lock().issued.clear();
    }

    /// How long the access tokens live that are issued from now on.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.shared.state.lock().token_lifetime_secs = lifetime.as_secs();
    }

    /// Lets messages come and answers none of them, until `false`.
    pub fn hold(&self, is_held: bool) {
        self.shared.is_held.send_replace(is_held);
    }

    /// What came, in order, whatever was answered.
    pub fn messages(&self) -> Vec<SentMessage> {
        self.shared.state.lock().messages.clone()
    }

    /// What was taken for a token or fid.
    pub fn taken(&self, address: &str) -> Vec<Value> {
        let state = self.shared.state.lock();
        let taken = state.messages.iter().filter(|sent| sent.address == address && sent.status == 200);
        taken.map(|sent| sent.message.clone()).collect()
    }

    /// Waits until so many messages were taken for a token or fid.
    pub async fn until_taken(&self, address: &str, count: usize, limit: Duration) -> anyhow::Result<Vec<Value>> {
        let what = format!("{count} messages to {address}");
        let enough = async || Some(self.taken(address)).filter(|taken| taken.len() >= count);
        wait::until(&what, limit, enough).await
    }

    /// How many access tokens were issued.
    pub fn tokens_issued(&self) -> usize {
        self.shared.state.lock().tokens_issued
    }

    /// How often one was asked for.
    pub fn token_requests(&self) -> usize {
        self.shared.state.lock().token_requests
    }

    /// How many messages wait for their answer.
    pub fn under_way(&self) -> usize {
        self.shared.state.lock().under_way
    }

    /// The most that ever did.
    pub fn most_under_way(&self) -> usize {
        self.shared.state.lock().most_under_way
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.listener.connections()
    }

    /// What the real ones would not have taken, and why.
    pub fn complaints(&self) -> Vec<String> {
        self.shared.state.lock().complaints.clone()
    }
}

impl Shared {
    async fn answer(&self, request: Request) -> Reply {
        if request.method != Method::POST {
            return FcmAnswer::of(405, "").into();
        }
        if request.path == "/token" {
            return self.issue(&request);
        }
        if request.path != format!("/v1/projects/{PROJECT_ID}/messages:send") {
            return FcmAnswer::no_project().into();
        }
        {
            let mut state = self.state.lock();
            state.under_way += 1;
            state.most_under_way = state.most_under_way.max(state.under_way);
        }
        // Counted down also when the client gives the request up.
        let _under_way = UnderWay(self);
        // The sender lives as long as `self`, so that this ends in no other way.
        let mut is_held = self.is_held.subscribe();
        let _released = is_held.wait_for(|is_held| !is_held).await.is_ok();
        self.take(&request)
    }

    /// RFC 7523 §2.1 and §3, as Google has it.
    fn issue(&self, request: &Request) -> Reply {
        let mut state = self.state.lock();
        state.token_requests += 1;
        if let Some((status, body)) = state.denials.pop_front() {
            return FcmAnswer::of(status, body).into();
        }
        if let Err(error) = self.check_assertion(request) {
            state.complaints.push(format!("the request for a token: {error:#}"));
            let body = json!({ "error": "invalid_grant", "error_description": format!("{error:#}") });
            return FcmAnswer::of(400, body.to_string()).into();
        }
        state.tokens_issued += 1;
        let token = format!("ya29.{}", state.tokens_issued);
        state.issued.insert(token.clone());
        let lifetime_secs = state.token_lifetime_secs;
        let body = json!({ "access_token": token, "expires_in": lifetime_secs, "token_type": "Bearer" });
        FcmAnswer::of(200, body.to_string()).into()
    }

    fn check_assertion(&self, request: &Request) -> anyhow::Result<()> {
        ensure!(request.header("content-type") == Some("application/x-www-form-urlencoded"), "the content type");
        let form: HashMap<_, _> = form_urlencoded::parse(&request.body).into_owned().collect();
        let grant_type = form.get("grant_type").map(String::as_str);
        ensure!(grant_type == Some("urn:ietf:params:oauth:grant-type:jwt-bearer"), "grant_type is {grant_type:?}");
        let assertion = form.get("assertion").context("no assertion")?;
        let (signed, signature) = assertion.rsplit_once('.').context("no JWT")?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature)?;
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| anyhow!("Invalid JWT Signature."))?;
        let (header, claims) = signed.split_once('.').context("no JWT")?;
        let read =
            |part: &str| Ok::<Value, anyhow::Error>(serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part)?)?);
        let (header, claims) = (read(header)?, read(claims)?);
        ensure!(header["alg"] == "RS256" && header["kid"] == KEY_ID, "the header {header}");
        ensure!(claims["iss"] == EMAIL && claims["scope"] == SCOPE, "the claims {claims}");
        ensure!(claims["aud"] == self.token_url.as_str(), "it is for {}", claims["aud"]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let (iat, exp) = (claims["iat"].as_u64().context("no iat")?, claims["exp"].as_u64().context("no exp")?);
        ensure!(iat <= now + 60 && exp > now && exp - iat <= 3600, "it is good from {iat} to {exp}, and it is {now}");
        Ok(())
    }

    fn take(&self, request: &Request) -> Reply {
        let mut state = self.state.lock();
        let bearer =
            request.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if !state.issued.contains(bearer) {
            return FcmAnswer::unauthenticated().into();
        }
        let (address, message) = match read_message(request) {
            Ok(read) => read,
            Err(error) => {
                state.complaints.push(format!("the message: {error:#}"));
                return FcmAnswer::invalid_argument(&format!("{error:#}")).into();
            }
        };
        let scripted = state.answers.get_mut(&address).and_then(VecDeque::pop_front);
        let reply: Reply = match scripted.or_else(|| state.standing.get(&address).cloned()) {
            Some(answer) => answer.into(),
            None => {
                let name = format!("projects/{PROJECT_ID}/messages/{}", state.messages.len());
                FcmAnswer::of(200, json!({ "name": name }).to_string()).into()
            }
        };
        let is_http2 = request.version == Version::HTTP_2;
        state.messages.push(SentMessage { address, message, is_http2, status: reply.status });
        reply
    }
}

struct UnderWay<'a>(&'a Shared);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state.lock().under_way -= 1;
    }
}

/// The address and the message, if FCM would take it.
fn read_message(request: &Request) -> anyhow::Result<(String, Value)> {
    let content_type = request.header("content-type").unwrap_or_default();
    ensure!(content_type.starts_with("application/json"), "the content type {content_type:?}");
    let mut body: Value = serde_json::from_slice(&request.body)?;
    let message = body.get_mut("message").context("no message")?.take();
    let fields = message.as_object().context("the message is no object")?;
    if let Some(unknown) = fields.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        anyhow::bail!("Unknown name \"{unknown}\" at 'message'");
    }
    let targets: Vec<_> = ["token", "fid", "topic", "condition"].iter().filter_map(|key| fields.get(*key)).collect();
    let [target] = targets[..] else { anyhow::bail!("exactly one target is needed, found {}", targets.len()) };
    let address = target.as_str().context("the target is no text")?.to_owned();
    for (key, value) in message["data"].as_object().into_iter().flatten() {
        let is_reserved = ["from", "message_type"].contains(&key.as_str())
            || ["google.", "gcm."].iter().any(|prefix| key.starts_with(prefix));
        ensure!(value.is_string() && !is_reserved, "message.data[{key}]");
    }
    let content_bytes = |key: &str| message.get(key).map_or(0, |value| value.to_string().len());
    ensure!(content_bytes("notification") + content_bytes("data") <= CONTENT_MAX_BYTES, "message is too big");
    if let Some(ttl) = message["android"]["ttl"].as_str() {
        let seconds = ttl.strip_suffix('s').and_then(|seconds| seconds.parse::<u64>().ok());
        ensure!(seconds.is_some_and(|seconds| seconds <= 2_419_200), "message.android.ttl");
    }
    if let Some(priority) = message["android"]["priority"].as_str() {
        ensure!(["NORMAL", "HIGH"].contains(&priority.to_uppercase().as_str()), "message.android.priority");
    }
    for headers in [&message["apns"]["headers"], &message["webpush"]["headers"]] {
        for (name, value) in headers.as_object().into_iter().flatten() {
            ensure!(value.is_string(), "the header {name}");
        }
    }
    let collapse_id = message["apns"]["headers"]["apns-collapse-id"].as_str().unwrap_or_default();
    ensure!(collapse_id.len() <= 64, "apns-collapse-id");
    Ok((address, message))
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
