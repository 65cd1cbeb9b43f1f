//! The sidecar of one function instance.
//!
//! The way of a request, outermost first, as Knative's contract orders it: [`ingress`] accepts it, answers probes (with
//! [`probe`]), counts it ([`drain`], [`statistics`]), takes a slot of the [`breaker`], lets [`zipline`] put a referred payload in
//! the place of an empty body, and hands it to the function ([`upstream`]). Everything that is not a request to the function has a
//! door of its own ([`admin`]). [`run`] starts and ends it all.
#![forbid(unsafe_code)]

pub mod admin;
pub mod breaker;
pub mod clock;
pub mod config;
mod directory;
pub mod drain;
pub mod http1;
pub mod ingress;
pub mod instance;
pub mod logging;
pub mod metrics;
pub mod payload;
pub mod probe;
pub mod run;
pub mod statistics;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod zipline;
