//! What the measured applications share: messages that carry payloads, and a journal of what each function did.
//!
//! A function begins a [`Work`] for each request, takes the payloads it was sent, attaches payloads to what it sends, asks other
//! services, and answers. Payloads move as the transfer method says ([`message`] has the form); the code of an application
//! is the same for all methods. Every answer carries the [`Invocation`]s it took, so that who asked the first function knows
//! what each one read, wrote and waited for, by one clock: all functions of a local platform share the machine's.
#![forbid(unsafe_code)]

mod journal;
mod message;
mod random;
mod role;
mod work;

pub use journal::{Asked, Invocation, Moved, now_seconds};
pub use message::{Attachment, Letter, MessageError, Place, decode, encode};
pub use random::Random;
pub use role::{bad_request, failed, letter, serve};
pub use work::Work;
