//! What only the queue-proxies of this platform know: the keys of the trust domain, and one egress token each.
//!
//! Both exist in memory only. A proxy reads its copy from a pipe that it inherits; no file and no environment ever
//! holds a key.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use zipline_core::hex;

use crate::clock;

/// Bytes of an egress token.
const TOKEN_BYTES: usize = 24;
/// How long before its making a key counts, so that a clock that is set back does not invalidate it.
const BACKDATED: Duration = Duration::from_secs(3600);
/// How long a key counts: longer than any machine stays up. A platform never rotates; the next one has another key.
const VALID_FOR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The key ring of one `zipline up`.
pub(super) struct TrustDomain {
    keys: serde_json::Value,
}

impl TrustDomain {
    /// Makes a ring of one random key.
    pub(super) fn random() -> io::Result<Self> {
        let now = clock::wall_now();
        let key = json!({
            "id": hex::encode(&random::<4>()?),
            "key": hex::encode(&random::<32>()?),
            "not_before_ms": (now - BACKDATED).unix_millis(),
            "not_after_ms": (now + VALID_FOR).unix_millis(),
        });
        Ok(Self { keys: json!([key]) })
    }

    /// The read end of a pipe that holds all a proxy needs; `docs/reference/protocol.md` §1 has the format.
    pub(super) fn for_proxy(&self, egress_token: &str) -> io::Result<OwnedFd> {
        let secrets = json!({ "keys": self.keys, "egress_token": egress_token }).to_string();
        let (read, mut write) = io::pipe()?;
        // A few hundred bytes: far below a pipe's capacity, so this never waits for the reader.
        write.write_all(secrets.as_bytes())?;
        Ok(read.into())
    }
}

impl std::fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TrustDomain { … }")
    }
}

/// A token for the local APIs of one platform on loopback TCP.
pub(crate) fn api_token() -> io::Result<String> {
    egress_token()
}

/// A token for one instance's egress, fit for the user part of a URL.
pub(super) fn egress_token() -> io::Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(random::<TOKEN_BYTES>()?))
}

/// Five letters and digits that tell an instance from its siblings, as Kubernetes' own names have.
pub(super) fn name_suffix() -> io::Result<String> {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    Ok(random::<5>()?.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])).iter().collect())
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_proxy_reads_the_ring_and_its_token_from_a_pipe_that_ends() {
        let domain = TrustDomain::random().expect("randomness");
        let pipe = domain.for_proxy("token").expect("a pipe");
        let mut text = String::new();
        std::fs::File::from(pipe).read_to_string(&mut text).expect("readable to its end");
        let secrets: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(secrets["egress_token"], "token");
        let key = &secrets["keys"][0];
        assert_eq!((key["id"].as_str().map(str::len), key["key"].as_str().map(str::len)), (Some(8), Some(64)));
        assert!(key["not_before_ms"].as_u64() < key["not_after_ms"].as_u64());
        assert!(!format!("{domain:?}").contains(key["key"].as_str().expect("text")));
    }

    #[test]
    fn tokens_differ_and_need_no_escaping_in_a_url() {
        let (one, other) = (egress_token().expect("randomness"), egress_token().expect("randomness"));
        assert_ne!(one, other);
        assert!(one.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    }
}
