//! What the readers of JSON bodies have in common: one object of known fields, and errors that name them.

use std::borrow::Cow;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// Why a body is refused. `Display` names the field and says what would be accepted.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Not a JSON object. serde would take the fields of a struct from an array too.
    #[error("accepted is one JSON object, as in {0}")]
    NotAnObject(&'static str),
    /// Not JSON, not an object of the known fields, or not of their types.
    #[error("{0}")]
    Json(serde_json::Error),
    /// A field with a value that is not accepted.
    #[error("{field}: {accepted}")]
    Field {
        /// The field, with those that it lies in before it.
        field: Cow<'static, str>,
        /// What is wrong and what would be accepted.
        accepted: String,
    },
}

/// Reads the fields of a body.
pub(crate) fn object<'a, T: Deserialize<'a>>(json: &'a [u8], example: &'static str) -> Result<T, BodyError> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(BodyError::NotAnObject(example));
    }
    serde_json::from_slice(json).map_err(BodyError::Json)
}

/// Reads the fields of an object within a body.
pub(crate) fn nested<T: DeserializeOwned>(
    field: impl Into<Cow<'static, str>>,
    raw: &RawValue,
    example: &'static str,
) -> Result<T, BodyError> {
    if !raw.get().starts_with('{') {
        return Err(refused(field, format!("accepted is an object, as in {example}")));
    }
    serde_json::from_str(raw.get()).map_err(|error| {
        // Where in the field it is: a place that nobody can count to.
        let text = error.to_string();
        refused(field, text.rsplit_once(" at line ").map_or(&*text, |(said, _)| said))
    })
}

/// The refusal of a field.
pub(crate) fn refused(field: impl Into<Cow<'static, str>>, accepted: impl ToString) -> BodyError {
    BodyError::Field { field: field.into(), accepted: accepted.to_string() }
}

/// A text of a bounded length without control characters, but for the accepted ones. Databases do not
/// keep NUL, and what is one line must stay one.
pub(crate) fn text(
    field: &'static str,
    text: Cow<'_, str>,
    bytes: std::ops::RangeInclusive<usize>,
    accepted_controls: &[char],
) -> Result<String, BodyError> {
    if !bytes.contains(&text.len()) {
        return Err(refused(field, format!("{} bytes; accepted are {} to {}", text.len(), bytes.start(), bytes.end())));
    }
    if text.chars().any(|c| c.is_control() && !accepted_controls.contains(&c)) {
        return Err(refused(
            field,
            match accepted_controls {
                [] => "accepted is text without control characters and line ends",
                _ => "accepted is text without control characters but tabs and line ends",
            },
        ));
    }
    Ok(text.into_owned())
}
