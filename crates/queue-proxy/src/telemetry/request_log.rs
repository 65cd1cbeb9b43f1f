//! The request log: a line for each request on standard output, written by a thread of its own.
//!
//! A line is made where the request ended, and put into a bounded buffer. A reader of standard output that does not keep up
//! costs lines, never time: what finds no room is dropped and counted.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::template::{Fields, ParseError, Template};

/// Bytes of lines that wait to be written.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// A log of requests.
#[derive(Debug)]
pub struct RequestLog {
    template: Template,
    with_probes: bool,
    lines: Arc<Lines>,
}

impl RequestLog {
    /// A log whose lines are made from a Go template, written to standard output.
    ///
    /// # Errors
    /// The template can't be read.
    pub fn new(template: &str, with_probes: bool, lines: Arc<Lines>) -> Result<Self, ParseError> {
        // Whoever collects lines must find one a request.
        let ended = if template.ends_with('\n') { template.to_owned() } else { format!("{template}\n") };
        Ok(Self { template: Template::parse(&ended)?, with_probes, lines })
    }

    /// Whether a request has a line.
    pub const fn wants(&self, is_probe: bool) -> bool {
        self.with_probes || !is_probe
    }

    /// Writes a request's line; `fallback` stands in for it where the template does not fit what it finds.
    pub fn write(&self, request: &dyn Fields, fallback: impl FnOnce() -> String) {
        let mut line = String::new();
        if let Err(error) = self.template.run(request, &mut line) {
            tracing::debug!(%error, "a line of the request log could not be made");
            line = fallback();
        }
        self.lines.push(line.as_bytes());
    }
}

/// Lines on their way to standard output.
#[derive(Debug, Default)]
pub struct Lines {
    waiting: Mutex<Waiting>,
    /// Something is there, or was written.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Whether some are being written.
    is_writing: bool,
    dropped: u64,
}

impl Lines {
    /// Lines that a thread writes to standard output until the process ends.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn to_stdout() -> std::io::Result<Arc<Self>> {
        let lines = Arc::new(Self::default());
        let written = Arc::clone(&lines);
        std::thread::Builder::new().name("request-log".to_owned()).spawn(move || written.write_all(&mut std::io::stdout()))?;
        Ok(lines)
    }

    /// Adds lines, if there is room for all of them.
    pub fn push(&self, lines: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.bytes.len() + lines.len() > WAITING_BYTES_MAX {
            waiting.dropped += 1;
            return;
        }
        let was_empty = waiting.bytes.is_empty();
        waiting.bytes.extend_from_slice(lines);
        drop(waiting);
        if was_empty {
            self.changed.notify_all();
        }
    }

    /// Waits until all is written, or for so long.
    pub fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut waiting = self.waiting();
        while !waiting.bytes.is_empty() || waiting.is_writing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write_all(&self, out: &mut dyn Write) {
        let mut lines = Vec::new();
        loop {
            let mut waiting = self.waiting();
            waiting.is_writing = false;
            self.changed.notify_all();
            while waiting.bytes.is_empty() {
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            lines.clear();
            std::mem::swap(&mut lines, &mut waiting.bytes);
            waiting.is_writing = true;
            let dropped = std::mem::take(&mut waiting.dropped);
            drop(waiting);
            if dropped > 0 {
                tracing::warn!(dropped, "lines of the request log were dropped: standard output is not read fast enough");
            }
            if let Err(error) = out.write_all(&lines).and_then(|()| out.flush()) {
                tracing::debug!(%error, "the request log can't be written");
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics half way; a poisoned lock still guards sound state.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
