//! Promises of `zipline up`, on the real binaries, with stock functions.

mod aftermath;
mod doors;
mod faults;
mod h2c;
mod holds;
mod payloads;
mod rollout;
mod up;
