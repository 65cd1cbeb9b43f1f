//! What a client has asked of its stores: operations as a bill counts them, and bytes.
//!
//! Readable by the application at any time, and where `ZIPLINE_STORE_COUNTERS` names a folder also by others: each
//! client keeps one file there, a JSON document of fixed length that is written in place after each change, so that it
//! is always whole and is there even when the process is killed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::key::Kind;
use crate::error::Error;

/// Bytes of the file; what the document does not need is blank.
const FILE_BYTES: usize = 1024;
const SCHEMA: u32 = 1;

/// Operations on one store, and bytes.
///
/// An operation counts once it was answered; one that the store refused for now (a status of 500 and above, `LOADING`)
/// or that did not arrive counts as `failed`, and its retry as whatever that becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Operations {
    /// Writes. In S3 each part of a multipart upload is one, and so are its beginning and its end.
    pub puts: u64,
    /// Reads, ranges and looks without reading.
    pub gets: u64,
    /// Deletions.
    pub deletes: u64,
    /// Payload bytes written.
    pub put_bytes: u64,
    /// Payload bytes read.
    pub get_bytes: u64,
    /// Tries that the store refused for now or that did not arrive.
    pub failed: u64,
    /// Those of them that were told to slow down (503, 429).
    pub throttled: u64,
    /// Objects that this client was to free and had to leave to their expiry.
    pub left_behind: u64,
}

/// What a client has asked of each store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StoreCounters {
    /// Version of this document.
    pub schema: u32,
    /// The S3 bucket.
    pub s3: Operations,
    /// The Redis server.
    pub redis: Operations,
}

impl Operations {
    fn each(self, other: Self, change: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            puts: change(self.puts, other.puts),
            gets: change(self.gets, other.gets),
            deletes: change(self.deletes, other.deletes),
            put_bytes: change(self.put_bytes, other.put_bytes),
            get_bytes: change(self.get_bytes, other.get_bytes),
            failed: change(self.failed, other.failed),
            throttled: change(self.throttled, other.throttled),
            left_behind: change(self.left_behind, other.left_behind),
        }
    }
}

impl StoreCounters {
    /// What came since then.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        let less = u64::saturating_sub;
        Self { schema: SCHEMA, s3: self.s3.each(earlier.s3, less), redis: self.redis.each(earlier.redis, less) }
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let more = u64::saturating_add;
        Self { schema: SCHEMA, s3: self.s3.each(other.s3, more), redis: self.redis.each(other.redis, more) }
    }

    /// The sum over every client that has kept a file in that folder (`ZIPLINE_STORE_COUNTERS`).
    ///
    /// # Errors
    /// [`Error::System`] when the folder or a file in it cannot be read or is not of this kind.
    pub fn of_folder(folder: &Path) -> Result<Self, Error> {
        let mut sum = Self { schema: SCHEMA, ..Self::default() };
        for entry in std::fs::read_dir(folder).map_err(Error::system("reading the folder of counters"))? {
            let path = entry.map_err(Error::system("reading the folder of counters"))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = std::fs::read(&path).map_err(Error::system("reading a file of counters"))?;
                let read: Self =
                    serde_json::from_slice(&text).map_err(|error| Error::system("reading a file of counters")(error.into()))?;
                sum = sum.and(read);
            }
        }
        Ok(sum)
    }
}

/// The counters of one client.
pub(crate) struct Counters {
    counted: Mutex<StoreCounters>,
    file: Option<File>,
}

impl Counters {
    /// Counters that start at nothing, with a file in that folder.
    pub(crate) fn new(folder: Option<&Path>) -> Result<Self, Error> {
        let file = folder.map(own_file).transpose().map_err(Error::system("making the file of counters"))?;
        let counters = Self { counted: Mutex::new(StoreCounters { schema: SCHEMA, ..StoreCounters::default() }), file };
        counters.publish(&counters.counted());
        Ok(counters)
    }

    pub(crate) fn note(&self, kind: Kind, change: impl FnOnce(&mut Operations)) {
        let mut counted = self.counted();
        match kind {
            Kind::S3 => change(&mut counted.s3),
            Kind::Redis => change(&mut counted.redis),
        }
        self.publish(&counted);
    }

    pub(crate) fn now(&self) -> StoreCounters {
        *self.counted()
    }

    fn publish(&self, counted: &StoreCounters) {
        let Some(file) = &self.file else { return };
        // A document of numbers is always writable; a full disk costs the reader the last change, not the operation.
        if let Ok(mut text) = serde_json::to_vec(counted) {
            text.resize(FILE_BYTES - 1, b' ');
            text.push(b'\n');
            file.write_all_at(&text, 0).ok();
        }
    }

    fn counted(&self) -> MutexGuard<'_, StoreCounters> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn own_file(folder: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(folder)?;
    let random = getrandom::u64().map_err(std::io::Error::other)?;
    File::create_new(folder.join(format!("zipline-store-{}-{random:016x}.json", std::process::id())))
}
