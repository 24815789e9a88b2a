//! As much of HTTP/1.1 as the load generator speaks.

/// Longest head of a request.
const HEAD_MAX_BYTES: usize = 8 << 10;

/// Longest body of a publish.
const BODY_MAX_BYTES: usize = 64 << 10;

/// A request that is understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    Subscribe { channel: &'a [u8] },
    Publish { channel: &'a [u8], body: &'a [u8] },
}

/// Anything else.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The first request in these bytes and where the next one begins; `None` while it is not complete.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, Malformed> {
    let Some(head_bytes) = head_length(bytes) else {
        return if bytes.len() > HEAD_MAX_BYTES { Err(Malformed) } else { Ok(None) };
    };
    let mut lines = bytes[..head_bytes].split(|byte| *byte == b'\n');
    let mut words = lines.next().ok_or(Malformed)?.split(|byte| *byte == b' ');
    let (method, path) = (words.next().ok_or(Malformed)?, words.next().ok_or(Malformed)?);
    let length = content_length(lines)?;
    if length > BODY_MAX_BYTES {
        return Err(Malformed);
    }
    let end = head_bytes + length;
    if bytes.len() < end {
        return Ok(None);
    }
    let request = if let (b"POST", Some(channel)) = (method, path.strip_prefix(b"/pub/")) {
        Request::Publish { channel, body: &bytes[head_bytes..end] }
    } else if let (b"GET", Some(channel)) = (method, path.strip_prefix(b"/sub/")) {
        Request::Subscribe { channel }
    } else {
        return Err(Malformed);
    };
    Ok(Some((request, end)))
}

/// The length of the head with the blank line that ends it.
fn head_length(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + bytes[from..].iter().position(|byte| *byte == b'\n')?;
        if bytes[at..].starts_with(b"\n\r\n") {
            return Some(at + 3);
        }
        from = at + 1;
    }
}

fn content_length<'a>(headers: impl Iterator<Item = &'a [u8]>) -> Result<usize, Malformed> {
    for header in headers {
        if let Some(value) = value_of(header, b"content-length:") {
            let value = std::str::from_utf8(value).map_err(|_| Malformed)?;
            return value.trim().parse().map_err(|_| Malformed);
        }
        if value_of(header, b"transfer-encoding:").is_some() {
            return Err(Malformed);
        }
    }
    Ok(0)
}

fn value_of<'a>(header: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = header.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_in_pieces_and_in_rows() {
        let publish = b"POST /pub/a%3A1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
        let subscribe = b"GET /sub/a HTTP/1.1\r\nhost: x\r\n\r\n";
        let both = [&publish[..], &subscribe[..]].concat();
        for end in 0..publish.len() {
            assert_eq!(parse(&both[..end]), Ok(None), "{end} bytes");
        }
        let first = Request::Publish { channel: b"a%3A1", body: b"hello" };
        assert_eq!(parse(&both), Ok(Some((first, publish.len()))));
        let second = Request::Subscribe { channel: b"a" };
        assert_eq!(parse(&both[publish.len()..]), Ok(Some((second, subscribe.len()))));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for request in [
            "PUT /pub/a HTTP/1.1\r\n\r\n",
            "POST /other HTTP/1.1\r\n\r\n",
            "POST /pub/a HTTP/1.1\r\ncontent-length: x\r\n\r\n",
            "POST /pub/a HTTP/1.1\r\ncontent-length: 65537\r\n\r\n",
            "POST /pub/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            &"x".repeat(HEAD_MAX_BYTES + 1),
        ] {
            assert_eq!(parse(request.as_bytes()), Err(Malformed), "{request}");
        }
    }
}
