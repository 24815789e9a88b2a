//! `[namespaces.NAME]`: what channels have in common.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};
use tidings_protocol::channel::DEFAULT_NAMESPACE;

use super::values::human_duration;

/// The settings of one namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NamespaceConfig {
    /// Most events of a channel that are kept.
    pub history_size: usize,
    /// How long they are kept.
    #[serde(with = "human_duration")]
    pub history_ttl: Duration,
    /// Whether events survive the process.
    pub durable: bool,
    /// Whether a new stream starts with the channel's last event.
    pub retain: bool,
    /// Whether account is kept of who listens.
    pub presence: bool,
    /// How long an event that may be conflated waits for a newer one; zero is not at all.
    #[serde(with = "human_duration")]
    pub conflate_window: Duration,
    /// Who may subscribe, besides API keys.
    pub subscribe: Vec<Access>,
    /// Who may publish, besides API keys.
    pub publish: Vec<Access>,
}

impl Default for NamespaceConfig {
    fn default() -> Self {
        Self {
            history_size: 100,
            history_ttl: Duration::from_secs(60 * 60),
            durable: true,
            retain: false,
            presence: false,
            conflate_window: Duration::from_millis(100),
            subscribe: vec![Access::Token],
            publish: vec![Access::Token],
        }
    }
}

/// Who may do something in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Everybody, signed in or not.
    Anyone,
    /// Any signed-in user.
    User,
    /// Who has a token whose claim names the channel.
    Token,
    /// Nobody but API keys.
    Nobody,
}

/// The namespaces. There always is `default`, which serves those that are not listed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Namespaces(BTreeMap<String, NamespaceConfig>);

impl Namespaces {
    /// The settings of a namespace.
    pub fn get(&self, name: &str) -> &NamespaceConfig {
        // `default` is put in by every constructor and nothing takes it out.
        self.0.get(name).unwrap_or_else(|| &self.0[DEFAULT_NAMESPACE])
    }

    /// Those that are listed, and `default`, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &NamespaceConfig)> {
        self.0.iter().map(|(name, namespace)| (name.as_str(), namespace))
    }

    /// The same, to change them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut NamespaceConfig)> {
        self.0.iter_mut().map(|(name, namespace)| (name.as_str(), namespace))
    }
}

impl From<BTreeMap<String, NamespaceConfig>> for Namespaces {
    fn from(mut listed: BTreeMap<String, NamespaceConfig>) -> Self {
        listed.entry(DEFAULT_NAMESPACE.to_owned()).or_default();
        Self(listed)
    }
}

impl Default for Namespaces {
    fn default() -> Self {
        BTreeMap::new().into()
    }
}

impl<'de> Deserialize<'de> for Namespaces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(<Self as From<BTreeMap<_, _>>>::from)
    }
}
