//! Zipline's data plane: object buffer, pull, hand-over.
//!
//! A [`Node`] is one proxy's share of it. [`Node::put`] and [`Node::put_descriptor`] take payloads into its buffer and
//! give references; [`Node::fetch`] reads what any reference of the trust domain stands for, by the nearest way. What
//! may happen is decided in `zipline_core`; the kernel is reached through `zipline_sys`. Begin with `node`, then follow
//! a payload: `put` → `stored` → `pull::serve` → `pull::body`, and on the other side `fetch` → `pull::read`.
//!
//! Beside memory an object may lie on local disk (`spill`), and outlive its producer in a durable tier (`tier`).
//!
//! Not here: Knative, services, scaling, HTTP towards functions.
#![forbid(unsafe_code)]

mod blocks;
mod clock;
mod config;
mod counters;
mod error;
mod fetch;
mod handover;
mod held;
mod keys;
mod ledger;
mod node;
mod payload;
mod pull;
mod put;
mod random;
mod reclaim;
mod span;
mod spill;
mod stored;
mod tier;

pub use clock::Clock;
pub use config::{Congestion, NodeConfig, SpillConfig};
pub use counters::{Counted, PULL_SECONDS_BUCKETS, TierCounted};
pub use error::TransferError;
pub use fetch::{FetchOptions, Incoming, Taking};
pub use keys::Keys;
pub use node::{Node, ObjectState, StartError};
pub use payload::{Payload, PayloadBytes};
pub use put::{CallObject, Put, PutOptions, Unanswered, Writer};
pub use span::{TIER_MEMORY, Work, WorkSpan};
pub use tier::{TierConfig, TierError};
