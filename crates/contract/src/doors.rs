//! The doors of a queue-proxy: every port it opens, and for whom.

/// Requests and probes over HTTP/1.1 and h2c, revisions that speak HTTP/1.
pub const REQUEST_HTTP1: u16 = 8012;
/// The same for revisions that speak h2c.
pub const REQUEST_H2C: u16 = 8013;
/// The same over TLS.
pub const REQUEST_TLS: u16 = 8112;
/// Admin: `/wait-for-drain`, `/zipline/metrics`, `/zipline/status`.
pub const ADMIN: u16 = 8022;
/// The `Stat` message for the autoscaler.
pub const STATISTICS: u16 = 9090;
/// Prometheus metrics for the user.
pub const USER_METRICS: u16 = 9091;
/// Profiling, only if enabled.
pub const PROFILING: u16 = 8008;
/// Pulls of other queue-proxies of the trust domain.
pub const PULL: u16 = 8122;
/// Local API on loopback, for the instance's own function.
pub const API: u16 = 8123;
/// Egress on loopback, for the instance's own function.
pub const EGRESS: u16 = 8124;
/// Name of the local API's abstract Unix socket in a pod.
pub const API_SOCKET_IN_POD: &str = "@zipline";
