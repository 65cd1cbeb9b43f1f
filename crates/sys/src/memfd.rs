//! Anonymous memory files: how a large payload lies in memory, and how it is passed on without a copy.
//!
//! A [`Memfd`] is written, by its one owner; sealing it makes a [`SealedMemfd`], which is the proof that neither its
//! bytes nor its size can change any more, whoever else holds the descriptor. That proof is what makes it sound to map
//! it, and what makes its sums mean something.
//!
//! A descriptor that came from somebody else is input. [`SealedMemfd::admit`] checks it without mapping or reading it,
//! in constant time. What it cannot see: up to [`OVERHANG_BYTES_MAX`] of holes may hide behind blocks that were
//! allocated beyond the file's end.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, MemfdFlags, OFlags, SealFlags};
use rustix::io::Errno;

/// How often sealing is tried while pages are in use. The kernel waits up to about 100 ms in each; a writable mapping fails at once.
const SEAL_TRIES_MAX: u32 = 10;

/// What a file needs to be immutable. `FUTURE_WRITE` is no substitute: an existing mapping goes on writing.
const IMMUTABLE: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);
/// Unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;
/// How far the allocation of a file may reach beyond its end: the largest transparent huge page.
pub const OVERHANG_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// `MFD_NOEXEC_SEAL` is known since Linux 6.3. Set once it was refused, so that it is tried once and not each time.
static NOEXEC_UNKNOWN: AtomicBool = AtomicBool::new(false);

/// A memory file that is still being written.
#[derive(Debug)]
pub struct Memfd {
    fd: OwnedFd,
}

impl Memfd {
    /// Makes an empty one. `name` shows up in `/proc` only.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn create(name: &str) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        if !NOEXEC_UNKNOWN.load(Ordering::Relaxed) {
            match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
                Err(Errno::INVAL) => NOEXEC_UNKNOWN.store(true, Ordering::Relaxed),
                result => return Ok(Self { fd: result? }),
            }
        }
        Ok(Self { fd: rustix::fs::memfd_create(name, flags)? })
    }

    /// Writes all of `bytes` at `offset`, growing the file if need be.
    ///
    /// # Errors
    /// When memory is short, or the memory limit of the process is reached.
    pub fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.fd, bytes, offset))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    offset += written as u64;
                }
            }
        }
        Ok(())
    }

    /// Reads exactly `buffer.len()` bytes at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        read_exact_at(self.fd.as_fd(), buffer, offset)
    }

    /// Sets its size: what is added reads as zeros and takes memory only once it is written.
    ///
    /// # Errors
    /// When the size is beyond what the system allows.
    pub fn set_size(&self, bytes: u64) -> io::Result<()> {
        Ok(rustix::io::retry_on_intr(|| rustix::fs::ftruncate(&self.fd, bytes))?)
    }

    /// Fixes bytes and size for ever.
    ///
    /// # Errors
    /// `ResourceBusy` while a writable mapping exists anywhere.
    pub fn seal(self) -> io::Result<SealedMemfd> {
        let size = self.seal_in_place()?;
        Ok(SealedMemfd { fd: self.fd, size })
    }

    /// As [`Memfd::seal`], for a file that others are reading while it is written: they keep this handle, which can no
    /// longer be written.
    ///
    /// It looks at every page, and waits up to about 100 ms for pages that are in use (being read, or in a socket's
    /// buffer after `sendfile`): not for an event loop.
    ///
    /// # Errors
    /// `ResourceBusy` also while pages stay in use; no descriptor left.
    pub fn seal_shared(&self) -> io::Result<SealedMemfd> {
        let size = self.seal_in_place()?;
        Ok(SealedMemfd { fd: self.fd.try_clone()?, size })
    }

    fn seal_in_place(&self) -> io::Result<u64> {
        let mut tries_left = SEAL_TRIES_MAX;
        loop {
            tries_left -= 1;
            match rustix::io::retry_on_intr(|| rustix::fs::fcntl_add_seals(&self.fd, IMMUTABLE)) {
                // The kernel has waited for the pages itself; somebody of its own (migration, aging) may hold one a little longer.
                Err(rustix::io::Errno::BUSY) if tries_left > 0 => {}
                sealed => {
                    sealed?;
                    return size_of(&self.fd);
                }
            }
        }
    }
}

#[cfg(test)]
impl Memfd {
    pub(crate) fn from_fd_for_test(fd: BorrowedFd<'_>) -> Self {
        Self { fd: fd.try_clone_to_owned().expect("a descriptor is left") }
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A memory file whose bytes and size can no longer change.
#[derive(Debug)]
pub struct SealedMemfd {
    fd: OwnedFd,
    size: u64,
}

/// Why a descriptor is not taken for an object.
#[derive(Debug)]
pub enum NotAdmitted {
    /// It is no memory file.
    NotMemfd,
    /// It cannot be read.
    NotReadable,
    /// Seals are missing; their names.
    Unsealed(String),
    /// It is larger than allowed.
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// Not all of its bytes are allocated, so that reading it would take memory that nobody accounts for.
    Sparse {
        /// Its size.
        bytes: u64,
        /// What is allocated.
        allocated_bytes: u64,
    },
    /// More is allocated than its size needs.
    Overallocated {
        /// Its size.
        bytes: u64,
        /// What is allocated.
        allocated_bytes: u64,
    },
    /// The kernel would not say.
    Io(io::Error),
}

impl std::fmt::Display for NotAdmitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotMemfd => write!(f, "the descriptor is no memfd"),
            Self::NotReadable => write!(f, "the descriptor cannot be read"),
            Self::Unsealed(missing) => write!(f, "the descriptor lacks seals: {missing}"),
            Self::TooLarge { bytes, bytes_max } => write!(f, "the descriptor has {bytes} bytes, at most {bytes_max} are taken"),
            Self::Sparse { bytes, allocated_bytes } => {
                write!(f, "the descriptor has holes: {allocated_bytes} of its {bytes} bytes are allocated")
            }
            Self::Overallocated { bytes, allocated_bytes } => {
                write!(f, "the descriptor has {allocated_bytes} bytes allocated for a size of {bytes}")
            }
            Self::Io(error) => write!(f, "the descriptor cannot be examined: {error}"),
        }
    }
}

impl std::error::Error for NotAdmitted {}

impl From<Errno> for NotAdmitted {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl SealedMemfd {
    /// Takes a descriptor that came from somebody else, if it is an immutable memory file of at most `bytes_max` bytes
    /// without holes. It is neither mapped nor read.
    ///
    /// # Errors
    /// What is wrong with it, with the numbers.
    pub fn admit(fd: OwnedFd, bytes_max: u64) -> Result<Self, NotAdmitted> {
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(NotAdmitted::NotMemfd);
        }
        // Only memory files have seals at all; one of another file system answers EINVAL. A plain file on a tmpfs has
        // SEAL and nothing else, and can get no other.
        let seals = match rustix::fs::fcntl_get_seals(&fd) {
            Ok(seals) => seals,
            Err(Errno::INVAL) => return Err(NotAdmitted::NotMemfd),
            Err(error) => return Err(error.into()),
        };
        if !seals.contains(IMMUTABLE) {
            let missing: Vec<_> = (IMMUTABLE - seals).iter_names().map(|(name, _)| name).collect();
            return Err(NotAdmitted::Unsealed(missing.join(", ")));
        }
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        if flags.contains(OFlags::PATH) || flags & OFlags::RWMODE == OFlags::WRONLY {
            return Err(NotAdmitted::NotReadable);
        }
        let (bytes, allocated_bytes) = (stat.st_size.cast_unsigned(), stat.st_blocks.cast_unsigned().saturating_mul(BLOCK_BYTES));
        if bytes > bytes_max {
            return Err(NotAdmitted::TooLarge { bytes, bytes_max });
        }
        if allocated_bytes < bytes {
            return Err(NotAdmitted::Sparse { bytes, allocated_bytes });
        }
        // Blocks beyond the end (fallocate with KEEP_SIZE) would make up in number for holes before it.
        if allocated_bytes > bytes.next_multiple_of(OVERHANG_BYTES_MAX) {
            return Err(NotAdmitted::Overallocated { bytes, allocated_bytes });
        }
        Ok(Self { fd, size: bytes })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Another descriptor of the same file.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, size: self.size })
    }

    /// Reads exactly `buffer.len()` bytes at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        read_exact_at(self.fd.as_fd(), buffer, offset)
    }
}

impl AsFd for SealedMemfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<SealedMemfd> for OwnedFd {
    fn from(sealed: SealedMemfd) -> Self {
        sealed.fd
    }
}

fn read_exact_at(fd: BorrowedFd<'_>, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut *buffer, offset))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = buffer.get_mut(read..).unwrap_or_default();
                offset += read as u64;
            }
        }
    }
    Ok(())
}

fn size_of(fd: &OwnedFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(fd)?.st_size.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::FallocateFlags;

    fn written(bytes: &[u8]) -> Memfd {
        let memfd = Memfd::create("test").expect("created");
        memfd.write_all_at(bytes, 0).expect("written");
        memfd
    }

    fn raw(seals: SealFlags, bytes: usize) -> OwnedFd {
        let memfd = written(&vec![1; bytes]);
        rustix::fs::fcntl_add_seals(&memfd, seals).expect("sealed");
        memfd.fd
    }

    #[test]
    fn what_was_written_is_read_and_can_no_longer_change() {
        let memfd = written(b"hello");
        memfd.write_all_at(b"HE", 0).expect("written");
        let mut back = [0; 5];
        memfd.read_exact_at(&mut back, 0).expect("read");
        assert_eq!(&back, b"HEllo");
        let sealed = memfd.seal().expect("sealed");
        assert_eq!(sealed.size(), 5);
        let copy = Memfd { fd: OwnedFd::from(sealed.try_clone().expect("cloned")) };
        assert!(copy.write_all_at(b"x", 0).is_err() && copy.set_size(1).is_err() && copy.set_size(9).is_err());
        assert_eq!(sealed.read_exact_at(&mut [0; 6], 0).map_err(|e| e.kind()), Err(io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn a_memfd_is_not_executable_where_the_kernel_knows_the_seal() {
        let memfd = Memfd::create("test").expect("created");
        let mode = rustix::fs::fstat(&memfd).expect("stat").st_mode;
        assert!(mode & 0o111 == 0 || NOEXEC_UNKNOWN.load(Ordering::Relaxed));
        let flags = rustix::io::fcntl_getfd(&memfd).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn a_sealed_full_memfd_is_admitted_also_when_empty() {
        for bytes in [0, 1, 4096, 100_000] {
            let sealed = SealedMemfd::admit(raw(IMMUTABLE, bytes), 1 << 20).expect("admitted");
            assert_eq!(sealed.size(), bytes as u64);
        }
    }

    #[test]
    fn a_descriptor_that_is_something_else_is_refused_by_name() {
        let file: OwnedFd = tempfile::tempfile().expect("file").into();
        assert!(matches!(SealedMemfd::admit(file, 10), Err(NotAdmitted::NotMemfd | NotAdmitted::Unsealed(_))));
        let (read, _write) = std::io::pipe().expect("pipe");
        assert!(matches!(SealedMemfd::admit(read.into(), 10), Err(NotAdmitted::NotMemfd)));
        if let Ok(file) = tempfile::tempfile_in("/dev/shm") {
            assert!(matches!(SealedMemfd::admit(file.into(), 10), Err(NotAdmitted::Unsealed(_))), "a plain file on a tmpfs");
        }
    }

    #[test]
    fn a_half_sealed_descriptor_is_refused_and_the_missing_seals_named() {
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        let error = SealedMemfd::admit(raw(seals, 10), 10).expect_err("refused");
        assert!(error.to_string().ends_with(": WRITE"), "{error}");
        let error = SealedMemfd::admit(raw(SealFlags::empty(), 10), 10).expect_err("refused");
        assert!(error.to_string().contains("SEAL, SHRINK, GROW, WRITE"), "{error}");
        let error = SealedMemfd::admit(raw(IMMUTABLE - SealFlags::SEAL, 10), 10).expect_err("refused");
        assert!(error.to_string().ends_with(": SEAL"), "{error}");
    }

    #[test]
    fn a_sparse_descriptor_is_refused_also_when_blocks_beyond_its_end_make_up_the_number() {
        let memfd = written(b"x");
        memfd.set_size(16 << 20).expect("grown");
        rustix::fs::fcntl_add_seals(&memfd, IMMUTABLE).expect("sealed");
        assert!(matches!(SealedMemfd::admit(memfd.fd, u64::MAX), Err(NotAdmitted::Sparse { bytes: 16_777_216, .. })));

        let memfd = written(b"x");
        memfd.set_size(4 << 20).expect("grown");
        rustix::fs::fallocate(&memfd, FallocateFlags::KEEP_SIZE, 4 << 20, 8 << 20).expect("allocated");
        rustix::fs::fcntl_add_seals(&memfd, IMMUTABLE).expect("sealed");
        assert!(matches!(SealedMemfd::admit(memfd.fd, u64::MAX), Err(NotAdmitted::Overallocated { .. })));
    }

    #[test]
    fn a_descriptor_beyond_the_limit_or_unreadable_is_refused() {
        assert!(matches!(SealedMemfd::admit(raw(IMMUTABLE, 11), 10), Err(NotAdmitted::TooLarge { bytes: 11, bytes_max: 10 })));
        let fd = raw(IMMUTABLE, 10);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        let opened = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty()).expect("opened");
        assert!(SealedMemfd::admit(opened, 10).is_err());
    }
}
