//! Promises of `zipline up`, on the real binaries, with stock functions.

mod doors;
mod faults;
mod holds;
mod payloads;
mod up;
