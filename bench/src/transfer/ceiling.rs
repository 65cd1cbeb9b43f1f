//! The ceilings of `bench transfer`: each raw way measured into each kind of destination.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result};
use zipline_sys::{Mapping, Memfd, SealedMemfd};

use crate::process::Process;
use crate::raw::{self, CHUNK_BYTES, SENDFILE, WRITE};

const fn how(with_sendfile: bool) -> u8 {
    if with_sendfile { SENDFILE } else { WRITE }
}

/// The raw programs of one run, and this process's connections to them.
pub(crate) struct Ceilings {
    direct: TcpStream,
    relayed: TcpStream,
    buffer: Vec<u8>,
    source: Vec<u8>,
    descriptor: (UnixStream, UnixStream),
    /// A memfd of the payload's size, made once a size.
    memfd: Option<SealedMemfd>,
    /// Ended when the run ends.
    senders: [Process; 2],
    sink: Process,
    relay: Process,
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
            memfd: None,
            senders: [sender, second],
            sink,
            relay,
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
        raw::ask(&mut self.direct, how(with_sendfile), bytes)?;
        raw::drain(&mut self.direct, bytes, &mut self.buffer)?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// The same into a fresh memfd: seconds, without freeing it.
    pub(crate) fn fresh_memfd(&mut self, bytes: u64, with_sendfile: bool) -> Result<f64> {
        let started = Instant::now();
        raw::ask(&mut self.direct, how(with_sendfile), bytes)?;
        let landed = raw::into_fresh_memfd(&mut self.direct, bytes, &mut self.buffer)?;
        let seconds = started.elapsed().as_secs_f64();
        drop(landed);
        Ok(seconds)
    }

    /// The same to a relay and on to a plain function: seconds until the function has it all.
    pub(crate) fn relayed(&mut self, bytes: u64, with_sendfile: bool) -> Result<f64> {
        let started = Instant::now();
        raw::ask(&mut self.relayed, how(with_sendfile), bytes)?;
        let mut done = [0u8];
        self.relayed.read_exact(&mut done)?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// A descriptor over a Unix socket and back on this thread, and every byte read once if `read`: seconds.
    pub(crate) fn descriptor(&mut self, bytes: u64, read: bool) -> Result<f64> {
        let memfd = match self.memfd.take() {
            Some(memfd) if memfd.size() == bytes => memfd,
            _ => self.filled(bytes)?,
        };
        let memfd = self.memfd.insert(memfd);
        let started = Instant::now();
        let received = passed(&self.descriptor, memfd)?;
        if read {
            read_once(received, bytes)?;
        }
        Ok(started.elapsed().as_secs_f64())
    }

    /// Filling a fresh memfd, passing its descriptor, and reading every byte once: seconds.
    pub(crate) fn fill_descriptor_read(&mut self, bytes: u64) -> Result<f64> {
        let started = Instant::now();
        let memfd = self.filled(bytes)?;
        let received = passed(&self.descriptor, &memfd)?;
        read_once(received, bytes)?;
        Ok(started.elapsed().as_secs_f64())
    }

    fn filled(&self, bytes: u64) -> Result<SealedMemfd> {
        let memfd = Memfd::create("zipline-bench")?;
        let mut at = 0;
        while at < bytes {
            let now = usize::try_from(bytes - at)?.min(CHUNK_BYTES);
            memfd.write_all_at(&self.source[..now], at)?;
            at += now as u64;
        }
        Ok(memfd.seal()?)
    }

    /// The relay's process id.
    pub(crate) fn relay(&self) -> u32 {
        self.relay.id()
    }

    /// Every raw program's process id.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.senders.iter().chain([&self.sink, &self.relay]).map(Process::id)
    }

    /// Fails when one of them has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.senders.iter_mut().chain([&mut self.sink, &mut self.relay]).try_for_each(Process::check)
    }
}

fn passed((near, far): &(UnixStream, UnixStream), memfd: &SealedMemfd) -> Result<OwnedFd> {
    zipline_sys::fd_passing::send(near.as_fd(), b".", Some(memfd.as_fd()))?;
    let mut byte = [0u8];
    let (_, received) = zipline_sys::fd_passing::receive(far.as_fd(), &mut byte)?;
    received.context("the descriptor did not arrive")
}

fn read_once(descriptor: OwnedFd, bytes: u64) -> Result<()> {
    let mapping = Mapping::of(&SealedMemfd::admit(descriptor, bytes)?)?;
    mapping.populate()?;
    raw::read_once(&mapping);
    Ok(())
}

fn connect(address: SocketAddr, congestion: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    raw::tune(&stream, congestion)?;
    Ok(stream)
}
