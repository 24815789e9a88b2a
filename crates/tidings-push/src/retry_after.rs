//! `Retry-After` (RFC 9110 §10.2.3): seconds, or a date.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, header::RETRY_AFTER};
use tidings_protocol::Millis;

/// Longest wait that a provider can ask for. Beyond it, its word is more likely a mistake than a plan.
const MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// What the headers ask for, in milliseconds from now; `None` if they ask for nothing that can be read.
pub(crate) fn from_headers(headers: &HeaderMap, now: Millis) -> Option<u64> {
    parse(headers.get(RETRY_AFTER)?.to_str().ok()?, now)
}

fn parse(value: &str, now: Millis) -> Option<u64> {
    let value = value.trim_matches([' ', '\t']);
    let ms = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are a long time.
        value.parse::<u64>().map_or(u64::MAX, |seconds| seconds.saturating_mul(1000))
    } else {
        let at = httpdate::parse_http_date(value).ok()?;
        // A date that has passed is no reason to wait.
        at.duration_since(UNIX_EPOCH + Duration::from_millis(now)).map_or(0, |wait| wait.as_millis() as u64)
    };
    Some(ms.min(MAX_MS))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `Sun, 06 Nov 1994 08:49:37 GMT`, the example of RFC 9110 §5.6.7.
    const EXAMPLE: Millis = 784_111_777_000;

    #[test]
    fn it_is_seconds_or_a_date_in_any_of_three_forms() {
        assert_eq!(parse("120", 0), Some(120_000));
        assert_eq!(parse(" 0\t", 0), Some(0));
        for date in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(date, EXAMPLE - 7_500), Some(7_500), "{date}");
            assert_eq!(parse(date, EXAMPLE + 7_500), Some(0), "{date}");
        }
    }

    #[test]
    fn what_cannot_be_read_asks_for_nothing_and_what_is_absurd_for_a_day() {
        for text in ["", " ", "-1", "1.5", "+3", "soon", "1 2", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(parse(text, EXAMPLE), None, "{text:?}");
        }
        assert_eq!(parse("99999999999999999999999999", 0), Some(MAX_MS));
        assert_eq!(parse("Fri, 31 Dec 9999 23:59:59 GMT", EXAMPLE), Some(MAX_MS));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_not_and_never_waits_longer_than_a_day(text in "\\PC{0,40}", now in any::<u32>()) {
            prop_assert!(parse(&text, u64::from(now) * 1000).is_none_or(|ms| ms <= MAX_MS));
        }

        #[test]
        fn seconds_are_milliseconds_up_to_a_day(seconds in 0u64..100_000, now in any::<u32>()) {
            prop_assert_eq!(parse(&seconds.to_string(), u64::from(now)), Some((seconds * 1000).min(MAX_MS)));
        }

        #[test]
        fn a_date_is_its_distance(seconds in 0u64..80_000) {
            let at = UNIX_EPOCH + Duration::from_millis(EXAMPLE) + Duration::from_secs(seconds);
            prop_assert_eq!(parse(&httpdate::fmt_http_date(at), EXAMPLE), Some(seconds * 1000));
        }
    }
}
