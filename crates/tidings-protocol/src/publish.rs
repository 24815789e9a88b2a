//! The event JSON: the body of a publish over HTTP, a line of NDJSON, a message in a broker's ingest.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    channel::Channel,
    event::{Data, Event, EventType, Millis},
    limits::{EXPIRES_IN_MAX_SECS, KEY_MAX_BYTES},
};

/// The fields as they are written. Unknown ones are refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow, default)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    channels: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    sent_at: Option<Millis>,
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    conflate: Option<Cow<'a, str>>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// `"data": null` is a payload, where serde would read an absent one.
fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What an operator allows a publish to be.
#[derive(Debug, Clone, Copy)]
pub struct PublishLimits {
    /// Longest `data`, as compact JSON, in bytes.
    pub data_max_bytes: usize,
    /// Most `channels` of one publish.
    pub channels_max: usize,
}

/// A publish that is well-formed. Whether it is permitted is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The event on each of its channels, at least one.
    pub events: Vec<Event>,
    /// Whether it was written with `channels`, and so wants an answer for each.
    pub is_multi: bool,
}

/// Why an event JSON is refused. `Display` names the field and says what would be accepted.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Not a JSON object. serde would take the fields of a struct from an array too.
    #[error("accepted is one JSON object, as in {{\"channel\":\"chat:lobby\",\"data\":\"hello\"}}")]
    NotAnObject,
    /// Not JSON, not an object of the known fields, or not of their types.
    #[error("{0}")]
    Json(serde_json::Error),
    /// A field with a value that is not accepted.
    #[error("{field}: {accepted}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong and what would be accepted.
        accepted: String,
    },
    /// `data` over the limit.
    #[error("data: {bytes} bytes as compact JSON; accepted are up to {max} (limits.max_data_bytes)")]
    DataTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

impl Publish {
    /// Reads one event JSON. `now` is the time of acceptance.
    pub fn parse(json: &[u8], limits: PublishLimits, now: Millis) -> Result<Self, PublishError> {
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(PublishError::NotAnObject);
        }
        let body: Body<'_> = serde_json::from_slice(json).map_err(PublishError::Json)?;
        let (names, is_multi) = match (body.channel, body.channels) {
            (Some(one), None) => (vec![one], false),
            (None, Some(many)) if !many.is_empty() && many.len() <= limits.channels_max => (many, true),
            (None, Some(many)) => {
                let accepted = format!("{} given; accepted are 1 to {}", many.len(), limits.channels_max);
                return Err(refused("channels", accepted));
            }
            (None, None) => return Err(refused("channel", "missing; give `channel` or `channels`")),
            (Some(_), Some(_)) => return Err(refused("channels", "give either `channel` or `channels`, not both")),
        };
        let channels = names
            .iter()
            .map(|name| Channel::parse(name).map_err(|e| refused(if is_multi { "channels" } else { "channel" }, e)))
            .collect::<Result<Vec<_>, _>>()?;
        let event_type = match &body.event {
            Some(text) => EventType::parse(text).map_err(|e| refused("event", e))?,
            None => EventType::default(),
        };
        let raw = body.data.ok_or_else(|| refused("data", "missing; accepted is any JSON value, `null` included"))?;
        let data = Data::from_raw(raw).map_err(|e| refused("data", e))?;
        if data.as_json().len() > limits.data_max_bytes {
            return Err(PublishError::DataTooLarge { bytes: data.as_json().len(), max: limits.data_max_bytes });
        }
        let event = Event {
            channel: channels[0].clone(),
            event_type,
            data,
            sent_at: body.sent_at.unwrap_or(now),
            key: short_text("key", body.key)?,
            conflate: short_text("conflate", body.conflate)?,
            is_ephemeral: false,
            expires_in_secs: match body.expires_in {
                None => None,
                Some(secs @ 1..=EXPIRES_IN_MAX_SECS) => Some(secs),
                Some(secs) => {
                    let accepted = format!("{secs}; accepted are 1 to {EXPIRES_IN_MAX_SECS} seconds");
                    return Err(refused("expires_in", accepted));
                }
            },
        };
        let events = channels.into_iter().map(|channel| Event { channel, ..event.clone() }).collect();
        Ok(Self { events, is_multi })
    }
}

fn short_text(field: &'static str, text: Option<Cow<'_, str>>) -> Result<Option<Box<str>>, PublishError> {
    match text {
        Some(text) if text.is_empty() || text.len() > KEY_MAX_BYTES => {
            Err(refused(field, format!("{} bytes; accepted are 1 to {KEY_MAX_BYTES}", text.len())))
        }
        text => Ok(text.map(|text| text.into())),
    }
}

fn refused(field: &'static str, accepted: impl ToString) -> PublishError {
    PublishError::Field { field, accepted: accepted.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PublishLimits = PublishLimits { data_max_bytes: 32, channels_max: 3 };

    fn parse(json: &str) -> Result<Publish, String> {
        Publish::parse(json.as_bytes(), LIMITS, 1000).map_err(|e| e.to_string())
    }

    #[test]
    fn every_field_is_taken() {
        let publish = parse(
            r#"{"channel":"chat:a","event":"said","data":{ "x": 1 },"sent_at":7,"key":"k","conflate":"c","expires_in":2}"#,
        )
        .unwrap();
        let event = &publish.events[0];
        assert_eq!((event.channel.as_str(), event.event_type.as_str()), ("chat:a", "said"));
        assert_eq!((event.data.as_json(), event.sent_at, event.expires_in_secs), (r#"{"x":1}"#, 7, Some(2)));
        assert_eq!((event.key.as_deref(), event.conflate.as_deref()), (Some("k"), Some("c")));
        assert_eq!(parse(r#"{"channel":"a","data":null}"#).unwrap().events[0].sent_at, 1000);
        let multi = parse(r#"{"channels":["a","b"],"data":1}"#).unwrap();
        assert!(multi.is_multi);
        assert_eq!(multi.events.iter().map(|e| e.channel.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_refusal_names_the_field() {
        for (json, named) in [
            ("", "one JSON object"),
            ("[]", "one JSON object"),
            ("{", "EOF"),
            (r#"{"channel":"a","data":1,"dta":2}"#, "unknown field `dta`"),
            (r#"{"channel":"a b","data":1}"#, "channel: "),
            (r#"{"data":1}"#, "channel: missing"),
            (r#"{"channel":"a"}"#, "data: missing"),
            (r#"{"channel":"a","channels":["b"],"data":1}"#, "channels: give either"),
            (r#"{"channels":[],"data":1}"#, "channels: 0 given"),
            (r#"{"channels":["a","b","c","d"],"data":1}"#, "channels: 4 given"),
            (r#"{"channel":"a","data":1,"event":"a\nb"}"#, "event: "),
            (r#"{"channel":"a","data":1,"event":"a\u0000b"}"#, "event: "),
            (r#"{"channel":"a","data":1,"event":"gap"}"#, "event: "),
            (r#"{"channel":"a","data":"\ud800"}"#, "data: "),
            (r#"{"channel":"a","data":"0123456789012345678901234567890123456789"}"#, "data: 42 bytes"),
            (r#"{"channel":"a","data":1,"key":""}"#, "key: 0 bytes"),
            (r#"{"channel":"a","data":1,"expires_in":0}"#, "expires_in: 0"),
            (r#"{"channel":"a","data":1,"sent_at":-1}"#, "invalid value"),
        ] {
            let said = parse(json).unwrap_err();
            assert!(said.contains(named), "{json}: {said}");
        }
    }
}
