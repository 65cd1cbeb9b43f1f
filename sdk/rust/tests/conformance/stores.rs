//! The stores of the cases whose transfer method needs one: started once, for all of them.

use std::collections::BTreeMap;

use zipline_servers::{Redis, S3, Server, ServerError, install};
use zipline_testkit::free_port;

/// Variables of a client, without `ZIPLINE_API`.
pub(crate) type Variables = BTreeMap<&'static str, String>;

/// A real S3 server and a real Redis, where they can be had.
pub(crate) struct Stores {
    s3: Option<S3>,
    redis: Option<Redis>,
}

impl Stores {
    pub(crate) async fn start() -> Self {
        let s3 = if cfg!(feature = "s3") && installed(Server::S3).await { said(S3::start().await) } else { None };
        let redis = if cfg!(feature = "redis") && installed(Server::Redis).await { said(Redis::start().await) } else { None };
        Self { s3, redis }
    }

    /// What a case's `transfer` stands for; `None` where it cannot be had.
    pub(crate) fn variables(&self, transfer: &str) -> Option<Variables> {
        let (method, kind) = transfer.split_once('-').unwrap_or((transfer, ""));
        let mut variables = match method {
            "s3" => Variables::from_iter(self.s3.as_ref()?.environment()),
            "redis" => Variables::from_iter(self.redis.as_ref()?.environment()),
            _ => Variables::new(),
        };
        let nowhere = format!("127.0.0.1:{}", free_port().ok()?);
        match (method, kind) {
            (_, "") => {}
            ("s3", "nowhere") => drop(variables.insert("ZIPLINE_S3_ENDPOINT", format!("http://{nowhere}"))),
            ("s3", "refusing") => drop(variables.insert("AWS_SECRET_ACCESS_KEY", "wrong".to_owned())),
            ("redis", "nowhere") => drop(variables.insert("ZIPLINE_REDIS_URL", format!("redis://:secret@{nowhere}/0"))),
            ("redis", "refusing") => {
                let place = self.redis.as_ref()?.address();
                variables.insert("ZIPLINE_REDIS_URL", format!("redis://:wrong@{place}/0"));
            }
            _ => return None,
        }
        variables.insert("ZIPLINE_TRANSFER", method.to_owned());
        variables.insert("ZIPLINE_STORE_RETRIES", "2".to_owned());
        variables.insert("ZIPLINE_STORE_INLINE_BYTES", "0".to_owned());
        Some(variables)
    }
}

async fn installed(server: Server) -> bool {
    let installed = tokio::task::spawn_blocking(move || install(server, &mut |step| eprintln!("{step}"))).await;
    installed.ok().and_then(said).is_some()
}

/// The value; an error is said, and counts as not to be had.
fn said<T>(outcome: Result<T, ServerError>) -> Option<T> {
    outcome.inspect_err(|error| eprintln!("{error}")).ok()
}
