//! Random ids and nonces, from the kernel's generator.

use std::io;

use zipline_core::object::{Epoch, LeaseId, ObjectId};
use zipline_core::pull::Nonce;
use zipline_core::reference::NONCE_BYTES;

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
