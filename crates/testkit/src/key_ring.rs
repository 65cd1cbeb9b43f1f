//! Rings of keys, as a trust domain's proxies get them.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A ring of keys in the format of `docs/reference/protocol.md` §1.
#[derive(Clone, Debug)]
pub struct KeyRing {
    keys: Vec<Value>,
}

impl KeyRing {
    /// A ring of one random key, valid from an hour ago until tomorrow.
    pub fn random() -> Result<Self> {
        Ok(Self { keys: vec![key(0)?] })
    }

    /// This ring and a newer key, which seals from now on: the first step of a rotation.
    pub fn rotated(&self) -> Result<Self> {
        let mut keys = self.keys.clone();
        keys.push(key(keys.len() as u64)?);
        Ok(Self { keys })
    }

    /// This ring without its oldest key: the last step of a rotation.
    pub fn without_oldest(&self) -> Self {
        Self { keys: self.keys.iter().skip(1).cloned().collect() }
    }

    /// The document of a key file.
    pub fn document(&self) -> Value {
        json!({ "keys": self.keys })
    }

    /// The document of `ZIPLINE_SECRETS_FD`.
    pub fn secrets(&self, egress_token: &str) -> Value {
        json!({ "keys": self.keys, "egress_token": egress_token })
    }
}

/// A random key; a higher `generation` seals in place of a lower one.
fn key(generation: u64) -> Result<Value> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
    let not_before = now - Duration::from_secs(3600) + Duration::from_millis(generation);
    Ok(json!({
        "id": hex(&random::<4>()?),
        "key": hex(&random::<32>()?),
        "not_before_ms": not_before.as_millis() as u64,
        "not_after_ms": (now + Duration::from_secs(86_400)).as_millis() as u64,
    }))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context("randomness")?;
    Ok(bytes)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
