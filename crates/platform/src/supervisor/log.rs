//! What an instance writes: kept in memory for who asks, and in a file for afterwards.
//!
//! Lines of the function's standard output and error, of its queue-proxy, and of the platform about both, in the order
//! they came. Memory holds the last [`LINES_MAX`]; the file is turned over once at [`FILE_BYTES_MAX`], so that an
//! instance takes at most twice that. A follower that reads too slowly loses lines and is told how many.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::broadcast;

use crate::clock;

/// Lines kept in memory for an instance.
pub const LINES_MAX: usize = 1000;
/// Bytes of a line; a longer one is cut in pieces of this size.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Bytes of a log file; beyond it begins anew, and the full one is kept beside it as `.old`.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Lines that a follower may lag behind.
const FOLLOW_LINES_MAX: usize = 1024;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// The function's standard output.
    Stdout,
    /// The function's standard error.
    Stderr,
    /// The queue-proxy.
    Proxy,
    /// The platform.
    Platform,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it came, Unix ms.
    pub time_ms: u64,
    /// The instance.
    pub instance: String,
    /// Who wrote it.
    pub stream: Stream,
    /// The line, without its end. Bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// The log of one instance.
#[derive(Debug)]
pub(crate) struct InstanceLog {
    instance: String,
    inner: Mutex<Inner>,
    followers: broadcast::Sender<LogLine>,
}

#[derive(Debug)]
struct Inner {
    lines: VecDeque<LogLine>,
    file: Option<LogFile>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl InstanceLog {
    /// A log that is also written to `path`. When the file can't be opened the log lives in memory only, and says so.
    pub(crate) fn open(instance: String, path: PathBuf) -> Arc<Self> {
        let opened = LogFile::open(path.clone());
        let (followers, _) = broadcast::channel(FOLLOW_LINES_MAX);
        let (file, refused) = match opened {
            Ok(file) => (Some(file), None),
            Err(error) => (None, Some(error)),
        };
        let log = Arc::new(Self { instance, inner: Mutex::new(Inner { lines: VecDeque::new(), file }), followers });
        if let Some(error) = refused {
            log.say(format!("this log is kept in memory only: {}: {error}", path.display()));
        }
        log
    }

    /// Whose it is.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// Adds a line of the platform's own.
    pub(crate) fn say(&self, text: impl Into<String>) {
        self.add(Stream::Platform, text.into());
    }

    /// Closes the file; what still comes is kept in memory only.
    pub(crate) fn close(&self) {
        self.lock().file = None;
    }

    /// The last `lines_max` lines, oldest first.
    pub(crate) fn tail(&self, lines_max: usize) -> Vec<LogLine> {
        let inner = self.lock();
        inner.lines.iter().skip(inner.lines.len().saturating_sub(lines_max)).cloned().collect()
    }

    /// The last lines, and every one from here on, without a gap between them.
    pub(crate) fn follow(&self, lines_max: usize) -> (Vec<LogLine>, broadcast::Receiver<LogLine>) {
        let inner = self.lock();
        let lines = inner.lines.iter().skip(inner.lines.len().saturating_sub(lines_max)).cloned().collect();
        (lines, self.followers.subscribe())
    }

    fn add(&self, stream: Stream, text: String) {
        let line = LogLine { time_ms: clock::wall_now().unix_millis(), instance: self.instance.clone(), stream, text };
        let mut inner = self.lock();
        if let Some(file) = &mut inner.file
            && let Err(error) = file.write(&line)
        {
            tracing::warn!(path = %file.path.display(), %error, "log is kept in memory only from here on");
            inner.file = None;
        }
        if inner.lines.len() == LINES_MAX {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line.clone());
        // Sent under the lock, so that a follower's first line is the one after its tail. Nobody may be listening.
        if self.followers.receiver_count() > 0 && self.followers.send(line).is_err() {
            tracing::trace!("the last follower left in between");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Lines are whole after every step, whoever panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path)?;
        Ok(Self { path, file, bytes: 0 })
    }

    fn write(&mut self, line: &LogLine) -> io::Result<()> {
        if self.bytes > FILE_BYTES_MAX {
            fs::rename(&self.path, self.path.with_extension("log.old"))?;
            *self = Self::open(std::mem::take(&mut self.path))?;
        }
        let stream = match line.stream {
            Stream::Stdout => "out",
            Stream::Stderr => "err",
            Stream::Proxy => "proxy",
            Stream::Platform => "platform",
        };
        let text = format!("{} {stream}: {}\n", line.time_ms, line.text);
        self.file.write_all(text.as_bytes())?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}

/// Copies a process' output into a log until the pipe's other end is closed.
pub(super) async fn capture(pipe: OwnedFd, stream: Stream, log: Arc<InstanceLog>) {
    if let Err(error) = copy_lines(pipe, stream, &log).await {
        log.say(format!("the rest of this output is lost: {error}"));
    }
}

async fn copy_lines(pipe: OwnedFd, stream: Stream, log: &InstanceLog) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(LINE_BYTES_MAX, pipe::Receiver::from_owned_fd(pipe)?);
    let mut line = Vec::new();
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            break;
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let room = LINE_BYTES_MAX - line.len();
        let take = end.unwrap_or(available.len()).min(room);
        line.extend_from_slice(&available[..take]);
        let complete = end == Some(take);
        reader.consume(take + usize::from(complete));
        if complete || line.len() == LINE_BYTES_MAX {
            log.add(stream, text(&line));
            line.clear();
        }
    }
    if !line.is_empty() {
        log.add(stream, text(&line));
    }
    Ok(())
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(directory: &tempfile::TempDir) -> Arc<InstanceLog> {
        InstanceLog::open("one".into(), directory.path().join("a/one.log"))
    }

    async fn captured(bytes: Vec<u8>) -> Vec<String> {
        let directory = tempfile::tempdir().expect("scratch");
        let log = log(&directory);
        let (read, mut write) = std::io::pipe().expect("pipe");
        let writer = std::thread::spawn(move || write.write_all(&bytes));
        capture(read.into(), Stream::Stdout, Arc::clone(&log)).await;
        writer.join().expect("joined").expect("written");
        log.tail(usize::MAX).into_iter().map(|line| line.text).collect()
    }

    #[tokio::test]
    async fn lines_are_kept_whole_and_long_ones_cut() {
        assert_eq!(captured(b"one\r\n\ntwo\xff\nend".to_vec()).await, ["one", "", "two\u{fffd}", "end"]);
        let long = captured([vec![b'x'; LINE_BYTES_MAX + 1], b"\nnext\n".to_vec()].concat()).await;
        assert_eq!(long.iter().map(String::len).collect::<Vec<_>>(), [LINE_BYTES_MAX, 1, 4]);
    }

    #[tokio::test]
    async fn memory_holds_the_last_lines_and_the_file_all_of_them() {
        let directory = tempfile::tempdir().expect("scratch");
        let log = log(&directory);
        for n in 0..LINES_MAX + 5 {
            log.say(n.to_string());
        }
        assert_eq!(log.tail(usize::MAX).len(), LINES_MAX);
        assert_eq!(log.tail(2).iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["1003", "1004"]);
        let file = fs::read_to_string(directory.path().join("a/one.log")).expect("readable");
        assert_eq!(file.lines().count(), LINES_MAX + 5);
        assert!(file.lines().next().expect("a line").ends_with(" platform: 0"));
        log.close();
        log.say("last");
        assert_eq!(log.tail(1)[0].text, "last", "after its end a log can still be read");
    }

    #[tokio::test]
    async fn a_follower_gets_every_line_once() {
        let directory = tempfile::tempdir().expect("scratch");
        let log = log(&directory);
        log.say("before");
        let (tail, mut follower) = log.follow(10);
        log.say("after");
        assert_eq!(tail.last().expect("a line").text, "before");
        assert_eq!(follower.recv().await.expect("a line").text, "after");
    }
}
