//! The decision log of a revision, and its replay.
//!
//! A driver writes one record a line: first [`LogRecord::Start`], from [`Autoscaler::log_start`], then a [`LogRecord::Tick`]
//! for each tick. [`replay`] gives the logged inputs to a new autoscaler and compares what it decides, so that a log is
//! proof of how the decisions came about. A log may hold several starts: each begins anew.

use serde::{Deserialize, Serialize};

use super::{Autoscaler, KpaSpec, Tick, TickDecision};
use crate::time::Monotonic;

/// Version of the log's format.
pub const LOG_SCHEMA: u32 = 1;

/// One line of a decision log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub enum LogRecord {
    /// An autoscaler was made.
    Start {
        /// [`LOG_SCHEMA`].
        schema: u32,
        /// What it keeps to.
        spec: Box<KpaSpec>,
        /// Instances that were ready.
        ready_pods: u32,
        /// When, in nanoseconds of the driver's monotonic clock.
        at: Monotonic,
    },
    /// It was asked, and decided.
    Tick(Tick),
}

/// Why a log can't be replayed, or a decision that comes out differently.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReplayError {
    /// The log was written by another version.
    #[error("record {record}: the log has schema {schema}, this program reads {LOG_SCHEMA}")]
    Schema {
        /// Number of the record, from 0.
        record: usize,
        /// Its schema.
        schema: u32,
    },
    /// A tick comes before any start.
    #[error("record {record}: a tick without a start before it")]
    NoStart {
        /// Number of the record, from 0.
        record: usize,
    },
    /// The replayed decision is another one.
    #[error("record {record}: logged {logged:?}, replayed {replayed:?}")]
    Differs {
        /// Number of the record, from 0.
        record: usize,
        /// What was logged.
        logged: Box<TickDecision>,
        /// What came out now.
        replayed: Box<TickDecision>,
    },
}

/// Replays the log of one revision, and answers how many decisions came out as logged.
///
/// # Errors
/// The first record that can't be replayed or comes out differently.
pub fn replay(records: impl IntoIterator<Item = LogRecord>) -> Result<usize, ReplayError> {
    let mut autoscaler: Option<Autoscaler> = None;
    let mut replayed = 0;
    for (record, entry) in records.into_iter().enumerate() {
        match entry {
            LogRecord::Start { schema, .. } if schema != LOG_SCHEMA => return Err(ReplayError::Schema { record, schema }),
            LogRecord::Start { spec, ready_pods, at, .. } => autoscaler = Some(Autoscaler::new(*spec, ready_pods, at)),
            LogRecord::Tick(logged) => {
                let Some(autoscaler) = autoscaler.as_mut() else { return Err(ReplayError::NoStart { record }) };
                let now = autoscaler.tick(logged.input);
                if now.decision != logged.decision {
                    let (logged, replayed) = (Box::new(logged.decision), Box::new(now.decision));
                    return Err(ReplayError::Differs { record, logged, replayed });
                }
                replayed += 1;
            }
        }
    }
    Ok(replayed)
}
