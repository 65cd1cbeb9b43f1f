//! The names that both sides of a boundary share: headers, doors, settings, errors, metrics, limits.
//!
//! Data only. Whatever stands here stands nowhere else: parsers, `--help`, SDK error classes and the tables under
//! `docs/reference/` are made from it. Nothing here decides, allocates or reads the environment.
#![forbid(unsafe_code)]

pub mod doors;
pub mod errors;
pub mod headers;
pub mod limits;
pub mod metrics;
pub mod settings;
pub mod transfer;

pub use errors::{ErrorCode, Fault, Retry};
pub use settings::Setting;
pub use transfer::Transfer;

/// Prefix of Zipline's annotations and labels on Kubernetes objects.
pub const ANNOTATION_PREFIX: &str = "zipline.dev/";
/// Prefix of a sealed reference, version 1.
pub const REFERENCE_PREFIX: &str = "zl1.";
/// Prefix of a reference that carries its bytes, in base64url without padding. It travels in bodies, never in a header.
pub const REFERENCE_PREFIX_INLINE: &str = "zi1.";
/// Prefix of a reference to an object in the configured S3 bucket. After it, as after [`REFERENCE_PREFIX_REDIS`], comes
/// a key, and where the reference was narrowed to a range `.FIRST-LENGTH`. A key is `RETRIEVALS-SIZE-RANDOM`: whole reads
/// granted (0: not counted, whoever put it frees it), bytes, and 128 random bits in base64url.
pub const REFERENCE_PREFIX_S3: &str = "zs1.";
/// Prefix of a reference to a value in the configured Redis server.
pub const REFERENCE_PREFIX_REDIS: &str = "zr1.";
/// What a key of a store is preceded by in the S3 bucket: the object's name is `zipline/KEY`.
pub const STORE_PREFIX_S3: &str = "zipline/";
/// What a key of a store is preceded by in the Redis server; `:left` follows where retrievals are counted.
pub const STORE_PREFIX_REDIS: &str = "zipline:";
/// Media type of a request that carries a store's reference in place of its payload:
/// `{"reference": "…", "content_type": "…"}`, the second where the payload has one.
pub const STORED_PAYLOAD_MEDIA_TYPE: &str = "application/vnd.zipline.stored-payload+json";
/// Content type of an object in S3 whose payload has none: S3 itself would give it one.
pub const STORE_CONTENT_TYPE_NONE: &str = "binary/octet-stream";
/// Version of the pull protocol that this release speaks.
pub const PULL_VERSION: u8 = 1;
/// Protocol name of the descriptor channel, as it stands in `Upgrade`.
pub const DESCRIPTOR_PROTOCOL: &str = "zipline-descriptors/1";
/// Media type of an error body (RFC 9457).
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";
