//! HTTP/1.1 on a connection, as a proxy needs it on both of its sides.
//!
//! A request through a queue-proxy is one connection's bytes copied to another with a rewritten head. Here that is one
//! task with two [`Conn`]s and no channel, task or box in between. hyper, which does everything else in this program, is
//! not used for it, because its HTTP/1 server can't do what Knative's contract demands of a proxy: it drops trailers that
//! were not announced and asked for, it keeps back the function's `100 Continue` and `103`, and it can't tell a client
//! `Connection: close` when the function answers before it has read the request (`docs/decisions/0010-own-http1-in-the-request-path.md`).
//!
//! [`head`] reads and checks heads (what is ambiguous is refused, so that no two readers can disagree about where a request
//! ends), [`body`] finds payload bytes in a framed body and frames them anew, [`mod@write`] puts heads down, [`Conn`] is a
//! connection with its two buffers. None of them knows what a request is for.

pub mod body;
mod conn;
pub mod head;
pub mod write;

pub use conn::Conn;
