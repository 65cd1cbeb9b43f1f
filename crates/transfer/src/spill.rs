//! The local disk behind memory: objects that wait longest, in files without a name.
//!
//! A file is sealed in chunks of 64 KiB, with a key that is made at the start and dies with the process, and it has no
//! name: a crash leaves nothing, and nothing on the disk can be read by anybody else. What was written or read leaves the
//! page cache at once. Readers are served from a file as from memory, block by block; a descriptor of it is never passed
//! on. Which object goes to disk is decided in `zipline_core::object`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use zeroize::Zeroizing;
use zipline_core::tier::{CHUNK_TAG_BYTES, ChunkCipher};
use zipline_sys::UnlinkedFile;

use crate::config::SpillConfig;
use crate::node::Inner;
use crate::random;
use crate::stored::{Body, Stored};

/// Bytes that are sealed together; the same step in which sums are computed.
const CHUNK_BYTES: usize = 64 * 1024;
const SEALED_BYTES: usize = CHUNK_BYTES + CHUNK_TAG_BYTES;
/// Chunks that are written with one call.
const WRITE_CHUNKS: usize = 16;
/// After this much a file is settled on disk, so that little of it ever lies in the page cache.
const SETTLE_BYTES: u64 = 16 * 1024 * 1024;
/// A disk that refused is left alone for so long.
const FAILED_PAUSE: Duration = Duration::from_secs(5);

/// Where objects are spilled to, and the key of this process.
#[derive(Debug)]
pub(crate) struct Spill {
    config: SpillConfig,
    key: Zeroizing<[u8; 32]>,
}

/// One object on disk.
#[derive(Debug)]
pub(crate) struct SpillFile {
    file: UnlinkedFile,
    cipher: ChunkCipher,
    size: u64,
}

impl Spill {
    /// Opens the directory, which is made where it is not there.
    pub(crate) fn open(config: SpillConfig) -> io::Result<Self> {
        std::fs::create_dir_all(&config.directory)?;
        UnlinkedFile::create(&config.directory)?; // What is wrong with it is told at the start.
        Ok(Self { config, key: random::key()? })
    }

    /// Writes the bytes of a complete object. Takes as long as the disk does.
    fn write(&self, stored: &Stored, size: u64) -> io::Result<SpillFile> {
        let file = UnlinkedFile::create(&self.config.directory)?;
        let cipher = ChunkCipher::new(&self.key, random::salt()?);
        let mut sealed = Vec::with_capacity(WRITE_CHUNKS * SEALED_BYTES);
        let (mut at, mut index, mut unsettled) = (0_u64, 0_u64, 0_u64);
        while at < size {
            let first = index;
            sealed.clear();
            while at < size && index - first < WRITE_CHUNKS as u64 {
                let length = usize::try_from(size - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
                let begins = sealed.len();
                sealed.resize(begins + length, 0);
                let chunk = sealed.get_mut(begins..).unwrap_or_default();
                stored.read_at(chunk, at)?;
                let tag = cipher.seal(index, chunk);
                sealed.extend_from_slice(&tag);
                at += length as u64;
                index += 1;
            }
            file.write_all_at(&sealed, first * SEALED_BYTES as u64)?;
            unsettled += sealed.len() as u64;
            if unsettled >= SETTLE_BYTES || at >= size {
                file.settle()?;
                unsettled = 0;
            }
        }
        Ok(SpillFile { file, cipher, size })
    }
}

impl SpillFile {
    /// Reads bytes of the object that are there.
    pub(crate) fn read_exact_at(&self, mut buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut at = offset;
        let mut sealed = Vec::new();
        while !buffer.is_empty() {
            let index = at / CHUNK_BYTES as u64;
            let begins = index * CHUNK_BYTES as u64;
            let length = usize::try_from(self.size.saturating_sub(begins)).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            let skip = usize::try_from(at - begins).unwrap_or(usize::MAX);
            if skip >= length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            sealed.resize(length + CHUNK_TAG_BYTES, 0);
            let place = index * SEALED_BYTES as u64;
            self.file.read_exact_at(&mut sealed, place)?;
            self.file.forget(place, sealed.len() as u64);
            let (chunk, tag) = sealed.split_last_chunk_mut::<CHUNK_TAG_BYTES>().ok_or(io::ErrorKind::UnexpectedEof)?;
            if !self.cipher.open(index, chunk, *tag) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the local disk gave back other bytes than were written"));
            }
            let now = (length - skip).min(buffer.len());
            let (filled, rest) = buffer.split_at_mut(now);
            filled.copy_from_slice(chunk.get(skip..skip + now).unwrap_or_default());
            buffer = rest;
            at += now as u64;
        }
        Ok(())
    }
}

/// Writes to disk what is to go there, one object after the other, as long as the node lives.
pub(crate) async fn run(inner: Arc<Inner>, spill: Arc<Spill>) {
    loop {
        let Some((id, size, stored)) = inner.ledger.next_to_spill() else {
            inner.ledger.spill().await;
            continue;
        };
        let (to, from) = (Arc::clone(&spill), Arc::clone(&stored));
        let written =
            tokio::task::spawn_blocking(move || to.write(&from, size)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        match written {
            Ok(file) => {
                let file = Arc::new(file);
                let before =
                    inner.ledger.command(|holdings, _| holdings.spilled(id).then(|| stored.swap_body(Body::Spilled(file))));
                let count = if before.is_some() { &inner.counters.spills_ok } else { &inner.counters.spills_abandoned };
                count.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(object = %id, object.bytes = size, tier = "disk", kept = before.is_some(), "spilled");
                // Giving memory back takes as long as taking it.
                tokio::task::spawn_blocking(move || drop(before)).await.unwrap_or_default();
            }
            Err(error) => {
                inner.counters.spills_failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(directory = %spill.config.directory.display(), %error, "an object could not be written to local disk");
                inner.ledger.command(|holdings, _| holdings.spill_failed(id));
                tokio::time::sleep(FAILED_PAUSE).await; // A full disk does not become free by being asked again at once.
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zipline_core::object::ObjectId;
    use zipline_core::pull::SumKind;

    #[test]
    fn any_part_of_a_file_is_read_back_and_a_changed_one_is_refused() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let spill = Spill::open(SpillConfig { directory: directory.path().into(), bytes_max: u64::MAX })?;
        let bytes: Vec<u8> = (0..CHUNK_BYTES * (WRITE_CHUNKS + 1) + 77).map(|i| (i * 31 + i / 251) as u8).collect();
        let stored = Stored::new(ObjectId::from_bytes([1; 16]), None, SumKind::Crc32c, Body::Heap(bytes.clone().into()));
        let file = spill.write(&stored, bytes.len() as u64)?;
        for (first, length) in [(0, bytes.len()), (1, 5), (CHUNK_BYTES - 1, 2), (CHUNK_BYTES, CHUNK_BYTES), (bytes.len() - 1, 1)]
        {
            let mut part = vec![0; length];
            file.read_exact_at(&mut part, first as u64)?;
            assert!(part == bytes[first..first + length], "{length} from {first} on");
        }
        assert!(file.read_exact_at(&mut [0; 2], bytes.len() as u64 - 1).is_err(), "there are not that many");
        file.file.write_all_at(b"x", CHUNK_BYTES as u64 / 2)?;
        assert_eq!(file.read_exact_at(&mut [0; 1], 0).map_err(|error| error.kind()), Err(io::ErrorKind::InvalidData));
        assert_eq!(std::fs::read_dir(directory.path())?.count(), 0, "no file has a name");
        Ok(())
    }
}
