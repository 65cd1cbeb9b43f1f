//! Fixed limits. Those a user may change are [settings](crate::settings).

/// Bytes of a block: the unit of sums, resume and cut-through.
pub const BLOCK_BYTES: usize = 1024 * 1024;
/// Characters of a reference.
pub const REFERENCE_CHARS_MAX: usize = 512;
/// Bytes of a receiver name `NAMESPACE/SERVICE` (two DNS labels and a slash).
pub const RECEIVER_BYTES_MAX: usize = 127;
/// Bytes of a tier's name.
pub const TIER_NAME_BYTES_MAX: usize = 32;
/// Bytes of a head on the pull port.
pub const PULL_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Headers of a head on the pull port.
pub const PULL_HEADERS_MAX: usize = 32;
/// Bytes of a record's head.
pub const RECORD_HEAD_BYTES: usize = 56;
/// Bytes of one message on a descriptor channel or a hand-over connection.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a payload that travels inside a descriptor message.
pub const MESSAGE_INLINE_BYTES_MAX: usize = 32 * 1024;
/// How far a pull's time may be from the producer's, in milliseconds.
pub const CLOCK_SKEW_MS_MAX: u64 = 30_000;
/// Nonces remembered against replay: 30 s of about 8,700 requests a second where clocks agree, in about 5 MiB.
pub const NONCES_MAX: usize = 262_144;
/// How long an ended object and its acknowledged leases are remembered, in milliseconds.
pub const REMEMBERED_MS: u64 = 60_000;
/// Ended objects that are remembered; beyond it the oldest are forgotten early.
pub const ENDED_OBJECTS_MAX: usize = 131_072;
/// Acknowledged leases of ended objects that are remembered; beyond it the oldest objects are forgotten early.
pub const ENDED_LEASES_MAX: usize = 262_144;
/// How often one read may be continued with the lease it has.
pub const LEASE_RESUMES_MAX: u16 = 256;
/// The buffer is spilled to local disk when it is fuller than that, in percent.
pub const SPILL_WATERMARK_PERCENT: u64 = 75;
/// Marks of retrievals that are counted in the durable tier; an object with more retrievals stays there until it expires.
pub const TIER_MARKS_MAX: usize = 10_000;
/// Retrievals of one object.
pub const RETRIEVALS_MAX: u32 = 1_000_000;
/// Bytes of a detail line on the pull port.
pub const DETAIL_BYTES_MAX: usize = 512;
/// Bytes of a content type kept with an object.
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;
/// Requests queued in a queue-proxy's breaker, as a multiple of its concurrency.
pub const QUEUE_DEPTH_FACTOR: u32 = 10;
/// Requests queued in an activator for one revision.
pub const ACTIVATOR_QUEUE_MAX: usize = 10_000;
/// Connections of the local API at once, Unix socket and loopback TCP together.
pub const API_CONNECTIONS_MAX: usize = 1024;
/// Bytes of a JSON body at the local API.
pub const API_JSON_BYTES_MAX: usize = 16 * 1024;
/// Objects that are open and whose bytes have not begun to come.
pub const OPEN_WRITES_MAX: usize = 4096;
/// Requests in progress on one descriptor channel; further ones wait unread.
pub const CHANNEL_REQUESTS_MAX: usize = 64;
/// Leases one descriptor channel holds; each holds one descriptor.
pub const CHANNEL_LEASES_MAX: usize = 1024;
/// Connections of the egress at once.
pub const EGRESS_CONNECTIONS_MAX: usize = 1024;
/// Services that are remembered to have a queue-proxy of ours.
pub const PEERS_KNOWN_MAX: usize = 4096;
/// How long a service is remembered to have a queue-proxy of ours, in milliseconds.
pub const PEER_KNOWN_MS: u64 = 60_000;
/// Random bytes in a store's key.
pub const STORE_KEY_RANDOM_BYTES: usize = 16;
/// Bytes above which an object goes into S3, and comes out of it, in parts of this size.
pub const STORE_PART_BYTES: usize = 16 * 1024 * 1024;
/// Parts of one object under way at once.
pub const STORE_PARTS_PARALLEL: usize = 8;
/// Connections of one client to Redis; further operations wait in order.
pub const STORE_CONNECTIONS_MAX: usize = 32;
/// Bytes of a value in Redis, content type included: its own limit (`proto-max-bulk-len`).
pub const STORE_REDIS_VALUE_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Objects of one client that are still to be freed in a store; beyond it the oldest are left to their expiry.
pub const STORE_FREES_PENDING_MAX: usize = 100_000;

const _: () = assert!(MESSAGE_INLINE_BYTES_MAX.div_ceil(3) * 4 < MESSAGE_BYTES_MAX, "an inline payload fits its message");
