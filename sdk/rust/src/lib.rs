//! Zipline for Rust functions: payloads that go straight from memory to memory, with calls that stay ordinary calls.
//!
//! ```no_run
//! use zipline_sdk::{Client, PutOptions};
//!
//! # async fn example() -> Result<(), zipline_sdk::Error> {
//! let client = Client::from_env()?; // ZIPLINE_API, ZIPLINE_TRANSFER
//! let reference = client.put(vec![7; 1 << 20], PutOptions::default()).await?;
//! // … the reference travels to another function, in any request …
//! let payload = client.get(&reference).await?;
//! assert_eq!(payload.len(), 1 << 20);
//! # Ok(())
//! # }
//! ```
//!
//! A function serves with [`serve()`] or [`Server`] and calls others with [`Client::invoke`]. Which way bytes take
//! (`ZIPLINE_TRANSFER`) is configuration, never code. The SDK speaks to the function's own queue-proxy alone, holds no
//! key and knows nothing of the wire between proxies. `docs/reference/local-api.md` is all it relies on.
#![forbid(unsafe_code)]

mod client;
mod config;
#[cfg_attr(not(target_os = "linux"), path = "no_descriptors.rs")]
mod descriptors;
mod error;
mod fan;
mod http;
mod invoke;
mod memory;
mod message;
mod payload;
mod reference;
mod serve;
mod source;
mod store;
mod timestamp;

pub use client::{ByteRange, Client, Narrow, ObjectWriter, Proxy, PutOptions, Receipt, Stat};
pub use config::{Config, Endpoint, Limits};
pub use error::{Error, Problem};
pub use fan::PARALLEL_DEFAULT;
pub use invoke::Call;
pub use message::{Failure, Request, Response};
pub use payload::{Payload, PayloadBuffer, PayloadWriter};
pub use reference::Reference;
pub use serve::{Server, serve, serve_with};
pub use store::config::{RedisStore, S3Store, Stores};
pub use store::counters::{Operations, StoreCounters};
pub use zipline_contract::{ErrorCode, Transfer};

/// The samples of `README.md` are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
