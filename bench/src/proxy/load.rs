//! Load for `bench proxy`: requests at a fixed rate over a fixed number of connections.
//!
//! Open loop: a request is due at its time whether or not earlier ones were answered, and one that had to wait for its
//! connection counts from when it was due, so that a stall shows in the tail instead of hiding the requests it held up
//! (coordinated omission). Requests due on one connection wait for each other there, as they do in a real client's pool.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Bytes of a response head that the generator takes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// One slice of load.
#[derive(Clone, Copy)]
pub(crate) struct Slice {
    pub(crate) connections: usize,
    pub(crate) requests_per_second: f64,
    pub(crate) duration: Duration,
}

/// A connection kept over many slices, so that none measures connecting.
pub(crate) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let request =
            format!("GET / HTTP/1.1\r\nHost: {address}\r\nUser-Agent: zipline-bench\r\nAccept: */*\r\n\r\n").into_bytes();
        Ok(Self { stream, request, buffer: Vec::with_capacity(HEAD_BYTES_MAX) })
    }

    /// One request and its whole answer (which has no body).
    async fn round(&mut self) -> Result<()> {
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        loop {
            let got = self.stream.read_buf(&mut self.buffer).await?;
            anyhow::ensure!(got > 0, "the connection was closed before an answer");
            if self.buffer.ends_with(b"\r\n\r\n") {
                break;
            }
            anyhow::ensure!(self.buffer.len() < HEAD_BYTES_MAX, "the answer's head is longer than {HEAD_BYTES_MAX} bytes");
        }
        anyhow::ensure!(
            self.buffer.starts_with(b"HTTP/1.1 200"),
            "answer {:?}",
            String::from_utf8_lossy(&self.buffer[..40.min(self.buffer.len())])
        );
        Ok(())
    }
}

/// Runs one slice; the latency of each request in seconds.
pub(crate) async fn run(connections: &mut Vec<Connection>, slice: Slice) -> Result<Vec<f64>> {
    let started = Instant::now() + Duration::from_millis(5);
    let interval = Duration::from_secs_f64(slice.connections as f64 / slice.requests_per_second);
    let mut tasks = JoinSet::new();
    for (index, mut connection) in connections.drain(..).enumerate() {
        // Connections take turns: spread over one interval, so that the whole is an even stream.
        let first = started + interval.mul_f64(index as f64 / slice.connections as f64);
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let mut due = first;
            while due < started + slice.duration {
                // The timer's own millisecond is not the proxy's: only a request that waited for its connection counts from its due time.
                let begun = if Instant::now() < due {
                    tokio::time::sleep_until(due.into()).await;
                    Instant::now()
                } else {
                    due
                };
                connection.round().await?;
                latencies.push(begun.elapsed().as_secs_f64());
                due += interval;
            }
            anyhow::Ok((connection, latencies))
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let (connection, latencies) = ended??;
        connections.push(connection);
        all.extend(latencies);
    }
    Ok(all)
}
