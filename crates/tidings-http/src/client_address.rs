//! Whose request it is, when it may have come through proxies.
//!
//! Only a peer in `trusted_proxies` is believed about others. The hops that it names are read from
//! the right, where the nearest proxy wrote, and the first that is not itself a trusted proxy is the
//! client: what lies left of it the client could have made up.
//!
//! A proxy writes `X-Forwarded-For` or `Forwarded` (RFC 7239) and usually passes the other one
//! through as the client sent it. Which one it writes is not known here, so where both are there
//! they have to name the same client; if they do not, the answer is the proxy's own address. The same
//! holds where a header cannot be read. So a client may hide among its proxy's clients but never
//! pass for another one.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use http::HeaderMap;
use ipnet::IpNet;

/// Most hops that are looked at. Real chains have two or three.
const HOPS_MAX: usize = 32;

/// The networks of proxies that say truly where a request came from.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
}

/// A text that is neither a network nor an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("server.trusted_proxies has {0:?}; accepted are addresses and networks, as `10.0.0.0/8` or `::1`")]
pub struct TrustedProxyError(String);

impl TrustedProxies {
    /// Reads networks (`10.0.0.0/8`) and single addresses.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, TrustedProxyError> {
        let network = |text: &str| {
            let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            parsed.ok_or_else(|| TrustedProxyError(text.to_owned()))
        };
        Ok(Self { networks: texts.iter().map(|text| network(text.as_ref().trim())).collect::<Result<_, _>>()? })
    }

    /// Whether the address is that of a trusted proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The address of the client behind the peer. IPv4 in IPv6 (`::ffff:…`) comes out as IPv4.
    pub fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.contains(peer) {
            return peer;
        }
        let (listed, forwarded) = (listed_hops(headers), forwarded_hops(headers));
        match (listed, forwarded) {
            (None, None) => peer,
            (Some(hops), None) | (None, Some(hops)) => self.client_of(peer, hops),
            (Some(listed), Some(forwarded)) => {
                let (one, other) = (self.client_of(peer, listed), self.client_of(peer, forwarded));
                if one == other { one } else { peer }
            }
        }
    }

    /// Whether the peer is a proxy that passes on somebody else's request, as it does with one that is
    /// trusted and says for whom, legibly or not.
    pub fn is_relayed(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        self.contains(peer) && (headers.contains_key("x-forwarded-for") || headers.contains_key("forwarded"))
    }

    /// Walks from the peer towards the client, as far as trusted proxies vouch for the next hop.
    fn client_of(&self, peer: IpAddr, hops: Vec<Option<IpAddr>>) -> IpAddr {
        let mut address = peer;
        for hop in hops.into_iter().rev().take(HOPS_MAX) {
            // A proxy that does not know (`unknown`, `_hidden`) or says nothing legible ends the chain.
            let Some(hop) = hop else { break };
            address = hop.to_canonical();
            if !self.contains(address) {
                break;
            }
        }
        address
    }
}

/// The hops of `X-Forwarded-For`, the client's end first. `None` if there is no such header.
fn listed_hops(headers: &HeaderMap) -> Option<Vec<Option<IpAddr>>> {
    let mut lines = headers.get_all("x-forwarded-for").iter().peekable();
    lines.peek()?;
    let hops = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    Some(hops.map(|hop| node_address(std::str::from_utf8(hop).ok()?.trim())).collect())
}

/// The hops of `Forwarded`, the client's end first. `None` if there is no such header. A header that
/// breaks the grammar is one illegible hop: a stray quotation mark of the client's could otherwise
/// swallow what its proxy wrote.
fn forwarded_hops(headers: &HeaderMap) -> Option<Vec<Option<IpAddr>>> {
    let mut lines = headers.get_all("forwarded").iter().peekable();
    lines.peek()?;
    let mut hops = Vec::new();
    for line in lines {
        match line.to_str().ok().and_then(forwarded_elements) {
            Some(elements) => hops.extend(elements),
            None => hops.push(None),
        }
    }
    Some(hops)
}

/// The `for` of each element of a `Forwarded` line (RFC 7239 §4); `None` if the line breaks the grammar.
fn forwarded_elements(line: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut elements = Vec::new();
    let mut rest = line.trim_start();
    let (mut node, mut has_pairs) = (None, false);
    loop {
        // Empty elements and pairs are legal (RFC 9110 §5.6.1).
        if !rest.is_empty() && !rest.starts_with([',', ';']) {
            let (name, after) = rest.split_once('=')?;
            let (value, after) = token_or_quoted(after)?;
            if !name.bytes().all(is_token_byte) || name.eq_ignore_ascii_case("for") && node.replace(value).is_some() {
                return None;
            }
            has_pairs = true;
            rest = after.trim_start();
        }
        let next = rest.chars().next();
        if next == Some(';') {
            rest = rest[1..].trim_start();
            continue;
        }
        if std::mem::take(&mut has_pairs) {
            elements.push(node.take().and_then(|node| node_address(&node)));
        }
        match next {
            Some(',') => rest = rest[1..].trim_start(),
            Some(_) => return None,
            None => return Some(elements),
        }
    }
}

/// `tchar` of RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Takes a token or a quoted string (RFC 9110 §5.6) off the front.
fn token_or_quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';', ' ', '\t']).unwrap_or(text.len());
        let (token, rest) = text.split_at(end);
        return (!token.contains('"')).then_some((token.into(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value.into(), &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(char),
        }
    }
    None
}

/// A node as proxies write it: an address, with a port or without, IPv6 in brackets or not.
fn node_address(node: &str) -> Option<IpAddr> {
    // RFC 7239 §6 allows an obfuscated port: `192.0.2.1:_x`.
    let node = match node.rsplit_once(':') {
        Some((address, port)) if port.starts_with('_') => address,
        _ => node,
    };
    if let Ok(address) = node.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(address) = node.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    let bracketed = node.strip_prefix('[')?.strip_suffix(']')?;
    bracketed.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn client(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let proxies = TrustedProxies::parse(&["10.0.0.0/8", "fd00::/8"]).unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        proxies.client_address(peer.parse().unwrap(), &map).to_string()
    }

    #[test]
    fn only_a_trusted_peer_is_believed() {
        let claims = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=1.1.1.1")];
        assert_eq!(client("192.0.2.7", &claims), "192.0.2.7");
        assert_eq!(client(PROXY, &claims), "1.1.1.1");
        assert_eq!(client("::ffff:10.0.0.1", &claims), "1.1.1.1");
        assert_eq!(client("::ffff:192.0.2.7", &claims), "192.0.2.7");
        assert_eq!(client(PROXY, &[]), PROXY);
    }

    #[test]
    fn the_rightmost_untrusted_hop_is_the_client() {
        for (hops, expected) in [
            ("6.6.6.6, 192.0.2.7", "192.0.2.7"),
            ("6.6.6.6, 192.0.2.7, 10.9.9.9", "192.0.2.7"),
            ("6.6.6.6,192.0.2.7,10.9.9.9,10.8.8.8", "192.0.2.7"),
            // Requests that begin inside the trusted network.
            ("10.9.9.9", "10.9.9.9"),
            ("10.9.9.9, 10.8.8.8", "10.9.9.9"),
            ("192.0.2.7:4711", "192.0.2.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:192.0.2.7, fd00::1", "192.0.2.7"),
        ] {
            assert_eq!(client(PROXY, &[("x-forwarded-for", hops)]), expected, "{hops}");
        }
        let lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7"), ("x-forwarded-for", "10.1.1.1")];
        assert_eq!(client(PROXY, &lines), "192.0.2.7");
    }

    #[test]
    fn an_illegible_hop_ends_the_chain_at_the_proxy_that_wrote_it() {
        for (hops, expected) in [
            ("6.6.6.6, unknown", PROXY),
            ("6.6.6.6, unknown, 10.9.9.9", "10.9.9.9"),
            ("6.6.6.6, 192.0.2.7 10.9.9.9", PROXY),
            ("", PROXY),
            ("6.6.6.6, 300.1.1.1", PROXY),
        ] {
            assert_eq!(client(PROXY, &[("x-forwarded-for", hops)]), expected, "{hops}");
        }
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", http::HeaderValue::from_bytes(b"6.6.6.6, \xff").unwrap());
        let proxies = TrustedProxies::parse(&[PROXY]).unwrap();
        assert_eq!(proxies.client_address(PROXY.parse().unwrap(), &headers).to_string(), PROXY);
    }

    #[test]
    fn forwarded_is_read_as_the_rfc_writes_it() {
        for (hops, expected) in [
            ("for=192.0.2.7", "192.0.2.7"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("for=6.6.6.6, for=192.0.2.43;host=\"a,b;c\" , for=10.9.9.9", "192.0.2.43"),
            ("for=192.0.2.7:_port", "192.0.2.7"),
            ("for=6.6.6.6, ;for=\"192.0\\.2.7\";, ,", "192.0.2.7"),
            ("for=6.6.6.6, for=_hidden", PROXY),
            ("for=192.0.2.7;by=a\"b", PROXY),
            // A hop that does not say for whom.
            ("for=6.6.6.6, proto=https", PROXY),
        ] {
            assert_eq!(client(PROXY, &[("forwarded", hops)]), expected, "{hops}");
        }
    }

    #[test]
    fn a_client_cannot_swallow_or_split_what_its_proxy_appends() {
        for written_by_client in [
            "for=6.6.6.6, for=\"",
            "for=\"x",
            "for=6.6.6.6;for",
            "for",
            "for=6.6.6.6;a=\"\\",
            "for=6.6.6.6 x",
            "=,",
            "a b=1",
        ] {
            for appended in
                ["for=192.0.2.7", "for=192.0.2.7;host=h", "for=\"192.0.2.7:80\"", "for=192.0.2.7;host=\"h\";by=\"x\""]
            {
                let line = format!("{written_by_client}, {appended}");
                let found = client(PROXY, &[("forwarded", &line)]);
                assert!(found == PROXY || found == "192.0.2.7", "{line}: {found}");
            }
        }
        // In the same element, without a comma.
        assert_eq!(client(PROXY, &[("forwarded", "for=6.6.6.6;for=192.0.2.7")]), PROXY);
    }

    #[test]
    fn two_headers_that_disagree_are_not_believed() {
        let spoofed = [("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "192.0.2.7")];
        assert_eq!(client(PROXY, &spoofed), PROXY);
        let agreed = [("forwarded", "for=6.6.6.6, for=192.0.2.7"), ("x-forwarded-for", "192.0.2.7")];
        assert_eq!(client(PROXY, &agreed), "192.0.2.7");
    }

    #[test]
    fn long_headers_cost_no_stack_and_are_cut() {
        let colons = "1:_".repeat(20_000);
        assert_eq!(client(PROXY, &[("x-forwarded-for", &colons)]), PROXY);
        let chain = format!("192.0.2.7{}", ", 10.9.9.9".repeat(HOPS_MAX));
        assert_eq!(client(PROXY, &[("x-forwarded-for", &chain)]), "10.9.9.9");
    }

    #[test]
    fn proxies_are_networks_or_addresses() {
        let proxies = TrustedProxies::parse(&["127.0.0.1", " 10.0.0.0/8 ", "::1"]).unwrap();
        assert!(proxies.contains("127.0.0.1".parse().unwrap()) && proxies.contains("::1".parse().unwrap()));
        assert!(!proxies.contains("127.0.0.2".parse().unwrap()));
        for refused in ["", "localhost", "10.0.0.0/33", "10.0.0", "*"] {
            assert_eq!(TrustedProxies::parse(&[refused]).unwrap_err(), TrustedProxyError(refused.to_owned()));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics_or_is_believed_beyond_its_proxy(text in "[for=\",; \\\\.0-9a-f:\\[\\]]{0,60}") {
            let line = format!("{text}, for=192.0.2.7");
            let found = client(PROXY, &[("forwarded", &line)]);
            proptest::prop_assert!(found == PROXY || found == "192.0.2.7", "{line}: {found}");
            let line = format!("{text}, 192.0.2.7");
            proptest::prop_assert_eq!(client(PROXY, &[("x-forwarded-for", &line)]), "192.0.2.7");
        }
    }
}
