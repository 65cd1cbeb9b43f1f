//! Heads on their way out.
//!
//! Names are written as `Title-Case`, as Go writes them: functions and clients behind Knative have always seen that.

use bytes::BytesMut;
use http::header::{HeaderMap, HeaderName};
use http::{Method, StatusCode};

/// Puts a request line down.
pub fn request_line(method: &Method, target: &str, out: &mut BytesMut) {
    for part in [method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Puts a status line down. An unknown status has no reason.
pub fn status_line(status: StatusCode, out: &mut BytesMut) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Puts header lines down, without the empty line after them.
pub fn headers(headers: &HeaderMap, out: &mut BytesMut) {
    for (name, value) in headers {
        header(name, value.as_bytes(), out);
    }
}

/// Puts one header line down.
pub fn header(name: &HeaderName, value: &[u8], out: &mut BytesMut) {
    title_case(name, out);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Puts `Content-Length` down.
pub fn content_length(bytes: u64, out: &mut BytesMut) {
    /// Decimal digits of the largest `u64`.
    const DIGITS_MAX: usize = 20;
    let mut digits = [0; DIGITS_MAX];
    let (mut start, mut rest) = (DIGITS_MAX, bytes);
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    header(&http::header::CONTENT_LENGTH, &digits[start..], out);
}

fn title_case(name: &HeaderName, out: &mut BytesMut) {
    let start = out.len();
    out.extend_from_slice(name.as_str().as_bytes());
    let mut first = true;
    for byte in &mut out[start..] {
        if first {
            byte.make_ascii_uppercase();
        }
        first = *byte == b'-';
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn heads_are_written_as_go_writes_them() {
        let mut out = BytesMut::new();
        status_line(StatusCode::NOT_FOUND, &mut out);
        let mut map = HeaderMap::new();
        map.append("x-forwarded-for", HeaderValue::from_static("1.2.3.4"));
        map.append("x-a", HeaderValue::from_static("1"));
        map.append("x-a", HeaderValue::from_static("2"));
        headers(&map, &mut out);
        content_length(0, &mut out);
        content_length(u64::MAX, &mut out);
        assert_eq!(
            std::str::from_utf8(&out),
            Ok(
                "HTTP/1.1 404 Not Found\r\nX-Forwarded-For: 1.2.3.4\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 0\r\nContent-Length: 18446744073709551615\r\n"
            )
        );
    }
}
