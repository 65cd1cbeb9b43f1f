//! Programs that are run to their end.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitStatus;

use rustix::event::{PollFd, PollFlags, poll};
use zipline_sys::child::{Output, Spawner, Spec};

/// Of a program's output, the bytes that are kept.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// Runs a program in this process' environment, and gives what it printed on standard output.
pub(crate) fn output(program: &Path, arguments: &[&str], stderr: Output) -> io::Result<(ExitStatus, String)> {
    let spec = Spec {
        args: arguments.iter().map(OsString::from).collect(),
        env: std::env::vars_os().collect(),
        stdout: Output::Pipe,
        stderr,
        ..Spec::new(program)
    };
    let mut child = Spawner::start()?.spawn(spec).map_err(|error| error.source)?;
    let mut text = Vec::new();
    if let Some(stdout) = child.take_stdout() {
        let mut stdout = File::from(stdout);
        (&mut stdout).take(OUTPUT_BYTES_MAX).read_to_end(&mut text)?;
        io::copy(&mut stdout, &mut io::sink())?; // What is beyond is read and dropped, so that the program can end.
    }
    loop {
        if let Some(status) = child.reap()? {
            return Ok((status, String::from_utf8_lossy(&text).into_owned()));
        }
        let ended = &mut [PollFd::new(&child, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(ended, None))?;
    }
}
