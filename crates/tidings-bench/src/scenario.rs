//! What a client can be asked to do.

use serde::{Deserialize, Serialize};

use crate::{
    broadcast, churn,
    crew::{Desk, Work},
    holding, poll, publish, unicast,
};

/// A scenario, as one client gets it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Load {
    Holding(holding::Plan),
    Broadcast(broadcast::Plan),
    Unicast(unicast::Plan),
    Publish(publish::Plan),
    Churn(churn::Plan),
    Poll(poll::Plan),
}

impl Load {
    /// Opens what is to be open.
    pub(crate) fn open(self, desk: Desk) -> anyhow::Result<Box<dyn Work>> {
        Ok(match self {
            Self::Holding(plan) => Box::new(holding::Holding::open(desk, plan)?),
            Self::Broadcast(plan) => Box::new(broadcast::Casting::open(desk, plan)?),
            Self::Unicast(plan) => Box::new(unicast::Posting::open(desk, plan)?),
            Self::Publish(plan) => Box::new(publish::Publishing::open(desk, plan)?),
            Self::Churn(plan) => Box::new(churn::Visiting::open(desk, plan)?),
            Self::Poll(plan) => Box::new(poll::Asking::open(desk, plan)?),
        })
    }
}
