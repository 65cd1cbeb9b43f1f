//! The file of cases, as types: a field that is not known is a typing mistake and stops the run.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vectors {
    schema: u32,
    #[serde(rename = "about")]
    _about: String,
    pub(crate) worlds: BTreeMap<String, BTreeMap<String, String>>,
    payloads: BTreeMap<String, PayloadSpec>,
    /// The payloads' bytes: made once, because each step compares with some of them.
    #[serde(skip)]
    made: BTreeMap<String, Vec<u8>>,
    pub(crate) cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PayloadSpec {
    text: Option<String>,
    seed: Option<u64>,
    length: usize,
    sha256: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    #[serde(rename = "about")]
    _about: Option<String>,
    pub(crate) world: String,
    pub(crate) transfer: String,
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    #[default]
    Bytes,
    Writer,
    Stream,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Range {
    pub(crate) first: u64,
    pub(crate) length: u64,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Step {
    Put {
        at: String,
        payload: String,
        #[serde(default)]
        how: How,
        retrievals: Option<u32>,
        ttl_ms: Option<u64>,
        content_type: Option<String>,
        save: Option<String>,
        #[serde(default)]
        expect: Expect,
    },
    Open {
        at: String,
        save: String,
        #[serde(default)]
        expect: Expect,
    },
    Write {
        at: String,
        reference: String,
        payload: String,
        #[serde(default)]
        expect: Expect,
    },
    Get {
        at: String,
        reference: Option<String>,
        reference_text: Option<String>,
        range: Option<Range>,
        #[serde(default)]
        expect: Expect,
    },
    Stat {
        at: String,
        reference: String,
        #[serde(default)]
        expect: Expect,
    },
    Release {
        at: String,
        reference: String,
        #[serde(default)]
        expect: Expect,
    },
    Narrow {
        at: String,
        reference: String,
        range: Option<Range>,
        receiver: Option<String>,
        slot: Option<u32>,
        ttl_ms: Option<u64>,
        save: Option<String>,
        #[serde(default)]
        expect: Expect,
    },
    AwaitExpiry {
        reference: String,
        ttl_ms: Option<u64>,
        #[serde(default)]
        expect: Expect,
    },
    Tamper {
        reference: String,
        save: String,
        #[serde(default)]
        expect: Expect,
    },
    Invoke {
        at: String,
        service: String,
        path: String,
        method: Option<String>,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        payload: Option<String>,
        #[serde(default)]
        how: How,
        reference: Option<String>,
        save: Option<String>,
        #[serde(default)]
        expect: Expect,
    },
    Scatter {
        at: String,
        payloads: Vec<String>,
        parallel: Option<usize>,
        save: String,
        #[serde(default)]
        expect: Expect,
    },
    Gather {
        at: String,
        references: String,
        parallel: Option<usize>,
        #[serde(default)]
        expect: Expect,
    },
    Broadcast {
        at: String,
        payload: String,
        consumers: u32,
        save: String,
        #[serde(default)]
        expect: Expect,
    },
    Configure {
        environment: BTreeMap<String, String>,
        #[serde(default)]
        expect: Expect,
    },
}

impl Step {
    pub(crate) fn expect(&self) -> &Expect {
        match self {
            Self::Put { expect, .. }
            | Self::Open { expect, .. }
            | Self::Write { expect, .. }
            | Self::Get { expect, .. }
            | Self::Stat { expect, .. }
            | Self::Release { expect, .. }
            | Self::Narrow { expect, .. }
            | Self::AwaitExpiry { expect, .. }
            | Self::Tamper { expect, .. }
            | Self::Invoke { expect, .. }
            | Self::Scatter { expect, .. }
            | Self::Gather { expect, .. }
            | Self::Broadcast { expect, .. }
            | Self::Configure { expect, .. } => expect,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    pub(crate) error: Option<String>,
    pub(crate) size: Option<u64>,
    pub(crate) prefix: Option<String>,
    pub(crate) count: Option<usize>,
    pub(crate) payload: Option<String>,
    pub(crate) slice: Option<Range>,
    pub(crate) payloads: Option<Vec<String>>,
    pub(crate) content_type: Option<String>,
    pub(crate) retrievals_left: Option<u32>,
    pub(crate) expires_in_ms: Option<Between>,
    pub(crate) status: Option<u16>,
    pub(crate) text: Option<String>,
    pub(crate) json: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Between {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl Vectors {
    pub(crate) fn load() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/vectors/sdk.json");
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let mut vectors: Self = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        ensure!(vectors.schema == 1, "schema {} of {}; this runner reads 1", vectors.schema, path.display());
        let made = vectors.payloads.iter().map(|(name, spec)| Ok((name.clone(), spec.make(name)?)));
        vectors.made = made.collect::<Result<_>>()?;
        Ok(vectors)
    }

    /// The bytes of a named payload.
    pub(crate) fn payload(&self, name: &str) -> Result<Vec<u8>> {
        self.made.get(name).cloned().with_context(|| format!("payload `{name}` is not in the file"))
    }
}

impl PayloadSpec {
    /// The payload's bytes, checked against the file's own sum.
    fn make(&self, name: &str) -> Result<Vec<u8>> {
        let bytes = match (&self.text, self.seed) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(seed)) => {
                let blocks = (0..self.length.div_ceil(32)).map(|counter| Sha256::digest(format!("{seed}:{counter}")));
                let mut bytes = blocks.flatten().collect::<Vec<u8>>();
                bytes.truncate(self.length);
                bytes
            }
            _ => anyhow::bail!("payload `{name}` has either text or seed"),
        };
        let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(bytes.len() == self.length && sum == self.sha256, "payload `{name}` is not what the file says");
        Ok(bytes)
    }
}
