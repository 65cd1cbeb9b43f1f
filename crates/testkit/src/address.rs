//! Loopback addresses and ports that no other test has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait;

/// UDP port whose binding claims an address, across processes, for as long as the [`Loopback`] lives.
const CLAIM_PORT: u16 = 8121;
const TRIES_MAX: u32 = 64;
const CLAIM_WAIT: Duration = Duration::from_secs(60);

/// An address 127.x.y.z that belongs to one test, so that a program may open its default ports there.
#[derive(Debug)]
pub struct Loopback {
    ip: IpAddr,
    _claim: UdpSocket,
}

impl Loopback {
    /// Claims a random one in 127.64.0.0 to 127.127.255.254; the platform under test takes its own elsewhere.
    pub fn claim() -> Result<Self> {
        for _ in 0..TRIES_MAX {
            let [b, c, d, _] = getrandom::u32().context("randomness")?.to_be_bytes();
            let ip = Ipv4Addr::new(127, 64 + b % 64, c, d.clamp(1, 254));
            if let Ok(claim) = UdpSocket::bind((ip, CLAIM_PORT)) {
                return Ok(Self { ip: ip.into(), _claim: claim });
            }
        }
        bail!("no free loopback address in {TRIES_MAX} tries")
    }

    /// Claims `::1`, of which there is one; waits until nobody else has it. `None`: this machine has no IPv6.
    pub async fn claim_ipv6() -> Result<Option<Self>> {
        if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            return Ok(None);
        }
        let claim = async || Ok(UdpSocket::bind((Ipv6Addr::LOCALHOST, CLAIM_PORT)).ok());
        let claimed = wait::until("::1 to be free", CLAIM_WAIT, claim, Option::is_some).await?;
        Ok(claimed.map(|claim| Self { ip: Ipv6Addr::LOCALHOST.into(), _claim: claim }))
    }

    /// The address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The address with a port.
    pub fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }
}

/// A TCP port that was free on 127.0.0.1 a moment ago. Prefer port 0 or a [`Loopback`] of one's own; this is for programs that
/// must be told a port and bind all addresses or 127.0.0.1.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a free port")?.local_addr()?.port())
}
