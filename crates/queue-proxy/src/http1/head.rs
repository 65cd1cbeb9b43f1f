//! Heads of requests and responses: bytes in, checked parts out.
//!
//! The syntax is `httparse`'s. What it leaves open is decided here so that whoever reads the message after us can't
//! see it differently: one `Host`, one `Content-Length`, `chunked` and nothing else as `Transfer-Encoding`, and a message that
//! has both goes on with `chunked` alone and ends its connection (RFC 9112, 6.3).

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{Method, StatusCode, Uri};

/// Bytes of a request's head: Go's 1 MiB and its 4 KiB of slack.
pub const REQUEST_HEAD_BYTES_MAX: usize = (1 << 20) + 4096;
/// Bytes of a response's head.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 10 << 20;
/// Header lines of a head.
pub const HEADERS_MAX: usize = 500;
/// Most heads have fewer lines; these are parsed without an allocation.
const HEADERS_USUAL: usize = 48;

/// Where a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After the head.
    None,
    /// After so many bytes.
    Length(u64),
    /// After the last chunk and the trailers.
    Chunked,
    /// With the connection (responses only).
    UntilClose,
}

impl Framing {
    /// Bytes, where the head says how many.
    pub(crate) const fn length(self) -> Option<u64> {
        match self {
            Self::Length(length) => Some(length),
            Self::None | Self::Chunked | Self::UntilClose => None,
        }
    }
}

/// A request's head.
#[derive(Debug)]
pub struct RequestHead {
    /// The method, any token.
    pub method: Method,
    /// The target as it stood there: origin form, absolute form, authority form (`CONNECT`) or `*`.
    pub target: Uri,
    /// HTTP/1.1; else HTTP/1.0.
    pub is_http11: bool,
    /// All headers, framing headers included.
    pub headers: HeaderMap,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether another request may follow on this connection.
    pub keep_alive: bool,
    /// The protocol the client offers to change to, if it does.
    pub upgrade: Option<HeaderValue>,
}

/// A response's head.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// All headers, framing headers included.
    pub headers: HeaderMap,
    /// Where the body ends; decided together with the request's method.
    pub framing: Framing,
    /// Whether another response may follow on this connection.
    pub keep_alive: bool,
}

/// Why a head can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not HTTP.
    #[error("malformed HTTP message")]
    Syntax,
    /// A method, target, header or version that is not allowed there.
    #[error("{0}")]
    Invalid(&'static str),
    /// A head that is too long, in bytes or in lines.
    #[error("header fields too large: over {REQUEST_HEAD_BYTES_MAX} bytes or {HEADERS_MAX} lines")]
    TooLarge,
    /// Another version of HTTP.
    #[error("unsupported HTTP version: HTTP/1.0, HTTP/1.1 and HTTP/2 are served")]
    Version,
    /// Anything but `chunked`.
    #[error("unsupported transfer encoding: only `chunked` is understood")]
    TransferEncoding,
}

impl HeadError {
    /// The status that tells a client.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Syntax | Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
        }
    }
}

/// Finds the end of a head in bytes that come piece by piece, looking at each byte once.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    scanned: usize,
}

impl HeadScan {
    /// Bytes of the first head in `buffer`, its empty line included; `None` until that is there.
    ///
    /// # Errors
    /// [`HeadError::TooLarge`] once more than `bytes_max` bytes are there without an end.
    pub fn end(&mut self, buffer: &[u8], bytes_max: usize) -> Result<Option<usize>, HeadError> {
        loop {
            let Some(at) = buffer[self.scanned..].iter().position(|byte| *byte == b'\n') else {
                self.scanned = buffer.len();
                break;
            };
            let line_end = self.scanned + at + 1;
            let length = match buffer[line_end..] {
                [b'\n', ..] => line_end + 1,
                [b'\r', b'\n', ..] => line_end + 2,
                [] | [b'\r'] => break, // What comes next tells; the line's end is looked at again then.
                _ => {
                    self.scanned = line_end;
                    continue;
                }
            };
            self.scanned = 0;
            return if length > bytes_max { Err(HeadError::TooLarge) } else { Ok(Some(length)) };
        }
        if buffer.len() > bytes_max { Err(HeadError::TooLarge) } else { Ok(None) }
    }
}

/// Drops empty lines before a request, as some clients send after a body. At most what is buffered.
pub fn skip_empty_lines(buffer: &mut BytesMut) {
    let empty = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    buffer.advance(empty);
}

/// Reads a request's head from exactly its bytes.
///
/// # Errors
/// What is wrong with it.
pub fn request(head: &Bytes) -> Result<RequestHead, HeadError> {
    let mut usual = [httparse::EMPTY_HEADER; HEADERS_USUAL];
    let mut parsed = httparse::Request::new(&mut usual);
    match parsed.parse(head) {
        Err(httparse::Error::TooManyHeaders) => {
            let mut many = vec![httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut parsed = httparse::Request::new(&mut many);
            complete(parsed.parse(head))?;
            request_parts(head, &parsed)
        }
        result => {
            complete(result)?;
            request_parts(head, &parsed)
        }
    }
}

fn request_parts(head: &Bytes, parsed: &httparse::Request<'_, '_>) -> Result<RequestHead, HeadError> {
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).map_err(|_| HeadError::Syntax)?;
    let target = target(&method, parsed.path.unwrap_or_default(), head)?;
    let mut headers = header_map(head, parsed.headers)?;
    let is_http11 = parsed.version == Some(1);
    check_host(&headers, is_http11)?;
    let connection = ConnectionOptions::of(&headers);
    let (framing, ambiguous) = request_framing(&mut headers, is_http11)?;
    Ok(RequestHead {
        keep_alive: !ambiguous && connection.keeps_alive(is_http11),
        upgrade: if connection.upgrade { headers.get(UPGRADE).cloned() } else { None },
        method,
        target,
        is_http11,
        headers,
        framing,
    })
}

/// Reads a response's head from exactly its bytes. `to` is the method of the request that it answers.
///
/// # Errors
/// What is wrong with it.
pub fn response(head: &Bytes, to: &Method) -> Result<ResponseHead, HeadError> {
    let mut usual = [httparse::EMPTY_HEADER; HEADERS_USUAL];
    let mut parsed = httparse::Response::new(&mut usual);
    match parsed.parse(head) {
        Err(httparse::Error::TooManyHeaders) => {
            let mut many = vec![httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut parsed = httparse::Response::new(&mut many);
            complete(parsed.parse(head))?;
            response_parts(head, &parsed, to)
        }
        result => {
            complete(result)?;
            response_parts(head, &parsed, to)
        }
    }
}

fn response_parts(head: &Bytes, parsed: &httparse::Response<'_, '_>, to: &Method) -> Result<ResponseHead, HeadError> {
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| HeadError::Syntax)?;
    let headers = header_map(head, parsed.headers)?;
    let is_http11 = parsed.version == Some(1);
    let framing = response_framing(&headers, status, to)?;
    let keep_alive = framing != Framing::UntilClose && ConnectionOptions::of(&headers).keeps_alive(is_http11);
    Ok(ResponseHead { status, headers, framing, keep_alive })
}

fn complete(parsed: httparse::Result<usize>) -> Result<(), HeadError> {
    match parsed {
        Ok(httparse::Status::Complete(_)) => Ok(()),
        Ok(httparse::Status::Partial) => Err(HeadError::Syntax),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooLarge),
        Err(httparse::Error::Version) => Err(HeadError::Version),
        Err(_) => Err(HeadError::Syntax),
    }
}

fn target(method: &Method, text: &str, head: &Bytes) -> Result<Uri, HeadError> {
    const INVALID: HeadError = HeadError::Invalid("invalid request target");
    let target =
        Uri::from_maybe_shared(head.slice_ref(text.as_bytes())).or_else(|_| escaped(text).parse()).map_err(|_| INVALID)?;
    if !is_escaped_soundly(target.path()) {
        return Err(INVALID);
    }
    let sound = match text.as_bytes() {
        [b'/', ..] => true,
        b"*" => *method == Method::OPTIONS,
        _ if *method == Method::CONNECT => target.authority().is_some() && target.scheme().is_none(),
        _ => target.scheme().is_some() && target.authority().is_some(),
    };
    if sound { Ok(target) } else { Err(INVALID) }
}

/// Clients send these as they are, and other servers take them; a target that can be passed on has them escaped.
fn escaped(target: &str) -> String {
    target.replace('<', "%3C").replace('>', "%3E").replace('"', "%22").replace('`', "%60")
}

/// Whether each `%` of a path begins an escape.
fn is_escaped_soundly(path: &str) -> bool {
    path.split('%').skip(1).all(|after| after.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)))
}

fn header_map(head: &Bytes, parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, HeadError> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for line in parsed {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| HeadError::Syntax)?;
        // An empty value may lie outside `head`, so it is not sliced out of it.
        let value = if line.value.is_empty() { Bytes::new() } else { head.slice_ref(line.value) };
        headers.append(name, HeaderValue::from_maybe_shared(value).map_err(|_| HeadError::Syntax)?);
    }
    Ok(headers)
}

fn check_host(headers: &HeaderMap, is_http11: bool) -> Result<(), HeadError> {
    let mut hosts = headers.get_all(HOST).iter();
    match hosts.next() {
        None if is_http11 => return Err(HeadError::Invalid("missing required Host header")),
        None => return Ok(()),
        Some(host) if !host.as_bytes().iter().all(|byte| is_host_byte(*byte)) => {
            return Err(HeadError::Invalid("malformed Host header"));
        }
        Some(_) => {}
    }
    if hosts.next().is_some() { Err(HeadError::Invalid("too many Host headers")) } else { Ok(()) }
}

/// What RFC 3986 allows in a host with a port, percent signs and brackets included.
const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!'..=b'.' if byte != b'"' && byte != b'#')
        || matches!(byte, b':' | b';' | b'=' | b'[' | b']' | b'_' | b'~')
}

/// The framing of a request, and whether it was given twice. Leaves at most one framing header.
fn request_framing(headers: &mut HeaderMap, is_http11: bool) -> Result<(Framing, bool), HeadError> {
    let length = content_length(headers)?;
    if !headers.contains_key(TRANSFER_ENCODING) {
        return Ok((length.map_or(Framing::None, Framing::Length), false));
    }
    if !is_http11 {
        return Err(HeadError::Invalid("Transfer-Encoding in an HTTP/1.0 request"));
    }
    if !is_chunked(headers) {
        return Err(HeadError::TransferEncoding);
    }
    headers.remove(CONTENT_LENGTH);
    Ok((Framing::Chunked, length.is_some()))
}

fn response_framing(headers: &HeaderMap, status: StatusCode, to: &Method) -> Result<Framing, HeadError> {
    let bodiless = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || *to == Method::HEAD;
    if bodiless {
        return Ok(Framing::None);
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        return if is_chunked(headers) { Ok(Framing::Chunked) } else { Err(HeadError::TransferEncoding) };
    }
    Ok(content_length(headers)?.map_or(Framing::UntilClose, Framing::Length))
}

fn is_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let first = codings.next().is_some_and(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    first && codings.next().is_none()
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, HeadError> {
    const INVALID: HeadError = HeadError::Invalid("invalid Content-Length");
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.as_bytes();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(INVALID);
        }
        let this = value.to_str().ok().and_then(|text| text.parse::<u64>().ok()).ok_or(INVALID)?;
        if length.is_some_and(|other| other != this) {
            return Err(INVALID);
        }
        length = Some(this);
    }
    Ok(length)
}

/// What stands in `Connection`.
#[derive(Clone, Copy, Debug, Default)]
struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

impl ConnectionOptions {
    fn of(headers: &HeaderMap) -> Self {
        let mut options = Self::default();
        for option in tokens(headers, &CONNECTION) {
            options.close |= option.eq_ignore_ascii_case(b"close");
            options.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            options.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        }
        options
    }

    const fn keeps_alive(self, is_http11: bool) -> bool {
        !self.close && (is_http11 || self.keep_alive)
    }
}

/// The elements of a header that is a comma-separated list, over all its lines.
pub fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let values = headers.get_all(name).into_iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RequestHead, HeadError> {
        request(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn framing_of(lines: &str) -> Result<(Framing, bool), HeadError> {
        read(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).map(|head| (head.framing, head.keep_alive))
    }

    #[test]
    fn the_end_is_found_however_the_bytes_come() {
        for text in ["GET / HTTP/1.1\r\nHost: a\r\n\r\nrest", "GET / HTTP/1.1\nHost: a\n\nrest", "GET / HTTP/1.1\r\n\nrest"] {
            let (bytes, end) = (text.as_bytes(), text.len() - "rest".len());
            for step in 1..=bytes.len() {
                let mut scan = HeadScan::default();
                let mut have = 0;
                let found = loop {
                    have = (have + step).min(bytes.len());
                    if let Some(found) = scan.end(&bytes[..have], 100).expect("short enough") {
                        break found;
                    }
                    assert!(have < bytes.len(), "no end in {text:?} by steps of {step}");
                };
                assert_eq!(found, end, "{text:?} by steps of {step}");
            }
        }
    }

    #[test]
    fn a_head_without_an_end_is_refused_at_its_limit() {
        let mut scan = HeadScan::default();
        assert_eq!(scan.end(&[b'a'; 100], 100), Ok(None));
        assert_eq!(scan.end(&[b'a'; 101], 100), Err(HeadError::TooLarge));
    }

    #[test]
    fn a_request_that_could_be_read_in_two_ways_is_refused_or_made_plain() {
        assert_eq!(framing_of(""), Ok((Framing::None, true)));
        assert_eq!(framing_of("Content-Length: 5\r\n"), Ok((Framing::Length(5), true)));
        assert_eq!(framing_of("Content-Length: 5\r\nContent-Length: 5\r\n"), Ok((Framing::Length(5), true)));
        assert_eq!(framing_of("Transfer-Encoding: Chunked\r\n"), Ok((Framing::Chunked, true)));
        // Both: chunked goes on alone, and the connection ends after it.
        assert_eq!(framing_of("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), Ok((Framing::Chunked, false)));
        for lines in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999\r\n",
        ] {
            assert_eq!(framing_of(lines), Err(HeadError::Invalid("invalid Content-Length")), "{lines}");
        }
        for lines in [
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: \x0bchunked\r\n",
        ] {
            assert!(framing_of(lines).is_err(), "{lines}");
        }
        assert!(read("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn a_host_is_there_once_and_sound() {
        for (lines, fault) in [
            ("", "missing required Host header"),
            ("Host: a\r\nHost: a\r\n", "too many Host headers"),
            ("Host: a b\r\n", "malformed Host header"),
            ("Host: a/b\r\n", "malformed Host header"),
        ] {
            let head = read(&format!("GET / HTTP/1.1\r\n{lines}\r\n"));
            assert_eq!(head.map(|_| ()), Err(HeadError::Invalid(fault)), "{lines}");
        }
        for host in ["shop.default.example.com:80", "[::1]:8080", "", "a_b-c.d"] {
            assert!(read(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).is_ok(), "{host}");
        }
        assert!(read("GET / HTTP/1.0\r\n\r\n").is_ok());
    }

    #[test]
    fn a_target_has_one_of_the_four_forms() {
        for (line, sound) in [
            ("GET /a?b=%zz HTTP/1.1", true),
            ("GET http://h/a HTTP/1.1", true),
            ("OPTIONS * HTTP/1.1", true),
            ("CONNECT h:443 HTTP/1.1", true),
            ("GET * HTTP/1.1", false),
            ("GET a HTTP/1.1", false),
            ("GET h:443 HTTP/1.1", false),
            ("CONNECT http://h/a HTTP/1.1", false),
        ] {
            assert_eq!(read(&format!("{line}\r\nHost: a\r\n\r\n")).is_ok(), sound, "{line}");
        }
    }

    #[test]
    fn syntax_that_smuggles_is_refused() {
        for text in [
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_response_is_framed_by_status_and_method_before_its_headers() {
        let framing = |text: &str, to: Method| {
            response(&Bytes::copy_from_slice(text.as_bytes()), &to).map(|head| (head.framing, head.keep_alive))
        };
        assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::GET), Ok((Framing::Length(3), true)));
        assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::HEAD), Ok((Framing::None, true)));
        assert_eq!(framing("HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\n", Method::GET), Ok((Framing::None, true)));
        assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n", Method::GET), Ok((Framing::UntilClose, false)));
        assert_eq!(framing("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", Method::GET), Ok((Framing::Length(3), false)));
        assert_eq!(framing("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", Method::GET), Ok((Framing::Chunked, true)));
        assert!(framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Method::GET).is_err());
    }
}
