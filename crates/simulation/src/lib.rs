//! Zipline's decisions under seeded schedules of faults, in one process and virtual time.
//!
//! Everything that core decides runs here as it runs in earnest (references, object life cycle, pull and resume, breaker,
//! activator, autoscaler, drain), driven by simulated queue-proxies over simulated wires. A seed draws settings, services,
//! work and faults; checkers that know nothing of the code under test watch every step; one seed gives one schedule, on
//! every machine.
//!
//! ```text
//!  random ─► plan, faults ─► run ─► exec (tasks, time) ─► proxy, platform, workload ─► net, rpc
//!                             │                               │ tell what they saw
//!                             └──► Outcome ◄── check ◄────────┘
//! ```
//!
//! Not simulated: sockets, descriptors, threads and parsers of the drivers themselves; real faults on the real binaries
//! are another tool's.
#![forbid(unsafe_code)]

mod campaign;
mod check;
mod content;
mod coverage;
mod exec;
mod faults;
mod net;
mod plan;
mod platform;
mod proxy;
mod random;
mod rpc;
mod run;
mod shrink;
mod trace;
mod wait;
mod workload;
mod world;

#[cfg(zipline_mutants)]
pub use campaign::hunt;
pub use campaign::{Found, Hunt, Report, cores, run};
pub use check::{Invariant, Violation};
pub use coverage::{Coverage, TRANSITIONS};
pub use faults::{Fault, FaultKind};
pub use run::{Outcome, Schedule, Subset};
pub use shrink::shrink;
