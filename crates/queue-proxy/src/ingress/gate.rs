//! What never reaches the function: probes, and requests that make no sense at a reverse proxy.

use http::header::{EXPECT, HeaderMap, USER_AGENT};
use http::{Method, StatusCode, Version};
use zipline_contract::headers::{K_KUBELET_PROBE, K_NETWORK_HASH, K_NETWORK_PROBE};

use super::answers::{self, Answer};

/// What to do with a request.
#[derive(Debug)]
pub(super) enum Gate {
    /// Run the readiness probe and answer with its outcome.
    Health,
    /// Answer at once.
    Answer(Answer),
    /// It goes to the function.
    Pass,
}

impl Gate {
    /// Whether the answer is about this server rather than about a request to the function: such a request is not told about.
    pub(super) fn is_about_the_server(&self, path: &str) -> bool {
        const SENSELESS: [StatusCode; 2] = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::EXPECTATION_FAILED];
        path == "*" || matches!(self, Self::Answer(answer) if SENSELESS.contains(&answer.status()))
    }
}

/// Who probes, by the beginning of the user agent.
const PROBERS: [&[u8]; 3] = [b"kube-probe/", b"Knative-Activator-Probe", b"Knative-Autoscaling-Probe"];
/// The probe that asks whether this instance is ready.
const HEALTH: &[u8] = b"queue";
/// The probe that asks whether this instance is reached.
const NETWORK: &[u8] = b"probe";

/// Decides by the head alone. `fails_probes` is asked only when the request is a probe.
pub(super) fn gate(
    method: &Method,
    path: &str,
    (version, headers): (Version, &HeaderMap),
    fails_probes: impl FnOnce() -> bool,
) -> Gate {
    if *method == Method::CONNECT {
        const TEXT: &str = "CONNECT is not served here: this is the door of one function, not a forward proxy";
        return Gate::Answer(answers::error(StatusCode::METHOD_NOT_ALLOWED, TEXT));
    }
    if path == "*" {
        return Gate::Answer(answers::empty(StatusCode::OK)); // `OPTIONS *` asks about the server, not about a resource.
    }
    // Over HTTP/2 nobody waits: whatever is expected is the function's to judge.
    if version != Version::HTTP_2
        && headers.get(EXPECT).is_some_and(|expect| !expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        return Gate::Answer(answers::empty(StatusCode::EXPECTATION_FAILED));
    }
    let agent = headers.get(USER_AGENT).map(|agent| agent.as_bytes()).unwrap_or_default();
    let probe = headers.get(K_NETWORK_PROBE).map(|probe| probe.as_bytes()).unwrap_or_default();
    let is_prober = PROBERS.iter().any(|prober| agent.starts_with(prober));
    if !is_prober && probe != NETWORK {
        return Gate::Pass;
    }
    if fails_probes() {
        return Gate::Answer(answers::error(StatusCode::SERVICE_UNAVAILABLE, "shutting down"));
    }
    match (is_prober, probe) {
        (true, HEALTH) => Gate::Health,
        (true, _) => {
            let mut text = b"unexpected probe header value: ".to_vec();
            text.extend_from_slice(probe);
            Gate::Answer(answers::error(StatusCode::BAD_REQUEST, String::from_utf8_lossy(&text)))
        }
        (false, _) => Gate::Answer(network_probe(headers)),
    }
}

/// The answer to a readiness probe.
pub(super) fn health(is_ready: bool) -> Answer {
    if is_ready { answers::plain(StatusCode::OK, HEALTH) } else { answers::empty(StatusCode::SERVICE_UNAVAILABLE) }
}

/// A kubelet's probe of the old kind goes to the function, but is neither counted nor queued.
pub(super) fn is_kubelet_probe(headers: &HeaderMap) -> bool {
    headers.get(K_KUBELET_PROBE).is_some_and(|value| !value.is_empty())
}

/// Whether a request that reaches the function is any probe, which the user's metrics leave out.
pub(super) fn is_probe(headers: &HeaderMap) -> bool {
    is_kubelet_probe(headers) || headers.get(K_NETWORK_PROBE).is_some_and(|value| !value.is_empty())
}

fn network_probe(headers: &HeaderMap) -> Answer {
    match headers.get(K_NETWORK_HASH).filter(|hash| !hash.is_empty()) {
        Some(hash) => answers::with_header(StatusCode::OK, http::HeaderName::from_static(K_NETWORK_HASH), hash.clone()),
        None => answers::error(StatusCode::BAD_REQUEST, "a probe request must contain a non-empty \"K-Network-Hash\" header"),
    }
}
