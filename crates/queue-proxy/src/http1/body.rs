//! Bodies: finding payload bytes in a framed stream, and framing payload bytes anew.
//!
//! [`Decoder`] is pure: it is shown what has been received and says what the first bytes of it are. [`Encoder`] puts the
//! few framing bytes into an output buffer and leaves the payload where it is, so that a proxied byte is copied by the
//! kernel only.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::head::{Framing, HEADERS_MAX};

/// Bytes of a chunk's size line, extensions included.
const CHUNK_LINE_BYTES_MAX: usize = 4096;
/// Bytes of the trailers.
const TRAILER_BYTES_MAX: usize = 64 * 1024;
/// Trailer lines that are parsed without an allocation.
const TRAILERS_USUAL: usize = 16;

/// What the first bytes of the input are.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes of payload (at least one). Tell [`Decoder::took`] how many were used.
    Payload(usize),
    /// So many bytes of framing, to be dropped.
    Framing(usize),
    /// Nothing that can be told yet.
    More,
    /// The body ends after so many bytes of framing.
    End(usize, Option<HeaderMap>),
}

/// Why a body can't be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The connection ended in the middle.
    #[error("the body ended before it was complete")]
    Truncated,
    /// A chunk's size is not one, or a chunk does not end where it should.
    #[error("malformed chunked encoding")]
    Chunk,
    /// The trailers are malformed or too long.
    #[error("malformed trailers, or more than {TRAILER_BYTES_MAX} bytes of them")]
    Trailers,
}

/// Reads one body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoder {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunked, in this state.
    Chunked(Chunk),
    /// Everything until the connection ends.
    UntilClose,
    /// The body is over.
    Ended,
}

/// Where in a chunked body the input stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Before a size line.
    Size,
    /// Inside a chunk with so many bytes left.
    Payload(u64),
    /// Before the line end after a chunk's payload.
    End,
    /// In the trailers.
    Trailers,
}

impl Decoder {
    /// Reads a body of this framing.
    pub const fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Ended,
            Framing::Length(bytes) => Self::Length(bytes),
            Framing::Chunked => Self::Chunked(Chunk::Size),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Whether all of the body was taken.
    pub const fn is_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// Payload bytes that are still to come, where that is known.
    pub const fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Ended => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Says what the first bytes of `input` are. Nothing is consumed but the state of the framing that is told about;
    /// the caller drops the bytes.
    ///
    /// # Errors
    /// The body is malformed. It can't be read on.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, BodyError> {
        match self {
            Self::Ended => Ok(Step::End(0, None)),
            _ if input.is_empty() => Ok(Step::More),
            Self::UntilClose => Ok(Step::Payload(input.len())),
            Self::Length(left) => Ok(Step::Payload(clamped(*left, input.len()))),
            Self::Chunked(Chunk::Payload(left)) => Ok(Step::Payload(clamped(*left, input.len()))),
            Self::Chunked(Chunk::Size) => self.size_line(input),
            Self::Chunked(Chunk::End) => match input {
                [b'\n', ..] => self.framing(1, Chunk::Size),
                [b'\r', b'\n', ..] => self.framing(2, Chunk::Size),
                [b'\r'] => Ok(Step::More),
                _ => Err(BodyError::Chunk),
            },
            Self::Chunked(Chunk::Trailers) => self.trailers(input),
        }
    }

    /// So many of the payload bytes that [`Step::Payload`] offered were used.
    pub const fn took(&mut self, bytes: usize) {
        match self {
            Self::Length(left) => {
                *left = left.saturating_sub(bytes as u64);
                if *left == 0 {
                    *self = Self::Ended;
                }
            }
            Self::Chunked(chunk) => {
                if let Chunk::Payload(left) = chunk {
                    *left = left.saturating_sub(bytes as u64);
                    if *left == 0 {
                        *chunk = Chunk::End;
                    }
                }
            }
            Self::UntilClose | Self::Ended => {}
        }
    }

    /// The connection ended, with nothing left in the input.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] unless that ends the body.
    pub fn closed(&mut self) -> Result<(), BodyError> {
        match self {
            Self::UntilClose | Self::Ended => {
                *self = Self::Ended;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => Err(BodyError::Truncated),
        }
    }

    fn framing(&mut self, bytes: usize, next: Chunk) -> Result<Step, BodyError> {
        *self = Self::Chunked(next);
        Ok(Step::Framing(bytes))
    }

    fn size_line(&mut self, input: &[u8]) -> Result<Step, BodyError> {
        let Some(end) = input.iter().take(CHUNK_LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
            return if input.len() < CHUNK_LINE_BYTES_MAX { Ok(Step::More) } else { Err(BodyError::Chunk) };
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        let size = chunk_size(line).ok_or(BodyError::Chunk)?;
        self.framing(end + 1, if size == 0 { Chunk::Trailers } else { Chunk::Payload(size) })
    }

    fn trailers(&mut self, input: &[u8]) -> Result<Step, BodyError> {
        let end = match input {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => {
                let Some((end, trailers)) = parse_trailers(input)? else {
                    return if input.len() < TRAILER_BYTES_MAX { Ok(Step::More) } else { Err(BodyError::Trailers) };
                };
                *self = Self::Ended;
                return Ok(Step::End(end, Some(trailers)));
            }
        };
        *self = Self::Ended;
        Ok(Step::End(end, None))
    }
}

/// The smaller of a count of bytes left and of bytes there.
fn clamped(left: u64, there: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(there)
}

/// Reads `1a2b` or `1a2b ;extension`. Extensions are dropped: they end at each hop.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    if digits.is_empty() || digits.len() > 16 || !matches!(rest.trim_ascii_start(), [] | [b';', ..]) || rest.contains(&b'\r') {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn parse_trailers(input: &[u8]) -> Result<Option<(usize, HeaderMap)>, BodyError> {
    let mut usual = [httparse::EMPTY_HEADER; TRAILERS_USUAL];
    match httparse::parse_headers(input, &mut usual) {
        Err(httparse::Error::TooManyHeaders) => {
            let mut many = vec![httparse::EMPTY_HEADER; HEADERS_MAX];
            trailer_map(httparse::parse_headers(input, &mut many))
        }
        result => trailer_map(result),
    }
}

fn trailer_map(parsed: httparse::Result<(usize, &[httparse::Header<'_>])>) -> Result<Option<(usize, HeaderMap)>, BodyError> {
    match parsed {
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(BodyError::Trailers),
        Ok(httparse::Status::Complete((end, lines))) => {
            let mut trailers = HeaderMap::with_capacity(lines.len());
            for line in lines {
                let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| BodyError::Trailers)?;
                let value = HeaderValue::from_bytes(line.value).map_err(|_| BodyError::Trailers)?;
                trailers.append(name, value);
            }
            Ok(Some((end, trailers)))
        }
    }
}

/// Frames one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoder {
    /// The head said how many bytes come, or the connection's end will say it: payload as it is.
    Plain,
    /// In chunks; so many bytes of the announced one are still owed.
    Chunked(usize),
}

impl Encoder {
    /// Frames payload in chunks.
    pub const CHUNKED: Self = Self::Chunked(0);

    /// How many of `available` payload bytes may go out next. Puts what must go before them into `output`.
    pub fn admit(&mut self, available: usize, output: &mut BytesMut) -> usize {
        match self {
            Self::Plain => available,
            Self::Chunked(owed) => {
                if *owed == 0 && available > 0 {
                    *owed = available;
                    push_hex(available, output);
                    output.extend_from_slice(b"\r\n");
                }
                (*owed).min(available)
            }
        }
    }

    /// So many payload bytes went out. Puts what must follow them into `output`.
    pub fn sent(&mut self, bytes: usize, output: &mut BytesMut) {
        if let Self::Chunked(owed) = self
            && bytes > 0
        {
            *owed = owed.saturating_sub(bytes);
            if *owed == 0 {
                output.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Puts the end of the body into `output`. Trailers go out only in chunks.
    pub fn end(self, trailers: Option<&HeaderMap>, output: &mut BytesMut) {
        if let Self::Chunked(_) = self {
            output.extend_from_slice(b"0\r\n");
            if let Some(trailers) = trailers {
                super::write::headers(trailers, output);
            }
            output.extend_from_slice(b"\r\n");
        }
    }
}

fn push_hex(number: usize, output: &mut BytesMut) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let places = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..places).rev() {
        output.extend_from_slice(&[DIGITS[(number >> (4 * place)) & 0xf]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a whole body that comes by pieces of `step` bytes.
    fn read(framing: Framing, wire: &[u8], step: usize) -> Result<(Vec<u8>, Option<HeaderMap>, usize), BodyError> {
        let mut decoder = Decoder::new(framing);
        let (mut payload, mut start, mut have) = (Vec::new(), 0, 0);
        loop {
            match decoder.step(&wire[start..have])? {
                Step::Payload(n) => {
                    payload.extend_from_slice(&wire[start..start + n]);
                    decoder.took(n);
                    start += n;
                }
                Step::Framing(n) => start += n,
                Step::End(n, trailers) => return Ok((payload, trailers, start + n)),
                Step::More if have == wire.len() => {
                    decoder.closed()?;
                }
                Step::More => have = (have + step).min(wire.len()),
            }
        }
    }

    #[test]
    fn a_length_ends_a_body_and_leaves_what_follows() {
        assert_eq!(read(Framing::Length(5), b"helloGET /", 3), Ok((b"hello".to_vec(), None, 5)));
        assert_eq!(read(Framing::Length(5), b"hell", 3), Err(BodyError::Truncated));
        assert_eq!(read(Framing::Length(0), b"GET /", 1), Ok((vec![], None, 0)));
        assert_eq!(read(Framing::UntilClose, b"hello", 2), Ok((b"hello".to_vec(), None, 5)));
    }

    #[test]
    fn chunks_with_extensions_and_trailers_are_read() {
        let wire = b"2;a=b\r\nab\r\n3 \r\ncde\r\n0\r\nX-End: 1\r\n\r\nnext";
        for step in 1..wire.len() {
            let (payload, trailers, used) = read(Framing::Chunked, wire, step).expect("a sound body");
            assert_eq!((payload.as_slice(), used), (&b"abcde"[..], wire.len() - 4));
            assert_eq!(trailers.expect("trailers").get("x-end").expect("one"), "1");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for wire in [
            &b"x\r\n"[..],
            b"\r\n",
            b"-1\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"11111111111111111\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"5\r\nhello\rX0\r\n\r\n",
            b"5 5\r\nhello\r\n",
            b"5\r\r\nhello\r\n",
        ] {
            assert_eq!(read(Framing::Chunked, wire, 64), Err(BodyError::Chunk), "{:?}", String::from_utf8_lossy(wire));
        }
        assert_eq!(read(Framing::Chunked, &[b'1'; 5000], 5000), Err(BodyError::Chunk));
        assert_eq!(read(Framing::Chunked, b"0\r\nno colon\r\n\r\n", 64), Err(BodyError::Trailers));
        assert_eq!(read(Framing::Chunked, b"5\r\nhel", 64), Err(BodyError::Truncated));
    }

    proptest! {
        #[test]
        fn what_was_framed_is_read_back(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8), step in 1usize..64, partial in 1usize..50) {
            let mut wire = BytesMut::new();
            let mut encoder = Encoder::CHUNKED;
            for piece in &pieces {
                let mut sent = 0;
                while sent < piece.len() {
                    // The connection takes what was put before the payload, and then some of the payload.
                    let n = encoder.admit(piece.len() - sent, &mut wire).min(partial);
                    wire.extend_from_slice(&piece[sent..sent + n]);
                    encoder.sent(n, &mut wire);
                    sent += n;
                }
            }
            encoder.end(None, &mut wire);
            let (payload, trailers, used) = read(Framing::Chunked, &wire, step).expect("a sound body");
            prop_assert_eq!(payload, pieces.concat());
            prop_assert!(trailers.is_none());
            prop_assert_eq!(used, wire.len());
        }

        #[test]
        fn any_bytes_are_read_or_refused_but_never_loop(wire in prop::collection::vec(any::<u8>(), 0..200), step in 1usize..50) {
            let _outcome = read(Framing::Chunked, &wire, step);
        }
    }
}
