//! Which addresses a push may go to.
//!
//! Whoever puts a device chooses the URL that the server then sends to. So that nobody reaches by it what
//! only the server can reach, the addresses that a name resolves to are checked where they are connected
//! to: a name that resolves differently the next time is checked the next time.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, LazyLock},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::subscription::Security;

/// The name has no address that a push may go to.
#[derive(Debug, thiserror::Error)]
#[error(
    "the endpoint does not lie in a public network; accepted besides are those in push.web_push.allow_private, and \
     plain http only there"
)]
pub(super) struct Forbidden;

/// IPv4 that is not for the public (IANA IPv4 Special-Purpose Address Registry), and multicast.
static SPECIAL_V4: LazyLock<Vec<Ipv4Net>> = LazyLock::new(|| {
    let net = |a, b, c, d, length| Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length);
    vec![
        net(0, 0, 0, 0, 8),
        net(10, 0, 0, 0, 8),
        // Behind carriers' NAT.
        net(100, 64, 0, 0, 10),
        net(127, 0, 0, 0, 8),
        // Link-local, where clouds have their metadata.
        net(169, 254, 0, 0, 16),
        net(172, 16, 0, 0, 12),
        net(192, 0, 0, 0, 24),
        net(192, 0, 2, 0, 24),
        net(192, 88, 99, 0, 24),
        net(192, 168, 0, 0, 16),
        net(198, 18, 0, 0, 15),
        net(198, 51, 100, 0, 24),
        net(203, 0, 113, 0, 24),
        // Multicast, reserved, broadcast.
        net(224, 0, 0, 0, 3),
    ]
});

/// IPv6 that is for the public at all (RFC 4291 §2.4); private, link-local and multicast ones lie outside.
static GLOBAL_V6: LazyLock<Ipv6Net> =
    LazyLock::new(|| Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3));

/// What within is not (IANA IPv6 Special-Purpose Address Registry).
static SPECIAL_V6: LazyLock<Vec<Ipv6Net>> = LazyLock::new(|| {
    let net = |a, b, length| Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), length);
    vec![
        // IETF protocol assignments, Teredo among them.
        net(0x2001, 0, 23),
        net(0x2001, 0xdb8, 32),
        // 6to4, which leads to any IPv4 address.
        net(0x2002, 0, 16),
        net(0x3fff, 0, 20),
    ]
});

/// NAT64 (RFC 6052 §2.1): an IPv4 address in the last 32 bits.
static NAT64: LazyLock<Ipv6Net> =
    LazyLock::new(|| Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96));

fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !SPECIAL_V4.iter().any(|net| net.contains(&v4)),
        IpAddr::V6(v6) if NAT64.contains(&v6) => {
            let [.., a, b, c, d] = v6.octets();
            is_public(Ipv4Addr::new(a, b, c, d).into())
        }
        IpAddr::V6(v6) => GLOBAL_V6.contains(&v6) && !SPECIAL_V6.iter().any(|net| net.contains(&v6)),
    }
}

/// Whether a push may go there.
pub(super) fn is_permitted(address: IpAddr, security: Security, allow_private: &[IpNet]) -> bool {
    let is_allowed = allow_private.iter().any(|net| net.contains(&address.to_canonical()));
    is_allowed || (security == Security::Tls && is_public(address))
}

/// Resolves names to addresses that a push may go to.
#[derive(Debug)]
pub(super) struct CheckedResolver {
    pub(super) allow_private: Arc<[IpNet]>,
    pub(super) security: Security,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (allow_private, security) = (self.allow_private.clone(), self.security);
        Box::pin(async move {
            // The port comes from the URL.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let permitted: Vec<SocketAddr> =
                found.filter(|address| is_permitted(address.ip(), security, &allow_private)).collect();
            if permitted.is_empty() {
                return Err(Forbidden.into());
            }
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PUBLIC: [&str; 8] = [
        "1.1.1.1",
        "9.255.255.255",
        "100.63.255.255",
        "172.32.0.1",
        "223.255.255.255",
        "2606:4700::1111",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
    ];

    const PRIVATE: [&str; 38] = [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "ff02::1",
    ];

    #[test]
    fn only_what_is_public_is() {
        for text in PUBLIC {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        for text in PRIVATE {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_allowed_is_permitted_and_plain_http_only_there() {
        let allowed = ["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let is = |text: &str, security| is_permitted(text.parse().unwrap(), security, &allowed);
        for text in ["127.0.0.1", "::ffff:127.0.0.1", "fd00::1"] {
            assert!(is(text, Security::Tls) && is(text, Security::Plain), "{text}");
        }
        assert!(is("1.1.1.1", Security::Tls) && !is("1.1.1.1", Security::Plain));
        assert!(!is("10.0.0.1", Security::Tls) && !is("::1", Security::Tls));
    }

    #[tokio::test]
    async fn a_name_is_worth_what_it_resolves_to() {
        let resolve = |allow: &[&str]| {
            let allow_private = allow.iter().map(|net| net.parse().unwrap()).collect();
            let resolver = CheckedResolver { allow_private, security: Security::Tls };
            resolver.resolve("localhost".parse().unwrap())
        };
        let refused = resolve(&[]).await.map(Iterator::count).unwrap_err();
        assert!(refused.is::<Forbidden>(), "{refused}");
        let mut found = resolve(&["127.0.0.0/8", "::1/128"]).await.unwrap();
        assert!(found.all(|address| address.ip().is_loopback()));
    }

    proptest! {
        #[test]
        fn an_address_is_the_same_in_all_of_its_forms(bits in any::<u32>()) {
            let v4 = Ipv4Addr::from_bits(bits);
            let expected = is_public(v4.into());
            prop_assert_eq!(is_public(v4.to_ipv6_mapped().into()), expected);
            let [a, b, c, d] = v4.octets().map(u16::from);
            let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a << 8 | b, c << 8 | d);
            prop_assert_eq!(is_public(nat64.into()), expected);
            // The standard library's own predicates, as far as there are any.
            if v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified()
            {
                prop_assert!(!expected);
            }
        }
    }
}
