//! The tiers behind memory: a durable store, a local disk.

use std::path::PathBuf;
use std::time::Duration;

use zipline_contract::settings;
use zipline_core::reference::TierName;
use zipline_core::tier::Durability;
use zipline_store::Credentials;

use super::reader::Reader;

/// Where the durable tier is, and how it is used.
#[derive(Clone, Debug)]
pub struct Tier {
    /// Its name, as references carry it.
    pub name: TierName,
    /// The bucket.
    pub bucket: String,
    /// What every key in it begins with; may be empty.
    pub prefix: String,
    /// `None`: AWS.
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: String,
    /// Who asks.
    pub access: Access,
    /// Copies written at once, and separately read.
    pub transfers: usize,
    /// Limit of one request.
    pub timeout: Duration,
    /// `None`: never.
    pub sweep: Option<Duration>,
}

/// Where the store's credentials are.
#[derive(Clone, Debug)]
pub enum Access {
    /// In a file.
    File(PathBuf),
    /// In the environment.
    Given(Credentials),
}

/// A local disk behind memory.
#[derive(Clone, Debug)]
pub struct Spill {
    /// Where objects go.
    pub directory: PathBuf,
    /// At most so many bytes.
    pub bytes_max: u64,
}

pub(super) fn durable(r: &mut Reader<'_>) -> Option<Tier> {
    let transfers = r.count(&settings::TIER_TRANSFERS);
    let timeout = r.seconds(&settings::TIER_TIMEOUT_SECONDS);
    let sweep = Some(r.seconds(&settings::TIER_SWEEP_SECONDS)).filter(|every| !every.is_zero());
    let place = r.setting_as(&settings::TIER_URL, "`s3://BUCKET` or `s3://BUCKET/PREFIX`", bucket_and_prefix);
    let endpoint = r.setting_as(&settings::TIER_ENDPOINT, "`http://HOST:PORT` or `https://HOST`", endpoint);
    let name = r.setting_as(&settings::TIER, "1 to 32 of a-z, 0-9, - and _", |text| TierName::new(text).ok())?;
    let Some((bucket, prefix)) = place else {
        if r.setting(&settings::TIER_URL).is_empty() {
            r.unreadable(settings::TIER_URL.variable, "", "where the durable tier is, which ZIPLINE_TIER names: `s3://BUCKET`");
        }
        return None;
    };
    let region = r.setting(&settings::TIER_REGION).to_owned();
    Some(Tier { name, bucket, prefix, endpoint, region, access: access(r), transfers, timeout, sweep })
}

/// What is promised about puts that name nothing. More than `none` needs a tier.
pub(super) fn durability(r: &mut Reader<'_>, tier: Option<&Tier>) -> Durability {
    let setting = &settings::DURABILITY;
    let durability = r.setting_as(setting, "one of `none`, `drain`, `always`", Durability::from_name).unwrap_or_default();
    if durability != Durability::None && tier.is_none() {
        r.unreadable(
            setting.variable,
            durability.name(),
            "possible without a durable tier; name one by ZIPLINE_TIER and ZIPLINE_TIER_URL",
        );
    }
    durability
}

pub(super) fn spill(r: &mut Reader<'_>) -> Option<Spill> {
    let bytes_max = r.bytes(&settings::SPILL_BYTES);
    let directory = r.setting_as(&settings::SPILL_DIR, "a directory", |text| Some(PathBuf::from(text)))?;
    Some(Spill { directory, bytes_max })
}

/// AWS's own variables are where its tools, and Kubernetes' webhooks for it, put credentials.
fn access(r: &Reader<'_>) -> Access {
    let file = r.setting(&settings::TIER_CREDENTIALS_FILE);
    if !file.is_empty() {
        return Access::File(file.into());
    }
    let text = |variable| Some(r.text(variable).to_owned()).filter(|text| !text.is_empty());
    let given = match (text("AWS_ACCESS_KEY_ID"), text("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => Credentials::Keys { id, secret, session_token: text("AWS_SESSION_TOKEN") },
        _ => match (text("AWS_WEB_IDENTITY_TOKEN_FILE"), text("AWS_ROLE_ARN")) {
            (Some(token_file), Some(role_arn)) => Credentials::WebIdentity { token_file, role_arn },
            _ => Credentials::Anonymous,
        },
    };
    Access::Given(given)
}

fn bucket_and_prefix(text: &str) -> Option<(String, String)> {
    let place = text.strip_prefix("s3://")?;
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let is_bucket = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
    let sound = !bucket.is_empty() && bucket.bytes().all(is_bucket);
    sound.then(|| (bucket.to_owned(), prefix.trim_matches('/').to_owned()))
}

fn endpoint(text: &str) -> Option<String> {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?.trim_end_matches('/');
    let sound = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
    sound.then(|| text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_is_a_bucket_with_or_without_a_prefix() {
        let of = |bucket: &str, prefix: &str| Some((bucket.to_owned(), prefix.to_owned()));
        assert_eq!(bucket_and_prefix("s3://payloads"), of("payloads", ""));
        assert_eq!(bucket_and_prefix("s3://payloads/team/a/"), of("payloads", "team/a"));
        for wrong in ["payloads", "s3://", "s3:///x", "gs://payloads", "s3://Pay loads"] {
            assert_eq!(bucket_and_prefix(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_endpoint_is_a_host_and_nothing_more() {
        assert_eq!(endpoint("http://127.0.0.1:8333/").as_deref(), Some("http://127.0.0.1:8333"));
        assert_eq!(endpoint("https://minio.store").as_deref(), Some("https://minio.store"));
        for wrong in ["127.0.0.1:8333", "ftp://x", "http://", "http://user:secret@host", "https://host/path"] {
            assert_eq!(endpoint(wrong), None, "{wrong}");
        }
    }
}
