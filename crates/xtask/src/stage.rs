//! One stage of the test command: a test runner whose output passes through unchanged and is tallied on the way.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A stage that runs longer is killed with everything it started: a hung test must not hang its reader.
const STAGE_LIMIT: Duration = Duration::from_secs(25 * 60);
/// Lines waiting to be printed.
const LINES_MAX: usize = 1024;

/// What the runners said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Tests that were skipped.
    pub(crate) skipped: u64,
    /// Why they were, as the runners say it.
    pub(crate) reasons: Vec<String>,
}

impl Tally {
    /// Reads one line of libtest's or pytest's output, or a `skipped:` line of our own tests.
    pub(crate) fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some(reason) = line.strip_prefix("skipped: ") {
            self.skip(1, reason);
        } else if let Some((times, reason)) = line.strip_prefix("SKIPPED [").and_then(|rest| rest.split_once("] ")) {
            self.skip(times.parse().unwrap_or(1), reason);
        } else if let Some((name, reason)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ignored")) {
            self.skip(1, &format!("{name}: {}", reason.trim_start_matches([',', ' '])));
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.count(counts.split_once(". ").map_or(counts, |(_, counts)| counts).split(';'));
        } else if let Some((counts, _)) = line.trim_matches(['=', ' ']).split_once(" in ")
            && counts.starts_with(|first: char| first.is_ascii_digit())
        {
            self.count(counts.split(','));
        }
    }

    /// Counts tests that were not run.
    pub(crate) fn skip(&mut self, tests: u64, reason: &str) {
        self.skipped += tests;
        self.reasons.push(reason.into());
    }

    fn count<'a>(&mut self, counts: impl Iterator<Item = &'a str>) {
        for count in counts {
            let mut words = count.split_whitespace();
            let number = words.next().and_then(|number| number.parse().ok()).unwrap_or(0);
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed" | "error" | "errors") => self.failed += number,
                _ => {}
            }
        }
    }
}

/// How a stage ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) name: &'static str,
    pub(crate) tally: Tally,
    pub(crate) succeeded: bool,
    pub(crate) took: Duration,
}

/// Runs a stage to its end and prints what it prints.
pub(crate) fn run(name: &'static str, command: Command) -> Result<Ended> {
    run_into(name, command, &mut std::io::stdout())
}

fn run_into(name: &'static str, mut command: Command, out: &mut impl Write) -> Result<Ended> {
    writeln!(out, "\n── {name}: {}", shown(&command))?;
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let (lines, received) = mpsc::sync_channel(LINES_MAX);
    let pipes: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
    let mut tally = Tally::default();
    let in_time = std::thread::scope(|scope| {
        for pipe in pipes.into_iter().flatten() {
            let lines = lines.clone();
            scope.spawn(move || read_lines(pipe, &lines));
        }
        drop(lines);
        let in_time = print_lines(&received, began + STAGE_LIMIT, &mut tally, out);
        if !in_time {
            eprintln!("error: {name} did not end within {} minutes; it is killed", STAGE_LIMIT.as_secs() / 60);
            kill_group(child.id());
        }
        in_time
    });
    let status = child.wait().with_context(|| format!("waiting for {name}"))?;
    Ok(Ended { name, tally, succeeded: in_time && status.success(), took: began.elapsed() })
}

fn read_lines(pipe: Box<dyn Read + Send>, lines: &mpsc::SyncSender<Vec<u8>>) {
    let mut reader = BufReader::new(pipe);
    loop {
        let mut line = Vec::new();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if lines.send(line).is_err() => return,
            Ok(_) => {}
        }
    }
}

/// Prints until both pipes end; false when the deadline came first.
fn print_lines(received: &mpsc::Receiver<Vec<u8>>, deadline: Instant, tally: &mut Tally, out: &mut impl Write) -> bool {
    loop {
        match received.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                tally.read(&String::from_utf8_lossy(&line));
                // A reader that went away does not make the tests fail.
                let _ = out.write_all(&line).and_then(|()| out.flush());
            }
            Err(mpsc::RecvTimeoutError::Timeout) => return false,
            Err(mpsc::RecvTimeoutError::Disconnected) => return true,
        }
    }
}

/// Kills the stage's process group; the shell's `kill` is the way without a dependency.
fn kill_group(leader: u32) {
    let _ = Command::new("kill").args(["-KILL", "--", &format!("-{leader}")]).status();
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runners_summaries_are_tallied() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.53s",
            "test big ... ignored, needs 9 GiB",
            "skipped: 4 GiB payload: 3 GiB of memory are free, 9 are needed",
            "SKIPPED [4] test_x.py:3: no memfd here",
            "====== 12 passed, 1 failed, 4 skipped, 2 errors in 63.21s (0:01:03) ======",
            "3 files were read in 2 s",
        ] {
            tally.read(line);
        }
        assert_eq!((tally.passed, tally.failed, tally.skipped, tally.reasons.len()), (19, 3, 6, 3));
        assert_eq!(tally.reasons[0], "big: needs 9 GiB");
    }

    #[test]
    fn a_stage_reports_the_runners_failure() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo '2 passed, 1 failed in 0.01s'; exit 1"]);
        // Into a buffer: on standard output the line would be counted by the run this test is part of.
        let mut out = Vec::new();
        let ended = run_into("sh", command, &mut out).unwrap();
        assert_eq!((ended.succeeded, ended.tally.passed, ended.tally.failed), (false, 2, 1));
        assert!(out.ends_with(b"2 passed, 1 failed in 0.01s\n"), "what the runner prints passes through");
    }
}
