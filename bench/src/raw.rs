//! The raw programs: what a payload's way costs with nothing of Zipline in it.
//!
//! They are the ceilings that Zipline's paths are measured against, so they are written to be as fast as a plain blocking
//! program can be: one thread a process, large buffers, `sendfile` from a memfd. Each runs as a process of its own
//! (`zipline-bench raw …`), prints its address on standard output and ends when its standard input does, that is, with its parent.
//!
//! The request on every connection is 9 bytes: how ([`SENDFILE`] or [`WRITE`]) and a big-endian size.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::sockopt;

use crate::stats::SplitMix;

/// Send by `sendfile` from a memfd.
pub(crate) const SENDFILE: u8 = b's';
/// Send by `write` from anonymous memory.
pub(crate) const WRITE: u8 = b'w';
/// Bytes a raw program moves at a time.
pub(crate) const CHUNK_BYTES: usize = 1024 * 1024;

/// An empty memfd.
pub(crate) fn memfd() -> Result<OwnedFd> {
    Ok(memfd_create("zipline-bench", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?)
}

/// A memfd of `bytes` pseudo-random bytes.
pub(crate) fn filled_memfd(bytes: usize, seed: u64) -> Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd()?);
    let chunk = random_bytes(CHUNK_BYTES.min(bytes.max(1)), seed);
    let mut left = bytes;
    while left > 0 {
        let now = left.min(chunk.len());
        file.write_all(&chunk[..now])?;
        left -= now;
    }
    Ok(file.into())
}

/// `bytes` pseudo-random bytes.
pub(crate) fn random_bytes(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = SplitMix(seed);
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        out.extend_from_slice(&random.next().to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// Sets what every measured connection has: no delay, and the named congestion control.
pub(crate) fn tune(stream: &TcpStream, congestion: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    if congestion != "system" {
        sockopt::set_tcp_congestion(stream, congestion)
            .with_context(|| format!("congestion control `{congestion}` is not to be had in this kernel"))?;
    }
    Ok(())
}

/// A listener whose accepted connections have the named congestion control from their first segment on.
fn listen(congestion: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    if congestion != "system" {
        sockopt::set_tcp_congestion(&listener, congestion)?;
    }
    let address = listener.local_addr()?;
    let mut out = io::stdout().lock();
    writeln!(out, "{address}")?;
    out.flush()?;
    Ok(listener)
}

/// Asks for `bytes` on a connection to a [`sender`].
pub(crate) fn ask(stream: &mut TcpStream, how: u8, bytes: u64) -> io::Result<()> {
    let mut request = [0u8; 9];
    request[0] = how;
    request[1..].copy_from_slice(&bytes.to_be_bytes());
    stream.write_all(&request)
}

fn asked(stream: &mut TcpStream) -> io::Result<Option<(u8, u64)>> {
    let mut request = [0u8; 9];
    match stream.read_exact(&mut request) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut size = [0u8; 8];
    size.copy_from_slice(&request[1..]);
    Ok(Some((request[0], u64::from_be_bytes(size))))
}

/// Sends its payload to whoever asks, one connection at a time.
pub(crate) fn sender(bytes_max: usize, congestion: &str) -> Result<()> {
    let memfd = filled_memfd(bytes_max, 1)?;
    let memory = random_bytes(CHUNK_BYTES, 1);
    let listener = listen(congestion)?;
    loop {
        let (mut stream, _) = listener.accept()?;
        tune(&stream, congestion)?;
        while let Some((how, bytes)) = asked(&mut stream)? {
            match how {
                SENDFILE => send_file(&stream, &memfd, bytes)?,
                _ => write_memory(&mut stream, &memory, bytes)?,
            }
        }
    }
}

fn send_file(stream: &TcpStream, memfd: &OwnedFd, bytes: u64) -> Result<()> {
    let mut offset = 0u64;
    while offset < bytes {
        let want = usize::try_from(bytes - offset)?.min(0x7fff_f000);
        let sent = rustix::fs::sendfile(stream.as_fd(), memfd.as_fd(), Some(&mut offset), want)?;
        anyhow::ensure!(sent > 0, "the sender's payload has only {offset} of {bytes} bytes");
    }
    Ok(())
}

fn write_memory(stream: &mut TcpStream, memory: &[u8], bytes: u64) -> Result<()> {
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left)?.min(memory.len());
        stream.write_all(&memory[..now])?;
        left -= now as u64;
    }
    Ok(())
}

/// Passes what it is asked for from a sender on to a [`sink`], and answers one byte when the sink has it all.
pub(crate) fn relay(sender: SocketAddr, sink: SocketAddr, congestion: &str) -> Result<()> {
    let listener = listen(congestion)?;
    let mut buffer = vec![0u8; CHUNK_BYTES];
    loop {
        let (mut client, _) = listener.accept()?;
        tune(&client, congestion)?;
        let mut from = TcpStream::connect(sender)?;
        tune(&from, congestion)?;
        let mut to = TcpStream::connect(sink)?;
        tune(&to, congestion)?;
        while let Some((how, bytes)) = asked(&mut client)? {
            ask(&mut from, how, bytes)?;
            ask(&mut to, how, bytes)?;
            let mut left = bytes;
            while left > 0 {
                let now = usize::try_from(left)?.min(buffer.len());
                let got = from.read(&mut buffer[..now])?;
                anyhow::ensure!(got > 0, "the sender closed with {left} bytes to go");
                to.write_all(&buffer[..got])?;
                left -= got as u64;
            }
            let mut done = [0u8];
            to.read_exact(&mut done)?;
            client.write_all(&done)?;
        }
    }
}

/// Reads what it is told to expect into a reused buffer, then answers one byte.
pub(crate) fn sink(congestion: &str) -> Result<()> {
    let listener = listen(congestion)?;
    let mut buffer = vec![0u8; CHUNK_BYTES];
    loop {
        let (mut stream, _) = listener.accept()?;
        tune(&stream, congestion)?;
        while let Some((_, bytes)) = asked(&mut stream)? {
            drain(&mut stream, bytes, &mut buffer)?;
            stream.write_all(b".")?;
        }
    }
}

/// Touches every byte, as a function that computes over its payload does at least.
pub(crate) fn read_once(payload: &[u8]) {
    let sum =
        payload.chunks_exact(8).fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(word.try_into().unwrap_or_default())));
    std::hint::black_box(sum);
}

/// Reads exactly `bytes` into a reused buffer.
pub(crate) fn drain(stream: &mut impl Read, bytes: u64, buffer: &mut [u8]) -> Result<()> {
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left)?.min(buffer.len());
        let got = stream.read(&mut buffer[..now])?;
        anyhow::ensure!(got > 0, "the stream ended with {left} of {bytes} bytes to go");
        left -= got as u64;
    }
    Ok(())
}

/// Reads exactly `bytes` into a fresh memfd, through a reused buffer.
pub(crate) fn into_fresh_memfd(stream: &mut TcpStream, bytes: u64, buffer: &mut [u8]) -> Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd()?);
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left)?.min(buffer.len());
        let got = stream.read(&mut buffer[..now])?;
        anyhow::ensure!(got > 0, "the stream ended with {left} of {bytes} bytes to go");
        file.write_all(&buffer[..got])?;
        left -= got as u64;
    }
    Ok(file.into())
}
