//! How a stream's items reach a client.

pub mod long_poll;
pub mod sse;

/// The JSON that [`Format::Json`](tidings_hub::Format::Json) has encoded, to stand inside an answer.
pub(crate) fn envelope(json: &[u8]) -> Option<Box<serde_json::value::RawValue>> {
    // What the encoder wrote is JSON in UTF-8, so this is never `None`.
    serde_json::value::RawValue::from_string(String::from_utf8(json.to_vec()).ok()?).ok()
}
