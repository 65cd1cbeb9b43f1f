//! Files without a name: they take disk space only as long as somebody has them open, whatever becomes of the process.
//!
//! They are made for data that is written once and read at most a few times: what is on disk is told to leave the page
//! cache, so that it does not push out what others need.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Advice, CWD, Mode, OFlags};
use rustix::io::Errno;

/// Tells the names apart that files have for a moment where the file system knows none without.
static NAMES: AtomicU64 = AtomicU64::new(0);

/// A file that is in no directory.
#[derive(Debug)]
pub struct UnlinkedFile(File);

impl UnlinkedFile {
    /// Makes an empty one on the file system of `directory`. Where that knows no files without a name (`O_TMPFILE`), one
    /// is made and its name removed at once.
    ///
    /// # Errors
    /// No such directory, no right to write there, or no descriptor left.
    pub fn create(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, directory, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Self(File::from(file))),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Self::create_and_unlink(directory),
            Err(error) => Err(error.into()),
        }
    }

    fn create_and_unlink(directory: &Path) -> io::Result<Self> {
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".zipline-{}-{number}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Self(file))
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// A full or broken disk.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    /// Fills all of `buffer` from `offset` on.
    ///
    /// # Errors
    /// A broken disk, or fewer bytes than that.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    /// Waits until what was written is on disk, and lets the page cache forget it.
    ///
    /// # Errors
    /// A full or broken disk: some file systems say so only here.
    pub fn settle(&self) -> io::Result<()> {
        self.0.sync_data()?;
        self.forget(0, 0);
        Ok(())
    }

    /// Lets the page cache forget `length` bytes from `offset` on; 0: to the end. A hint: that it is refused costs nothing.
    pub fn forget(&self, offset: u64, length: u64) {
        rustix::fs::fadvise(&self.0, offset, NonZeroU64::new(length), Advice::DontNeed).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_empty(directory: &Path) -> io::Result<bool> {
        Ok(std::fs::read_dir(directory)?.next().is_none())
    }

    #[test]
    fn its_bytes_are_read_back_and_its_directory_stays_empty() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        for make in [UnlinkedFile::create, UnlinkedFile::create_and_unlink] {
            let file = make(directory.path())?;
            file.write_all_at(b"some bytes", 5)?;
            file.settle()?;
            let mut read = [0; 10];
            file.read_exact_at(&mut read, 5)?;
            assert_eq!(&read, b"some bytes");
            assert!(file.read_exact_at(&mut read, 6).is_err(), "there are not that many");
            assert!(is_empty(directory.path())?);
        }
        Ok(())
    }

    #[test]
    fn a_directory_that_is_not_there_is_told() {
        assert!(UnlinkedFile::create(Path::new("/nowhere/at/all")).is_err());
    }
}
