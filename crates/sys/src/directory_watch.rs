//! Tells that something in a directory changed, without looking at it time and again.
//!
//! A file that is replaced as a whole (renamed over, or a Kubernetes Secret's symbolic link turned) changes its
//! directory's entries, so the directory is watched and not the file: a watch on the file would stay with the old one.
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// Bytes of changes read at a time; a change takes at most 16 + 256.
const BUFFER_BYTES: usize = 4096;

/// A watch on the entries of one directory. Its descriptor is readable once something changed.
#[derive(Debug)]
pub struct DirectoryWatch {
    fd: OwnedFd,
}

impl DirectoryWatch {
    /// Watches a directory.
    ///
    /// # Errors
    /// When there is none, or the user has no watch left (`fs.inotify.max_user_watches`, `…instances`).
    pub fn new(directory: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let changes =
            WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE | WatchFlags::ATTRIB;
        inotify::add_watch(&fd, directory, changes | WatchFlags::ONLYDIR)?;
        Ok(Self { fd })
    }

    /// Takes note of all changes so far; whether there were any. More changes than the kernel keeps are one change.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn take_changes(&self) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut changed = false;
        loop {
            match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut buffer).map(|(read, _)| read.len())) {
                Ok(0) | Err(rustix::io::Errno::WOULDBLOCK) => return Ok(changed),
                Ok(_) => changed = true,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for DirectoryWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for DirectoryWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_replacing_and_turning_a_link_are_changes_and_reading_is_none() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let at = |name: &str| scratch.path().join(name);
        let watch = DirectoryWatch::new(scratch.path()).expect("watched");
        let changed = || watch.take_changes().expect("changes");
        assert!(!changed());
        std::fs::write(at("file"), "1").expect("written");
        assert!(changed());
        std::fs::read(at("file")).expect("read");
        assert!(!changed());
        std::fs::write(at("next"), "2").expect("written");
        std::fs::rename(at("next"), at("file")).expect("replaced");
        assert!(changed());
        std::os::unix::fs::symlink("file", at("new-link")).expect("linked");
        std::fs::rename(at("new-link"), at("link")).expect("turned");
        assert!(changed());
        std::fs::remove_file(at("file")).expect("removed");
        assert!(changed());
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        assert!(DirectoryWatch::new(&scratch.path().join("none")).is_err());
    }
}
