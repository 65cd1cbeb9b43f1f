//! The durable tier: copies of objects in a store that outlives their producer.
//!
//! ```text
//! write   a copy, before a put is answered or at a drain; removed when its object ends
//! read    a copy in the place of a producer that is gone, block by block, each verified
//! count   retrievals once the producer cannot: a mark each, and the copy goes with the last
//! tend    looks whether the store answers, and for copies that nobody removed
//! ```
//!
//! A copy is found by its reference alone (`zipline_core::tier`): nobody is asked where it is. Without a tier configured
//! nothing of this exists, and nothing is ever sent to a store.

mod count;
mod read;
mod tend;
mod write;

pub(crate) use read::{TierRead, after};
pub(crate) use tend::tend;
pub(crate) use write::{drain, remove_forgotten};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::{Notify, Semaphore};
use zipline_contract::ErrorCode;
use zipline_core::reference::TierName;
use zipline_core::tier::{DurableName, EnvelopeError};

use crate::counters::TierCounters;
use crate::error::TransferError;

/// The durable tier that a node uses.
#[derive(Clone, Debug)]
pub struct TierConfig {
    /// Its name, as references carry it.
    pub name: TierName,
    /// Where it is.
    pub store: Arc<dyn ObjectStore>,
    /// What every key begins with; may be empty.
    pub prefix: String,
    /// Copies written at once, and separately read.
    pub transfers: usize,
    /// How often copies are looked for that nobody removed; `None`: never.
    pub sweep: Option<Duration>,
    /// A read without progress ends after it.
    pub idle: Duration,
}

/// A node's side of the durable tier.
#[derive(Debug)]
pub(crate) struct Tier {
    config: TierConfig,
    writes: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    /// Whether the last request was answered.
    up: AtomicBool,
    /// Writes and removals under way.
    working: AtomicUsize,
    worked: Notify,
    pub(crate) counters: TierCounters,
}

/// Why a copy was not written, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// The store did not do it.
    #[error("the durable tier {tier} could not {doing} the copy: {source}")]
    Store {
        /// The tier.
        tier: String,
        /// What was to be done.
        doing: &'static str,
        /// What the store's client said.
        source: object_store::Error,
    },
    /// The store sent nothing for too long.
    #[error("the durable tier {tier} sent nothing for {} s", .idle.as_secs_f64())]
    Idle {
        /// The tier.
        tier: String,
        /// The limit.
        idle: Duration,
    },
    /// There is no copy.
    #[error("the durable tier {tier} has no copy of the object")]
    NoCopy {
        /// The tier.
        tier: String,
    },
    /// What is there cannot be used.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

impl TierError {
    /// The public error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Store { .. } | Self::Idle { .. } => ErrorCode::StoreUnavailable,
            Self::NoCopy { .. } => ErrorCode::ProducerGone,
            Self::Envelope(error) => error.code(),
        }
    }
}

impl Tier {
    pub(crate) fn new(config: TierConfig) -> Arc<Self> {
        Arc::new(Self {
            writes: Arc::new(Semaphore::new(config.transfers)),
            reads: Arc::new(Semaphore::new(config.transfers)),
            up: AtomicBool::new(false),
            working: AtomicUsize::new(0),
            worked: Notify::new(),
            counters: TierCounters::default(),
            config,
        })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &TierName {
        &self.config.name
    }

    /// Whether the store answered the last request.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Counts a write or a removal until the answer is dropped.
    fn work(self: &Arc<Self>) -> Working {
        self.working.fetch_add(1, Ordering::AcqRel);
        Working(Arc::clone(self))
    }

    /// Returns once no write and no removal is under way.
    pub(crate) async fn settled(&self) {
        loop {
            let mut changed = std::pin::pin!(self.worked.notified());
            changed.as_mut().enable();
            if self.working.load(Ordering::Acquire) == 0 {
                return;
            }
            changed.await;
        }
    }

    fn path(&self, key: &str) -> Path {
        match self.config.prefix.as_str() {
            "" => Path::from(key),
            prefix => Path::from(format!("{prefix}/{key}")),
        }
    }

    /// Deletes what lies there; false where nothing did, which is as good.
    async fn delete(&self, path: &Path) -> Result<bool, TierError> {
        match self.heard("remove", self.config.store.delete(path).await) {
            Ok(()) => Ok(true),
            Err(TierError::NoCopy { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn copy(&self, name: &DurableName) -> Path {
        self.path(&name.copy())
    }

    /// Notes how a request ended: what is not there is an answer too.
    fn heard<T>(&self, doing: &'static str, answer: object_store::Result<T>) -> Result<T, TierError> {
        let tier = self.name().as_str().to_owned();
        match answer {
            Ok(answer) => {
                self.up.store(true, Ordering::Relaxed);
                Ok(answer)
            }
            Err(object_store::Error::NotFound { .. }) => {
                self.up.store(true, Ordering::Relaxed);
                Err(TierError::NoCopy { tier })
            }
            Err(source) => {
                if self.up.swap(false, Ordering::Relaxed) {
                    tracing::warn!(tier, doing, error = %source, "the durable tier does not answer as it should");
                }
                Err(TierError::Store { tier, doing, source })
            }
        }
    }
}

/// A write or a removal under way.
#[derive(Debug)]
struct Working(Arc<Tier>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::AcqRel);
        self.0.worked.notify_waiters();
    }
}

/// Whether a read that failed so at its producer may find the object in the durable tier: the producer is gone, or
/// another answers in its place, or nobody.
pub(crate) fn may_lie_there(error: &TransferError) -> bool {
    matches!(
        error.code(),
        ErrorCode::ProducerGone
            | ErrorCode::ProducerUnreachable
            | ErrorCode::PullUnauthenticated
            | ErrorCode::PullIdleTimeout
            | ErrorCode::ProtocolUnsupported
    )
}
