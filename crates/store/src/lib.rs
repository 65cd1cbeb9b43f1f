//! A client of S3-compatible stores, light enough for a sidecar.
//!
//! [`open`] gives an [`object_store::ObjectStore`], which knows S3's requests, signatures, retries and multipart uploads;
//! its requests leave by the HTTP client that Zipline has anyway ([`Pooled`], which the Rust SDK's method `s3` has too), over TLS where the
//! endpoint is `https`. Nothing is connected before the first request. What is stored, and under which name, is for whoever uses it.
#![forbid(unsafe_code)]

mod connector;
mod pooled;

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

use self::connector::Connector;

pub use self::pooled::{Idle, Pooled, Schemes, TlsError};

/// The first pause before a request is tried again; it doubles.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest such pause.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Where a bucket is, and who asks.
#[derive(Clone, Debug)]
pub struct S3 {
    /// Its name.
    pub bucket: String,
    /// `http://HOST:PORT` or `https://HOST[:PORT]` of a compatible store; `None`: AWS.
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: String,
    /// Who asks.
    pub credentials: Credentials,
    /// A request whose answer has not begun after it has failed; it is tried again.
    pub request_timeout: Duration,
    /// How often.
    pub retries: usize,
}

/// Who asks a store.
#[derive(Clone)]
pub enum Credentials {
    /// A pair of keys.
    Keys {
        /// Access key id.
        id: String,
        /// Secret access key.
        secret: String,
        /// Of temporary keys.
        session_token: Option<String>,
    },
    /// A role that a projected service-account token stands for (IAM roles for service accounts).
    WebIdentity {
        /// File with the token; read again when it is renewed.
        token_file: String,
        /// The role's name.
        role_arn: String,
    },
    /// Nobody in particular: requests are not signed.
    Anonymous,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Keys { .. } => "Keys",
            Self::WebIdentity { .. } => "WebIdentity",
            Self::Anonymous => "Anonymous",
        })
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A part of the description is not one.
    #[error("the store can't be used as described: {0}")]
    Description(#[from] object_store::Error),
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A client of that bucket.
///
/// # Errors
/// An endpoint that is none, or certificates that cannot be read where the endpoint is `https`.
pub fn open(store: &S3) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let plain = store.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    // A role is asked for over TLS, wherever the bucket is.
    let schemes = match &store.credentials {
        Credentials::Keys { .. } | Credentials::Anonymous if plain => Schemes::Plain,
        _ => Schemes::Both,
    };
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: BACKOFF_FIRST, max_backoff: BACKOFF_MAX, base: 2.0 },
        max_retries: store.retries,
        retry_timeout: store.request_timeout.saturating_mul(u32::try_from(store.retries + 1).unwrap_or(u32::MAX)),
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&store.bucket)
        .with_region(&store.region)
        .with_allow_http(plain)
        .with_retry(retry)
        // Every payload is sealed with tags of its own; hashing it once more for the signature would cost as much again.
        .with_unsigned_payload(true)
        .with_http_connector(Connector::new(schemes, store.request_timeout)?);
    if let Some(endpoint) = &store.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder = match &store.credentials {
        Credentials::Keys { id, secret, session_token } => {
            let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            session_token.iter().fold(builder, |builder, token| builder.with_token(token))
        }
        Credentials::WebIdentity { token_file, role_arn } => builder
            .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token_file)
            .with_config(AmazonS3ConfigKey::RoleArn, role_arn),
        Credentials::Anonymous => builder.with_skip_signature(true),
    };
    Ok(Arc::new(builder.build()?))
}
