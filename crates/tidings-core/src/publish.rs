//! From a well-formed publish to the log.

use std::sync::Arc;

use tidings_protocol::Event;

use crate::{
    access::{Denied, Principal},
    namespaces::SharedNamespaces,
    ports::{AppendError, Appended, Broker},
};

/// Takes publishes on behalf of whoever makes them.
#[derive(Clone)]
pub struct Publisher {
    /// The log.
    pub broker: Arc<dyn Broker>,
    /// The rules.
    pub namespaces: SharedNamespaces,
}

/// Why an event was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishRefused {
    /// Not permitted.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The log did not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl Publisher {
    /// Publishes events in order; the answers are in the order of the events. Those that are
    /// permitted are published even if others are not.
    pub async fn publish(&self, principal: &Principal, events: Vec<Event>) -> Vec<Result<Appended, PublishRefused>> {
        let namespaces = self.namespaces.load_full();
        let verdicts: Vec<_> = events.iter().map(|event| principal.may_publish(&event.channel, &namespaces)).collect();
        let permitted =
            events.into_iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok()).map(|(event, _)| event);
        let mut answers = self.broker.append(permitted.collect()).await.into_iter();
        let unanswered = || Err(AppendError::Unavailable(crate::ports::Unavailable { cause: "no answer".to_owned() }));
        verdicts
            .into_iter()
            .map(|verdict| {
                verdict?;
                Ok(answers.next().unwrap_or_else(unanswered)?)
            })
            .collect()
    }
}
