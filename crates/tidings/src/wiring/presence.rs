//! Who is there: what the configuration says of it.

use std::sync::Arc;

use anyhow::Context as _;
use tidings_core::{
    ports::{Clock, UserListener},
    presence::{NodePresence, NodePresenceParts},
};
use tidings_hub::{Hub, Time};
use tidings_push::Webhook;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Begins to keep account. The hub has no streams yet.
pub(crate) fn start(
    config: &Config,
    namespaces: Arc<tidings_core::Namespaces>,
    hub: &Arc<Hub>,
    clock: Arc<dyn Clock>,
    time: &Arc<dyn Time>,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<NodePresence>> {
    let webhook = config.presence.webhook().map_err(|(key, text)| anyhow::anyhow!("{key}: {text}"))?;
    let listener = webhook.map(|(url, secret)| Webhook::start(url, secret, time, stop)).transpose();
    let listener = listener.context("the webhook for presence cannot be used")?;
    Ok(NodePresence::new(NodePresenceParts {
        node: format!("{:016x}", rand::random::<u64>()).into(),
        hub: hub.clone(),
        namespaces,
        listener: listener.map(|webhook| webhook as Arc<dyn UserListener>),
        grace: config.presence.grace,
        clock,
    }))
}
