//! No response makes the load generator panic, and how it was cut changes nothing.
//!
//! The first byte chooses the size of the pieces; the rest is the response.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings_bench::{
    events::{Event, Scanner},
    response::{Head, Part, Response},
};

/// What came of it: the head, the events, whether the body ended, and whether all was read without an error.
type Read = (Option<Head>, Vec<Event>, bool, bool);

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Read {
    let mut response = Response::default();
    let mut scanner = Scanner::default();
    let (mut head, mut events, mut has_ended) = (None, Vec::new(), false);
    for piece in pieces {
        let mut is_fine = true;
        let outcome = response.feed(piece, |part| match part {
            Part::Head(read) => head = Some(read),
            Part::Data(data) => is_fine &= scanner.feed(data, |event| events.push(event)).is_ok(),
            Part::End => has_ended = true,
        });
        if outcome.is_err() || !is_fine {
            return (head, events, has_ended, false);
        }
    }
    (head, events, has_ended, true)
}

fuzz_target!(|input: &[u8]| {
    let Some((size, text)) = input.split_first() else { return };
    let size = usize::from(*size).max(1);
    assert_eq!(read(text.chunks(size)), read(std::iter::once(text)));
});
