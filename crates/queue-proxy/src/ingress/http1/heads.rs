//! Heads on their way between a client and the function over HTTP/1: what is written around their headers.

use std::net::IpAddr;

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRAILER, TRANSFER_ENCODING};
use http::{Method, StatusCode, Uri};

use crate::http1::body::{Decoder, Encoder};
use crate::http1::head::{Framing, ResponseHead};
use crate::http1::{Conn, write};
use crate::ingress::exchange::{Pulled, Source};
use crate::ingress::rewrite;
use crate::payload::Payload;
use crate::upstream::FunctionConn;

/// What must be known about a request in order to answer it.
pub(super) struct Open {
    pub(super) method: Method,
    pub(super) is_http11: bool,
    pub(super) keep_alive: bool,
    /// The client's body, as far as it was read.
    pub(super) body: Decoder,
    pub(super) expects_continue: bool,
    pub(super) is_asked_for_capability: bool,
}

/// A request on its way to the function.
pub(super) struct Outgoing {
    pub(super) target: Uri,
    pub(super) headers: HeaderMap,
    pub(super) upgrade: Option<HeaderValue>,
    pub(super) payload: Option<Payload>,
}

pub(super) type Answered = Box<dyn FnOnce(StatusCode) + Send>;

impl Outgoing {
    /// Puts the head into the function's output buffer. Answers where the body comes from and how it is framed.
    pub(super) fn begin(
        mut self,
        open: &mut Open,
        peer: IpAddr,
        function: &mut FunctionConn,
    ) -> ((Source, Encoder), Option<Answered>) {
        let method = &open.method;
        let has_trailers = self.payload.is_none() && matches!(open.body, Decoder::Chunked(_));
        if !has_trailers {
            self.headers.remove(TRAILER);
        }
        rewrite::toward_function(&mut self.headers, peer, self.upgrade);
        let out = &mut function.outbound;
        write::request_line(method, self.target.path_and_query().map_or("/", |target| target.as_str()), out);
        if let Some(host) = self.headers.remove(HOST) {
            write::header(&HOST, host.as_bytes(), out);
        }
        write::headers(&self.headers, out);
        let (source, length, answered) = match self.payload {
            None => (Source::Client(std::mem::replace(&mut open.body, Decoder::Ended)), None, None),
            Some(payload) => {
                let pulled = Pulled::new(payload.body, payload.length);
                (Source::Payload(pulled), payload.length, Some(payload.answered))
            }
        };
        let expects_body = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        let encoder = match (&source, length) {
            (Source::Payload(_), Some(length)) => plain(length, out),
            (Source::Client(Decoder::Length(length)), _) => plain(*length, out),
            (Source::Client(Decoder::Ended), _) if expects_body => plain(0, out),
            (Source::Client(Decoder::Ended), _) => Encoder::Plain,
            (Source::Client(_) | Source::Payload(_), _) => chunked(out),
        };
        out.extend_from_slice(b"\r\n");
        ((source, encoder), answered)
    }
}

/// A response on its way to the client.
pub(super) struct Response<'a> {
    pub(super) head: ResponseHead,
    pub(super) open: &'a Open,
    pub(super) keep_alive: bool,
}

impl Response<'_> {
    /// Puts the head into the client's output buffer. Answers the body's reader, its framing, and whether the client's connection
    /// can be kept.
    pub(super) fn begin<C>(mut self, client: &mut Conn<C>) -> (Decoder, Encoder, bool) {
        let headers = &mut self.head.headers;
        rewrite::toward_client(headers, self.open.is_asked_for_capability);
        let out = &mut client.outbound;
        write::status_line(self.head.status, out);
        let mut encoder = Encoder::Plain;
        let mut keep_alive = self.keep_alive;
        match self.head.framing {
            Framing::None if self.head.status != StatusCode::NO_CONTENT => write::headers(headers, out),
            framing => {
                headers.remove(CONTENT_LENGTH);
                write::headers(headers, out);
                match framing {
                    Framing::None => {}
                    Framing::Length(length) => encoder = plain(length, out),
                    Framing::Chunked | Framing::UntilClose if self.open.is_http11 => encoder = chunked(out),
                    Framing::Chunked | Framing::UntilClose => keep_alive = false,
                }
            }
        }
        connection_header(self.open, keep_alive, out);
        out.extend_from_slice(b"\r\n");
        (Decoder::new(self.head.framing), encoder, keep_alive)
    }
}

fn plain(length: u64, out: &mut BytesMut) -> Encoder {
    write::content_length(length, out);
    Encoder::Plain
}

fn chunked(out: &mut BytesMut) -> Encoder {
    write::header(&TRANSFER_ENCODING, b"chunked", out);
    Encoder::CHUNKED
}

/// Says what happens to the connection, where that is not what the client assumes.
pub(super) fn connection_header(open: &Open, keep_alive: bool, out: &mut BytesMut) {
    match (open.is_http11, keep_alive) {
        (true, false) => write::header(&CONNECTION, b"close", out),
        (false, true) => write::header(&CONNECTION, b"keep-alive", out),
        (true, true) | (false, false) => {}
    }
}

/// The host of the request: that of an absolute target, the header's, or for an HTTP/1.0 client without one the function's address.
pub(super) fn set_host(headers: &mut HeaderMap, target: &Uri, function: std::net::SocketAddr) {
    let host = match target.authority() {
        Some(authority) => {
            let text = authority.as_str();
            HeaderValue::from_str(text.rsplit_once('@').map_or(text, |(_user, host)| host))
        }
        None if headers.contains_key(HOST) => return,
        None => HeaderValue::from_str(&function.to_string()),
    };
    if let Ok(host) = host {
        headers.insert(HOST, host);
    }
}
