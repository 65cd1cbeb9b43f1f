//! The ceilings of `bench transfer`: each raw way measured into each kind of destination.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::Result;

use crate::process::Process;
use crate::raw::{self, CHUNK_BYTES, SENDFILE, WRITE};

/// The raw programs of one run, and this process's connections to them.
pub(crate) struct Ceilings {
    direct: TcpStream,
    relayed: TcpStream,
    buffer: Vec<u8>,
    source: Vec<u8>,
    descriptor: (UnixStream, UnixStream),
    memfd: OwnedFd,
    /// Sender, sink, relay: ended when the run ends.
    pub(crate) processes: Vec<Process>,
}

impl Ceilings {
    /// Starts the raw programs, with payloads of up to `bytes_max`.
    pub(crate) fn start(bytes_max: u64, congestion: &str) -> Result<Self> {
        let (sender, sender_address) = Process::role("sender", &[bytes_max.to_string(), congestion.into()])?;
        // A sender serves one connection at a time, and both are kept for the whole run.
        let (second, second_address) = Process::role("sender", &[bytes_max.to_string(), congestion.into()])?;
        let (sink, sink_address) = Process::role("sink", &[congestion.into()])?;
        let (relay, relay_address) =
            Process::role("relay", &[second_address.to_string(), sink_address.to_string(), congestion.into()])?;
        Ok(Self {
            direct: connect(sender_address, congestion)?,
            relayed: connect(relay_address, congestion)?,
            buffer: vec![0; CHUNK_BYTES],
            source: raw::random_bytes(CHUNK_BYTES, 2),
            descriptor: UnixStream::pair()?,
            memfd: raw::filled_memfd(CHUNK_BYTES, 3)?,
            processes: vec![sender, second, sink, relay],
        })
    }

    /// Copies in memory, a reused 1 MiB buffer to another: seconds.
    pub(crate) fn memcpy(&mut self, bytes: u64) -> Result<f64> {
        let started = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let now = usize::try_from(left)?.min(CHUNK_BYTES);
            self.buffer[..now].copy_from_slice(&self.source[..now]);
            std::hint::black_box(&mut self.buffer);
            left -= now as u64;
        }
        Ok(started.elapsed().as_secs_f64())
    }

    /// `sendfile` (or plain `write`) over TCP into a reused buffer: seconds.
    pub(crate) fn reused_buffer(&mut self, bytes: u64, with_sendfile: bool) -> Result<f64> {
        let started = Instant::now();
        raw::ask(&mut self.direct, if with_sendfile { SENDFILE } else { WRITE }, bytes)?;
        raw::drain(&mut self.direct, bytes, &mut self.buffer)?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// `sendfile` over TCP into a fresh memfd: seconds, without freeing it.
    pub(crate) fn fresh_memfd(&mut self, bytes: u64) -> Result<f64> {
        let started = Instant::now();
        raw::ask(&mut self.direct, SENDFILE, bytes)?;
        let landed = raw::into_fresh_memfd(&mut self.direct, bytes, &mut self.buffer)?;
        let seconds = started.elapsed().as_secs_f64();
        drop(landed);
        Ok(seconds)
    }

    /// `sendfile` over TCP to a relay and on to a plain function: seconds until the function has it all.
    pub(crate) fn relayed(&mut self, bytes: u64) -> Result<f64> {
        let started = Instant::now();
        raw::ask(&mut self.relayed, SENDFILE, bytes)?;
        let mut done = [0u8];
        self.relayed.read_exact(&mut done)?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// A descriptor over a Unix socket and back on this thread: seconds, whatever the size.
    pub(crate) fn descriptor(&mut self) -> Result<f64> {
        let started = Instant::now();
        zipline_sys::fd_passing::send(self.descriptor.0.as_fd(), b".", Some(self.memfd.as_fd()))?;
        let mut byte = [0u8];
        let (_, fd) = zipline_sys::fd_passing::receive(self.descriptor.1.as_fd(), &mut byte)?;
        anyhow::ensure!(fd.is_some(), "the descriptor did not arrive");
        Ok(started.elapsed().as_secs_f64())
    }
}

fn connect(address: SocketAddr, congestion: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    raw::tune(&stream, congestion)?;
    Ok(stream)
}
