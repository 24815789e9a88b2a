//! No body makes the reader of publishes panic, and an event that it accepts can be written as
//! event JSON again and read back equal.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{json, value::RawValue};
use tidings_protocol::{
    Event,
    publish::{Publish, PublishLimits},
};

const NOW: u64 = 1_700_000_000_000;
const LIMITS: PublishLimits = PublishLimits { data_max_bytes: 65536, channels_max: 16 };

/// The event JSON of an accepted event.
fn event_json(event: &Event) -> Vec<u8> {
    let mut fields = json!({
        "channel": event.channel.as_str(),
        "event": event.event_type.as_str(),
        "sent_at": event.sent_at,
    });
    if let Some(key) = &event.key {
        fields["key"] = (**key).into();
    }
    if let Some(conflate) = &event.conflate {
        fields["conflate"] = (**conflate).into();
    }
    if let Some(secs) = event.expires_in_secs {
        fields["expires_in"] = secs.into();
    }
    // The data goes in as it is: a number of any length stays what it was.
    let data: &RawValue = serde_json::from_str(event.data.as_json()).expect("accepted data is JSON");
    let mut body = fields.to_string();
    body.truncate(body.len() - 1);
    format!("{body},\"data\":{data}}}").into_bytes()
}

fuzz_target!(|body: &[u8]| {
    match Publish::parse(body, LIMITS, NOW) {
        Ok(publish) => {
            assert!(!publish.events.is_empty());
            for event in &publish.events {
                let again = Publish::parse(&event_json(event), LIMITS, NOW).expect("an accepted event is accepted");
                assert_eq!(again.events, std::slice::from_ref(event));
            }
        }
        Err(refused) => assert!(!refused.to_string().is_empty()),
    }
});
