//! Dialling the function.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Tries at most.
const TRIES: u32 = 15;
/// Limit of the first try; each further one has [`GROWTH`] times the limit of the one before it, about 19 s in all.
const FIRST_TRY: Duration = Duration::from_millis(50);
const GROWTH: f64 = 1.4;

/// Why the function can't be reached. The texts are those that Knative's proxy answers with.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It refused, or the network did.
    #[error("dial tcp {address}: connect: {}", reason(.source))]
    Refused {
        /// Where it should listen.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// It did not answer any of the tries.
    #[error("timed out dialing {address} after {:.2}s", .took.as_secs_f64())]
    TimedOut {
        /// Where it should listen.
        address: SocketAddr,
        /// All tries together.
        took: Duration,
    },
}

/// Connects, and tries again while the function does not answer at all (its listen queue is full). A refusal is final.
///
/// # Errors
/// The refusal, or that the last try timed out.
pub async fn connect(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let started = Instant::now();
    let mut limit = FIRST_TRY;
    for _ in 0..TRIES {
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(|source| ConnectError::Refused { address, source })?;
                return Ok(stream);
            }
            Ok(Err(source)) if source.kind() == io::ErrorKind::TimedOut => {}
            Ok(Err(source)) => return Err(ConnectError::Refused { address, source }),
            Err(_elapsed) => {}
        }
        limit = limit.mul_f64(GROWTH);
    }
    Err(ConnectError::TimedOut { address, took: started.elapsed() })
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}
