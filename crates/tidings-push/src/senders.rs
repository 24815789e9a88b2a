//! The providers that are configured, as one.

use std::sync::Arc;

use async_trait::async_trait;
use tidings_core::ports::{
    PushError, PushSender,
    store::{PushJob, PushTarget},
};
use tidings_hub::Time;
use tokio::time::timeout;

use crate::{
    exchange::{ATTEMPT_TIMEOUT, give_up, retry},
    fcm::{Fcm, FcmConfig},
    web_push::{WebPush, WebPushConfig, validate_target},
};

/// A provider could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client of {provider} cannot be set up")]
pub struct SetupError {
    /// Which.
    pub provider: &'static str,
    /// Why.
    pub source: reqwest::Error,
}

/// The providers that are configured; none is a good choice too.
pub struct Senders {
    fcm: Option<Fcm>,
    web_push: Option<WebPush>,
    allow_private: Vec<ipnet::IpNet>,
}

impl Senders {
    /// Sets the clients up. Nothing is sent yet.
    pub fn new(
        fcm: Option<FcmConfig>,
        web_push: Option<WebPushConfig>,
        time: &Arc<dyn Time>,
    ) -> Result<Self, SetupError> {
        let allow_private = web_push.as_ref().map(|config| config.allow_private.clone()).unwrap_or_default();
        let fcm = fcm.map(|config| Fcm::new(config, time.clone())).transpose();
        let web_push = web_push.map(|config| WebPush::new(config, time.clone())).transpose();
        Ok(Self {
            fcm: fcm.map_err(|source| SetupError { provider: "fcm", source })?,
            web_push: web_push.map_err(|source| SetupError { provider: "web_push", source })?,
            allow_private,
        })
    }

    /// What browsers take as `applicationServerKey`, if Web Push is configured.
    pub fn vapid_public_key(&self) -> Option<&str> {
        self.web_push.as_ref().map(WebPush::public_key)
    }
}

#[async_trait]
impl PushSender for Senders {
    fn serves(&self, provider: &str) -> bool {
        match provider {
            "fcm" => self.fcm.is_some(),
            "web_push" => self.web_push.is_some(),
            _ => false,
        }
    }

    fn check(&self, target: &PushTarget) -> Result<(), String> {
        validate_target(target, &self.allow_private)
    }

    async fn send(&self, job: &PushJob) -> Result<(), PushError> {
        let attempt = async {
            match (&job.device.target, &self.fcm, &self.web_push) {
                (PushTarget::FcmToken(_) | PushTarget::FcmFid(_), Some(fcm), _) => fcm.send(job).await,
                (PushTarget::WebPush { .. }, _, Some(web_push)) => web_push.send(job).await,
                // Kept among the dead, to be tried again when it is configured.
                (target, ..) => Err(give_up(format!("{} is not configured", target.provider()))),
            }
        };
        match timeout(ATTEMPT_TIMEOUT, attempt).await {
            Ok(result) => result,
            Err(_elapsed) => {
                let cause = format!("no answer within {ATTEMPT_TIMEOUT:?}");
                // Of Web Push it is one of many services, and whoever puts a device chooses which.
                if let ("fcm", Some(fcm)) = (job.device.target.provider(), &self.fcm) {
                    fcm.on_timeout(&cause);
                }
                Err(retry(cause, None))
            }
        }
    }

    fn troubles(&self) -> Vec<String> {
        let fcm = self.fcm.iter().flat_map(Fcm::troubles);
        fcm.chain(self.web_push.iter().flat_map(WebPush::troubles)).collect()
    }
}
