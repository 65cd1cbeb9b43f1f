//! Where the stores are and how long they are waited for.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zipline_contract::Setting;
use zipline_contract::settings;

use crate::error::Error;

/// The usual AWS variables that a client's credentials come from.
const AWS_VARIABLES: [&str; 9] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];
const REGION_DEFAULT: &str = "us-east-1";

/// Text that is in no `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The stores a client may use, and its patience with them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stores {
    /// The S3 bucket; `None`: none is configured.
    pub s3: Option<S3Store>,
    /// The Redis server; `None`: none is configured.
    pub redis: Option<RedisStore>,
    /// Limit over one operation, its retries included.
    pub timeout: Duration,
    /// How often an operation is tried again that was refused for now or did not arrive.
    pub retries: u32,
    /// A call's payload below it travels inside the request, in bytes; an empty one does in any case.
    pub inline_bytes: u64,
    /// Expiry of a put that names none.
    pub ttl: Duration,
    /// Folder for a JSON file of the operations that were had.
    pub counters: Option<PathBuf>,
}

/// An S3 bucket.
#[derive(Clone, Debug)]
pub struct S3Store {
    pub(crate) endpoint: Option<String>,
    pub(crate) bucket: String,
    pub(crate) region: String,
    pub(crate) credentials: Vec<(&'static str, Secret)>,
}

/// A Redis server.
#[derive(Clone, Debug)]
pub struct RedisStore {
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the client that reads it is not part of this build"))]
    pub(crate) url: Secret,
    place: String,
}

impl Default for Stores {
    fn default() -> Self {
        // The table's defaults lie in their ranges; its own test says so.
        let of = |setting: &Setting| number(setting, Some(setting.default.to_owned())).ok().flatten().unwrap_or_default();
        Self {
            s3: None,
            redis: None,
            timeout: Duration::from_secs_f64(of(&settings::STORE_TIMEOUT_SECONDS)),
            retries: of(&settings::STORE_RETRIES) as u32,
            inline_bytes: of(&settings::STORE_INLINE_BYTES) as u64,
            ttl: Duration::from_secs_f64(of(&settings::PUT_TTL_SECONDS)),
            counters: None,
        }
    }
}

impl Stores {
    /// Reads the `ZIPLINE_S3_…`, `ZIPLINE_REDIS_…`, `ZIPLINE_STORE_…` and AWS variables.
    ///
    /// # Errors
    /// [`Error::Configuration`] names the first that is not understood.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let text = |setting: &Setting| variable(setting.variable).filter(|text| !text.is_empty());
        let mut stores = Self {
            s3: text(&settings::S3_BUCKET).map(|bucket| S3Store::from_variables(&bucket, &variable)).transpose()?,
            redis: text(&settings::REDIS_URL).map(|url| RedisStore::new(&url)).transpose()?,
            counters: text(&settings::STORE_COUNTERS).map(PathBuf::from),
            ..Self::default()
        };
        if let Some(seconds) = number(&settings::STORE_TIMEOUT_SECONDS, text(&settings::STORE_TIMEOUT_SECONDS))? {
            stores.timeout = Duration::from_secs_f64(seconds);
        }
        if let Some(retries) = number(&settings::STORE_RETRIES, text(&settings::STORE_RETRIES))? {
            stores.retries = retries as u32;
        }
        if let Some(bytes) = number(&settings::STORE_INLINE_BYTES, text(&settings::STORE_INLINE_BYTES))? {
            stores.inline_bytes = bytes as u64;
        }
        Ok(stores)
    }

    /// Whether one is configured.
    pub(crate) fn any(&self) -> bool {
        self.s3.is_some() || self.redis.is_some()
    }
}

/// A number within the range of the table, in the notation of the table.
fn number(setting: &Setting, text: Option<String>) -> Result<Option<f64>, Error> {
    let Some(text) = text else { return Ok(None) };
    let (low, high) = setting.range.unwrap_or((0.0, f64::MAX));
    let units = [("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0)];
    let (digits, unit) = match setting.unit {
        settings::Unit::Bytes => units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))),
        _ => None,
    }
    .unwrap_or((&text, 1.0));
    match digits.trim_end().parse::<f64>().map(|number| number * unit) {
        Ok(number) if (low..=high).contains(&number) => Ok(Some(number)),
        _ => Err(bad(setting, text, "not a number in the range that docs/reference/settings.md gives")),
    }
}

fn bad(setting: &Setting, value: impl Into<String>, reason: &'static str) -> Error {
    Error::Configuration { variable: setting.variable, value: value.into(), reason }
}

impl S3Store {
    /// That bucket of AWS, with the credentials of the machine (a role, an instance profile).
    pub fn new(bucket: impl Into<String>) -> Self {
        Self { endpoint: None, bucket: bucket.into(), region: REGION_DEFAULT.to_owned(), credentials: Vec::new() }
    }

    fn from_variables(bucket: &str, variable: &impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let text = |name: &str| variable(name).filter(|text| !text.is_empty());
        let mut store = Self::new(bucket);
        if bucket.contains(['/', '?', '#', ' ']) {
            return Err(bad(&settings::S3_BUCKET, bucket, "not the name of a bucket"));
        }
        if let Some(region) = text(settings::S3_REGION.variable).or_else(|| text("AWS_REGION")) {
            store.region = region;
        }
        if let Some(endpoint) = text(settings::S3_ENDPOINT.variable) {
            store = store.endpoint(&endpoint)?;
        }
        store.credentials = AWS_VARIABLES.into_iter().filter_map(|name| Some((name, Secret(text(name)?)))).collect();
        Ok(store)
    }

    /// The same bucket at another service than AWS: `http://HOST:PORT` or `https://HOST`.
    ///
    /// # Errors
    /// [`Error::Configuration`] for anything else.
    pub fn endpoint(mut self, endpoint: &str) -> Result<Self, Error> {
        let authority = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
        match authority.map(|authority| authority.trim_end_matches('/')) {
            Some(authority) if !authority.is_empty() && !authority.contains(['/', '@', '?', '#']) => {
                self.endpoint = Some(endpoint.trim_end_matches('/').to_owned());
                Ok(self)
            }
            // Not with its text: a password may stand in it.
            _ => Err(bad(&settings::S3_ENDPOINT, "…", "expected `http://HOST:PORT` or `https://HOST` and nothing after it")),
        }
    }

    /// The same bucket with a key pair.
    #[must_use]
    pub fn keys(mut self, access_key_id: impl Into<String>, secret_access_key: impl Into<String>) -> Self {
        self.credentials = vec![
            ("AWS_ACCESS_KEY_ID", Secret(access_key_id.into())),
            ("AWS_SECRET_ACCESS_KEY", Secret(secret_access_key.into())),
        ];
        self
    }

    /// Where it is, as messages say it: without credentials.
    pub fn place(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => format!("bucket {} at {endpoint}", self.bucket),
            None => format!("bucket {} in {}", self.bucket, self.region),
        }
    }
}

impl RedisStore {
    /// The server at `redis://[[USER]:PASSWORD@]HOST:PORT[/DATABASE]`.
    ///
    /// # Errors
    /// [`Error::Configuration`] for anything else; the message does not repeat the URL, which may hold a password.
    pub fn new(url: &str) -> Result<Self, Error> {
        let wrong = |reason| Err(bad(&settings::REDIS_URL, "…", reason));
        let Some(rest) = url.strip_prefix("redis://") else {
            return wrong("expected `redis://[[USER]:PASSWORD@]HOST:PORT[/DATABASE]`");
        };
        let authority = rest.rsplit_once('@').map_or(rest, |(_, authority)| authority);
        let (authority, database) = authority.split_once('/').unwrap_or((authority, ""));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !authority.ends_with(']') => (host, port),
            _ => (authority, "6379"),
        };
        if host.is_empty() || port.parse::<u16>().is_err() {
            return wrong("the part after `@` or `//` is not HOST:PORT");
        }
        if !database.is_empty() && database.parse::<u32>().is_err() {
            return wrong("the database is not a number");
        }
        Ok(Self { url: Secret(url.to_owned()), place: format!("{host}:{port}") })
    }

    /// Where it is, as messages say it: `HOST:PORT`, without credentials.
    pub fn place(&self) -> &str {
        &self.place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores(given: &[(&'static str, &'static str)]) -> Result<Stores, Error> {
        Stores::from_variables(|name| given.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn no_secret_is_shown() {
        let stores = stores(&[
            ("ZIPLINE_S3_BUCKET", "b"),
            ("ZIPLINE_REDIS_URL", "redis://user:hunter2@[::1]:7000/3"),
            ("AWS_ACCESS_KEY_ID", "hunter2"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ]);
        let stores = stores.expect("well formed");
        assert!(!format!("{stores:?}").contains("hunter2"), "{stores:?}");
        assert_eq!(stores.redis.expect("configured").place, "[::1]:7000");
    }

    #[test]
    fn what_is_not_understood_is_named_without_its_password() {
        let cases: [(&[(&'static str, &'static str)], &str); 6] = [
            (&[("ZIPLINE_REDIS_URL", "http://:hunter2@127.0.0.1:1")], "ZIPLINE_REDIS_URL"),
            (&[("ZIPLINE_REDIS_URL", "redis://:hunter2@127.0.0.1:port")], "ZIPLINE_REDIS_URL"),
            (&[("ZIPLINE_S3_BUCKET", "b/c")], "ZIPLINE_S3_BUCKET"),
            (&[("ZIPLINE_S3_BUCKET", "b"), ("ZIPLINE_S3_ENDPOINT", "http://u:hunter2@h/")], "ZIPLINE_S3_ENDPOINT"),
            (&[("ZIPLINE_STORE_RETRIES", "-1")], "ZIPLINE_STORE_RETRIES"),
            (&[("ZIPLINE_STORE_TIMEOUT_SECONDS", "soon")], "ZIPLINE_STORE_TIMEOUT_SECONDS"),
        ];
        for (given, variable) in cases {
            let error = stores(given).expect_err(variable);
            assert_eq!(error.name(), "configuration");
            let text = error.to_string();
            assert!(text.contains(variable) && !text.contains("hunter2"), "{text}");
        }
    }
}
