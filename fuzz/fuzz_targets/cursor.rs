//! A cursor that is accepted has one text only: the one that was given.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings_protocol::Cursor;

fuzz_target!(|text: &str| {
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string(), text);
        assert!(cursor.entries().len() > 0);
    }
});
