//! The data of the messages: `{"n":…,"t":…,"pad":"…"}`.

use std::io::Write as _;

use serde::Deserialize;

/// Digits of the longest number that is read without looking twice: ten of them to the 19th fit in 64 bits.
const DIGITS_MAX: usize = 19;

/// What a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Payload {
    /// Which message of its channel it is, from 0.
    pub n: u64,
    /// When it was sent, or should have been, in nanoseconds of `CLOCK_MONOTONIC`.
    pub t: u64,
}

impl Payload {
    /// Writes it as JSON, padded to `data_bytes` if it is shorter.
    pub fn write(self, out: &mut Vec<u8>, data_bytes: usize) {
        const PAD: u8 = b'x';
        let start = out.len();
        // A Vec takes every write.
        let _infallible = write!(out, r#"{{"n":{},"t":{},"pad":""#, self.n, self.t);
        let length = out.len() - start + r#""}"#.len();
        out.resize(out.len() + data_bytes.saturating_sub(length), PAD);
        out.extend_from_slice(br#""}"#);
    }

    /// Reads it from a line of data. A server that has formatted the JSON anew is understood too, only
    /// not as quickly.
    pub fn read(text: &[u8]) -> Option<Self> {
        Self::read_verbatim(text).or_else(|| serde_json::from_slice(text).ok())
    }

    fn read_verbatim(text: &[u8]) -> Option<Self> {
        let (n, rest) = digits(text.strip_prefix(br#"{"n":"#)?)?;
        let (t, rest) = digits(rest.strip_prefix(br#","t":"#)?)?;
        matches!(rest, [b',' | b'}', ..]).then_some(Self { n, t })
    }
}

fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    let length = text.iter().take(DIGITS_MAX + 1).take_while(|byte| byte.is_ascii_digit()).count();
    if length == 0 || length > DIGITS_MAX {
        return None;
    }
    let number = text[..length].iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some((number, &text[length..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_as_long_as_asked_for() {
        for data_bytes in [0, 24, 128, 1000] {
            let mut text = Vec::new();
            Payload { n: 7, t: 12_345 }.write(&mut text, data_bytes);
            assert_eq!(text.len(), data_bytes.max(r#"{"n":7,"t":12345,"pad":""}"#.len()));
        }
    }

    #[test]
    fn it_is_read_however_it_was_formatted() {
        let payload = Some(Payload { n: 1, t: 2 });
        for text in [r#"{"n":1,"t":2}"#, r#"{"n":1,"t":2,"pad":""}"#, r#"{ "pad": "x", "t": 2, "n": 1 }"#] {
            assert_eq!(Payload::read(text.as_bytes()), payload, "{text}");
        }
        for text in ["", "1", r#"{"n":,"t":2}"#, r#"{"n":1}"#, r#"{"n":99999999999999999999,"t":1}"#] {
            assert_eq!(Payload::read(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(n: u64, t: u64, data_bytes in 0..300_usize) {
            let mut text = Vec::new();
            let payload = Payload { n, t };
            payload.write(&mut text, data_bytes);
            prop_assert_eq!(Payload::read(&text), Some(payload));
            prop_assert_eq!(serde_json::from_slice::<Payload>(&text).unwrap(), payload);
        }
    }
}
