//! Pull: reading an object over the wire, proxy to proxy, as `docs/reference/protocol.md` §3 fixes it.
//!
//! ```text
//! consumer                                             producer
//! PullRequest::sign ──────── request head ───────────► SignedRequest::read, ::authenticate
//! AnswerHead::read  ◄──────── answer head ──────────── AnswerHead::sign
//! RecordChain::open ◄──────── record heads ─────────── RecordPlan::next, RecordChain::seal
//! ```
//!
//! [`PullReader`] is the consumer's whole side of a read, over as many connections as it takes.
//!
//! No sockets: the driver (`transfer`) moves the bytes that these types make and check, and passes in time, nonces
//! and lease ids. What an object grants is decided in `object`.

mod answer;
mod failure;
mod mac;
mod nonces;
mod peers;
mod plan;
mod range;
mod reader;
mod record;
mod request;
mod sum;

pub use answer::{AnswerError, AnswerHead, AnswerRange, HeaderText, LastByte, ObjectSize};
pub use failure::{PullError, verified};
pub use mac::{MAC_BYTES, Mac};
pub use nonces::{Nonce, NonceRefusal, NonceWindow};
pub use peers::{ForbiddenReason, Network, NetworkError, PEER_NETWORKS_MAX, PeerForbidden, PeerPolicy, PeerPolicyError};
pub use plan::{Planned, RecordPlan, Written};
pub use range::{ByteRange, RangeError, Span};
pub use reader::{
    AwaitingBytes, AwaitingHead, AwaitingRecord, BytesStep, DeliveredStep, Finished, PullReader, REASKS_MAX, ReaderLimits,
    RecordStep, Verified, Wanted,
};
pub use record::{RECORD_MAC_BYTES, RecordChain, RecordError, RecordHead, RecordKind};
pub use request::{Authenticated, PullMethod, PullRequest, Refusal, RequestError, SignedRequest};
pub use sum::{RunningSum, SUM_BYTES, Sum, SumKind, UnknownSum};
