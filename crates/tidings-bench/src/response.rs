//! HTTP/1.1 responses, read in pieces of any size (RFC 9112).
//!
//! The head is parsed once, whatever comes after it is handed on in place: no byte of a body is copied.

use memchr::memchr;

/// Longest head that is read.
const HEAD_MAX_BYTES: usize = 64 * 1024;

/// Most header fields of a response.
const HEADERS_MAX: usize = 96;

/// Hexadecimal digits of a chunk's size: what 60 bits hold.
const CHUNK_DIGITS_MAX: u8 = 15;

/// What a response's head says that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Whether the connection may be used again after the body.
    pub keeps_alive: bool,
}

/// A part of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// The head is complete.
    Head(Head),
    /// A piece of the body.
    Data(&'a [u8]),
    /// The body is complete.
    End,
}

/// What is not a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The head cannot be read.
    #[error("the head of the response is malformed")]
    Head,
    /// The head is too long.
    #[error("the head of the response is longer than {HEAD_MAX_BYTES} bytes")]
    HeadTooLong,
    /// The framing of a chunked body is broken.
    #[error("the chunks of the response are malformed")]
    Chunk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Sized(u64),
    UntilClose,
    ChunkSize { value: u64, digits: u8 },
    ChunkExtension { value: u64 },
    ChunkData(u64),
    ChunkEnd,
    Trailer { line_is_empty: bool },
    Done,
}

/// Reads one response; [`Response::restart`] makes it ready for the next of its connection.
#[derive(Debug)]
pub struct Response {
    state: State,
    head: Vec<u8>,
}

impl Default for Response {
    fn default() -> Self {
        Self { state: State::Head, head: Vec::new() }
    }
}

impl Response {
    /// Gets ready for the next response.
    pub fn restart(&mut self) {
        self.state = State::Head;
        self.head.clear();
    }

    /// Whether no byte of a response has come yet.
    pub fn is_fresh(&self) -> bool {
        self.state == State::Head && self.head.is_empty()
    }

    /// Whether the response may end here, where the connection does.
    pub fn may_end(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Done)
    }

    /// Takes bytes up to the end of the response, and says how many these were.
    pub fn feed<'a>(&mut self, bytes: &'a [u8], mut take: impl FnMut(Part<'a>)) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            let rest = &bytes[at..];
            at += match self.state {
                State::Head => self.feed_head(rest, &mut take)?,
                State::UntilClose => {
                    take(Part::Data(rest));
                    rest.len()
                }
                State::Sized(left) => {
                    let length = piece(left, rest);
                    take(Part::Data(&rest[..length]));
                    self.state = State::Sized(left - length as u64);
                    if left == length as u64 {
                        self.end(&mut take);
                    }
                    length
                }
                State::ChunkData(left) => {
                    let length = piece(left, rest);
                    take(Part::Data(&rest[..length]));
                    let left = left - length as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                    length
                }
                _ => self.feed_framing(rest, &mut take)?,
            };
        }
        Ok(at)
    }

    fn feed_head<'a>(&mut self, bytes: &'a [u8], take: &mut impl FnMut(Part<'a>)) -> Result<usize, Malformed> {
        let had = self.head.len();
        let room = HEAD_MAX_BYTES - had;
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let Some(end) = end_of_head(&self.head, had.saturating_sub(2)) else {
            return if bytes.len() < room { Ok(bytes.len()) } else { Err(Malformed::HeadTooLong) };
        };
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&self.head[..end]).map_err(|_| Malformed::Head)?;
        if parsed.is_partial() {
            return Err(Malformed::Head);
        }
        let status = response.code.ok_or(Malformed::Head)?;
        if (100..200).contains(&status) {
            // An interim response; the real one follows.
            self.restart();
            return Ok(end - had);
        }
        let mut keeps_alive = response.version == Some(1);
        self.state = State::UntilClose;
        for header in response.headers.iter() {
            let value = || header.value.trim_ascii();
            if header.name.eq_ignore_ascii_case("connection") {
                keeps_alive &= !contains_ignoring_case(value(), b"close");
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if contains_ignoring_case(value(), b"chunked") {
                    self.state = State::ChunkSize { value: 0, digits: 0 };
                }
            } else if header.name.eq_ignore_ascii_case("content-length") && self.state == State::UntilClose {
                let text = std::str::from_utf8(value()).map_err(|_| Malformed::Head)?;
                self.state = State::Sized(text.parse().map_err(|_| Malformed::Head)?);
            }
        }
        if matches!(status, 204 | 304) {
            self.state = State::Sized(0);
        }
        keeps_alive &= self.state != State::UntilClose;
        self.head.clear();
        take(Part::Head(Head { status, keeps_alive }));
        if self.state == State::Sized(0) {
            self.end(take);
        }
        Ok(end - had)
    }

    fn feed_framing<'a>(&mut self, bytes: &'a [u8], take: &mut impl FnMut(Part<'a>)) -> Result<usize, Malformed> {
        let byte = bytes[0];
        self.state = match (self.state, byte) {
            (State::ChunkSize { value, digits }, b'\n') if digits > 0 => after_size(value),
            (State::ChunkSize { value, digits }, b'\r') if digits > 0 => State::ChunkExtension { value },
            (State::ChunkSize { value, digits }, b';' | b' ' | b'\t') if digits > 0 => State::ChunkExtension { value },
            (State::ChunkSize { value, digits }, _) if digits < CHUNK_DIGITS_MAX => {
                let digit = (byte as char).to_digit(16).ok_or(Malformed::Chunk)?;
                State::ChunkSize { value: value * 16 + u64::from(digit), digits: digits + 1 }
            }
            (State::ChunkExtension { value }, _) => match memchr(b'\n', bytes) {
                Some(at) => {
                    self.state = after_size(value);
                    return Ok(at + 1);
                }
                None => return Ok(bytes.len()),
            },
            (State::ChunkEnd, b'\r') => State::ChunkEnd,
            (State::ChunkEnd, b'\n') => State::ChunkSize { value: 0, digits: 0 },
            (State::Trailer { line_is_empty: true }, b'\n') => {
                self.end(take);
                return Ok(1);
            }
            (State::Trailer { .. }, b'\n') => State::Trailer { line_is_empty: true },
            (State::Trailer { line_is_empty }, _) => State::Trailer { line_is_empty: line_is_empty && byte == b'\r' },
            _ => return Err(Malformed::Chunk),
        };
        Ok(1)
    }

    fn end<'a>(&mut self, take: &mut impl FnMut(Part<'a>)) {
        self.state = State::Done;
        take(Part::End);
    }
}

fn after_size(value: u64) -> State {
    if value == 0 { State::Trailer { line_is_empty: true } } else { State::ChunkData(value) }
}

fn piece(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
}

/// The length of a head with the empty line that ends it, looked for from a place on.
fn end_of_head(head: &[u8], mut from: usize) -> Option<usize> {
    while let Some(at) = memchr(b'\n', &head[from..]) {
        let next = from + at + 1;
        match &head[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            _ => from = next,
        }
    }
    None
}

fn contains_ignoring_case(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Head, body, whether it ended, and how much of the text was the response's.
    type Read = (Option<Head>, Vec<u8>, bool, usize);

    fn read(text: &[u8], cuts: &[usize]) -> Result<Read, Malformed> {
        let (mut head, mut body, mut has_ended, mut used) = (None, Vec::new(), false, 0);
        let mut response = Response::default();
        let mut from = 0;
        let ends = cuts.iter().copied().chain([text.len()]);
        for end in ends {
            used += response.feed(&text[from..end], |part| match part {
                Part::Head(read) => head = Some(read),
                Part::Data(data) => body.extend_from_slice(data),
                Part::End => has_ended = true,
            })?;
            from = end;
        }
        Ok((head, body, has_ended, used))
    }

    #[test]
    fn each_way_to_end_a_body_is_read() {
        for (text, body, keeps_alive, has_ended) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "hello", true, true),
            ("HTTP/1.1 200 OK\r\n\r\nhello", "hello", false, false),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nx: y\r\n\r\n",
                "hello!",
                true,
                true,
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", "", true, true),
            ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", "", false, true),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\nconnection: close\ncontent-length: 1\n\nx",
                "x",
                false,
                true,
            ),
        ] {
            let (head, read, ended, used) = read(text.as_bytes(), &[]).unwrap();
            assert_eq!(head.unwrap().keeps_alive, keeps_alive, "{text}");
            assert_eq!((read.as_slice(), ended, used), (body.as_bytes(), has_ended, text.len()), "{text}");
        }
    }

    #[test]
    fn what_follows_a_response_is_left() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200";
        assert_eq!(read(text, &[]).unwrap().3, text.len() - 12);
    }

    #[test]
    fn what_is_no_response_is_refused() {
        for text in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1111111111111111\r\n",
        ] {
            assert!(read(text.as_bytes(), &[]).is_err(), "{text}");
        }
        assert_eq!(read(&[b'x'; HEAD_MAX_BYTES], &[]), Err(Malformed::HeadTooLong));
    }

    proptest! {
        #[test]
        fn pieces_mean_the_same_as_the_whole(
            chunks in prop::collection::vec("[a-z\r\n]{1,40}", 0..8),
            is_chunked: bool,
            cuts in prop::collection::vec(0..400_usize, 0..12),
        ) {
            let mut text = b"HTTP/1.1 200 OK\r\nx: y\r\n".to_vec();
            let body = chunks.concat();
            if is_chunked {
                text.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                for chunk in &chunks {
                    text.extend_from_slice(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes());
                }
                text.extend_from_slice(b"0\r\n\r\n");
            } else {
                text.extend_from_slice(format!("content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
            }
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let whole = read(&text, &[]).unwrap();
            prop_assert_eq!((whole.1.as_slice(), whole.2), (body.as_bytes(), true));
            prop_assert_eq!(read(&text, &cuts).unwrap(), whole);
        }

        #[test]
        fn no_bytes_make_it_panic(text: Vec<u8>, cut: prop::sample::Index) {
            let cut = cut.index(text.len() + 1);
            let whole = read(&text, &[]);
            let pieces = read(&text, &[cut]);
            prop_assert_eq!(whole, pieces);
        }
    }
}
