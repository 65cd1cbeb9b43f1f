//! Random ids and nonces, from the kernel's generator.

use std::io;

use zipline_core::object::{Epoch, LeaseId, ObjectId};
use zipline_core::pull::Nonce;
use zipline_core::reference::NONCE_BYTES;
use zipline_core::trace::TraceContext;

fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

pub(crate) fn epoch() -> io::Result<Epoch> {
    Ok(Epoch::from_bytes(bytes()?))
}

pub(crate) fn object() -> io::Result<ObjectId> {
    Ok(ObjectId::from_bytes(bytes()?))
}

pub(crate) fn lease() -> io::Result<LeaseId> {
    Ok(LeaseId::from_bytes(bytes()?))
}

pub(crate) fn nonce() -> io::Result<Nonce> {
    Ok(Nonce::from_bytes(bytes()?))
}

pub(crate) fn seal_nonce() -> io::Result<[u8; NONCE_BYTES]> {
    bytes()
}

/// Names a span; never 0.
pub(crate) fn span() -> io::Result<u64> {
    Ok(u64::from_be_bytes(bytes()?).max(1))
}

/// Begins a trace that is not recorded.
pub(crate) fn trace() -> io::Result<TraceContext> {
    Ok(TraceContext { trace_id: u128::from_be_bytes(bytes()?).max(1), span_id: span()?, is_sampled: false })
}
