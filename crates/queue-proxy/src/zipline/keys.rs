//! Where the key ring comes from, and how a new one takes effect.
//!
//! On the local platform it arrives once, on a descriptor that the parent left open, together with the egress token. In
//! Kubernetes it is a file of a mounted Secret, which is replaced as a whole on a rotation: its directory is watched, and
//! the file is read again after every change. A file that can't be used keeps the ring in force and is logged; a file
//! that goes away does too, since every key in the ring has an end of its own. No file at the start: no ring, a plain
//! queue-proxy, until one appears.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;
use zipline_core::reference::{KeyRing, KeyRingError, RING_BYTES_MAX};

use crate::directory::Changes;

/// What an inherited descriptor held.
pub(crate) struct Secrets {
    /// The ring, if it had one.
    pub(crate) ring: Option<KeyRing>,
    /// What a request at the egress must show, if anything.
    pub(crate) egress_token: Option<String>,
}

/// Why keys can't be used. Carries no part of a key.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Not readable.
    #[error("{place} can't be read: {error}")]
    Unreadable {
        /// Which descriptor or file.
        place: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// Readable, and no key ring.
    #[error("{place}: {error}")]
    NoRing {
        /// Which descriptor or file.
        place: String,
        /// What is wrong with it.
        error: KeyRingError,
    },
}

/// Reads what the parent process left, and closes it.
///
/// # Errors
/// When it can't be read or is not what it should be.
pub(crate) fn inherited(descriptor: OwnedFd) -> Result<Secrets, KeysError> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        keys: Vec<serde::de::IgnoredAny>,
        egress_token: Option<String>,
    }
    let place = || "the descriptor of ZIPLINE_SECRETS_FD".to_owned();
    let unreadable = |error| KeysError::Unreadable { place: place(), error };
    let no_ring = |error| KeysError::NoRing { place: place(), error };
    let mut file = File::from(descriptor);
    match file.rewind() {
        Err(error) if error.kind() == io::ErrorKind::NotSeekable => {} // A pipe begins where it is.
        other => other.map_err(unreadable)?,
    }
    let text = read_bounded(file).map_err(unreadable)?;
    // The parser's own words would quote what it found, which may be a secret in the wrong place.
    let malformed = |error: serde_json::Error| {
        KeyRingError::Malformed(format!("not `keys` and `egress_token` at line {} column {}", error.line(), error.column()))
    };
    let document: Document = serde_json::from_slice(&text).map_err(|error| no_ring(malformed(error)))?;
    let ring = match document.keys.is_empty() {
        true => None,
        false => Some(KeyRing::parse(&text).map_err(no_ring)?),
    };
    Ok(Secrets { ring, egress_token: document.egress_token.filter(|token| !token.is_empty()) })
}

/// A key ring in a file that may be replaced.
#[derive(Debug)]
pub(crate) struct KeysFile {
    path: PathBuf,
}

impl KeysFile {
    /// The ring in this file; it need not be there yet.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The ring as it stands; `None` where there is no file.
    ///
    /// # Errors
    /// When it can't be read or is no ring.
    pub(crate) fn read(&self) -> Result<Option<KeyRing>, KeysError> {
        let place = || self.path.display().to_string();
        let text = match File::open(&self.path).and_then(read_bounded) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| KeysError::Unreadable { place: place(), error })?,
        };
        KeyRing::parse(&text).map(Some).map_err(|error| KeysError::NoRing { place: place(), error })
    }

    /// Reads the ring now and after every change, and gives each usable one to `renew`. Ends only where the directory
    /// can't be watched, which is said once.
    pub(crate) async fn follow(self, mut renew: impl FnMut(KeyRing)) {
        let mut changes = match Changes::around(&self.path) {
            Ok(changes) => changes,
            Err(error) => {
                tracing::info!(path = %self.path.display(), %error, "no key ring is there and none will be waited for");
                return;
            }
        };
        loop {
            // Read after the watch began, so that no change falls in between.
            self.renew_once(&mut renew);
            if let Err(error) = changes.next().await {
                tracing::warn!(path = %self.path.display(), %error, "the key ring's directory can no longer be watched");
                return;
            }
        }
    }

    fn renew_once(&self, renew: &mut impl FnMut(KeyRing)) {
        match self.read() {
            Ok(Some(ring)) => {
                tracing::info!(path = %self.path.display(), keys = ring.keys().len(), "the key ring was read");
                renew(ring);
            }
            Ok(None) => tracing::debug!(path = %self.path.display(), "no key ring is there"),
            Err(error) => tracing::warn!(%error, "the key ring can't be used; the one in force stays"),
        }
    }
}

/// Reads a whole file, but no more than one byte beyond what a ring may have: the parser refuses that.
fn read_bounded(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(RING_BYTES_MAX + 1)); // At once: growing would leave copies.
    file.take(RING_BYTES_MAX as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Duration;
    use tokio::sync::mpsc;

    fn document(id: &str) -> String {
        format!(r#"{{"keys":[{{"id":"{id}","key":"{}","not_before_ms":0,"not_after_ms":99999999999999}}]"#, "ab".repeat(32))
    }

    fn ids(ring: &KeyRing) -> String {
        ring.keys().iter().map(|key| key.id().to_string()).collect()
    }

    #[test]
    fn a_pipe_and_a_written_file_are_read_alike() {
        let text = format!(r#"{},"egress_token":"s3cret"}}"#, document("0000000a"));
        let (read, mut write) = std::io::pipe().expect("a pipe");
        write.write_all(text.as_bytes()).expect("written");
        drop(write);
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        for descriptor in [OwnedFd::from(read), OwnedFd::from(file)] {
            let secrets = inherited(descriptor).expect("secrets");
            assert_eq!(secrets.ring.as_ref().map(ids).as_deref(), Some("0000000a"));
            assert_eq!(secrets.egress_token.as_deref(), Some("s3cret"));
        }
    }

    #[test]
    fn secrets_without_keys_are_a_plain_proxys_and_garbage_is_an_error() {
        let of = |text: &str| {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(text.as_bytes()).expect("written");
            inherited(file.into())
        };
        assert!(of(r#"{"egress_token":"t"}"#).is_ok_and(|secrets| secrets.ring.is_none() && secrets.egress_token.is_some()));
        for text in ["", "{", r#"{"keys":[{"id":"x"}]}"#, r#"{"keys":"abababab"}"#] {
            let error = of(text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("ZIPLINE_SECRETS_FD") && !error.contains("abab"), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn a_replaced_ring_takes_effect_and_a_broken_one_does_not() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("keys.json");
        let (renewed, mut rings) = mpsc::channel(8);
        let follow = KeysFile::new(&path).follow(move |ring| drop(renewed.try_send(ids(&ring))));
        let script = async {
            let replace = |text: String| {
                std::fs::write(scratch.path().join("next"), text).expect("written");
                std::fs::rename(scratch.path().join("next"), &path).expect("replaced");
            };
            let mut until = async |id: &str| {
                let wait = async { while rings.recv().await.is_some_and(|ring| ring != id) {} };
                tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the ring takes effect");
            };
            replace(format!("{}}}", document("0000000a")));
            until("0000000a").await;
            replace("broken".into());
            replace(format!("{}}}", document("0000000b")));
            until("0000000b").await;
            std::fs::remove_file(&path).expect("removed");
            replace(format!("{}}}", document("0000000c")));
            until("0000000c").await;
        };
        tokio::select! {
            () = follow => panic!("ended"),
            () = script => {}
        }
        std::fs::write(&path, "x".repeat(RING_BYTES_MAX + 1)).expect("written");
        assert!(matches!(KeysFile::new(&path).read(), Err(KeysError::NoRing { error: KeyRingError::TooLong { .. }, .. })));
    }
}
