//! Parts of a path.

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;

use crate::problem::{Code, Problem};

/// The one part of the path that the call names, decoded.
pub struct PathText(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => Err(Problem::new(Code::InvalidPath, "accepted is UTF-8, percent-encoded where it has to be")),
        }
    }
}
