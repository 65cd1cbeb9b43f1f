//! Addresses and ports that no other platform of this machine uses.
//!
//! Each `zipline up` owns one of the 254 networks 127.X.0.0/16: its queue-proxies listen on addresses of it, at the
//! ports they have in Kubernetes. Functions bind `$PORT` on all addresses, so every port must be unique on the machine.
//!
//! Both are claimed by binding an abstract Unix socket of a well-known name. Such names live exactly as long as the
//! process that bound them and in the same network namespace as the addresses do, so a platform that is killed leaves
//! no stale claim. Which network is tried first follows from the state directory, so that a restarted platform
//! usually gets the same one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use thiserror::Error;

/// Networks there are: 127.1.0.0/16 to 127.254.0.0/16. 127.0 is everybody's.
const NETWORKS: u8 = 254;
/// Ports for functions: below the range from which systems take ports for outgoing connections (32768 and up).
const FUNCTION_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Why there is no address or port.
#[derive(Debug, Error)]
pub enum AddressError {
    /// All networks are taken.
    #[error("all {NETWORKS} loopback networks 127.X.0.0/16 are in use by other platforms (hint: end one of them)")]
    NoNetwork,
    /// All ports are taken.
    #[error("no port from {} to {} is free for a function (hint: lower max-scale, or see what listens there)", FUNCTION_PORTS.start, FUNCTION_PORTS.end - 1)]
    NoPort,
    /// The system refused.
    #[error("an address could not be claimed: {0}")]
    Io(#[from] io::Error),
}

/// A name that is ours until this is dropped.
#[derive(Debug)]
struct Claim {
    _socket: UnixDatagram,
}

impl Claim {
    /// `None` if somebody else has it.
    fn take(name: &str) -> io::Result<Option<Self>> {
        let address = SocketAddr::from_abstract_name(name)?;
        match UnixDatagram::bind_addr(&address) {
            Ok(socket) => Ok(Some(Self { _socket: socket })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A network 127.X.0.0/16 of this platform's own.
#[derive(Debug)]
pub(crate) struct Network {
    second_byte: u8,
    next_host: u16,
    next_port: u16,
    _claim: Claim,
}

impl Network {
    /// Claims a network. The state directory says which to try first.
    pub(crate) fn claim(state_dir: &Path) -> Result<Self, AddressError> {
        let mut hasher = DefaultHasher::new();
        state_dir.hash(&mut hasher);
        let seed = hasher.finish();
        let first = (seed % u64::from(NETWORKS)) as u8;
        let span = u64::from(FUNCTION_PORTS.end - FUNCTION_PORTS.start);
        for step in 0..NETWORKS {
            let second_byte = 1 + (u16::from(first) + u16::from(step)).rem_euclid(u16::from(NETWORKS)) as u8;
            if let Some(claim) = Claim::take(&format!("zipline/network/127.{second_byte}"))? {
                let next_port = FUNCTION_PORTS.start + ((seed >> 8) % span) as u16;
                return Ok(Self { second_byte, next_host: 0, next_port, _claim: claim });
            }
        }
        Err(AddressError::NoNetwork)
    }

    /// The network, as it stands in `ZIPLINE_PEER_CIDRS`.
    pub(crate) fn cidr(&self) -> String {
        format!("127.{}.0.0/16", self.second_byte)
    }

    /// The client proxy's address.
    pub(crate) fn client(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.second_byte, 0, 2)
    }

    /// An address for a new instance. One comes back only after all 64,000 others were given.
    pub(crate) fn instance_address(&mut self) -> Ipv4Addr {
        // Third byte 1 to 254, fourth 1 to 254: none that looks like a network's or a broadcast address.
        let host = self.next_host;
        self.next_host = (host + 1) % (254 * 254);
        let (third, fourth) = (host / 254, host % 254);
        Ipv4Addr::new(127, self.second_byte, 1 + third as u8, 1 + fourth as u8)
    }

    /// A port for a function, free on all addresses of the machine, and kept from other platforms.
    pub(crate) fn function_port(&mut self) -> Result<FunctionPort, AddressError> {
        for _ in FUNCTION_PORTS {
            let port = self.next_port;
            self.next_port = if port + 1 == FUNCTION_PORTS.end { FUNCTION_PORTS.start } else { port + 1 };
            let Some(claim) = Claim::take(&format!("zipline/port/{port}"))? else { continue };
            // The claim keeps other platforms away; this finds everybody else. The function binds it in a moment.
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
                return Ok(FunctionPort { number: port, _claim: claim });
            }
        }
        Err(AddressError::NoPort)
    }
}

/// A port of one function, for as long as this lives.
#[derive(Debug)]
pub(crate) struct FunctionPort {
    /// Its number.
    pub(crate) number: u16,
    _claim: Claim,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn two_platforms_get_different_networks_even_for_the_same_directory() {
        let path = Path::new("/a/state/directory");
        let (one, other) = (Network::claim(path).expect("free"), Network::claim(path).expect("free"));
        assert_ne!(one.cidr(), other.cidr());
    }

    #[test]
    fn addresses_do_not_repeat_and_are_none_of_the_platforms_own() {
        let mut network = Network::claim(Path::new("/b")).expect("free");
        let addresses: BTreeSet<Ipv4Addr> = (0..64_000).map(|_| network.instance_address()).collect();
        assert_eq!(addresses.len(), 64_000);
        assert!(addresses.iter().all(|address| address.is_loopback() && !matches!(address.octets()[3], 0 | 255)));
        assert!(!addresses.contains(&network.client()));
    }

    #[test]
    fn a_port_is_given_once_and_never_one_that_is_listened_on() {
        let mut network = Network::claim(Path::new("/c")).expect("free");
        let port = network.function_port().expect("free");
        let listener = TcpListener::bind(("127.0.0.1", port.number + 1));
        let next = network.function_port().expect("free");
        assert_ne!(next.number, port.number);
        assert!(listener.is_err() || next.number != port.number + 1);
    }
}
