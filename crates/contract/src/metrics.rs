//! Metric names. Each program registers what it has; `docs/reference/metrics.md` is made from [`ALL`].

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Full name, with unit and, for counters, `_total`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Labels; each has a closed set of values.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident $name:literal $kind:ident [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: Metric = Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// Every metric.
        pub const ALL: &[Metric] = &[$($constant,)*];
    };
}

metrics! {
    HELD_BYTES "zipline_held_bytes" Gauge [] "Bytes of objects held for their consumers";
    HELD_OBJECTS "zipline_held_objects" Gauge [] "Objects held for their consumers";
    RECEIVING_BYTES "zipline_receiving_bytes" Gauge [] "Bytes reserved for payloads being received or in use by the function";
    BUFFER_LIMIT_BYTES "zipline_buffer_limit_bytes" Gauge [] "Budget of the object buffer in force";
    SPILLED_BYTES "zipline_spilled_bytes" Gauge [] "Bytes of held objects that lie on local disk";
    SPILLED_OBJECTS "zipline_spilled_objects" Gauge [] "Held objects that lie on local disk";
    SPILLS "zipline_spills_total" Counter ["result"] "Objects written to local disk: ok, abandoned (read or ended meanwhile), failed";
    STORED_BYTES "zipline_stored_bytes" Gauge [] "Bytes of held objects that have a copy in the durable tier";
    STORED_OBJECTS "zipline_stored_objects" Gauge [] "Held objects that have a copy in the durable tier";
    TIER_COPIES "zipline_tier_copies_total" Counter ["done"] "Copies in the durable tier: written, read, removed, swept; failed (a write, read or removal that was given up)";
    TIER_BYTES "zipline_tier_bytes_total" Counter ["direction"] "Payload bytes to and from the durable tier: written, read";
    TIER_UP "zipline_tier_up" Gauge [] "1 when the last request to the durable tier was answered, 0 when it failed or none is configured";
    LEASES "zipline_leases" Gauge [] "Leases granted and not ended";
    PUT_WAITERS "zipline_put_waiters" Gauge [] "Puts waiting for room in the buffer";
    OBJECT_TRANSITIONS "zipline_object_transitions_total" Counter ["to"] "Transitions in the life of objects: writing, available, retrieved, released, expired, aborted";
    ATTEMPTS "zipline_attempts_total" Counter [] "Leases granted";
    ACKNOWLEDGEMENTS "zipline_acknowledgements_total" Counter [] "Retrievals counted";
    LEASES_LOST "zipline_leases_lost_total" Counter ["how"] "Leases that ended without a retrieval: released, lapsed, cut";
    PULL_CONNECTIONS "zipline_pull_connections" Gauge ["side"] "Open pull connections: server, client";
    PULLS "zipline_pulls_total" Counter ["result"] "Pulls made by this proxy: ok, or the error's name";
    PULL_BYTES "zipline_pull_bytes_total" Counter ["side"] "Payload bytes pulled: sent (as producer), received (as consumer)";
    PULL_SECONDS "zipline_pull_duration_seconds" Histogram [] "From a pull's first byte sent to its last record verified";
    PULL_RESUMES "zipline_pull_resumes_total" Counter [] "Pulls continued on a new connection";
    PULL_TLS_FAILURES "zipline_pull_tls_failures_total" Counter [] "Pull connections, made or accepted, whose TLS handshake failed or whose two sides differ in ZIPLINE_PULL_TLS";
    HANDOVERS "zipline_handovers_total" Counter ["side"] "Payloads that passed as a descriptor: function (own function), producer, consumer";
    SWAPS "zipline_swapped_bodies_total" Counter ["direction"] "Bodies swapped for a reference: out, in";
    ERRORS "zipline_errors_total" Counter ["error"] "Errors answered, by name";
    REQUESTS_QUEUED "zipline_requests_queued" Gauge [] "Requests waiting in the breaker";
    REQUESTS_RUNNING "zipline_requests_running" Gauge [] "Requests the function is working on";
    PROXIED_REQUESTS "zipline_proxied_requests_total" Counter [] "Requests that came by the activator";
    PROXIED_BODY_BYTES "zipline_proxied_body_bytes_total" Counter ["direction"] "Body bytes of requests that came by the activator and were answered by the function: in, out. Payloads that were pulled are not among them";
    DRAIN_PHASE "zipline_drain_phase" Gauge [] "0 serving, 1 quiet period, 2 finishing, 3 holding, 4 ended";
    DRAIN_LEFT_OBJECTS "zipline_drain_left_objects" Gauge [] "Unread objects that a drain waits for; what it reports last was lost. 0 before SIGTERM";
    DRAIN_LEFT_BYTES "zipline_drain_left_bytes" Gauge [] "Their bytes";
    ACTIVATOR_REQUESTS "zipline_activator_requests_total" Counter ["result"] "Requests through the local platform's activator: ok, overload, timeout, error";
    ACTIVATOR_BODY_BYTES "zipline_activator_body_bytes_total" Counter ["direction"] "Body bytes through the local platform's activator: in, out";
    ACTIVATOR_WAITING "zipline_activator_waiting" Gauge [] "Requests waiting in the local platform's activator";
    DIRECT_REQUESTS "zipline_direct_requests_total" Counter ["result"] "Requests that the local platform's ingress sent straight to an instance: ok, overload, timeout, error";
    DIRECT_BODY_BYTES "zipline_direct_body_bytes_total" Counter ["direction"] "Body bytes past the local platform's activator: in, out";
    INSTANCES "zipline_instances" Gauge ["state"] "Instances of the local platform: starting, ready, stopping";
    INSTANCE_STARTS "zipline_instance_starts_total" Counter [] "Instances started by the local platform";
    INSTANCE_CRASHES "zipline_instance_crashes_total" Counter [] "Instances that ended without being asked to";
}
