//! Streams whose meaning the standard fixes, cut in every way.

use tidings_protocol::sse::{Parsed, Parser, TooLong};

use crate::reference::{interpret, parse};

fn event(event: &str, data: &str, id: &str) -> Parsed {
    Parsed::Event { event: event.to_owned(), data: data.to_owned(), id: id.to_owned() }
}

fn message(data: &str) -> Parsed {
    event("message", data, "")
}

fn comment(text: &str) -> Parsed {
    Parsed::Comment(text.to_owned())
}

/// Fed whole, byte by byte, and in two pieces at every place, the stream means the same; and the
/// reading of the standard in `reference.rs` agrees.
#[track_caller]
fn check(stream: impl AsRef<[u8]>, parsed: &[Parsed], last_id: &str) {
    let stream = stream.as_ref();
    let expected = (parsed.to_vec(), last_id.to_owned());
    let shown = String::from_utf8_lossy(stream);
    assert_eq!(parse([stream]), expected, "whole: {shown:?}");
    assert_eq!(parse(stream.chunks(1)), expected, "byte by byte: {shown:?}");
    for at in 0..=stream.len() {
        let (head, tail) = stream.split_at(at);
        assert_eq!(parse([head, tail]), expected, "in two at {at}: {shown:?}");
        assert_eq!(parse([head, b"", tail]), expected, "with an empty piece at {at}: {shown:?}");
    }
    assert_eq!(interpret(stream), expected, "the reference: {shown:?}");
}

#[test]
fn the_examples_of_the_standard() {
    // §9.2.1.
    check(
        "data: This is the first message.\n\ndata: This is the second message, it\ndata: has two lines.\n\n\
         data: This is the third message.\n\n",
        &[
            message("This is the first message."),
            message("This is the second message, it\nhas two lines."),
            message("This is the third message."),
        ],
        "",
    );
    check(
        "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
        &[event("add", "73857293", ""), event("remove", "2153", ""), event("add", "113411", "")],
        "",
    );
    // §9.2.6.
    check("data: YHOO\ndata: +2\ndata: 10\n\n", &[message("YHOO\n+2\n10")], "");
    check(
        ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        &[
            comment(" test stream"),
            event("message", "first event", "1"),
            event("message", "second event", ""),
            event("message", " third event", ""),
        ],
        "",
    );
    check("data\n\ndata\ndata\n\ndata:", &[message(""), message("\n")], "");
    check("data:test\n\ndata: test\n\n", &[message("test"), message("test")], "");
}

#[test]
fn one_byte_order_mark_may_lead() {
    check("\u{feff}data: a\n\n", &[message("a")], "");
    check("\u{feff}\u{feff}data: a\n\ndata: b\n\n", &[message("b")], "");
    check("\u{feff}\ndata: a\n\n", &[message("a")], "");
    check("\u{feff}", &[], "");
    check("data: a\n\n\u{feff}data: b\n\n", &[message("a")], "");
    check("data: \u{feff}a\n\n", &[message("\u{feff}a")], "");
    // Two thirds of a mark are no mark.
    check(b"\xef\xbbdata: a\n\ndata: b\n\n", &[message("b")], "");
}

#[test]
fn lines_end_with_cr_lf_or_both() {
    let expected = [event("x", "a\nb", "1"), event("message", "c", "1")];
    for stream in [
        "id: 1\nevent: x\ndata: a\ndata: b\n\ndata: c\n\n",
        "id: 1\revent: x\rdata: a\rdata: b\r\rdata: c\r\r",
        "id: 1\r\nevent: x\r\ndata: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n",
        "id: 1\r\nevent: x\rdata: a\ndata: b\r\n\rdata: c\n\r",
        "id: 1\revent: x\ndata: a\r\ndata: b\r\r\ndata: c\r\n\n",
        "\r\n\n\r\rid: 1\nevent: x\ndata: a\ndata: b\n\n\n\n\r\ndata: c\r\n\r",
    ] {
        check(stream, &expected, "1");
    }
    // LF CR is two line ends, CR LF is one.
    check("data: a\n\rdata: b\r\n\n", &[message("a"), message("b")], "");
    // Other Unicode line ends are text.
    check("data: a\u{2028}b\u{85}c\u{b}d\u{c}e\n\n", &[message("a\u{2028}b\u{85}c\u{b}d\u{c}e")], "");
}

#[test]
fn a_field_is_what_stands_before_the_first_colon() {
    check("data\n\n", &[message("")], "");
    check("data:\n\n", &[message("")], "");
    check("data: \n\n", &[message("")], "");
    check("data:  \n\n", &[message(" ")], "");
    check("data:\ta\n\n", &[message("\ta")], "");
    check("data:a:b: c\n\n", &[message("a:b: c")], "");
    check("data::\n\n", &[message(":")], "");
    check("data: {\"a\": \"b\\n\"}\n\n", &[message("{\"a\": \"b\\n\"}")], "");
    for unknown in ["datax: a", "Data: a", " data: a", "data : a", "dat", "\0data: a", "ID: 3", "x"] {
        check(format!("{unknown}\n\ndata: b\n\n"), &[message("b")], "");
    }
}

#[test]
fn a_block_without_data_dispatches_nothing() {
    check("event: x\n\ndata: a\n\n", &[message("a")], "");
    check("event: x\nid: 1\nretry: 5\n\n", &[Parsed::Retry(5)], "1");
    check("\n\n\n", &[], "");
    check("", &[], "");
}

#[test]
fn the_last_value_of_a_field_holds_and_data_adds_up() {
    check("event: x\nevent: y\nid: 1\nid: 2\ndata: a\ndata: b\n\n", &[event("y", "a\nb", "2")], "2");
    check("event: x\nevent\ndata: a\n\n", &[message("a")], "");
    check("data: a\nevent: x\n\ndata: b\n\n", &[event("x", "a", ""), message("b")], "");
    check("data\ndata\ndata: \n\n", &[message("\n\n")], "");
    check("data:\ndata: a\ndata:\n\n", &[message("\na\n")], "");
}

#[test]
fn the_id_stays_until_the_next_and_moves_at_the_end_of_a_block() {
    check("id: 1\ndata: a\n\ndata: b\n\n", &[event("message", "a", "1"), event("message", "b", "1")], "1");
    check("data: a\nid: 1\n\nid\ndata: b\n\n", &[event("message", "a", "1"), message("b")], "");
    check("id: 1\n\n", &[], "1");
    check("id: 1\n\nid: 2\n", &[], "1");
    check("id: 1\n\nid: 2", &[], "1");
    check("id: 1\ndata: a\n\nid: 2\ndata: b\n", &[event("message", "a", "1")], "1");
    check("id:  1 \ndata: a\n\n", &[event("message", "a", " 1 ")], " 1 ");
    check("id: 제주\ndata: a\n\n", &[event("message", "a", "제주")], "제주");
    // An id with a NUL is no id at all, and the one before it stays.
    check("id: 1\n\nid: 2\0\ndata: a\n\n", &[event("message", "a", "1")], "1");
    check("id: \0\ndata: a\n\n", &[message("a")], "");
    check("data: \0\nevent: \0\n\n", &[event("\0", "\0", "")], "");
}

#[test]
fn the_retry_is_of_digits() {
    check("retry: 1500\n\n", &[Parsed::Retry(1500)], "");
    check("retry:0\nretry: 007\n", &[Parsed::Retry(0), Parsed::Retry(7)], "");
    for ignored in ["-1", "+1", "1.5", "1s", "1 ", " 1", "", "0x10", "١", "99999999999999999999999"] {
        check(format!("retry: {ignored}\n\n"), &[], "");
    }
    check("retry\n\n", &[], "");
}

#[test]
fn a_comment_is_a_line_with_a_leading_colon() {
    check(":\n", &[comment("")], "");
    check(":\n:\n\n: a: b\n", &[comment(""), comment(""), comment(" a: b")], "");
    // In the middle of a block it changes nothing: heartbeats may stand anywhere.
    check(
        "id: 1\n:\ndata: a\n: x\ndata: b\n:\n\n",
        &[comment(""), comment(" x"), comment(""), event("message", "a\nb", "1")],
        "1",
    );
    check(":unfinished", &[], "");
}

#[test]
fn an_unfinished_block_is_discarded() {
    check("data: a\n\ndata: b", &[message("a")], "");
    check("data: a\n\ndata: b\n", &[message("a")], "");
    check("data: a\r\n\r\ndata: b\r\n", &[message("a")], "");
    check("data: a", &[], "");
}

#[test]
fn what_is_not_utf_8_is_replaced() {
    check(b"data: a\xffb\n\n", &[message("a\u{fffd}b")], "");
    // A character that the line end cuts short is one replacement, and the line still ends.
    check(b"data: \xec\xa0\ndata: b\n\n", &[message("\u{fffd}\nb")], "");
    check(b"data: \xed\xa0\x80\n\n", &[message("\u{fffd}\u{fffd}\u{fffd}")], "");
    check("data: 제주 \u{1f34a} e\u{301}\n\n", &[message("제주 \u{1f34a} e\u{301}")], "");
}

#[test]
fn a_block_over_the_limit_is_given_up_however_it_comes() {
    let long_line = format!("data: {}\n\n", "x".repeat(100));
    let many_lines = "data: 0123456789\n".repeat(10);
    let endless_line = "x".repeat(101);
    let blank_lines_of_data = "data\n".repeat(102);
    for stream in [&long_line, &many_lines, &endless_line, &blank_lines_of_data] {
        for size in [1, 2, 7, stream.len()] {
            let mut parser = Parser::new(100);
            let mut last = Ok(());
            for piece in stream.as_bytes().chunks(size) {
                last = parser.push(piece, |_| ());
                if last.is_err() {
                    break;
                }
            }
            assert_eq!(last, Err(TooLong { max_bytes: 100 }), "{stream:?} in pieces of {size}");
        }
    }
    // The limit is for one block, not for the stream.
    let mut parser = Parser::new(100);
    let mut events = 0;
    for _ in 0..100 {
        parser.push(b"id: 1\ndata: 0123456789012345678901234567890123456789\n\n", |_| events += 1).unwrap();
    }
    assert_eq!(events, 100);
}
