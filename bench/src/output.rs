//! What a bench leaves behind: the raw file always, a table or one JSON document on standard output, progress on standard error.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

/// Version of raw files and JSON output.
pub(crate) const SCHEMA: u32 = 1;

/// Where the raw file goes when no `--raw` is given: `$XDG_STATE_HOME/zipline/bench/KIND-TIME.json`.
pub(crate) fn raw_path(kind: &str, given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(raw_folder()?.join(format!("{kind}-{seconds}.json")))
}

/// The folder of raw files that were not named otherwise.
pub(crate) fn raw_folder() -> Result<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".local/state")));
    Ok(state
        .context("neither XDG_STATE_HOME nor HOME is set; name a file with --raw FILE, or --from FILE")?
        .join("zipline/bench"))
}

/// Fails, before anything is measured, where no raw file could be written afterwards.
pub(crate) fn check(kind: &str, given: Option<&Path>) -> Result<()> {
    let path = raw_path(kind, given)?;
    if is_written_through(&path) {
        return Ok(());
    }
    let folder = folder_of(&path);
    let made = fs::create_dir_all(folder).and_then(|()| tempfile::NamedTempFile::new_in(folder).map(drop));
    made.map_err(|error| {
        anyhow!("raw samples can't be kept at {}: {error}\nhint: name another file with --raw FILE", path.display())
    })
}

/// Writes a document beside its place and moves it there, so that a full disk or a kill leaves no half file.
pub(crate) fn write_whole(path: &Path, document: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string(document)?;
    text.push('\n');
    write_texts(&[(path.to_owned(), text)])
}

/// Writes texts beside their places, all of them, and only then moves them there: either all are there or none is new.
pub(crate) fn write_texts(texts: &[(PathBuf, String)]) -> Result<()> {
    let mut folders_made = Vec::new();
    let written = texts.iter().map(|(path, text)| prepare(path, text, &mut folders_made)).collect::<Result<Vec<_>>>();
    let placed = written.and_then(|files| {
        let mut placed = files.into_iter().zip(texts);
        placed.try_for_each(|(file, (path, _))| match file {
            Some(file) => file.persist(path).map(drop).with_context(|| format!("file {}", path.display())),
            None => Ok(()),
        })
    });
    if placed.is_err() {
        // Only an empty one goes, the innermost first; what somebody else has put there stays.
        folders_made.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
    }
    placed
}

/// The text beside its place; `None` where it was written through to what is there.
fn prepare(path: &Path, text: &str, folders_made: &mut Vec<PathBuf>) -> Result<Option<tempfile::NamedTempFile>> {
    let what = || format!("writing {} ({})", path.display(), bytes(text.len() as u64));
    if is_written_through(path) {
        fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes())).with_context(what)?;
        return Ok(None);
    }
    let folder = folder_of(path);
    let missing = folder.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
    let mut missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
    missing.reverse();
    fs::create_dir_all(folder).with_context(|| format!("folder {} for {}", folder.display(), path.display()))?;
    folders_made.append(&mut missing);
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(|| format!("a file in {}", folder.display()))?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).with_context(what)?;
    Ok(Some(file))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A device, a pipe or a link is written to as it is: in its place no file is put.
fn is_written_through(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir())
}

/// Writes a result to standard output, whose end may be gone or full.
pub(crate) fn print(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        // A reader that has seen enough, as `head` has.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}

/// Progress with time left, on standard error.
pub(crate) struct Progress {
    started: Instant,
    total: usize,
    done: usize,
    terminal: bool,
}

impl Progress {
    pub(crate) fn of(total: usize) -> Self {
        Self { started: Instant::now(), total: total.max(1), done: 0, terminal: std::io::stderr().is_terminal() }
    }

    /// One more step is done; says so on a terminal each time, elsewhere at each tenth.
    pub(crate) fn step(&mut self, what: &str) {
        self.done += 1;
        let left = self.started.elapsed().mul_f64((self.total.saturating_sub(self.done)) as f64 / self.done as f64);
        if self.terminal {
            eprint!("\r\x1b[K{:3} %  {} left  {what}", self.done * 100 / self.total, clock(left));
            if self.done >= self.total {
                eprintln!();
            }
        } else if self.done * 10 / self.total != (self.done - 1) * 10 / self.total {
            eprintln!("{:3} %  {} left  {what}", self.done * 100 / self.total, clock(left));
        }
    }
}

fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// Bytes with a binary unit, as tables show them.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 { format!("{value:.0} {}", UNITS[unit]) } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Seconds with the unit that fits.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}
