//! `Upgrade: h2c`: a connection that begins as HTTP/1.1 and goes on as HTTP/2 (RFC 7540, 3.2).
//!
//! The request that asked becomes stream 1. hyper's HTTP/2 server knows nothing of that, so the request is written down as the
//! `HEADERS` frame that the client would have sent, and put between the client's first `SETTINGS` and whatever it
//! sends next. Only requests without a body are upgraded; the others are answered over HTTP/1.1, which the client must expect.

use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::http1::Conn;
use crate::http1::head::{Framing, RequestHead, tokens};

/// What every HTTP/2 client sends first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
const FRAME_HEAD_BYTES: usize = 9;
/// Bytes of a frame's payload, before another limit is agreed on.
const FRAME_PAYLOAD_BYTES_MAX: usize = 16 * 1024;
/// How long the client may take to send its preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(60);

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// A request that asked for HTTP/2, as frames.
#[derive(Debug)]
pub(super) struct H2cUpgrade(Bytes);

/// The upgrade that a request asks for, if it does and can have it.
pub(super) fn asked(head: &mut RequestHead) -> Option<H2cUpgrade> {
    let is_h2c = head.upgrade.as_ref().is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"h2c"));
    if !is_h2c {
        return None;
    }
    let settings = head.headers.get_all(HTTP2_SETTINGS).iter().count();
    let is_named = tokens(&head.headers, &CONNECTION).any(|name| name.eq_ignore_ascii_case(b"http2-settings"));
    if settings == 1 && is_named && matches!(head.framing, Framing::None | Framing::Length(0)) {
        return Some(H2cUpgrade(frames(head)));
    }
    head.upgrade = None; // The function is not asked for it: it would answer as if the client spoke to it alone.
    None
}

/// Answers `101`, waits for the client's preface, and answers what an HTTP/2 server shall read before the connection.
pub(super) async fn switch<C>(conn: &mut Conn<C>, upgrade: H2cUpgrade) -> io::Result<Bytes>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    conn.outbound.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
    conn.flush().await?;
    let settings_end = timeout(PREFACE_TIMEOUT, settings(conn)).await??;
    let mut received = conn.inbound.split_to(settings_end);
    received.extend_from_slice(&upgrade.0);
    received.extend_from_slice(&conn.inbound.split());
    Ok(received.freeze())
}

/// Reads the client's preface and its first frame, which must be `SETTINGS`; answers where that ends.
async fn settings<C>(conn: &mut Conn<C>) -> io::Result<usize>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let received = &conn.inbound;
        let known = received.len().min(PREFACE.len());
        if received[..known] != PREFACE[..known] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no HTTP/2 preface after the upgrade"));
        }
        if let Some(&[a, b, c, kind, ..]) = received.get(PREFACE.len()..PREFACE.len() + FRAME_HEAD_BYTES) {
            const SETTINGS: u8 = 4;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if kind != SETTINGS || length > FRAME_PAYLOAD_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the HTTP/2 preface has no SETTINGS"));
            }
            let end = PREFACE.len() + FRAME_HEAD_BYTES + length;
            if received.len() >= end {
                return Ok(end);
            }
        }
        if conn.fill().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The request as `HEADERS` and as many `CONTINUATION` as it takes, ending its stream.
fn frames(head: &RequestHead) -> Bytes {
    const HEADERS: u8 = 1;
    const CONTINUATION: u8 = 9;
    const END_STREAM: u8 = 0x1;
    const END_HEADERS: u8 = 0x4;
    const STREAM: u32 = 1;

    let block = header_block(head);
    let mut frames = BytesMut::with_capacity(block.len() + 2 * FRAME_HEAD_BYTES);
    let mut pieces = block.chunks(FRAME_PAYLOAD_BYTES_MAX).peekable();
    let (mut kind, mut flags) = (HEADERS, END_STREAM);
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= END_HEADERS;
        }
        frames.put_uint(piece.len() as u64, 3);
        frames.put_u8(kind);
        frames.put_u8(flags);
        frames.put_u32(STREAM);
        frames.extend_from_slice(piece);
        (kind, flags) = (CONTINUATION, 0);
    }
    frames.freeze()
}

/// The headers in HPACK, each as a literal that leaves the decoder's table alone.
fn header_block(head: &RequestHead) -> BytesMut {
    let mut block = BytesMut::new();
    let host = head.headers.get(HOST).map(|host| host.as_bytes()).unwrap_or_default();
    let path = head.target.path_and_query().map_or("/", |path| path.as_str());
    for (name, value) in
        [(":method", head.method.as_str().as_bytes()), (":scheme", b"http"), (":authority", host), (":path", path.as_bytes())]
    {
        literal(name.as_bytes(), value, &mut block);
    }
    let ends_here: Vec<&[u8]> = tokens(&head.headers, &CONNECTION).collect();
    for (name, value) in &head.headers {
        let is_named = ends_here.iter().any(|other| other.eq_ignore_ascii_case(name.as_str().as_bytes()));
        let is_dropped = [HOST, CONNECTION, UPGRADE, TRANSFER_ENCODING, TE, HTTP2_SETTINGS].contains(name)
            || matches!(name.as_str(), "keep-alive" | "proxy-connection");
        if !is_named && !is_dropped {
            literal(name.as_str().as_bytes(), value.as_bytes(), &mut block);
        }
    }
    block
}

fn literal(name: &[u8], value: &[u8], block: &mut BytesMut) {
    const WITHOUT_INDEXING_NEW_NAME: u8 = 0;
    block.put_u8(WITHOUT_INDEXING_NEW_NAME);
    for text in [name, value] {
        length(text.len(), block);
        block.extend_from_slice(text);
    }
}

/// A string's length with a prefix of 7 bits and without Huffman coding (RFC 7541, 5.1).
fn length(mut length: usize, block: &mut BytesMut) {
    const PREFIX_MAX: usize = 127;
    if length < PREFIX_MAX {
        return block.put_u8(length as u8);
    }
    block.put_u8(PREFIX_MAX as u8);
    length -= PREFIX_MAX;
    while length >= 128 {
        block.put_u8((length % 128) as u8 | 128);
        length /= 128;
    }
    block.put_u8(length as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_written_as_the_rfc_shows() {
        for (number, expected) in [(10, &[10][..]), (126, &[126]), (127, &[127, 0]), (1337, &[127, 186, 9])] {
            let mut block = BytesMut::new();
            length(number, &mut block);
            assert_eq!(&block[..], expected, "{number}");
        }
    }

    #[test]
    fn a_head_longer_than_a_frame_goes_on_in_further_ones() {
        let text = format!("GET /x HTTP/1.1\r\nHost: a\r\nX-Big: {}\r\n\r\n", "b".repeat(40_000));
        let head = crate::http1::head::request(&Bytes::from(text)).expect("a head");
        let frames = frames(&head);
        assert_eq!(frames[3..5], [1, 1], "HEADERS, END_STREAM");
        let second = FRAME_HEAD_BYTES + FRAME_PAYLOAD_BYTES_MAX;
        assert_eq!(frames[second + 3..second + 5], [9, 0], "CONTINUATION");
        let third = 2 * second;
        assert_eq!(frames[third + 3..third + 5], [9, 4], "CONTINUATION, END_HEADERS");
    }
}
