//! Firebase Cloud Messaging, by its HTTP v1 API.

mod account;
mod answer;
mod lanes;
mod message;
mod token;

use std::sync::Arc;

use http::header::CONTENT_TYPE;
use reqwest::{Certificate, Client, Url};
use tidings_core::ports::{PushError, PushVerdict, store::PushJob};
use tidings_hub::Time;

pub use self::account::{AccountError, ServiceAccount};
use self::{
    answer::{Reading, Refusal},
    lanes::Lanes,
    token::{AccessToken, Tokens},
};
use crate::{
    exchange::{Answer, client, exchange, give_up, in_full, retry},
    trouble::Troubles,
};

/// Where FCM is.
pub const BASE_URL: &str = "https://fcm.googleapis.com";

/// What FCM needs.
#[derive(Debug, Clone)]
pub struct FcmConfig {
    /// The Firebase project; `None` is the one of the service account.
    pub project_id: Option<String>,
    /// Who sends.
    pub service_account: ServiceAccount,
    /// Where FCM is. Plain http is HTTP/1.1.
    pub base_url: Url,
    /// Where access tokens are issued; `None` is where the service account says.
    pub token_url: Option<Url>,
    /// Certificates to trust besides the system's.
    pub trusted: Vec<Certificate>,
}

/// What a trouble is about.
const CREDENTIALS: &str = "credentials";
const PROJECT: &str = "project";
const THIRD_PARTY: &str = "third_party";
const UNREACHABLE: &str = "unreachable";

/// Sends to apps.
pub(crate) struct Fcm {
    lanes: Lanes,
    tokens: Tokens,
    url: Url,
    troubles: Troubles,
    time: Arc<dyn Time>,
}

impl Fcm {
    pub(crate) fn new(config: FcmConfig, time: Arc<dyn Time>) -> Result<Self, reqwest::Error> {
        let FcmConfig { project_id, service_account, base_url, token_url, trusted } = config;
        let project_id = project_id.unwrap_or_else(|| service_account.project_id().to_owned());
        let mut url = base_url;
        let path = format!("{}/v1/projects/{project_id}/messages:send", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url.set_query(None);
        let token_url = token_url.unwrap_or_else(|| service_account.token_url().clone());
        let lanes = Lanes::new(|| client_of(&url, &trusted, true))?;
        let tokens = Tokens::new(service_account, client_of(&token_url, &trusted, false)?, token_url, time.clone());
        Ok(Self { lanes, tokens, url, troubles: Troubles::default(), time })
    }

    pub(crate) fn troubles(&self) -> Vec<String> {
        self.troubles.list(self.time.tick()).into_iter().map(|text| format!("fcm: {text}")).collect()
    }

    pub(crate) async fn send(&self, job: &PushJob) -> Result<(), PushError> {
        let message = message::build(job, self.time.now()).ok_or_else(|| give_up("the notification has expired"))?;
        let token = self.access_token(None).await?;
        let mut reading = self.post(&message, &token, job).await?;
        if let Reading::Unauthorized { .. } = reading {
            // It may have been revoked, or our clock is off: once more with a new one, if there is one.
            let fresh = self.access_token(Some(&token)).await?;
            if !fresh.is(&token) {
                reading = self.post(&message, &fresh, job).await?;
            }
        }
        self.troubles.clear(UNREACHABLE);
        match reading {
            Reading::Taken => {
                self.troubles.clear(CREDENTIALS);
                self.troubles.clear(PROJECT);
                Ok(())
            }
            Reading::Unauthorized { cause } => {
                self.troubles.note(CREDENTIALS, cause.clone(), self.time.tick());
                Err(retry(cause, None))
            }
            Reading::Refused(Refusal { verdict, cause, about }) => {
                if let Some(about) = about {
                    self.troubles.note(about, cause.clone(), self.time.tick());
                }
                Err(PushError { verdict, cause })
            }
        }
    }

    /// An attempt took too long.
    pub(crate) fn on_timeout(&self, cause: &str) {
        self.troubles.note(UNREACHABLE, cause.to_owned(), self.time.tick());
    }

    async fn access_token(&self, refused: Option<&AccessToken>) -> Result<AccessToken, PushError> {
        let token = match refused {
            None => self.tokens.get().await,
            Some(refused) => self.tokens.other_than(refused).await,
        };
        token.map_err(|failure| {
            self.troubles.note(CREDENTIALS, failure.cause.clone(), self.time.tick());
            PushError { verdict: PushVerdict::Retry { after_ms: failure.after_ms }, cause: failure.cause }
        })
    }

    async fn post(&self, message: &[u8], token: &AccessToken, job: &PushJob) -> Result<Reading, PushError> {
        let lane = self.lanes.free().await;
        let request = lane
            .client()
            .post(self.url.clone())
            .bearer_auth(token.as_str())
            .header(CONTENT_TYPE, "application/json")
            .body(message.to_vec());
        let answer: Answer = exchange(request, self.time.now()).await.map_err(|error| {
            let cause = in_full(&error);
            self.troubles.note(UNREACHABLE, cause.clone(), self.time.tick());
            retry(cause, None)
        })?;
        Ok(answer::read(&answer, job.device.target.address()))
    }
}

/// A client for a URL. FCM speaks HTTP/2 over TLS; said beforehand, a burst of pushes makes one connection
/// and not one for each.
fn client_of(url: &Url, trusted: &[Certificate], is_http2: bool) -> Result<Client, reqwest::Error> {
    let mut builder = client();
    if url.scheme() == "http" {
        // Without TLS no certificates are needed, and nobody but a stand-in on this machine is reached so.
        builder = builder.tls_certs_only([]).no_proxy();
    } else {
        builder = builder.tls_certs_merge(trusted.iter().cloned());
        if is_http2 {
            builder = builder.http2_prior_knowledge();
        }
        if url.host_str().is_some_and(is_loopback) {
            builder = builder.no_proxy();
        }
    }
    builder.build()
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
