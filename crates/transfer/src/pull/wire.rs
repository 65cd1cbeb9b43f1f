//! Heads of the pull port: a closed subset of HTTP/1.1, written as text and read with `httparse`.
//!
//! What a head means is decided in `zipline_core::pull`. Here it has a bounded length and a bounded number of headers,
//! and nothing else of HTTP: no bodies of requests, no chunks, no redirects, one answer after the other.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncReadExt;
use zipline_contract::headers;
use zipline_contract::limits::{PULL_HEAD_BYTES_MAX, PULL_HEADERS_MAX};
use zipline_core::pull::{AnswerError, AnswerHead, Mac, PullRequest, RequestError, SignedRequest};
use zipline_core::reference::KeyId;
use zipline_core::trace::TraceContext;

use super::stream::PullStream;

/// Reads bytes into `inbox` until it begins with a whole head; its length, or `None` when the peer closed before one
/// began. Cancel-safe: what has come stays in `inbox`.
pub(crate) async fn read_head(stream: &mut PullStream, inbox: &mut BytesMut) -> io::Result<Option<usize>> {
    let mut searched = 0;
    loop {
        if let Some(end) = head_end(inbox, searched) {
            return Ok(Some(end));
        }
        searched = inbox.len();
        if read_some(stream, inbox).await? == 0 {
            return if inbox.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
}

/// Reads what has come into `inbox`, up to the longest head; 0 when the peer has closed. Cancel-safe.
pub(crate) async fn read_some(stream: &mut PullStream, inbox: &mut BytesMut) -> io::Result<usize> {
    let left = PULL_HEAD_BYTES_MAX.saturating_sub(inbox.len());
    if left == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the head is longer than any of the protocol"));
    }
    inbox.reserve(left);
    stream.read_buf(&mut (&mut *inbox).limit(left)).await
}

/// Where the empty line ends; bytes before `searched` hold no whole one.
fn head_end(bytes: &[u8], searched: usize) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    let from = searched.saturating_sub(END.len() - 1);
    bytes.get(from..)?.windows(END.len()).position(|window| window == END).map(|at| from + at + END.len())
}

/// The text of a request. The trace stands outside the MAC: nothing is decided upon it.
pub(crate) fn request_text(request: &PullRequest, key: KeyId, mac: &Mac, trace: Option<TraceContext>) -> String {
    let mut text = String::with_capacity(768);
    line(&mut text, format_args!("{} {} HTTP/1.1", request.method.verb(), request.path()));
    line(&mut text, format_args!("host: {}", request.dialled));
    fields(&mut text, &request.headers(key, mac));
    if let Some(trace) = trace {
        line(&mut text, format_args!("{}: {trace}", headers::TRACEPARENT));
    }
    text.push_str("\r\n");
    text
}

/// The text of an answer, with records to follow or without a body.
pub(crate) fn answer_text(head: &AnswerHead, mac: Option<&Mac>, records: bool) -> String {
    let mut text = String::with_capacity(512);
    line(&mut text, format_args!("HTTP/1.1 {} {}", head.status, reason(head.status)));
    fields(&mut text, &head.headers(mac));
    if records {
        line(&mut text, format_args!("{}: records", headers::BODY));
    } else {
        line(&mut text, format_args!("content-length: 0"));
    }
    text.push_str("\r\n");
    text
}

fn fields(text: &mut String, fields: &[(&'static str, String)]) {
    for (name, value) in fields {
        line(text, format_args!("{name}: {value}"));
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    text.write_fmt(line).unwrap_or_default();
    text.push_str("\r\n");
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        400..500 => "Refused",
        _ => "Failed",
    }
}

/// Reads a request from a whole head, and where who asks stands in a trace, if that was said.
pub(crate) fn read_request(head: &[u8], dialled: SocketAddr) -> Result<(SignedRequest, Option<TraceContext>), RequestError> {
    let mut parsed = [httparse::EMPTY_HEADER; PULL_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut parsed);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        _ => return Err(RequestError::Target),
    }
    let (Some(method), Some(path)) = (request.method, request.path) else { return Err(RequestError::Target) };
    if announces_body(request.headers) {
        return Err(RequestError::Header("content-length"));
    }
    let trace = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(headers::TRACEPARENT));
    let trace = trace.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    let fields = request.headers.iter().map(|header| (header.name, header.value));
    Ok((SignedRequest::read(method, path, fields, dialled)?, trace))
}

/// A request's body would be taken for the next request.
fn announces_body(fields: &[httparse::Header<'_>]) -> bool {
    fields.iter().any(|field| {
        field.name.eq_ignore_ascii_case("transfer-encoding")
            || (field.name.eq_ignore_ascii_case("content-length") && field.value != b"0")
    })
}

/// Reads an answer from a whole head.
pub(crate) fn read_answer(head: &[u8]) -> Result<(AnswerHead, Option<Mac>), AnswerError> {
    let mut parsed = [httparse::EMPTY_HEADER; PULL_HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut parsed);
    match answer.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        _ => return Err(AnswerError::Missing(headers::PULL)),
    }
    let Some(status) = answer.code else { return Err(AnswerError::Missing(headers::PULL)) };
    AnswerHead::read(status, answer.headers.iter().map(|header| (header.name, header.value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zipline_contract::ErrorCode;
    use zipline_core::object::Epoch;

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_was_cut() {
        let head = b"GET / HTTP/1.1\r\na: b\r\n\r\nrest";
        for searched in 0..24 {
            assert_eq!(head_end(head, searched), Some(24), "{searched}");
        }
        assert_eq!(head_end(&head[..23], 0), None);
    }

    #[test]
    fn an_answer_is_read_back_from_its_text() {
        let mut head = AnswerHead::error(ErrorCode::ReferenceExhausted, "1 of 1 was used", Epoch::from_bytes([7; 8]));
        head.retrievals_left = Some(3);
        let mac = Mac::from_bytes([9; 32]);
        let text = answer_text(&head, Some(&mac), false);
        let (read, read_mac) = read_answer(text.as_bytes()).expect("an answer");
        assert_eq!(read, head);
        assert!(read_mac.is_some_and(|read| read.matches(&mac)));
        assert!(text.starts_with("HTTP/1.1 410 Refused\r\n") && text.ends_with("content-length: 0\r\n\r\n"), "{text}");
    }

    #[test]
    fn what_is_no_answer_of_ours_is_said_to_be_none() {
        for text in
            ["HTTP/1.1 200 OK\r\n\r\n", "SSH-2.0-OpenSSH\r\n\r\n", "\r\n\r\n", "HTTP/1.1 200 OK\r\nzipline-pull: 1\r\n\r\n"]
        {
            let error = read_answer(text.as_bytes()).expect_err("none");
            assert_eq!(error.code(), ErrorCode::PullUnauthenticated, "{text:?}");
        }
    }

    #[test]
    fn a_request_with_a_body_or_too_many_headers_is_refused() {
        let dialled = "127.0.0.1:1".parse().expect("an address");
        let request = |more: &str| read_request(format!("GET /v1/objects/x HTTP/1.1\r\n{more}\r\n").as_bytes(), dialled);
        let many: String = (0..40).map(|i| format!("h{i}: x\r\n")).collect();
        for more in ["content-length: 5\r\n", "transfer-encoding: chunked\r\n", &many, "bad header\r\n"] {
            assert!(request(more).is_err(), "{more}");
        }
    }
}
