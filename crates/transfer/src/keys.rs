//! The key ring in force, which a rotation replaces while everything runs.

use std::sync::{Arc, PoisonError, RwLock};

use zipline_core::reference::{DomainKey, KeyId, KeyRing, Reference, Token};
use zipline_core::time::WallTime;

use crate::error::TransferError;
use crate::random;

/// The keys of the trust domain, as this node has them now. Without a ring every put and every reference is refused.
#[derive(Debug, Default)]
pub struct Keys {
    ring: RwLock<Option<Arc<KeyRing>>>,
}

impl Keys {
    /// No ring yet.
    pub fn none() -> Self {
        Self::default()
    }

    /// This ring.
    pub fn new(ring: KeyRing) -> Self {
        Self { ring: RwLock::new(Some(Arc::new(ring))) }
    }

    /// From now on this ring. What is under way goes on with the key it began with.
    pub fn replace(&self, ring: KeyRing) {
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(ring));
    }

    /// Whether there is a ring.
    pub fn is_some(&self) -> bool {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(crate) fn ring(&self) -> Result<Arc<KeyRing>, TransferError> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(TransferError::NoKeys)
    }

    pub(crate) fn open(&self, token: &str, now: WallTime) -> Result<Reference, TransferError> {
        Ok(self.ring()?.open(token, now)?)
    }

    pub(crate) fn seal(&self, reference: &Reference, now: WallTime) -> Result<Token, TransferError> {
        Ok(self.ring()?.seal(reference, now, random::seal_nonce()?)?)
    }

    /// The key that signs pulls now.
    pub(crate) fn signing(&self, now: WallTime) -> Result<DomainKey, TransferError> {
        self.ring()?.sealing(now).cloned().ok_or(TransferError::Seal(zipline_core::reference::SealError::NoKey))
    }

    /// The key of that name, for the answer to a request that it authenticated.
    pub(crate) fn accepting(&self, id: KeyId, now: WallTime) -> Result<DomainKey, TransferError> {
        self.ring()?.accepting(id, now).cloned().ok_or(TransferError::NoKeys)
    }
}
