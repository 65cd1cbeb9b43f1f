//! A connection after `101 Switching Protocols`: bytes both ways until both sides have ended.

use std::task::{Context, Poll, ready};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite};

use super::timer::{Deadlines, Timer};
use crate::http1::Conn;

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Both sides ended.
    Whole,
    /// A connection broke, or the time was up.
    Cut,
}

/// Moves bytes both ways. The end of one direction is passed on, and the other may go on.
pub(super) async fn run<A, B>(a: &mut Conn<A>, b: &mut Conn<B>, timer: &mut Timer, deadlines: &mut Deadlines) -> Ended
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (false, false);
    std::future::poll_fn(|cx| {
        let up = poll_copy(a, b, &mut there, deadlines, cx);
        let down = poll_copy(b, a, &mut back, deadlines, cx);
        match (up, down) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(Ended::Cut),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ended::Whole),
            _ => timer.poll(deadlines.next(), cx).map(|()| Ended::Cut),
        }
    })
    .await
}

/// Moves bytes one way. Ready when `from` has ended and `to` was told.
fn poll_copy<A, B>(
    from: &mut Conn<A>,
    to: &mut Conn<B>,
    is_over: &mut bool,
    deadlines: &mut Deadlines,
    cx: &mut Context<'_>,
) -> Poll<std::io::Result<()>>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    while !*is_over {
        if !from.inbound.is_empty() {
            let sent = ready!(to.poll_send(&from.inbound, cx))?;
            from.inbound.advance(sent);
            deadlines.progressed();
        } else if from.is_closed() {
            ready!(to.poll_shutdown(cx))?;
            *is_over = true;
        } else {
            // The head that ends the handshake must not wait for the first bytes after it.
            if let Poll::Ready(Err(error)) = to.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            ready!(from.poll_fill(cx))?;
        }
    }
    Poll::Ready(Ok(()))
}
