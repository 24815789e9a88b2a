//! The kinds of values that configuration has and TOML does not.

use std::{fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// What stands in the place of a secret wherever configuration is shown.
const REDACTED: &str = "[redacted]";

/// A text that is never printed: `Debug` and `Serialize` leave it out, and it has no `Display`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the code that signs or compares with it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

/// For `#[serde(with = "human_duration")]`: a [`Duration`] as `"15s"` or `"1h 30m"`.
pub(super) mod human_duration {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        const DAY_SECS: u64 = 24 * 60 * 60;
        // Its months are parts of a year, which nobody wrote.
        match (duration.as_secs(), duration.subsec_nanos()) {
            (secs, 0) if secs > DAY_SECS && secs % DAY_SECS == 0 => {
                serializer.collect_str(&format_args!("{}d", secs / DAY_SECS))
            }
            _ => serializer.collect_str(&humantime::format_duration(*duration)),
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, as in \"15s\", \"100ms\" or \"1h 30m\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
                humantime::parse_duration(text).map_err(|_| {
                    E::custom(format_args!(
                        "{text:?} is no duration; accepted is {}",
                        &self as &dyn serde::de::Expected
                    ))
                })
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

/// For `#[serde(with = "socket_address")]`: an address and a port, with an error that says so.
pub(super) mod socket_address {
    use std::net::SocketAddr;

    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(address: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = SocketAddr;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address and a port, as in \"127.0.0.1:7330\" or \"[::]:7330\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SocketAddr, E> {
                text.parse().map_err(|_| {
                    E::custom(format_args!("{text:?} is no address; accepted is {}", &self as &dyn serde::de::Expected))
                })
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

/// A duration for use inside a list.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct HumanDuration(#[serde(with = "human_duration")] Duration);

/// The times that clients are told to wait before they come back; each gets a random one between
/// the two, so that those who were cut off together do not return together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRange {
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl Serialize for RetryRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [HumanDuration(self.min), HumanDuration(self.max)].serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RetryRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let times = Vec::<HumanDuration>::deserialize(deserializer)?;
        match times.as_slice() {
            [min, max] => Ok(Self { min: min.0, max: max.0 }),
            other => Err(D::Error::custom(format_args!(
                "found {} values; accepted are two, the shortest and the longest, as in [\"1s\", \"3s\"]",
                other.len()
            ))),
        }
    }
}

/// A range of IP addresses, written as CIDR; a single address is the range of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(ipnet::IpNet);

impl Network {
    /// Whether the address lies in the range. An IPv4 address that arrived on an IPv6 socket
    /// (`::ffff:…`) counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// The range, for code that works with `ipnet`.
    pub fn as_ip_net(&self) -> ipnet::IpNet {
        self.0
    }
}

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().or_else(|_| text.parse::<IpAddr>().map(ipnet::IpNet::from)).map(Self).map_err(|_| {
            format!("{text:?} is no network; accepted is CIDR, as in \"10.0.0.0/8\", \"::1/128\" or \"192.0.2.7\"")
        })
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Where the log of events lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerUrl {
    /// In this process, with its durable part in `data_dir`.
    Embedded,
}

impl Serialize for BrokerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Embedded => serializer.serialize_str("embedded"),
        }
    }
}

impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "embedded" => Ok(Self::Embedded),
            // Without the text: the URL of a broker may hold its password.
            _ => Err(D::Error::custom("not a broker of this version; accepted is \"embedded\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(serde_json::to_string(&[&secret]).unwrap(), r#"["[redacted]"]"#);
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_network_is_cidr_or_one_address() {
        let network: Network = "10.0.0.0/8".parse().unwrap();
        assert!(network.contains("10.1.2.3".parse().unwrap()));
        assert!(network.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!network.contains("11.0.0.1".parse().unwrap()));
        let one: Network = "::1".parse().unwrap();
        assert!(one.contains("::1".parse().unwrap()) && !one.contains("::2".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Network>().unwrap_err().contains("CIDR"));
    }

    #[test]
    fn durations_are_written_with_their_unit() {
        let range: RetryRange = serde_json::from_str(r#"["100ms", "1h 30m"]"#).unwrap();
        assert_eq!(range, RetryRange { min: Duration::from_millis(100), max: Duration::from_secs(5400) });
        assert_eq!(serde_json::to_string(&range).unwrap(), r#"["100ms","1h 30m"]"#);
        for (json, said) in [(r#"["1s"]"#, "found 1 values"), (r#"["1", "2s"]"#, "\"1\" is no duration")] {
            assert!(serde_json::from_str::<RetryRange>(json).unwrap_err().to_string().contains(said), "{json}");
        }
    }
}
