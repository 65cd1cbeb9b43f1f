//! The built queue-proxy, driven from outside: a client on one side, a function that does what real ones do by accident on the
//! other. What Knative's own proxy does over plain HTTP/1.1 is tested in `e2e/knative-suite`; here is the rest.

mod drain;
mod faults;
mod http2;
mod malformed;
mod readiness;
mod start;
mod statistics;
mod support;
mod telemetry;
mod timeouts;
mod tls;
mod upgrade;
