//! Finds functions that listen where other machines can reach them.
//!
//! A function needs to be reached by its own queue-proxy only, on loopback. Many bind all addresses by habit, which
//! opens them to the network: worth a warning, not an error, since the same code is right in a container.

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Addresses other than loopback on which somebody listens at `port`.
pub(super) fn beyond_loopback(port: u16) -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match std::fs::read_to_string(table) {
            Ok(text) => found.extend(listening(&text, port)),
            // A kernel without IPv6 has no such table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn listening(table: &str, port: u16) -> Vec<IpAddr> {
    let mut suffix = String::new();
    if write!(suffix, ":{port:04X}").is_err() {
        return Vec::new();
    }
    let address = |line: &str| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let local = columns.next()?;
        let state = columns.nth(1)?;
        let address = local.strip_suffix(&suffix)?;
        (state == LISTEN).then(|| parse(address))?
    };
    table.lines().skip(1).filter_map(address).filter(|address| !is_loopback(address)).collect()
}

/// Addresses stand as 32-bit words in hexadecimal, each in the machine's byte order.
fn parse(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(i * 8)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

fn is_loopback(address: &IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listener_on_all_addresses_is_found_and_one_on_loopback_is_not() {
        let open = TcpListener::bind("0.0.0.0:0").expect("bound");
        let port = open.local_addr().expect("known").port();
        assert_eq!(beyond_loopback(port).expect("readable"), [IpAddr::from(Ipv4Addr::UNSPECIFIED)]);
        let closed = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = closed.local_addr().expect("known").port();
        assert_eq!(beyond_loopback(port).expect("readable"), [] as [IpAddr; 0]);
    }

    #[test]
    fn a_mapped_loopback_address_is_loopback() {
        let mapped: Ipv6Addr = "::ffff:127.0.0.1".parse().expect("an address");
        assert!(is_loopback(&mapped.into()));
        assert!(!is_loopback(&Ipv6Addr::UNSPECIFIED.into()));
    }
}
