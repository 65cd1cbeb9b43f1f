//! Serving one HTTP/1 connection: request after request, in one task.

mod heads;
mod reach;
mod refer;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Buf;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderValue, UPGRADE};
use http::{Method, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument;
use zipline_contract::headers::{ACCEPT, REFERENCE};
use zipline_core::breaker::QueueFull;

use self::heads::{Open, Outgoing, Response, connection_header, set_host};
use super::answers::{self, Answer};
use super::exchange::{Exchange, Fault, poll_presence, switched};
use super::gate::{self, Gate};
use super::h2c_upgrade::{self, H2cUpgrade};
use super::timer::{Deadlines, Timer};
use super::{referred, rewrite, tunnel};
use crate::breaker::{Breaker, Slot};
use crate::drain::{Stage, Visit, reached};
use crate::http1::body::{Decoder, Step};
use crate::http1::head::{self, Framing, HeadError, HeadScan, REQUEST_HEAD_BYTES_MAX, RequestHead, ResponseHead};
use crate::http1::{Conn, write};
use crate::instance::{Counted, Instance, Invocation};
use crate::telemetry::{Arrival, Observed};
use crate::upstream::FunctionConn;

/// How long the head of a request may take from its first byte on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a body that nobody read and that are dropped so that the connection can go on; more end the connection.
const DISCARDED_BYTES_MAX: u64 = 256 * 1024;
/// How long the rest of a body that nobody read may take to come, and how long a closed connection waits for its client to have
/// read the answer.
const LINGER: Duration = Duration::from_millis(500);

/// What follows a request on its connection.
pub(super) enum Next {
    /// Another request.
    Keep,
    /// The end, after what was written has been sent.
    Close,
    /// The end, at once.
    Cut,
    /// HTTP/2, with this request as its first stream.
    Http2(H2cUpgrade),
}

/// A client's connection.
pub(super) struct Session<C> {
    instance: Arc<Instance>,
    client: Conn<C>,
    peer: SocketAddr,
    timer: Timer,
    stage: watch::Receiver<Stage>,
    /// The request under way, if it is told about.
    observed: Option<Box<Observed>>,
}

/// A request that is with the function, and what it holds until its response is complete.
struct Running {
    /// What the client was answered with.
    status: Option<StatusCode>,
    visit: Option<Visit>,
    held: Option<Held>,
}

/// Given back in this order: whoever is let in next finds this request gone.
struct Held {
    invocation: Option<Invocation>,
    _slot: Option<Slot>,
    counted: Option<Counted>,
}

impl Running {
    /// So many bytes of its body and of its answer's have passed.
    fn moved(&self, observed: Option<&mut Observed>, bytes_in: u64, bytes_out: u64) {
        if let Some(counted) = self.held.as_ref().and_then(|held| held.counted.as_ref()) {
            counted.moved(bytes_in, bytes_out);
        }
        if let Some(observed) = observed {
            observed.sent(bytes_out);
        }
    }
}

impl Held {
    fn answered(mut self, status: Option<StatusCode>) {
        if let (Some(invocation), Some(status)) = (&mut self.invocation, status) {
            invocation.answered(status);
        }
    }
}

/// Why waiting for something ended without it.
enum Interrupt {
    ClientGone,
    TimedOut,
}

impl Interrupt {
    /// What the client is told, if it is still there.
    fn answer(self) -> Option<Answer> {
        match self {
            Self::ClientGone => None,
            Self::TimedOut => Some(answers::timed_out()),
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Session<C> {
    pub(super) fn new(instance: Arc<Instance>, client: Conn<C>, peer: SocketAddr) -> Self {
        let stage = instance.drain.stage();
        Self { instance, client, peer, timer: Timer::default(), stage, observed: None }
    }

    /// Serves requests until the connection ends, or becomes HTTP/2.
    pub(super) async fn serve(mut self) -> Option<(Conn<C>, H2cUpgrade)> {
        loop {
            let next = match self.next_head().await {
                Ok(Some(head)) => self.answer(head).await,
                Ok(None) => return None,
                Err(fault) => self.refuse(fault).await,
            };
            match next {
                Next::Keep => self.client.shrink(),
                Next::Close => {
                    self.linger().await;
                    return None;
                }
                Next::Cut => return None,
                Next::Http2(upgrade) => return Some((self.client, upgrade)),
            }
        }
    }

    /// Reads the next request's head. `None`: there is none, or it did not come in time.
    async fn next_head(&mut self) -> Result<Option<RequestHead>, HeadError> {
        let mut scan = HeadScan::default();
        let mut deadline = None;
        loop {
            if deadline.is_none() {
                head::skip_empty_lines(&mut self.client.inbound);
            }
            if !self.client.inbound.is_empty() {
                if let Some(end) = scan.end(&self.client.inbound, REQUEST_HEAD_BYTES_MAX)? {
                    return head::request(&self.client.inbound.split_to(end).freeze()).map(Some);
                }
                deadline.get_or_insert_with(|| Instant::now() + HEAD_TIMEOUT);
            }
            if !self.more(deadline).await {
                return Ok(None);
            }
        }
    }

    /// Receives more of a head. Between requests, a connection also ends when the instance closes.
    async fn more(&mut self, deadline: Option<Instant>) -> bool {
        let (client, timer, stage) = (&mut self.client, &mut self.timer, &mut self.stage);
        let fill = std::future::poll_fn(|cx| {
            if let Poll::Ready(filled) = client.poll_fill(cx) {
                return Poll::Ready(matches!(filled, Ok(1..)));
            }
            timer.poll(deadline, cx).map(|()| false)
        });
        if deadline.is_some() {
            return fill.await;
        }
        tokio::select! {
            biased;
            more = fill => more,
            () = reached(stage, Stage::Closing) => false,
        }
    }

    async fn refuse(&mut self, fault: HeadError) -> Next {
        let mut open = Open {
            method: Method::GET,
            is_http11: true,
            keep_alive: false,
            body: Decoder::new(Framing::None),
            expects_continue: false,
            is_asked_for_capability: false,
        };
        let status = fault.status();
        let text = match fault {
            HeadError::TooLarge => "431 Request Header Fields Too Large".to_owned(),
            fault => format!("{} {}: {fault}", status.as_str(), status.canonical_reason().unwrap_or_default()),
        };
        self.reply(&mut open, answers::plain(status, text)).await
    }

    async fn answer(&mut self, head: RequestHead) -> Next {
        let instance = &self.instance;
        let version = if head.is_http11 { Version::HTTP_11 } else { Version::HTTP_10 };
        let path = head.target.path();
        let gate = gate::gate(&head.method, path, (version, &head.headers), || instance.drain.fails_probes());
        if !gate.is_about_the_server(path) {
            let (method, target, headers) = (&head.method, &head.target, &head.headers);
            let arrival = Arrival { method, target, version, headers, peer: self.peer };
            self.observed = Observed::arrive(&instance.telemetry, &arrival);
        }
        let next = self.lead(gate, head).await;
        match (self.observed.take(), &next) {
            (Some(observed), Next::Http2(_)) => observed.forget(), // It comes again, over HTTP/2.
            (observed, _) => drop(observed),
        }
        next
    }

    async fn lead(&mut self, gate: Gate, mut head: RequestHead) -> Next {
        let mut open = Open {
            method: head.method.clone(),
            is_http11: head.is_http11,
            keep_alive: head.keep_alive,
            body: Decoder::new(head.framing),
            expects_continue: head.is_http11 && head.framing != Framing::None && head.headers.contains_key(EXPECT),
            is_asked_for_capability: false,
        };
        let instance = Arc::clone(&self.instance);
        match gate {
            Gate::Answer(answer) => {
                let is_senseless = matches!(answer.status(), StatusCode::METHOD_NOT_ALLOWED | StatusCode::EXPECTATION_FAILED);
                open.keep_alive &= !is_senseless;
                self.reply(&mut open, answer).await
            }
            Gate::Health => match self.stay(None, instance.readiness.is_ready()).await {
                Ok(is_ready) => self.reply(&mut open, gate::health(is_ready)).await,
                Err(_) => Next::Cut,
            },
            Gate::Pass => {
                if let Some(upgrade) = h2c_upgrade::asked(&mut head) {
                    return Next::Http2(upgrade);
                }
                let span = self.observed.as_ref().map_or_else(tracing::Span::none, |observed| observed.span());
                self.pass(head, open).instrument(span).await
            }
        }
    }

    /// The way of a request that is for the function.
    async fn pass(&mut self, head: RequestHead, mut open: Open) -> Next {
        let instance = Arc::clone(&self.instance);
        let visit = instance.drain.visit();
        let mut deadlines = Deadlines::new(&instance.sidecar.timeouts, Instant::now());
        let RequestHead { target, mut headers, upgrade, .. } = head;
        set_host(&mut headers, &target, instance.upstream.address);
        rewrite::add_forwarded(&mut headers);

        let is_kubelet = gate::is_kubelet_probe(&headers);
        let counted = (!is_kubelet).then(|| Counted::arrive(&instance, &headers));
        if !is_kubelet {
            rewrite::restore_host(&mut headers);
        }
        let slot = match &instance.breaker {
            Some(breaker) if !is_kubelet => match self.slot(breaker, &deadlines).await {
                Ok(Ok(slot)) => Some(slot),
                Ok(Err(full)) => return self.reply(&mut open, answers::error(StatusCode::SERVICE_UNAVAILABLE, full)).await,
                Err(interrupt) => return self.interrupted(&mut open, interrupt).await,
            },
            _ => None,
        };
        let mut invocation = (!gate::is_probe(&headers)).then(|| Invocation::begin(&instance));

        let mut outgoing = Outgoing { target, headers, upgrade, payload: None };
        if let Some(taken) = rewrite::take_zipline(&mut outgoing.headers) {
            open.is_asked_for_capability = taken.contains_key(ACCEPT);
            if taken.contains_key(REFERENCE)
                && let Err(answer) = self.resolve(&mut open, &mut outgoing, &taken, &deadlines).await
            {
                if let (Some(invocation), Some(answer)) = (&mut invocation, &answer) {
                    invocation.answered(answer.status());
                }
                return match answer {
                    Some(answer) => self.reply(&mut open, answer).await,
                    None => Next::Cut,
                };
            }
        }
        let mut running = Running { status: None, visit: Some(visit), held: Some(Held { invocation, _slot: slot, counted }) };
        let next = self.forward(&mut open, outgoing, &mut deadlines, &mut running).await;
        if let Some(held) = running.held {
            held.answered(running.status);
        }
        next
    }

    /// Waits for a slot of the breaker.
    async fn slot(&mut self, breaker: &Arc<Breaker>, deadlines: &Deadlines) -> Result<Result<Slot, QueueFull>, Interrupt> {
        if let Some(observed) = &mut self.observed {
            observed.queued();
        }
        let slot = self.stay(Some(deadlines), breaker.slot()).await;
        if let (Some(observed), Ok(Ok(_))) = (&mut self.observed, &slot) {
            observed.admitted();
        }
        slot
    }

    /// Puts the payload in the place of the empty body that a reference came with, or answers what the client gets instead;
    /// nothing if it is gone.
    async fn resolve(
        &mut self,
        open: &mut Open,
        outgoing: &mut Outgoing,
        taken: &HeaderMap,
        deadlines: &Deadlines,
    ) -> Result<(), Option<Answer>> {
        let has_body = self.stay_reading(deadlines, &mut open.body, open.expects_continue).await.map_err(Interrupt::answer)?;
        let instance = Arc::clone(&self.instance);
        let mut parts = http::Request::new(()).into_parts().0;
        parts.method = open.method.clone();
        parts.uri = std::mem::take(&mut outgoing.target);
        parts.headers = std::mem::take(&mut outgoing.headers);
        if let Some(context) = self.observed.as_ref().and_then(|observed| observed.context()) {
            parts.extensions.insert(context);
        }
        let resolved = self.stay(Some(deadlines), instance.zipline.resolve(&mut parts, taken, has_body)).await;
        outgoing.target = parts.uri;
        outgoing.headers = parts.headers;
        match resolved.map_err(Interrupt::answer)? {
            Ok(payload) => {
                outgoing.headers.remove(EXPECT);
                outgoing.payload = Some(payload);
                Ok(())
            }
            Err(refusal) => Err(Some(answers::refused(refusal).await)),
        }
    }

    /// Hands the request to the function and its response to the client.
    async fn forward(
        &mut self,
        open: &mut Open,
        mut outgoing: Outgoing,
        deadlines: &mut Deadlines,
        running: &mut Running,
    ) -> Next {
        let status = &mut running.status;
        let mut function = match self.connected(open, deadlines, status).await {
            Ok(function) => function,
            Err(next) => return next,
        };
        if let Some(observed) = &mut self.observed {
            observed.asked(&mut outgoing.headers);
        }
        zipline_fault_point::fault_point!("deliver.connected");
        let asked = outgoing.upgrade.clone();
        let is_held = open.expects_continue && outgoing.payload.is_none();
        let (upload, answered) = outgoing.begin(open, self.peer.ip(), &mut function);
        let whole = deadlines.whole();
        let limits = (&mut self.timer, &mut *deadlines);
        let mut exchange = Exchange::new(&mut self.client, &mut function, limits, upload, open.is_http11);
        if is_held {
            exchange.hold_for_continue();
        }
        let mut head = match exchange.head(&open.method).await {
            Ok(head) => head,
            Err(fault) => {
                open.body = exchange.into_client_body();
                return self.failed(open, fault, status).await;
            }
        };
        *status = Some(head.status);
        if let Some(observed) = &mut self.observed {
            observed.answered(head.status);
        }
        answered.into_iter().for_each(|tell| tell(head.status));
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return match running.visit.take() {
                Some(visit) => self.upgrade(open, &head, asked.as_ref(), (function, visit), deadlines, status).await,
                None => Next::Cut, // A request is a visit.
            };
        }
        let length = head.framing.length().filter(|_| exchange.is_uploaded());
        let answered = referred::Answered { method: &open.method, status: head.status, length };
        let taken = referred::take(&self.instance, open.is_asked_for_capability, &answered, &mut head.headers, whole);
        if let Some(taken) = taken {
            running.moved(None, exchange.uploaded(), 0);
            open.body = exchange.into_client_body();
            return self.refer(open, head, taken, function, (*deadlines, running)).await;
        }
        // A body that is still coming ends the connection, unless little of it is left, or the revision asked for full duplex.
        let owes_little = matches!(exchange.client_owes(), Some(..=DISCARDED_BYTES_MAX)) || self.instance.sidecar.full_duplex;
        let keep_alive = open.keep_alive && owes_little && !exchange.is_held() && *self.stage.borrow() < Stage::Closing;
        let function_keeps_alive = head.keep_alive;
        let (body, encoder, keep_alive) = Response { head, open, keep_alive }.begin(exchange.client());
        let relayed = exchange.relay(body, encoder).await;
        running.moved(self.observed.as_deref_mut(), exchange.uploaded(), exchange.downloaded());
        if let Err(fault) = relayed {
            tracing::debug!(?fault, "a response was cut");
            return Next::Cut;
        }
        let is_uploaded = exchange.is_uploaded();
        open.body = exchange.into_client_body();
        if is_uploaded && function_keeps_alive {
            self.instance.upstream.http1.keep(function);
        }
        if keep_alive { self.discard(&mut open.body).await } else { Next::Close }
    }

    /// Tells the client that the function gave no answer.
    async fn failed(&mut self, open: &mut Open, fault: Fault, status: &mut Option<StatusCode>) -> Next {
        let answer = match fault {
            Fault::ClientGone => return Next::Cut,
            Fault::Client(fault) => {
                open.keep_alive = false;
                answers::error(StatusCode::BAD_REQUEST, fault)
            }
            Fault::Payload(refusal) => answers::refused(refusal).await,
            Fault::PayloadLength => answers::bad_gateway("the payload had another length than was announced"),
            Fault::Function(fault) => {
                tracing::warn!(error = %fault, "the function gave no answer");
                answers::bad_gateway(fault)
            }
            Fault::TimedOut => answers::timed_out(),
        };
        *status = Some(answer.status());
        self.reply(open, answer).await
    }

    async fn interrupted(&mut self, open: &mut Open, interrupt: Interrupt) -> Next {
        match interrupt.answer() {
            Some(answer) => self.reply(open, answer).await,
            None => Next::Cut,
        }
    }

    /// The function speaks another protocol from here on.
    async fn upgrade(
        &mut self,
        open: &mut Open,
        head: &ResponseHead,
        asked: Option<&HeaderValue>,
        (mut function, mut visit): (FunctionConn, Visit),
        deadlines: &mut Deadlines,
        status: &mut Option<StatusCode>,
    ) -> Next {
        let protocol = match switched(head, asked) {
            Ok(protocol) => protocol,
            Err(fault) => return self.failed(open, Fault::Function(fault), status).await,
        };
        visit.upgraded();
        let mut headers = head.headers.clone();
        rewrite::toward_client(&mut headers, open.is_asked_for_capability);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol);
        write::status_line(head.status, &mut self.client.outbound);
        write::headers(&headers, &mut self.client.outbound);
        self.client.outbound.extend_from_slice(b"\r\n");
        tokio::select! {
            _ended = tunnel::run(&mut self.client, &mut function, &mut self.timer, deadlines) => {}
            () = reached(&mut self.stage, Stage::CutUpgraded) => {}
        }
        Next::Cut
    }

    /// Waits for something while the client stays and time lasts.
    async fn stay<F: Future>(&mut self, deadlines: Option<&Deadlines>, future: F) -> Result<F::Output, Interrupt> {
        let mut future = std::pin::pin!(future);
        let (client, timer) = (&mut self.client, &mut self.timer);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if poll_presence(client, cx).is_ready() {
                return Poll::Ready(Err(Interrupt::ClientGone));
            }
            let deadline = deadlines.and_then(Deadlines::next);
            timer.poll(deadline, cx).map(|()| Err(Interrupt::TimedOut))
        })
        .await
    }

    /// Whether at least one byte of a body comes.
    async fn stay_reading(&mut self, deadlines: &Deadlines, body: &mut Decoder, is_held: bool) -> Result<bool, Interrupt> {
        if body.is_ended() {
            return Ok(false);
        }
        if is_held || body.left().is_some() {
            return Ok(true); // A length says so; and nobody expects `100 Continue` for nothing.
        }
        loop {
            match body.step(&self.client.inbound) {
                Ok(Step::Payload(_)) => return Ok(true),
                Ok(Step::End(bytes, _)) => {
                    self.client.inbound.advance(bytes);
                    return Ok(false);
                }
                Ok(Step::Framing(bytes)) => self.client.inbound.advance(bytes),
                Err(_) => return Err(Interrupt::ClientGone),
                Ok(Step::More) => {
                    let (client, timer) = (&mut self.client, &mut self.timer);
                    std::future::poll_fn(|cx| match client.poll_fill(cx) {
                        Poll::Ready(Ok(1..)) => Poll::Ready(Ok(())),
                        Poll::Ready(_) => Poll::Ready(Err(Interrupt::ClientGone)),
                        Poll::Pending => timer.poll(deadlines.next(), cx).map(|()| Err(Interrupt::TimedOut)),
                    })
                    .await?;
                }
            }
        }
    }

    /// Answers in the function's place.
    async fn reply(&mut self, open: &mut Open, mut answer: Answer) -> Next {
        let owes_little = matches!(open.body.left(), Some(..=DISCARDED_BYTES_MAX));
        let is_held = open.expects_continue && !open.body.is_ended();
        let keep_alive = open.keep_alive && owes_little && !is_held && *self.stage.borrow() == Stage::Open;
        if let Some(observed) = &mut self.observed {
            observed.answered(answer.status());
            observed.sent(answer.body().len() as u64);
        }
        answer.headers_mut().remove(CONTENT_LENGTH);
        rewrite::add_date(answer.headers_mut());
        rewrite::add_capability(answer.headers_mut(), open.is_asked_for_capability);
        let out = &mut self.client.outbound;
        out.clear(); // An interim response that was not sent is not needed any more.
        write::status_line(answer.status(), out);
        write::headers(answer.headers(), out);
        write::content_length(answer.body().len() as u64, out);
        connection_header(open, keep_alive, out);
        out.extend_from_slice(b"\r\n");
        if open.method != Method::HEAD {
            out.extend_from_slice(answer.body());
        }
        let client = &mut self.client;
        let (timer, deadline) = (&mut self.timer, Instant::now() + HEAD_TIMEOUT);
        let sent = std::future::poll_fn(|cx| {
            if let Poll::Ready(sent) = client.poll_flush(cx) {
                return Poll::Ready(sent.is_ok());
            }
            timer.poll(Some(deadline), cx).map(|()| false)
        });
        match sent.await {
            false => Next::Cut,
            true if keep_alive => self.discard(&mut open.body).await,
            true => Next::Close,
        }
    }

    /// Drops what is left of a body that nobody read, so that the next request can be found.
    async fn discard(&mut self, body: &mut Decoder) -> Next {
        let mut left = DISCARDED_BYTES_MAX;
        let deadline = Instant::now() + LINGER;
        loop {
            match body.step(&self.client.inbound) {
                Ok(Step::End(bytes, _)) => {
                    self.client.inbound.advance(bytes);
                    return Next::Keep;
                }
                Ok(Step::Payload(bytes)) if bytes as u64 <= left => {
                    left -= bytes as u64;
                    self.client.inbound.advance(bytes);
                    body.took(bytes);
                }
                Ok(Step::Framing(bytes)) => self.client.inbound.advance(bytes),
                Ok(Step::More) if self.fill_until(deadline).await => {}
                Ok(Step::Payload(_) | Step::More) | Err(_) => return Next::Close,
            }
        }
    }

    async fn fill_until(&mut self, deadline: Instant) -> bool {
        let (client, timer) = (&mut self.client, &mut self.timer);
        std::future::poll_fn(|cx| match client.poll_fill(cx) {
            Poll::Ready(filled) => Poll::Ready(matches!(filled, Ok(1..))),
            Poll::Pending => timer.poll(Some(deadline), cx).map(|()| false),
        })
        .await
    }

    /// Ends a connection so that the client can still read what was sent: closing it with unread input would reset it.
    async fn linger(&mut self) {
        let client = &mut self.client;
        if std::future::poll_fn(|cx| client.poll_shutdown(cx)).await.is_err() {
            return;
        }
        let deadline = Instant::now() + LINGER;
        let mut left = DISCARDED_BYTES_MAX;
        while self.fill_until(deadline).await {
            left = left.saturating_sub(self.client.inbound.len() as u64);
            self.client.inbound.clear();
            if left == 0 {
                return tokio::time::sleep_until(deadline).await;
            }
        }
    }
}
