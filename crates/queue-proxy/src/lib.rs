//! The sidecar of one function instance.
//!
//! The way of a request, outermost first, as Knative's contract orders it: the ingress accepts it, answers probes,
//! counts it, takes a slot of the breaker, lets [`zipline`] put a referred payload in the place of an
//! empty body, and hands it to the function. Everything that is not a request to the function has a door of its own: `admin`,
//! statistics and metrics.
#![forbid(unsafe_code)]

pub mod config;
pub mod payload;
pub mod zipline;
