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

pub use errors::{ErrorCode, Fault, Retry};
pub use settings::Setting;

/// Prefix of Zipline's annotations and labels on Kubernetes objects.
pub const ANNOTATION_PREFIX: &str = "zipline.dev/";
/// Prefix of a sealed reference, version 1.
pub const REFERENCE_PREFIX: &str = "zl1.";
/// Prefix of a reference that carries its bytes.
pub const REFERENCE_PREFIX_INLINE: &str = "zi1.";
/// Prefix of a reference to an object in the configured S3 bucket.
pub const REFERENCE_PREFIX_S3: &str = "zs1.";
/// Prefix of a reference to a value in the configured Redis server.
pub const REFERENCE_PREFIX_REDIS: &str = "zr1.";
/// Version of the pull protocol that this release speaks.
pub const PULL_VERSION: u8 = 1;
/// Protocol name of the descriptor channel, as it stands in `Upgrade`.
pub const DESCRIPTOR_PROTOCOL: &str = "zipline-descriptors/1";
/// Media type of an error body (RFC 9457).
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";
