//! What the channels of a namespace have in common.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tidings_protocol::{Channel, channel::DEFAULT_NAMESPACE};

/// Who may do something, besides API keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Everybody, signed in or not.
    Anyone,
    /// Every signed-in user.
    User,
    /// Whose token's claim names the channel.
    Token,
    /// Nobody.
    Nobody,
}

/// The rules of one namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    /// How many of a channel's last events history keeps.
    pub history_size: usize,
    /// How long it keeps them.
    pub history_ttl: Duration,
    /// Whether an event is on disk before its publisher is answered.
    pub durable: bool,
    /// Whether a new subscriber gets the channel's last event first.
    pub retain: bool,
    /// Whether account is kept of who listens.
    pub presence: bool,
    /// How long an event that conflates may wait for a newer one.
    pub conflate_window: Duration,
    /// Who may listen.
    pub subscribe: Vec<Who>,
    /// Who may publish.
    pub publish: Vec<Who>,
}

impl Default for Namespace {
    fn default() -> Self {
        Self {
            history_size: 100,
            history_ttl: Duration::from_secs(3600),
            durable: true,
            retain: false,
            presence: false,
            conflate_window: Duration::from_millis(100),
            subscribe: vec![Who::Token],
            publish: vec![Who::Token],
        }
    }
}

/// The rules of all namespaces. Those that have none of their own follow `default`.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    default: Namespace,
    named: HashMap<String, Namespace>,
}

/// Rules that an operator may replace while the server runs.
pub type SharedNamespaces = Arc<ArcSwap<Namespaces>>;

impl Namespaces {
    /// The given rules; those of `default` serve every namespace that has none.
    pub fn new(mut named: HashMap<String, Namespace>) -> Self {
        Self { default: named.remove(DEFAULT_NAMESPACE).unwrap_or_default(), named }
    }

    /// The rules for a channel.
    pub fn of(&self, channel: &Channel) -> &Namespace {
        self.named.get(channel.namespace()).unwrap_or(&self.default)
    }

    /// The name under which a channel's namespace is configured: one of a bounded set, whatever
    /// names clients come up with. Fit for a metric label.
    pub fn label<'a>(&'a self, channel: &'a Channel) -> &'a str {
        match self.named.contains_key(channel.namespace()) {
            true => channel.namespace(),
            false => DEFAULT_NAMESPACE,
        }
    }

    /// Every label and its rules, `default` first.
    pub fn labelled(&self) -> impl Iterator<Item = (&str, &Namespace)> {
        let named = self.named.iter().map(|(label, namespace)| (label.as_str(), namespace));
        std::iter::once((DEFAULT_NAMESPACE, &self.default)).chain(named)
    }

    /// Them, to be shared and replaced.
    pub fn shared(self) -> SharedNamespaces {
        Arc::new(ArcSwap::from_pointee(self))
    }
}
