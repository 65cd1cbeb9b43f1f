//! Files that are replaced as a whole: a mounted Secret's, whose directory is watched so that they are read again.

use std::io;
use std::path::Path;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use zipline_sys::DirectoryWatch;

/// Bytes of changes read at a time; one takes at most 16 and the 256 of a name.
const CHANGES_BYTES: usize = 4096;

/// The changes of one directory's entries.
#[derive(Debug)]
pub(crate) struct Changes(pipe::Receiver);

impl Changes {
    /// Watches the directory that `file` lies in.
    ///
    /// # Errors
    /// When there is none, or the user has no watch left.
    pub(crate) fn around(file: &Path) -> io::Result<Self> {
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // A watch is read like a pipe: changes come as bytes, and it is readable once there are some.
        DirectoryWatch::new(directory).and_then(|watch| pipe::Receiver::from_owned_fd_unchecked(watch.into())).map(Self)
    }

    /// Waits for a change, and takes note of all that came with it. Safe to cancel.
    ///
    /// # Errors
    /// The watch has ended.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        let mut buffer = [0; CHANGES_BYTES];
        if self.0.read(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        loop {
            match self.0.try_read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                read => read?,
            };
        }
    }
}
