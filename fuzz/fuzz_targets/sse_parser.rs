//! No stream makes the parser panic, and how it was cut changes nothing.
//!
//! The first two bytes choose the limit and the size of the pieces; the rest is the stream.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings_protocol::sse::{Parsed, Parser, TooLong};

fn parse<'a>(limit: usize, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Parsed>, String, Result<(), TooLong>) {
    let mut parser = Parser::new(limit);
    let mut parsed = Vec::new();
    let mut outcome = Ok(());
    for piece in pieces {
        outcome = parser.push(piece, |one| parsed.push(one));
        if outcome.is_err() {
            break;
        }
    }
    (parsed, parser.last_event_id().to_owned(), outcome)
}

fuzz_target!(|input: &[u8]| {
    let Some(([limit, size], stream)) = input.split_first_chunk::<2>() else { return };
    let limit = if *limit < 128 { usize::from(*limit) } else { 1 << 20 };
    let whole = parse(limit, std::iter::once(stream));
    let byte_by_byte = parse(limit, stream.chunks(1));
    let in_pieces = parse(limit, stream.chunks(usize::from(*size).max(1)));
    assert_eq!(whole, byte_by_byte);
    assert_eq!(whole, in_pieces);
});
