//! The door that requests come in by, and their way to the function.
//!
//! Read from here: [`listener`] accepts connections and tells HTTP/1 from HTTP/2; [`http1`] and [`http2`] lead each request
//! through the same steps, which are Knative's: the [`gate`] answers probes; the drain and the statistics count it; its
//! [`timer`] runs; it waits for its slot; a reference becomes a payload; [`rewrite`] changes its head; and the function
//! answers, over HTTP/1 by an [`exchange`] or a [`tunnel`] between the two connections.

mod answers;
mod exchange;
mod gate;
mod h2c_upgrade;
mod http1;
mod http2;
mod listener;
mod referred;
mod request_body;
mod rewrite;
mod timer;
mod tunnel;

pub use listener::{BindError, Listener, Port};
pub use request_body::RequestBody;
