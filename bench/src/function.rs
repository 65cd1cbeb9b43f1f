//! The functions that stand behind a proxy while it is measured: plain HTTP/1.1, one thread a connection, nothing of Zipline.
//!
//! A body of known length is read into a reused buffer and answered `200` with an empty body. Small enough that what is
//! measured in front of it is not the function.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result};

use crate::raw::{self, CHUNK_BYTES};

/// Bytes of a request head that the function takes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Serves on `port` (0: any), printing the address.
pub(crate) fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("port {port} of 127.0.0.1"))?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        // A connection of a bench ends with its client; the thread's error is that client's cut.
        std::thread::Builder::new().stack_size(256 * 1024).spawn(move || connection(stream))?;
    }
    Ok(())
}

fn connection(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut buffer = Vec::new();
    let mut line = Vec::new();
    loop {
        let mut length = 0u64;
        let mut head_bytes = 0;
        loop {
            line.clear();
            let got = reader.read_until(b'\n', &mut line)?;
            if got == 0 {
                return Ok(());
            }
            head_bytes += got;
            anyhow::ensure!(head_bytes <= HEAD_BYTES_MAX, "the request's head is longer than {HEAD_BYTES_MAX} bytes");
            let text = line.trim_ascii();
            if text.is_empty() {
                break;
            }
            if let Some((name, value)) = text.split_at_checked(15)
                && name.eq_ignore_ascii_case(b"content-length:")
            {
                length = std::str::from_utf8(value.trim_ascii())?.parse()?;
            }
        }
        if length > 0 && buffer.is_empty() {
            buffer.resize(CHUNK_BYTES, 0);
        }
        raw::drain(&mut reader, length, &mut buffer)?;
        writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}
