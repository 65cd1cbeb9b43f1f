//! An answer that goes back as a reference while the function still writes its body.

use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite};

use super::heads::{Open, Response};
use super::{Next, Running, Session};
use crate::drain::Stage;
use crate::http1::body::Decoder;
use crate::http1::head::{Framing, ResponseHead};
use crate::ingress::referred;
use crate::ingress::timer::Deadlines;
use crate::upstream::FunctionConn;
use crate::zipline::Taken;

impl<C: AsyncRead + AsyncWrite + Unpin> Session<C> {
    /// Answers with a reference, and goes on taking the function's bytes in a task of their own: the request holds its slot
    /// until they are all there.
    pub(super) async fn refer(
        &mut self,
        open: &mut Open,
        mut head: ResponseHead,
        taken: Taken,
        function: FunctionConn,
        (deadlines, running): (Deadlines, &mut Running),
    ) -> Next {
        let (body, function_keeps_alive) = (Decoder::new(head.framing), head.keep_alive);
        let is_closing = *self.stage.borrow() >= Stage::Closing;
        head.framing = Framing::Length(0);
        taken.mark(&mut head.headers);
        let keep_alive = open.keep_alive && !is_closing;
        let (_, _, keep_alive) = Response { head, open, keep_alive }.begin(&mut self.client);
        let (client, timer) = (&mut self.client, &mut self.timer);
        let flushed = std::future::poll_fn(|cx| {
            if let Poll::Ready(sent) = client.poll_flush(cx) {
                return Poll::Ready(sent.is_ok());
            }
            timer.poll(deadlines.next(), cx).map(|()| false)
        });
        if !flushed.await {
            return Next::Cut; // Nobody has the reference: the object ends with its writer.
        }
        let (status, held, visit) = (running.status, running.held.take(), running.visit.take());
        let instance = Arc::clone(&self.instance);
        self.instance.zipline.write_response(async move {
            let function = referred::move_http1(function, body, taken.writer, &deadlines).await;
            if let Some(function) = function.filter(|_| function_keeps_alive) {
                instance.upstream.http1.keep(function);
            }
            if let Some(held) = held {
                held.answered(status);
            }
            drop(visit);
        });
        if keep_alive { self.discard(&mut open.body).await } else { Next::Close }
    }
}
