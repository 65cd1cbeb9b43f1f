//! Which addresses a proxy dials for a pull.
//!
//! A reference names an address, and a reference can be old, or made by a proxy that is not what it seems. So a proxy
//! dials only inside the networks of its trust domain, only on the trust domain's pull port, and whatever the setting
//! says never where a request could do harm by itself: metadata services above all. An IPv4 address that hides in an
//! IPv6 one (mapped, translated, tunnelled) is refused or judged as what it hides.

use core::fmt;
use core::str::FromStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zipline_contract::ErrorCode;

/// Networks that one setting may name.
pub const PEER_NETWORKS_MAX: usize = 256;

/// Private networks (RFC 1918), shared address space (RFC 6598), and unique local addresses (RFC 4193).
const DEFAULT_NETWORKS: [Network; 5] = [
    Network::v4(10, 0, 0, 0, 8),
    Network::v4(172, 16, 0, 0, 12),
    Network::v4(192, 168, 0, 0, 16),
    Network::v4(100, 64, 0, 0, 10),
    Network { address: IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), prefix: 7 },
];

/// Metadata and host services of clouds that lie in ordinary address space. Those in link-local space fall with it.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// A network: an address and the number of its leading bits that count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    /// The network of `address` with `prefix` bits; `None` when there are not that many.
    pub const fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let bits = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        if prefix > bits { None } else { Some(Self { address, prefix }) }
    }

    /// Whether `address` lies in it.
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                (u32::from(network) ^ u32::from(address)) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                (u128::from(network) ^ u128::from(address)) & mask == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// `ADDRESS/PREFIX`, or one address.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError { text: text.chars().take(64).collect() };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().map_err(|_| error())?,
            Some(_) => return Err(error()),
            None => bits,
        };
        Self::new(address, prefix).ok_or_else(error)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network({self})")
    }
}

/// A text that names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no network; one is ADDRESS/PREFIX, such as 10.0.0.0/8 or fd00::/8")]
pub struct NetworkError {
    text: String,
}

/// What is wrong with the list of networks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerPolicyError {
    /// One of them is none.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Too many.
    #[error("{networks} networks are named, at most {PEER_NETWORKS_MAX} may be")]
    TooMany {
        /// How many.
        networks: usize,
    },
}

/// Decides whether a producer's address may be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPolicy {
    networks: Vec<Network>,
    port: u16,
}

impl PeerPolicy {
    /// The policy of a setting: networks separated by commas, or nothing for the default, which is private address space
    /// and the network of our own address (/24 or /64). `port` is the trust domain's pull port.
    pub fn parse(setting: &str, own: Option<IpAddr>, port: u16) -> Result<Self, PeerPolicyError> {
        let named: Vec<&str> = setting.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
        if named.len() > PEER_NETWORKS_MAX {
            return Err(PeerPolicyError::TooMany { networks: named.len() });
        }
        let networks = if named.is_empty() {
            DEFAULT_NETWORKS.into_iter().chain(own.and_then(own_network)).collect()
        } else {
            named.into_iter().map(str::parse).collect::<Result<_, _>>()?
        };
        Ok(Self { networks, port })
    }

    /// Whether `peer` may be dialled.
    pub fn check(&self, peer: SocketAddr) -> Result<(), PeerForbidden> {
        let forbidden = |reason| Err(PeerForbidden { peer, reason });
        if let Some(reason) = never(peer.ip()) {
            return forbidden(reason);
        }
        if peer.port() != self.port {
            return forbidden(ForbiddenReason::Port { pull_port: self.port });
        }
        if !self.networks.iter().any(|network| network.contains(peer.ip())) {
            return forbidden(ForbiddenReason::Network);
        }
        Ok(())
    }

    /// The networks in force.
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }
}

/// Loopback must be named: a proxy that listens there must not by that be led to other services of the machine.
fn own_network(own: IpAddr) -> Option<Network> {
    if own.is_loopback() || never(own).is_some() {
        return None;
    }
    Network::new(own, if own.is_ipv4() { 24 } else { 64 })
}

/// Why an address is never dialled, whatever the setting says.
fn never(address: IpAddr) -> Option<ForbiddenReason> {
    match address {
        IpAddr::V4(address) => never_v4(address),
        IpAddr::V6(address) => never_v6(address),
    }
}

fn never_v4(address: Ipv4Addr) -> Option<ForbiddenReason> {
    match address {
        _ if METADATA_V4.contains(&address) => Some(ForbiddenReason::Metadata),
        // The whole of 0.0.0.0/8: connecting to it reaches this machine.
        _ if address.octets()[0] == 0 => Some(ForbiddenReason::Unspecified),
        _ if address.is_link_local() => Some(ForbiddenReason::LinkLocal),
        _ if address.is_multicast() || address.is_broadcast() => Some(ForbiddenReason::Multicast),
        _ => None,
    }
}

fn never_v6(address: Ipv6Addr) -> Option<ForbiddenReason> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address {
        _ if METADATA_V6.contains(&address) => Some(ForbiddenReason::Metadata),
        _ if address.is_unspecified() => Some(ForbiddenReason::Unspecified),
        _ if address.is_unicast_link_local() => Some(ForbiddenReason::LinkLocal),
        _ if address.is_multicast() => Some(ForbiddenReason::Multicast),
        _ if address.is_loopback() => None,
        // ::ffff:0:0/96 mapped, ::/96 compatible: never written by a producer, so always a trick.
        _ if [a, b, c, d, e] == [0; 5] && (f == 0xffff || f == 0) => Some(ForbiddenReason::Mapped),
        // 64:ff9b::/96 (NAT64), 2002::/16 (6to4): as the address that is reached through them.
        _ if [a, b, c, d, e, f] == [0x64, 0xff9b, 0, 0, 0, 0] => never_v4(v4(g, h)),
        _ if a == 0x2002 => never_v4(v4(b, c)),
        _ => None,
    }
}

/// An address that may not be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{peer} may not be dialled: {reason}")]
pub struct PeerForbidden {
    /// The address.
    pub peer: SocketAddr,
    /// Why not.
    pub reason: ForbiddenReason,
}

impl PeerForbidden {
    /// The public error.
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::PeerForbidden
    }
}

/// Why an address may not be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForbiddenReason {
    /// Outside the networks of the setting.
    #[error("it lies outside the networks of ZIPLINE_PEER_CIDRS")]
    Network,
    /// Another port.
    #[error("the pull port of this trust domain is {pull_port}")]
    Port {
        /// The only one that may be dialled.
        pull_port: u16,
    },
    /// A cloud's metadata or host service.
    #[error("it is a metadata service")]
    Metadata,
    /// Only valid on one link.
    #[error("it is link-local")]
    LinkLocal,
    /// Many hosts, or all.
    #[error("it is multicast or broadcast")]
    Multicast,
    /// No host in particular, which is this one.
    #[error("it is unspecified")]
    Unspecified,
    /// An IPv4 address in the form of an IPv6 one.
    #[error("it is an IPv4 address in IPv6 form")]
    Mapped,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(setting: &str) -> PeerPolicy {
        PeerPolicy::parse(setting, Some("203.0.113.7".parse().unwrap()), 8122).unwrap()
    }

    fn reason(policy: &PeerPolicy, peer: &str) -> Option<ForbiddenReason> {
        policy.check(peer.parse().unwrap()).err().map(|forbidden| forbidden.reason)
    }

    #[test]
    fn the_default_is_private_address_space_and_the_own_network() {
        let policy = policy("");
        for peer in ["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.4.5", "100.64.0.1", "100.127.9.9", "203.0.113.200"] {
            assert_eq!(reason(&policy, &format!("{peer}:8122")), None, "{peer}");
        }
        for peer in ["172.32.0.1", "100.128.0.1", "203.0.114.1", "8.8.8.8", "127.0.0.1", "127.3.4.5"] {
            assert_eq!(reason(&policy, &format!("{peer}:8122")), Some(ForbiddenReason::Network), "{peer}");
        }
        assert_eq!(reason(&policy, "[fd12:3456::1]:8122"), None);
        assert_eq!(reason(&policy, "[2001:db8::1]:8122"), Some(ForbiddenReason::Network));
        assert_eq!(reason(&policy, "[::1]:8122"), Some(ForbiddenReason::Network));
    }

    #[test]
    fn the_own_network_is_a_24_or_a_64_and_never_loopback() {
        let own = |address: &str| PeerPolicy::parse("", Some(address.parse().unwrap()), 1).unwrap().networks().len();
        assert_eq!((own("203.0.113.7"), own("2001:db8::7")), (6, 6));
        assert_eq!((own("127.4.5.6"), own("::1"), own("169.254.1.1")), (5, 5, 5));
        let v6 = PeerPolicy::parse("", Some("2001:db8::7".parse().unwrap()), 1).unwrap();
        assert_eq!(reason(&v6, "[2001:db8::ffff:1]:1"), None);
        assert_eq!(reason(&v6, "[2001:db8:0:1::1]:1"), Some(ForbiddenReason::Network));
    }

    #[test]
    fn some_addresses_are_never_dialled_whatever_the_setting_says() {
        let everything = policy("0.0.0.0/0, ::/0");
        for (peer, why) in [
            ("169.254.169.254", ForbiddenReason::LinkLocal),
            ("169.254.170.2", ForbiddenReason::LinkLocal),
            ("100.100.100.200", ForbiddenReason::Metadata),
            ("168.63.129.16", ForbiddenReason::Metadata),
            ("0.0.0.0", ForbiddenReason::Unspecified),
            ("0.1.2.3", ForbiddenReason::Unspecified),
            ("224.0.0.1", ForbiddenReason::Multicast),
            ("255.255.255.255", ForbiddenReason::Multicast),
            ("[fd00:ec2::254]", ForbiddenReason::Metadata),
            ("[fe80::1]", ForbiddenReason::LinkLocal),
            ("[ff02::1]", ForbiddenReason::Multicast),
            ("[::]", ForbiddenReason::Unspecified),
            ("[::ffff:10.0.0.1]", ForbiddenReason::Mapped),
            ("[::ffff:169.254.169.254]", ForbiddenReason::Mapped),
            ("[::10.0.0.1]", ForbiddenReason::Mapped),
            ("[64:ff9b::169.254.169.254]", ForbiddenReason::LinkLocal),
            ("[64:ff9b::6464:64c8]", ForbiddenReason::Metadata),
            ("[2002:a9fe:a9fe::1]", ForbiddenReason::LinkLocal),
        ] {
            assert_eq!(reason(&everything, &format!("{peer}:8122")), Some(why), "{peer}");
        }
        for peer in ["8.8.8.8", "127.0.0.1", "[::1]", "[2001:db8::1]", "[64:ff9b::8.8.8.8]"] {
            assert_eq!(reason(&everything, &format!("{peer}:8122")), None, "{peer}");
        }
    }

    #[test]
    fn only_the_trust_domain_s_pull_port_is_dialled() {
        assert_eq!(reason(&policy(""), "10.1.2.3:80"), Some(ForbiddenReason::Port { pull_port: 8122 }));
        assert_eq!(policy("").check("10.1.2.3:80".parse().unwrap()).unwrap_err().code(), ErrorCode::PeerForbidden);
    }

    #[test]
    fn a_setting_takes_the_place_of_the_default() {
        let policy = policy("127.0.0.0/8 , 2001:db8::/32,198.51.100.9");
        assert_eq!(reason(&policy, "127.9.9.9:8122"), None);
        assert_eq!(reason(&policy, "198.51.100.9:8122"), None);
        assert_eq!(reason(&policy, "198.51.100.8:8122"), Some(ForbiddenReason::Network));
        assert_eq!(reason(&policy, "10.0.0.1:8122"), Some(ForbiddenReason::Network));
        for wrong in ["10.0.0.0/33", "fd00::/129", "10.0.0/8", "localhost", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/-1"] {
            assert!(PeerPolicy::parse(wrong, None, 8122).is_err(), "{wrong}");
        }
        let many = vec!["10.0.0.0/8"; 257].join(",");
        assert_eq!(PeerPolicy::parse(&many, None, 8122), Err(PeerPolicyError::TooMany { networks: 257 }));
    }
}
