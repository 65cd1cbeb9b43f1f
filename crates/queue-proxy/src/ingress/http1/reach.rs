//! Reaching the function.

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::heads::Open;
use super::{Interrupt, Next, Session};
use crate::http1::Conn;
use crate::ingress::answers;
use crate::ingress::timer::Deadlines;
use crate::upstream::{ConnectError, FunctionConn, connect};

impl<C: AsyncRead + AsyncWrite + Unpin> Session<C> {
    /// A connection to the function, or the answer to the client that there is none.
    pub(super) async fn connected(
        &mut self,
        open: &mut Open,
        deadlines: &Deadlines,
        status: &mut Option<StatusCode>,
    ) -> Result<FunctionConn, Next> {
        match self.function(deadlines).await {
            Ok(Ok(function)) => Ok(function),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the function can't be reached");
                *status = Some(StatusCode::BAD_GATEWAY);
                Err(self.reply(open, answers::bad_gateway(error)).await)
            }
            Err(interrupt) => {
                *status = matches!(interrupt, Interrupt::TimedOut).then_some(StatusCode::GATEWAY_TIMEOUT);
                Err(self.interrupted(open, interrupt).await)
            }
        }
    }

    /// A connection to the function: a kept one, or a new one.
    async fn function(&mut self, deadlines: &Deadlines) -> Result<Result<FunctionConn, ConnectError>, Interrupt> {
        zipline_fault_point::fault_point!("deliver.connecting");
        if let Some(kept) = self.instance.upstream.http1.take() {
            return Ok(Ok(kept));
        }
        let address = self.instance.upstream.address;
        Ok(self.stay(Some(deadlines), connect(address)).await?.map(Conn::new))
    }
}
