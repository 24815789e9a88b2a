//! Configuration: what it may say ([`Config`]), where it comes from ([`Sources`]), and what is
//! wrong with it ([`ConfigErrors`]).
//!
//! The types are the only list of keys there is: a key is known if serde takes it, and names in
//! errors, the reference and the documentation are held against them. Read in the order in which
//! a value passes: `load` (flags, environment and file are laid over one another) → `node` (a
//! value is given the type of its field) → `sections`, `auth`, `outbox`, `namespaces` (the types) →
//! `validate` (what types cannot say).

mod auth;
mod load;
mod namespaces;
mod node;
mod outbox;
mod presence;
mod problem;
mod push;
pub mod reference;
mod schema;
mod sections;
mod show;
mod store;
#[cfg(test)]
mod tests;
mod validate;
mod values;

use std::{
    io::Read as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tidings_protocol::channel::USER_NAMESPACE;

pub use self::{
    auth::{API_KEY_PREFIX, AuthConfig, PublicKey, PublicKeyAlgorithm},
    load::{Flags, Loaded, OTHER_VARIABLES, Sources, environment},
    namespaces::{Access, NamespaceConfig, Namespaces},
    outbox::OutboxConfig,
    presence::PresenceConfig,
    problem::{ConfigErrors, Origin, Problem},
    push::{Confirm, FcmSection, PushConfig, WebPushSection},
    sections::{BrokerConfig, LimitsConfig, LogConfig, LogFormat, ServerConfig, StreamConfig, TlsConfig},
    store::{NotificationsConfig, StoreConfig, StoreUrl},
    values::{BrokerUrl, Network, RetryRange, Secret},
};

/// The port that Tidings listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7330;

/// All that an operator can say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the server listens. Port 0 lets the system choose.
    #[serde(with = "values::socket_address")]
    pub listen: SocketAddr,
    /// Where what must survive the process is kept.
    pub data_dir: PathBuf,
    /// Tables of the application's databases, which events and notifications are taken from.
    pub outbox: Vec<OutboxConfig>,
    /// What the process says of itself.
    pub log: LogConfig,
    /// Who is who.
    pub auth: AuthConfig,
    /// The log of events.
    pub broker: BrokerConfig,
    /// Where inboxes are.
    pub store: StoreConfig,
    /// How notifications are dealt with.
    pub notifications: NotificationsConfig,
    /// What clients hold open.
    pub stream: StreamConfig,
    /// HTTP.
    pub server: ServerConfig,
    /// TLS on the listener.
    pub tls: TlsConfig,
    /// Notifications to devices.
    pub push: PushConfig,
    /// Who is there.
    pub presence: PresenceConfig,
    /// What clients may ask for.
    pub limits: LimitsConfig,
    /// What channels have in common.
    pub namespaces: Namespaces,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)),
            data_dir: PathBuf::from("tidings-data"),
            outbox: Vec::new(),
            log: LogConfig::default(),
            auth: AuthConfig::default(),
            broker: BrokerConfig::default(),
            store: StoreConfig::default(),
            notifications: NotificationsConfig::default(),
            stream: StreamConfig::default(),
            server: ServerConfig::default(),
            tls: TlsConfig::default(),
            push: PushConfig::default(),
            presence: PresenceConfig::default(),
            limits: LimitsConfig::default(),
            namespaces: Namespaces::default(),
        }
    }
}

impl Config {
    /// Turns this into the configuration of `--dev`: the development secrets count as if they were
    /// configured, and everybody may subscribe and publish. The server and `tidings token` both go
    /// through here, so that a token signed by the one is accepted by the other.
    ///
    /// Fails unless `listen` is a loopback address: such a server must not be reachable.
    pub fn apply_dev(&mut self, secrets: &crate::dev::DevSecrets) -> Result<(), Problem> {
        if !self.listen.ip().is_loopback() {
            let text = format!(
                "{} is not a loopback address, and with --dev anybody may publish; accepted are 127.0.0.1 and [::1]",
                self.listen
            );
            return Err(Problem { key: Some("listen".to_owned()), text, origin: Origin::Default, hint: None });
        }
        self.auth.api_keys.push(secrets.api_key.clone());
        self.auth.jwt_hs256_secret.get_or_insert_with(|| secrets.jwt_hs256_secret.clone());
        for (_, namespace) in self.namespaces.iter_mut().filter(|(name, _)| *name != USER_NAMESPACE) {
            namespace.subscribe = vec![Access::Anyone];
            namespace.publish = vec![Access::Anyone];
        }
        Ok(())
    }
}

/// Reads a small text file, and no more of it than a file of its kind can sensibly have: a path
/// that is wrong may lead to a device without an end.
fn read_text(path: &Path, max_bytes: usize) -> std::io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(max_bytes as u64 + 1).read_to_string(&mut text)?;
    if read > max_bytes {
        let text = format!("it is longer than {max_bytes} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, text));
    }
    Ok(text)
}
