//! What a command says: one document or a text on standard output, everything else on standard error.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::failure::{Failure, Outcome};

/// Version of every JSON document that a command prints.
pub(crate) const SCHEMA: u32 = 1;

/// How a command speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// One JSON document instead of text.
    pub(crate) json: bool,
    /// Standard error is a terminal that a person watches.
    terminal: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, terminal: io::stderr().is_terminal() }
    }

    /// Prints the command's result: the document under `--json`, else the text.
    pub(crate) fn result(self, document: &impl Serialize, text: impl FnOnce() -> String) -> Result<Outcome, Failure> {
        let mut bytes = if self.json {
            serde_json::to_vec_pretty(document).map_err(|error| Failure::system("the result as JSON", &error.into()))?
        } else {
            text().into_bytes()
        };
        if !bytes.is_empty() && bytes.last() != Some(&b'\n') {
            bytes.push(b'\n');
        }
        write_out(&bytes).map(|()| Outcome::Yes)
    }

    /// Tells a person something that is not the result.
    pub(crate) fn note(self, text: &str) {
        eprintln!("{text}");
    }

    /// Ends a command that failed.
    pub(crate) fn failure(self, failure: &Failure) {
        if self.json {
            // Should standard output be gone, the exit code still tells.
            serde_json::to_vec_pretty(&failure.document()).map(|bytes| write_out(&[&bytes[..], b"\n"].concat())).ok();
        }
        eprintln!("{failure}");
    }

    /// Begins a step that takes a while; a terminal shows it while it runs.
    pub(crate) fn step(self, text: &str) -> Step {
        if self.terminal {
            eprint!("  \u{25cb} {text} \u{2026}");
        }
        Step { output: self, text: text.to_owned(), begun: Instant::now(), open: true }
    }
}

/// Writes bytes to standard output. A reader that has gone is no failure: it has read what it wanted.
pub(crate) fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::system("standard output", &error)),
        _ => Ok(()),
    }
}

/// A step under way. Dropped before it is done, its line says that it was not.
pub(crate) struct Step {
    output: Output,
    text: String,
    begun: Instant,
    open: bool,
}

impl Step {
    /// Whether anybody sees how far it is.
    pub(crate) fn is_watched(&self) -> bool {
        self.output.terminal
    }

    /// Says on the terminal how far it is.
    pub(crate) fn update(&self, detail: &str) {
        if self.output.terminal {
            eprint!("\r\x1b[2K  \u{25cb} {} \u{2026} {detail}", self.text);
        }
    }

    /// Ends the step; gives back how long it took.
    pub(crate) fn done(mut self, detail: &str) -> Duration {
        self.open = false;
        let took = self.begun.elapsed();
        let clear = if self.output.terminal { "\r\x1b[2K" } else { "" };
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        eprintln!("{clear}  \u{2713} {}{detail} ({})", self.text, crate::format::seconds(took.as_secs_f64()));
        took
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.open {
            let clear = if self.output.terminal { "\r\x1b[2K" } else { "" };
            eprintln!("{clear}  \u{2717} {}", self.text);
        }
    }
}
