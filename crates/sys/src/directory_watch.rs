//! Tells that something in a directory changed, without looking at it time and again.
//!
//! A file that is replaced as a whole (renamed over, or a Kubernetes Secret's symbolic link turned) changes its
//! directory's entries, so the directory is watched and not the file: a watch on the file would stay with the old one.
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// A watch on the entries of one directory. Its descriptor, non-blocking and closed on exec, is readable once something
/// changed; what is read are changes, at most 272 bytes each.
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
}

impl From<DirectoryWatch> for OwnedFd {
    fn from(watch: DirectoryWatch) -> Self {
        watch.fd
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn writing_replacing_and_turning_a_link_are_changes_and_reading_is_none() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let at = |name: &str| scratch.path().join(name);
        let watch = DirectoryWatch::new(scratch.path()).expect("watched");
        let mut watch = std::fs::File::from(OwnedFd::from(watch));
        let mut changed = || match watch.read(&mut [0; 4096]) {
            Ok(bytes) => bytes > 0,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        };
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
