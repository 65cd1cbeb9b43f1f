//! Payloads as a function holds them: bytes on the heap, or a mapping of the sealed memory they lie in.

use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Error;
use crate::memory::{Memory, Scratch, Unsealed};

/// Immutable bytes, cheap to clone and to slice. Dereferences to `[u8]`.
///
/// A payload that came as a descriptor is a private, read-only mapping of memory that nobody can change any more;
/// nothing was copied. Any other lies on the heap. It outlives the object it came from.
#[derive(Clone)]
pub struct Payload {
    bytes: Storage,
    content_type: Option<Arc<str>>,
}

#[derive(Clone)]
enum Storage {
    Heap(Bytes),
    Mapped { memory: Arc<Memory>, range: Range<usize> },
}

impl Payload {
    /// A payload without a byte.
    pub fn empty() -> Self {
        Self::from(Bytes::new())
    }

    pub(crate) fn mapped(memory: Memory) -> Self {
        let range = 0..memory.len();
        Self { bytes: Storage::Mapped { memory: Arc::new(memory), range }, content_type: None }
    }

    /// The content type it was put or sent with.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The same bytes with that content type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: &str) -> Self {
        self.content_type = Some(Arc::from(content_type));
        self
    }

    pub(crate) fn with_optional_content_type(self, content_type: Option<&str>) -> Self {
        match content_type {
            Some(content_type) => self.with_content_type(content_type),
            None => self,
        }
    }

    /// Whether the bytes are a mapping of the object's own memory, so that nothing was copied on the way.
    pub fn is_mapped(&self) -> bool {
        matches!(self.bytes, Storage::Mapped { .. })
    }

    /// A part of it, without a copy.
    ///
    /// # Panics
    /// When the range is not within the payload, as slices do.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "the range lies within the payload");
        let bytes = match &self.bytes {
            Storage::Heap(bytes) => Storage::Heap(bytes.slice(range)),
            Storage::Mapped { memory, range: whole } => {
                Storage::Mapped { memory: Arc::clone(memory), range: whole.start + range.start..whole.start + range.end }
            }
        };
        Self { bytes, content_type: self.content_type.clone() }
    }

    /// The same bytes as [`Bytes`], without a copy.
    pub fn into_bytes(self) -> Bytes {
        match self.bytes {
            Storage::Heap(bytes) => bytes,
            Storage::Mapped { memory, range } => Bytes::from_owner(MappedBytes(memory)).slice(range),
        }
    }

    /// The sealed memory that holds exactly these bytes, if there is one to hand over.
    pub(crate) fn memory(&self) -> Option<&Memory> {
        match &self.bytes {
            Storage::Mapped { memory, range } if *range == (0..memory.len()) => Some(memory),
            _ => None,
        }
    }
}

/// Lets [`Bytes`] own a share of a mapping.
struct MappedBytes(Arc<Memory>);

impl AsRef<[u8]> for MappedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Storage::Heap(bytes) => bytes,
            Storage::Mapped { memory, range } => &memory[range.clone()],
        }
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.is_mapped() { "mapped" } else { "heap" };
        write!(f, "Payload({} bytes, {place})", self.len())
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self { bytes: Storage::Heap(bytes), content_type: None }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::from(Bytes::from(text))
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Self {
        Self::from(Bytes::from_static(text.as_bytes()))
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Self {
        Self::from(Bytes::from_static(bytes))
    }
}

/// Writes a payload of any length straight into the memory that becomes the object.
///
/// On Linux that is a memfd, which [`finish`](Self::finish) seals; a `put` of the result hands the descriptor over
/// and copies nothing. Elsewhere it is the heap.
#[derive(Debug)]
pub struct PayloadWriter {
    unsealed: Unsealed,
    written_bytes: u64,
}

impl PayloadWriter {
    /// An empty writer.
    ///
    /// # Errors
    /// [`Error::System`] when the system gives no memory or descriptor.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { unsealed: Unsealed::new()?, written_bytes: 0 })
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Seals what was written.
    ///
    /// # Errors
    /// [`Error::System`] when the system refuses to seal or to map.
    pub fn finish(self) -> Result<Payload, Error> {
        self.unsealed.seal()
    }
}

impl io::Write for PayloadWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.unsealed.write(bytes)?;
        self.written_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A payload of known length as a mutable slice, for code that fills memory in place.
///
/// The slice *is* the memory that becomes the object; it begins as zeros.
#[derive(Debug)]
pub struct PayloadBuffer(Scratch);

impl PayloadBuffer {
    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// [`Error::System`] when the system gives no memory or descriptor.
    pub fn new(len: usize) -> Result<Self, Error> {
        Scratch::new(len).map(Self)
    }

    /// Seals the buffer as it is.
    ///
    /// # Errors
    /// [`Error::System`] when the system refuses to seal or to map.
    pub fn finish(self) -> Result<Payload, Error> {
        self.0.seal()
    }
}

impl Deref for PayloadBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::DerefMut for PayloadBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
