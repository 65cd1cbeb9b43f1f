//! Tests that cannot run on this machine.

use std::io::Write;

/// Says, past the test runner's capture, that a test did not run and why, with the numbers. `cargo xtask test` counts these lines.
pub fn skip(test: &str, reason: &str) {
    // A reader that went away does not matter to a test that is not run.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}
