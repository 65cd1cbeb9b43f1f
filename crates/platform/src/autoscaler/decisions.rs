//! Every decision of the autoscaler with its inputs, one JSON document a line.
//!
//! `zipline_core::kpa::replay` over the records of one revision proves how each decision came about. The file turns
//! over at [`FILE_BYTES_MAX`]; the older half is kept beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use zipline_core::kpa::LogRecord;
use zipline_core::time::WallTime;

use crate::clock;
use crate::revision::Revision;

/// Bytes of the log; about two days of one revision's ticks in each 64 MiB.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One line of the decision log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// When, in civil time.
    pub time_ms: WallTime,
    /// Whose.
    pub namespace: String,
    /// Whose.
    pub service: String,
    /// Whose. Records of different revisions are replayed apart.
    pub revision: String,
    /// What the core needs to replay it.
    #[serde(flatten)]
    pub record: LogRecord,
}

/// The log, open for appending.
#[derive(Debug)]
pub(crate) struct DecisionLog {
    path: PathBuf,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl DecisionLog {
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path)?;
        Ok(Self { path, open: Mutex::new(Some(Open { file, bytes: 0 })) })
    }

    /// Adds a record. When the file can't be written the log ends there, and says so.
    pub(crate) fn write(&self, revision: &Revision, record: LogRecord) {
        let record = DecisionRecord {
            time_ms: clock::wall_now(),
            namespace: revision.service.namespace.clone(),
            service: revision.service.name.clone(),
            revision: revision.name.clone(),
            record,
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = open.as_mut()
            && let Err(error) = self.append(log, &record)
        {
            tracing::warn!(path = %self.path.display(), %error, "decisions are no longer logged");
            *open = None;
        }
    }

    fn append(&self, log: &mut Open, record: &DecisionRecord) -> io::Result<()> {
        if log.bytes > FILE_BYTES_MAX {
            fs::rename(&self.path, self.path.with_extension("jsonl.old"))?;
            *log = Open { file: OpenOptions::new().create_new(true).write(true).mode(0o600).open(&self.path)?, bytes: 0 };
        }
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        log.file.write_all(&line)?;
        log.bytes += line.len() as u64;
        Ok(())
    }
}
