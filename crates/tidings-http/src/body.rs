//! Request bodies: of the right type, of a bounded size, within a bounded time.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::{
    problem::{Code, Problem},
    settings::Settings,
};

/// A body's media type, of those that calls take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MediaType {
    /// `application/json`
    Json,
    /// `application/x-ndjson`
    NdJson,
}

impl MediaType {
    /// The type that the request names, if it is one of the accepted.
    pub(crate) fn of(headers: &HeaderMap, accepted: &[Self]) -> Result<Self, Problem> {
        let named = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = named.split(';').next().unwrap_or_default().trim();
        let matches = |media_type: &&Self| essence.eq_ignore_ascii_case(media_type.as_str());
        accepted.iter().find(matches).copied().ok_or_else(|| {
            let accepted = accepted.iter().map(|t| t.as_str()).collect::<Vec<_>>().join(" or ");
            Problem::new(Code::UnsupportedMediaType, format!("content-type is {named:?}; accepted is {accepted}"))
        })
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::NdJson => "application/x-ndjson",
        }
    }
}

/// Reads a body as a whole.
pub(crate) async fn read(body: Body, max_bytes: usize, settings: &Settings) -> Result<Bytes, Problem> {
    let whole = Limited::new(body, max_bytes).collect();
    match tokio::time::timeout(settings.body_timeout, whole).await {
        Err(_elapsed) => {
            let limit = settings.body_timeout;
            let detail = format!("the body has to arrive within {limit:?} (server.body_timeout)");
            Err(Problem::new(Code::RequestTimeout, detail))
        }
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Problem::new(Code::BodyTooLarge, format!("accepted are bodies of up to {max_bytes} bytes")))
        }
        Ok(Err(_cut_off)) => Err(Problem::new(Code::InvalidBody, "the body did not arrive whole")),
    }
}
