//! One HTTP/1 request and its response, between a client and the function.
//!
//! Both connections are driven by one future: it moves the request's body up and the response down at the same time, so that a
//! response may begin before the request has ended. Payload goes from one connection's input buffer straight into
//! the other's socket, and nothing is read ahead of what the other side takes: that is the back-pressure. What was put
//! before payload (a head, a chunk's size) leaves in the same system call.
//!
//! First [`Exchange::head`] waits for the response's head; until then nothing but `1xx` was said to the client, and it can
//! still be given another answer. Then [`Exchange::relay`] moves the rest.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::rewrite;
use super::timer::{Deadlines, Timer};
use crate::http1::body::{BodyError, Decoder, Encoder, Step};
use crate::http1::head::{self, HeadError, HeadScan, RESPONSE_HEAD_BYTES_MAX, ResponseHead};
use crate::http1::{Conn, write};
use crate::payload::{PayloadBody, Refusal};
use crate::upstream::FunctionConn;

/// How long a client that expects `100 Continue` waits for the function to say it; then the proxy does.
const CONTINUE_AFTER: Duration = Duration::from_secs(1);
/// Bytes of further requests that are taken in while one is answered; that is how a client's end is noticed.
const READ_AHEAD_BYTES_MAX: usize = 64 * 1024;

/// Why there is no complete response.
#[derive(Debug)]
pub(super) enum Fault {
    /// The client went away.
    ClientGone,
    /// The client's body is malformed or ended early.
    Client(BodyError),
    /// The payload in the place of the body failed.
    Payload(Refusal),
    /// The payload had another length than was announced.
    PayloadLength,
    /// The function failed.
    Function(FunctionFault),
    /// It took too long.
    TimedOut,
}

/// What the function did in the place of a sound response.
#[derive(Debug, thiserror::Error)]
pub(super) enum FunctionFault {
    /// It closed the connection before its response was complete.
    #[error("the function closed the connection before its response was complete (EOF)")]
    Closed,
    /// The connection broke.
    #[error("the connection to the function broke: {0}")]
    Broken(io::Error),
    /// Its head is not HTTP.
    #[error("the function's response can't be read: {0}")]
    Head(HeadError),
    /// Its head is too long.
    #[error("server response headers exceeded {RESPONSE_HEAD_BYTES_MAX} bytes; aborted")]
    HeadTooLarge,
    /// Its body is malformed.
    #[error("the function's response can't be read: {0}")]
    Body(BodyError),
    /// It changed to a protocol that nobody asked for.
    #[error("the function switched to a protocol that was not asked for")]
    Upgrade,
}

/// Where the request's body comes from.
pub(super) enum Source {
    /// The client's connection.
    Client(Decoder),
    /// A payload that takes the place of an empty body.
    Payload(Pulled),
}

/// A payload on its way to the function: one block is written while the next one comes, so that neither side waits for the other.
pub(super) struct Pulled {
    body: PayloadBody,
    current: Bytes,
    /// What came while `current` was being written; the body is not asked for more before it is taken.
    ahead: Option<Ahead>,
    /// Bytes that must still come.
    owed: Option<u64>,
}

/// What a payload's body gave.
enum Ahead {
    Block(Bytes),
    Failed(Refusal),
    Ended,
}

impl Pulled {
    /// A payload of `length` bytes, if that is known.
    pub(super) fn new(body: PayloadBody, length: Option<u64>) -> Self {
        Self { body, current: Bytes::new(), ahead: None, owed: length }
    }

    /// Asks for what comes behind `current`, unless it is there already.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.ahead.is_none() {
            self.ahead = match ready!(std::pin::Pin::new(&mut self.body).poll_frame(cx)) {
                None => Some(Ahead::Ended),
                Some(Err(refusal)) => Some(Ahead::Failed(refusal)),
                Some(Ok(frame)) => frame.into_data().ok().map(Ahead::Block), // Trailers are none of a payload's.
            };
        }
        Poll::Ready(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    /// The client waits for `100 Continue`, until the proxy says it.
    Held { until: Instant },
    /// Payload moves.
    Moving,
    /// All is written; some of it may not have been sent.
    Ending,
    /// All was sent.
    Done,
    /// The function takes no more; what comes is left where it is.
    Stopped,
}

/// A request and its response, under way.
pub(super) struct Exchange<'a, C> {
    client: &'a mut Conn<C>,
    function: &'a mut FunctionConn,
    timer: &'a mut Timer,
    deadlines: &'a mut Deadlines,
    source: Source,
    encoder: Encoder,
    upload: Upload,
    /// Whether the client understands `1xx`.
    is_http11: bool,
    /// Bytes of the response's body that were sent.
    uploaded: u64,
    downloaded: u64,
}

impl<'a, C: AsyncRead + AsyncWrite + Unpin> Exchange<'a, C> {
    /// A request whose head is in the function's output buffer. `encoder` frames its body.
    pub(super) fn new(
        client: &'a mut Conn<C>,
        function: &'a mut FunctionConn,
        (timer, deadlines): (&'a mut Timer, &'a mut Deadlines),
        (source, encoder): (Source, Encoder),
        is_http11: bool,
    ) -> Self {
        Self {
            client,
            function,
            timer,
            deadlines,
            source,
            encoder,
            upload: Upload::Moving,
            is_http11,
            uploaded: 0,
            downloaded: 0,
        }
    }

    /// The client sends its body only once it is told to.
    pub(super) fn hold_for_continue(&mut self) {
        self.upload = Upload::Held { until: Instant::now() + CONTINUE_AFTER };
    }

    /// Whether the client still waits to be told to send its body.
    pub(super) const fn is_held(&self) -> bool {
        matches!(self.upload, Upload::Held { .. })
    }

    /// Whether all of the request reached the function.
    pub(super) const fn is_uploaded(&self) -> bool {
        matches!(self.upload, Upload::Done)
    }

    /// Bytes of the client's body that went to the function.
    pub(super) const fn uploaded(&self) -> u64 {
        self.uploaded
    }

    /// Bytes of the response's body that were sent.
    pub(super) const fn downloaded(&self) -> u64 {
        self.downloaded
    }

    /// Bytes of the client's body that have not been read; `None`: not known.
    pub(super) const fn client_owes(&self) -> Option<u64> {
        match &self.source {
            Source::Client(decoder) => decoder.left(),
            Source::Payload(_) => Some(0),
        }
    }

    /// The client's body, as far as it was read; ended where a payload took its place.
    pub(super) fn into_client_body(self) -> Decoder {
        match self.source {
            Source::Client(decoder) => decoder,
            Source::Payload(_) => Decoder::Ended,
        }
    }

    /// The client's side, to put the response's head there.
    pub(super) const fn client(&mut self) -> &mut Conn<C> {
        self.client
    }

    /// Moves the request and waits for the response's head.
    ///
    /// # Errors
    /// [`Fault`]; the client has not been answered.
    pub(super) async fn head(&mut self, to: &Method) -> Result<ResponseHead, Fault> {
        let mut scan = HeadScan::default();
        let head = std::future::poll_fn(|cx| self.poll_head(&mut scan, to, cx)).await?;
        zipline_fault_point::fault_point!("answer.head");
        self.deadlines.started();
        Ok(head)
    }

    /// Sends what is in the client's output buffer and moves the rest of both bodies, until the response is complete.
    ///
    /// # Errors
    /// [`Fault`]; part of the response may have been sent.
    pub(super) async fn relay(&mut self, mut body: Decoder, mut encoder: Encoder) -> Result<(), Fault> {
        if self.is_held() {
            self.upload = Upload::Stopped; // The response is the answer to whether the body shall come.
        }
        let mut is_ending = false;
        std::future::poll_fn(|cx| {
            if self.poll_download(&mut body, &mut encoder, &mut is_ending, cx)?.is_ready() {
                return Poll::Ready(Ok(()));
            }
            self.poll_rest(false, cx)
        })
        .await
    }

    fn poll_head(&mut self, scan: &mut HeadScan, to: &Method, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Fault>> {
        if let Poll::Ready(Err(fault)) = self.poll_upload(cx) {
            return Poll::Ready(Err(fault));
        }
        loop {
            let end = scan.end(&self.function.inbound, RESPONSE_HEAD_BYTES_MAX);
            match end.map_err(|_| Fault::Function(FunctionFault::HeadTooLarge))? {
                Some(end) => {
                    let bytes = self.function.inbound.split_to(end).freeze();
                    let head = head::response(&bytes, to).map_err(|fault| Fault::Function(FunctionFault::Head(fault)))?;
                    if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                        return Poll::Ready(Ok(head));
                    }
                    self.inform(&head);
                }
                None => match self.function.poll_fill(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(Fault::Function(FunctionFault::Closed))),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Function(FunctionFault::Broken(error)))),
                },
            }
        }
        match self.poll_rest(true, cx) {
            Poll::Ready(Err(fault)) => Poll::Ready(Err(fault)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Passes an interim response on.
    fn inform(&mut self, head: &ResponseHead) {
        if head.status == StatusCode::CONTINUE && self.is_held() {
            self.upload = Upload::Moving;
        }
        if self.is_http11 {
            write::status_line(head.status, &mut self.client.outbound);
            write::headers(&head.headers, &mut self.client.outbound);
            self.client.outbound.extend_from_slice(b"\r\n");
        }
    }

    /// Whatever is not the response: the rest of the upload, the client's presence, the time. Never ready but with a fault.
    fn poll_rest(&mut self, is_before_head: bool, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            // An interim response, or the time, may have set the upload free.
            if let Poll::Ready(Err(fault)) = self.poll_upload(cx) {
                return Poll::Ready(Err(fault));
            }
            if is_before_head && let Poll::Ready(Err(_)) = self.client.poll_flush(cx) {
                return Poll::Ready(Err(Fault::ClientGone));
            }
            if matches!(self.upload, Upload::Done | Upload::Ending | Upload::Stopped)
                && let Poll::Ready(fault) = poll_presence(self.client, cx)
            {
                return Poll::Ready(Err(fault));
            }
            let held_until = match self.upload {
                Upload::Held { until } => Some(until),
                _ => None,
            };
            ready!(self.timer.poll([held_until, self.deadlines.next()].into_iter().flatten().min(), cx));
            if held_until.is_none_or(|until| Instant::now() < until) {
                return Poll::Ready(Err(Fault::TimedOut));
            }
        }
    }

    /// Moves the request's body. Ready with `Ok` when there is nothing more to move.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            match self.upload {
                Upload::Done | Upload::Stopped => return Poll::Ready(Ok(())),
                Upload::Ending => match ready!(self.function.poll_flush(cx)) {
                    Ok(()) => {
                        zipline_fault_point::fault_point!("deliver.done");
                        self.upload = Upload::Done;
                    }
                    Err(_) => self.upload = Upload::Stopped,
                },
                Upload::Held { until } => {
                    ready!(self.poll_held(until, cx))?;
                    self.upload = Upload::Moving;
                }
                Upload::Moving => match ready!(self.poll_move(cx)) {
                    Ok(next) => self.upload = next,
                    Err(fault) => return Poll::Ready(Err(fault)),
                },
            }
        }
    }

    /// Ready when the body shall move: the client did not wait, or waited long enough.
    fn poll_held(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if let Poll::Ready(Err(_)) = self.function.poll_flush(cx) {
            self.upload = Upload::Stopped;
            return Poll::Pending; // The response, or its absence, wakes this.
        }
        if !self.client.inbound.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match self.client.poll_fill(cx) {
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Fault::ClientGone)),
            Poll::Ready(Ok(_)) => return Poll::Ready(Ok(())),
            Poll::Pending => {}
        }
        if Instant::now() < until {
            return Poll::Pending; // `poll_rest` keeps the timer.
        }
        self.client.outbound.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        Poll::Ready(Ok(()))
    }

    /// Moves payload until it ends, answering what comes next.
    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<Upload, Fault>> {
        match &mut self.source {
            Source::Client(decoder) => {
                poll_move_client(self.client, self.function, (decoder, &mut self.encoder), &mut self.uploaded, cx)
            }
            Source::Payload(pulled) => poll_move_payload(self.function, pulled, &mut self.encoder, cx),
        }
    }

    /// Moves the response's body. Ready when all of it was sent.
    fn poll_download(
        &mut self,
        body: &mut Decoder,
        encoder: &mut Encoder,
        is_ending: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        const fn function(fault: FunctionFault) -> Fault {
            Fault::Function(fault)
        }
        while !*is_ending {
            match body.step(&self.function.inbound).map_err(|fault| function(FunctionFault::Body(fault)))? {
                Step::Payload(available) => {
                    let admitted = encoder.admit(available, &mut self.client.outbound);
                    let sent = ready!(self.client.poll_send(&self.function.inbound[..admitted], cx));
                    let sent = sent.map_err(|_| Fault::ClientGone)?;
                    encoder.sent(sent, &mut self.client.outbound);
                    body.took(sent);
                    self.downloaded += sent as u64;
                    self.function.inbound.advance(sent);
                    self.deadlines.progressed();
                }
                Step::Framing(bytes) => self.function.inbound.advance(bytes),
                Step::End(bytes, mut trailers) => {
                    trailers.as_mut().map(rewrite::trailers);
                    self.function.inbound.advance(bytes);
                    encoder.end(trailers.as_ref(), &mut self.client.outbound);
                    *is_ending = true;
                }
                Step::More => {
                    // What is there goes out now: nothing waits for what may come.
                    if let Poll::Ready(Err(_)) = self.client.poll_flush(cx) {
                        return Poll::Ready(Err(Fault::ClientGone));
                    }
                    match ready!(self.function.poll_fill(cx)) {
                        Ok(0) => body.closed().map_err(|_| function(FunctionFault::Closed))?,
                        Ok(_) => {}
                        Err(error) => return Poll::Ready(Err(function(FunctionFault::Broken(error)))),
                    }
                }
            }
        }
        self.client.poll_flush(cx).map_err(|_| Fault::ClientGone)
    }
}

/// Moves the client's body to the function.
fn poll_move_client<C: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Conn<C>,
    function: &mut FunctionConn,
    (decoder, encoder): (&mut Decoder, &mut Encoder),
    uploaded: &mut u64,
    cx: &mut Context<'_>,
) -> Poll<Result<Upload, Fault>> {
    loop {
        match decoder.step(&client.inbound).map_err(Fault::Client)? {
            Step::Payload(available) => {
                let admitted = encoder.admit(available, &mut function.outbound);
                match ready!(function.poll_send(&client.inbound[..admitted], cx)) {
                    Ok(sent) => {
                        encoder.sent(sent, &mut function.outbound);
                        decoder.took(sent);
                        *uploaded += sent as u64;
                        client.inbound.advance(sent);
                    }
                    // It may have answered before it stopped listening; the response's reader tells.
                    Err(_) => return Poll::Ready(Ok(Upload::Stopped)),
                }
            }
            Step::Framing(bytes) => client.inbound.advance(bytes),
            Step::End(bytes, mut trailers) => {
                trailers.as_mut().map(rewrite::trailers);
                client.inbound.advance(bytes);
                encoder.end(trailers.as_ref(), &mut function.outbound);
                return Poll::Ready(Ok(Upload::Ending));
            }
            Step::More => {
                if let Poll::Ready(Err(_)) = function.poll_flush(cx) {
                    return Poll::Ready(Ok(Upload::Stopped));
                }
                match ready!(client.poll_fill(cx)) {
                    Ok(0) | Err(_) => return Poll::Ready(Err(Fault::ClientGone)),
                    Ok(_) => {}
                }
            }
        }
    }
}

/// Moves a pulled payload to the function.
fn poll_move_payload(
    function: &mut FunctionConn,
    pulled: &mut Pulled,
    encoder: &mut Encoder,
    cx: &mut Context<'_>,
) -> Poll<Result<Upload, Fault>> {
    loop {
        if !pulled.current.is_empty() {
            let admitted = encoder.admit(pulled.current.len(), &mut function.outbound);
            match function.poll_send(&pulled.current[..admitted], cx) {
                Poll::Ready(Ok(sent)) => {
                    encoder.sent(sent, &mut function.outbound);
                    pulled.current.advance(sent);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(Upload::Stopped)),
                Poll::Pending => {
                    // Whether it has come is asked again once this block is written.
                    let _: Poll<()> = pulled.poll_ahead(cx);
                    return Poll::Pending;
                }
            }
            continue;
        }
        if pulled.poll_ahead(cx).is_pending() {
            if let Poll::Ready(Err(_)) = function.poll_flush(cx) {
                return Poll::Ready(Ok(Upload::Stopped));
            }
            return Poll::Pending;
        }
        match pulled.ahead.take() {
            None => {}
            Some(Ahead::Ended) if pulled.owed.is_some_and(|owed| owed > 0) => return Poll::Ready(Err(Fault::PayloadLength)),
            Some(Ahead::Ended) => {
                encoder.end(None, &mut function.outbound);
                return Poll::Ready(Ok(Upload::Ending));
            }
            Some(Ahead::Failed(refusal)) => return Poll::Ready(Err(Fault::Payload(refusal))),
            Some(Ahead::Block(data)) => {
                pulled.owed = match pulled.owed.map(|owed| owed.checked_sub(data.len() as u64)) {
                    Some(None) => return Poll::Ready(Err(Fault::PayloadLength)),
                    left => left.flatten(),
                };
                pulled.current = data;
            }
        }
    }
}

/// Ready only when the client has gone. Reads a little ahead, which is the only way to know.
pub(super) fn poll_presence<C: AsyncRead + AsyncWrite + Unpin>(client: &mut Conn<C>, cx: &mut Context<'_>) -> Poll<Fault> {
    while client.inbound.len() < READ_AHEAD_BYTES_MAX {
        match ready!(client.poll_fill(cx)) {
            Ok(0) | Err(_) => return Poll::Ready(Fault::ClientGone),
            Ok(_) => {}
        }
    }
    Poll::Pending
}

/// The protocol that a response switches to, where it is the one that was asked for.
///
/// # Errors
/// [`FunctionFault::Upgrade`].
pub(super) fn switched(head: &ResponseHead, asked: Option<&HeaderValue>) -> Result<HeaderValue, FunctionFault> {
    let given = head.headers.get(http::header::UPGRADE);
    match (given, asked) {
        (Some(given), Some(asked)) if given.as_bytes().eq_ignore_ascii_case(asked.as_bytes()) => Ok(given.clone()),
        _ => Err(FunctionFault::Upgrade),
    }
}
