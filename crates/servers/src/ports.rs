//! Free loopback ports.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// So many different TCP ports that were free on 127.0.0.1 a moment ago.
///
/// A server is told its ports and cannot be handed a bound socket, so another program may take one in between. Whoever
/// starts it tries again with others.
pub(crate) fn free<const N: usize>() -> io::Result<[u16; N]> {
    let mut ports = [0; N];
    let mut held = Vec::with_capacity(N); // All at once, so that they differ.
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
