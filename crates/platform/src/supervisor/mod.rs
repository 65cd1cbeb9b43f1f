//! Instances: each a function's process and a queue-proxy of its own, started, watched and ended together.
//!
//! [`Host`] is what all instances of one platform share: the state directory, the thread that forks, addresses and
//! ports, keys, the byte budget. [`Instance`] is one of them; its life is [`Instance::run`], a future that a revision
//! owns. Dropping that future kills both process groups; so does the end of this process, however it comes.
//!
//! Not here: how many instances there are (`autoscaler`), and what they are asked (`activator`, `ingress`).

mod backoff;
mod client_proxy;
mod environment;
mod host;
mod instance;
mod life;
mod listeners;
mod log;
mod orphans;
mod process;
mod readiness;
mod secrets;

pub(crate) use client_proxy::{ClientProxy, ClientProxyError};
pub use environment::PASSED_ON;
pub(crate) use host::{Host, HostOptions};
pub use instance::Phase;
pub(crate) use instance::{Busy, Counters, Instance, StopMode};
pub(crate) use log::InstanceLog;
pub use log::{LINES_MAX, LogLine, Stream};
pub(crate) use orphans::end_all as end_orphans;
pub(crate) use secrets::api_token;
