//! One to many, many to one: scatter, gather, broadcast, and many calls, with bounded parallelism.
//!
//! Each takes `parallel`, how many run at once (at least 1), and ends with the first error in the order of its input;
//! what was still under way is dropped and so cancelled.

use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use zipline_contract::Transfer;

use crate::client::{Client, Narrow, PutOptions};
use crate::error::Error;
use crate::invoke::Call;
use crate::message::Response;
use crate::payload::Payload;
use crate::reference::Reference;

/// A good `parallel` where nothing better is known: enough to hide each other's round trips.
pub const PARALLEL_DEFAULT: usize = 8;

impl Client {
    /// One put per payload; references in the order of the payloads.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn scatter<P: Into<Payload>>(
        &self,
        payloads: impl IntoIterator<Item = P>,
        options: PutOptions,
        parallel: usize,
    ) -> Result<Vec<Reference>, Error> {
        let puts: Vec<_> = payloads.into_iter().map(|payload| self.put(payload.into(), options)).collect();
        stream::iter(puts).buffered(parallel.max(1)).try_collect().await
    }

    /// One get per reference; payloads in the order of the references.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn gather(&self, references: &[Reference], parallel: usize) -> Result<Vec<Payload>, Error> {
        let gets: Vec<_> = references.iter().map(|reference| self.get(reference)).collect();
        stream::iter(gets).buffered(parallel.max(1)).try_collect().await
    }

    /// One put with a slot per consumer, so that a consumer that reads twice does not use up another's turn. (Under other
    /// methods than `zipline` all consumers get the same reference.)
    ///
    /// # Errors
    /// As [`put`](Self::put) and [`narrow`](Self::narrow).
    pub async fn broadcast(
        &self,
        payload: impl Into<Payload>,
        consumers: NonZeroU32,
        ttl: Option<Duration>,
        parallel: usize,
    ) -> Result<Vec<Reference>, Error> {
        let whole = self.put(payload, PutOptions { retrievals: consumers, ttl }).await?;
        if self.config().transfer != Transfer::Zipline {
            return Ok(vec![whole; consumers.get() as usize]);
        }
        let whole = &whole;
        let narrow = |slot| async move { self.narrow(whole, &Narrow { slot: Some(slot), ..Narrow::default() }).await };
        let narrowed: Vec<_> = (0..consumers.get()).map(narrow).collect();
        stream::iter(narrowed).buffered(parallel.max(1)).try_collect().await
    }

    /// Many calls; answers in the order of the calls.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_each(&self, calls: impl IntoIterator<Item = Call>, parallel: usize) -> Result<Vec<Response>, Error> {
        let calls: Vec<_> = calls.into_iter().map(|call| self.call(call)).collect();
        stream::iter(calls).buffered(parallel.max(1)).try_collect().await
    }
}
