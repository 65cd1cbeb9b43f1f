//! Memory that is mapped: a sealed payload to read, a payload to be written, and anonymous buffers.
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::memfd::{Memfd, SealedMemfd};

/// Size of a transparent huge page on x86-64 and, with 4 KiB pages, on arm64.
const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// One mapped region; unmapped on drop. An empty one has no address and is never passed to the kernel.
#[derive(Debug)]
struct Region {
    address: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a region owns its pages as a `Box<[u8]>` does: nothing about them depends on the thread, and `&Region` gives
// nothing but its address and length. (What may be done with the bytes is decided by the types around it.)
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    const EMPTY: Self = Self { address: NonNull::dangling(), bytes: 0 };

    fn of_file(file: BorrowedFd<'_>, bytes: u64, protection: ProtFlags, flags: MapFlags) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        if bytes == 0 {
            return Ok(Self::EMPTY);
        }
        // SAFETY: the kernel chooses the address (null hint, no MAP_FIXED), so that no existing memory is touched. std
        // has no mappings.
        let address = unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, protection, flags, file, 0)? };
        Self::new(address.cast(), bytes)
    }

    fn anonymous(bytes: usize) -> io::Result<Self> {
        if bytes == 0 {
            return Ok(Self::EMPTY);
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as in `of_file`.
        let address = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, protection, MapFlags::PRIVATE)? };
        Self::new(address.cast(), bytes)
    }

    fn new(address: *mut u8, bytes: usize) -> io::Result<Self> {
        match NonNull::new(address) {
            Some(address) => Ok(Self { address, bytes }),
            None => Err(Errno::NOMEM.into()), // Page zero: the kernel does not map it unless asked to.
        }
    }

    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        if self.bytes == 0 {
            return Ok(());
        }
        // SAFETY: the range is this region's own mapping, alive as long as `self`; none of the advices used here
        // (DONTFORK, HUGEPAGE, POPULATE) changes what its bytes read as.
        rustix::io::retry_on_intr(|| unsafe { rustix::mm::madvise(self.address.as_ptr().cast(), self.bytes, advice) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: the range is this region's own mapping, and no borrow of its bytes outlives it.
            let unmapped = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.bytes) };
            debug_assert!(unmapped.is_ok(), "a whole mapping can be unmapped: {unmapped:?}");
        }
    }
}

/// A sealed payload, mapped to be read. It stays valid after its descriptor is closed.
#[derive(Debug)]
pub struct Mapping {
    region: Region,
}

impl Mapping {
    /// Maps all of a payload, privately and read-only (kernels before about 6.7 refuse shared maps of sealed files).
    /// Pages are mapped as they are touched.
    ///
    /// # Errors
    /// When address space is short.
    pub fn of(payload: &SealedMemfd) -> io::Result<Self> {
        Ok(Self { region: Region::of_file(payload.as_fd(), payload.size(), ProtFlags::READ, MapFlags::PRIVATE)? })
    }

    /// Maps all pages now, in one call, instead of one fault each. Where the kernel cannot (before 5.14), nothing
    /// happens: they are then mapped as they are touched.
    ///
    /// # Errors
    /// When memory is short.
    pub fn populate(&self) -> io::Result<()> {
        populate(&self.region, Advice::LinuxPopulateRead)
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the region is a live mapping of `bytes` readable bytes, or empty with a dangling, aligned address.
        // The file is sealed against shrinking, so that no access is beyond its end (SIGBUS), and against writing, with
        // no writable mapping left when that seal was set, so that the bytes do not change under a shared borrow:
        // `SealedMemfd` is the proof of both.
        unsafe { std::slice::from_raw_parts(self.region.address.as_ptr(), self.region.bytes) }
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// A payload being written in place. It becomes a [`SealedMemfd`] without a copy.
///
/// Its file is not passed on before it is sealed, so that its owner is the only one who writes or truncates it.
#[derive(Debug)]
pub struct WritableMapping {
    region: Region,
    memfd: Memfd,
}

impl WritableMapping {
    /// A payload of at most `bytes` bytes, all zero. Memory is taken as pages are touched.
    ///
    /// # Errors
    /// When descriptors or address space are short.
    pub fn create(name: &str, bytes: u64) -> io::Result<Self> {
        let memfd = Memfd::create(name)?;
        memfd.set_size(bytes)?;
        let region = Region::of_file(memfd.as_fd(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)?;
        // A child forked while the mapping exists would inherit it, and sealing would fail until that child's exec.
        region.advise(Advice::LinuxDontFork)?;
        Ok(Self { region, memfd })
    }

    /// Takes the memory for all pages now: several times faster than one fault each, and short memory is an error here
    /// instead of a SIGBUS at the first touch. Where the kernel cannot (before 5.14), nothing happens.
    ///
    /// # Errors
    /// When memory is short.
    pub fn populate(&self) -> io::Result<()> {
        populate(&self.region, Advice::LinuxPopulateWrite)
    }

    /// Fixes the first `bytes` bytes as the payload (at most the size it was made with). Bytes that were never touched
    /// are allocated now, because a payload with holes is not admitted anywhere.
    ///
    /// # Errors
    /// When `bytes` is larger than the mapping, or memory is short.
    pub fn seal(self, bytes: u64) -> io::Result<SealedMemfd> {
        if bytes > self.region.bytes as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        drop(self.region); // Before sealing: the kernel refuses it while a writable mapping exists.
        self.memfd.set_size(bytes)?;
        if bytes > 0 {
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.memfd, flags, 0, bytes))?;
        }
        self.memfd.seal()
    }
}

impl Deref for WritableMapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the region is a live mapping of `bytes` readable bytes, or empty. The file was made by `create` with
        // that size and never left this type, so that nobody truncates it or writes to it while it is borrowed.
        unsafe { std::slice::from_raw_parts(self.region.address.as_ptr(), self.region.bytes) }
    }
}

impl DerefMut for WritableMapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the mapping is writable, and `&mut self` makes this the only borrow.
        unsafe { std::slice::from_raw_parts_mut(self.region.address.as_ptr(), self.region.bytes) }
    }
}

/// A large anonymous buffer, all zero, aligned to huge pages and backed by them where the system allows it.
///
/// For landing bytes that need no descriptor: fresh memfd pages cost several times as much.
#[derive(Debug)]
pub struct AnonymousBuffer {
    region: Region,
    /// Where the aligned part begins.
    skip: usize,
    bytes: usize,
}

impl AnonymousBuffer {
    /// A buffer of `bytes` bytes. Memory is taken as it is touched.
    ///
    /// # Errors
    /// When address space is short.
    pub fn create(bytes: usize) -> io::Result<Self> {
        // A small one gets no alignment: it would never be given a huge page.
        let slack = if bytes < HUGE_PAGE_BYTES { 0 } else { HUGE_PAGE_BYTES };
        let whole = bytes.checked_add(slack).ok_or(io::ErrorKind::OutOfMemory)?;
        let region = Region::anonymous(whole)?;
        let skip = if slack == 0 { 0 } else { region.address.as_ptr().align_offset(HUGE_PAGE_BYTES) };
        if slack > 0 {
            match region.advise(Advice::LinuxHugepage) {
                Ok(()) | Err(Errno::INVAL) => {} // INVAL: a kernel without huge pages; small ones do as well.
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { region, skip, bytes })
    }
}

impl Deref for AnonymousBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the region is a live, private, readable mapping of at least `skip + bytes` bytes: `skip` is smaller
        // than the slack that was added. Nobody else has its address.
        unsafe { std::slice::from_raw_parts(self.region.address.as_ptr().add(self.skip), self.bytes) }
    }
}

impl DerefMut for AnonymousBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the mapping is writable, and `&mut self` makes this the only borrow.
        unsafe { std::slice::from_raw_parts_mut(self.region.address.as_ptr().add(self.skip), self.bytes) }
    }
}

impl AsRef<[u8]> for AnonymousBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

fn populate(region: &Region, advice: Advice) -> io::Result<()> {
    match region.advise(advice) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_written_in_place_is_sealed_and_read_back_without_holes() {
        let mut writable = WritableMapping::create("test", 3 << 20).expect("mapped");
        writable.populate().expect("memory");
        writable[..5].copy_from_slice(b"hello");
        let sealed = writable.seal((2 << 20) + 7).expect("sealed");
        assert_eq!(sealed.size(), (2 << 20) + 7);
        let mapping = Mapping::of(&sealed).expect("mapped");
        mapping.populate().expect("memory");
        assert_eq!((&mapping[..5], mapping.len()), (&b"hello"[..], (2 << 20) + 7));
        assert!(SealedMemfd::admit(sealed.into(), u64::MAX).is_ok());
        assert_eq!(&mapping[..5], b"hello", "the mapping outlives the descriptor");
    }

    #[test]
    fn bytes_that_were_never_touched_are_allocated_when_the_payload_is_sealed() {
        let sealed = WritableMapping::create("test", 1 << 20).expect("mapped").seal(1 << 20).expect("sealed");
        assert!(SealedMemfd::admit(sealed.into(), u64::MAX).is_ok());
    }

    #[test]
    fn an_empty_payload_maps_to_no_bytes() {
        let sealed = WritableMapping::create("test", 0).expect("mapped").seal(0).expect("sealed");
        assert!(Mapping::of(&sealed).expect("mapped").is_empty());
        assert!(AnonymousBuffer::create(0).expect("mapped").is_empty());
    }

    #[test]
    fn a_payload_cannot_be_sealed_larger_than_it_was_made() {
        let writable = WritableMapping::create("test", 10).expect("mapped");
        assert_eq!(writable.seal(11).map_err(|e| e.kind()).expect_err("refused"), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_memfd_is_not_sealed_while_it_is_mapped_writable() {
        let writable = WritableMapping::create("test", 4096).expect("mapped");
        let again = Memfd::from_fd_for_test(writable.memfd.as_fd());
        assert_eq!(again.seal().expect_err("busy").kind(), io::ErrorKind::ResourceBusy);
    }

    #[test]
    fn a_large_anonymous_buffer_is_zero_aligned_and_writable_to_its_ends() {
        let mut buffer = AnonymousBuffer::create((4 << 20) + 3).expect("mapped");
        assert_eq!(buffer.as_ptr().align_offset(HUGE_PAGE_BYTES), 0);
        assert!(buffer.iter().all(|byte| *byte == 0));
        let last = buffer.len() - 1;
        (buffer[0], buffer[last]) = (1, 2);
        assert_eq!((buffer[0], buffer[last], buffer.len()), (1, 2, (4 << 20) + 3));
    }
}
