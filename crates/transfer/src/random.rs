//! Random ids and nonces, from the kernel's generator.
//!
//! A thread takes some in advance: a read needs two, a put three, and each would be a system call. None is used twice, and what
//! was used is forgotten.

use std::cell::RefCell;
use std::io;

use zeroize::Zeroizing;
use zipline_core::object::{Epoch, LeaseId, ObjectId};
use zipline_core::pull::Nonce;
use zipline_core::reference::NONCE_BYTES;
use zipline_core::tier::SALT_BYTES;
use zipline_core::trace::TraceContext;

/// Bytes that a thread takes in advance: what the kernel gives without ever cutting it short.
const AHEAD_BYTES: usize = 256;

thread_local! {
    static AHEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    const { assert!(N <= AHEAD_BYTES) };
    AHEAD.with_borrow_mut(|ahead| {
        if ahead.len() < N {
            ahead.resize(AHEAD_BYTES, 0);
            if let Err(error) = getrandom::fill(ahead) {
                ahead.clear();
                return Err(io::Error::other(error));
            }
        }
        let mut bytes = [0; N];
        let rest = ahead.len() - N;
        if let Some(end) = ahead.get_mut(rest..) {
            bytes.copy_from_slice(end);
            end.fill(0);
        }
        ahead.truncate(rest);
        Ok(bytes)
    })
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

/// Of a sealed copy or file.
pub(crate) fn salt() -> io::Result<[u8; SALT_BYTES]> {
    bytes()
}

/// A key that is kept nowhere else.
pub(crate) fn key() -> io::Result<Zeroizing<[u8; 32]>> {
    Ok(Zeroizing::new(bytes()?))
}

/// To spread what many proxies do.
pub(crate) fn byte() -> io::Result<u8> {
    bytes().map(|[byte]| byte)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_id_comes_twice() {
        let drawn: HashSet<[u8; 16]> = (0..1000).map(|_| bytes().expect("randomness")).collect();
        assert_eq!(drawn.len(), 1000);
        assert!(!drawn.contains(&[0; 16]), "a forgotten one was given out");
    }
}
