//! Heads on their way through: what a reverse proxy takes off, and what it adds.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use zipline_contract::headers::{CAPABLE, K_ORIGINAL_HOST, KNATIVE_SERVING_NAMESPACE, KNATIVE_SERVING_REVISION, PREFIX};
use zipline_core::forwarded::ForwardedHeaders;

use crate::http1::head::tokens;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Adds `Forwarded` where only the older headers came.
pub(super) fn add_forwarded(headers: &mut HeaderMap) {
    let first = |name: &HeaderName| headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    let came = ForwardedHeaders {
        forwarded: first(&FORWARDED),
        x_forwarded_for: first(&X_FORWARDED_FOR),
        x_forwarded_proto: first(&HeaderName::from_static("x-forwarded-proto")),
        x_forwarded_host: first(&HeaderName::from_static("x-forwarded-host")),
    };
    // Made of header values, so it is one.
    if let Some(value) = came.missing_forwarded().and_then(|value| HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).ok())
    {
        headers.insert(FORWARDED, value);
    }
}

/// Puts the host back that an activator replaced.
pub(super) fn restore_host(headers: &mut HeaderMap) {
    if headers.get(K_ORIGINAL_HOST).is_some_and(|host| !host.is_empty())
        && let Some(host) = headers.remove(K_ORIGINAL_HOST)
    {
        headers.insert(HOST, host);
    }
}

/// Takes every header off that is Zipline's. `None` if there is none.
pub(super) fn take_zipline(headers: &mut HeaderMap) -> Option<HeaderMap> {
    let is_ours = |name: &&HeaderName| name.as_str().starts_with(PREFIX);
    headers.keys().find(is_ours)?;
    let names: Vec<HeaderName> = headers.keys().filter(is_ours).cloned().collect();
    let mut taken = HeaderMap::new();
    for name in names {
        if let http::header::Entry::Occupied(entry) = headers.entry(&name) {
            let (_, values) = entry.remove_entry_mult();
            for value in values {
                taken.append(name.clone(), value);
            }
        }
    }
    Some(taken)
}

/// Makes a request's headers those for the function. Framing headers are taken off as well: who sends the body adds them.
pub(super) fn toward_function(headers: &mut HeaderMap, peer: IpAddr, upgrade: Option<HeaderValue>) {
    let wants_trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    remove_hop_by_hop(headers);
    headers.remove(CONTENT_LENGTH);
    headers.remove(KNATIVE_SERVING_NAMESPACE);
    headers.remove(KNATIVE_SERVING_REVISION);
    if headers.get(USER_AGENT).is_some_and(HeaderValue::is_empty) {
        headers.remove(USER_AGENT); // Said and not said are one for Knative's proxy.
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    append_forwarded_for(headers, peer);
}

/// Makes a response's headers those for the client. Framing headers are left to whoever writes them.
pub(super) fn toward_client(headers: &mut HeaderMap, is_asked_for_capability: bool) {
    remove_hop_by_hop(headers);
    if !headers.contains_key(DATE) {
        headers.insert(DATE, date());
    }
    add_capability(headers, is_asked_for_capability);
}

/// Says that this proxy is Zipline's, to whom asked.
pub(super) fn add_capability(headers: &mut HeaderMap, is_asked: bool) {
    if is_asked {
        headers.insert(CAPABLE, HeaderValue::from_static("1"));
    }
}

/// Takes off trailers what has no place there: whatever says where a message ends, where it goes, or what Zipline does with it.
pub(super) fn trailers(trailers: &mut HeaderMap) {
    take_zipline(trailers);
    remove_hop_by_hop(trailers);
    for name in [CONTENT_LENGTH, HOST, TRAILER] {
        trailers.remove(name);
    }
}

/// Takes off what ends at this hop: what `Connection` names, and the headers that always do. `Trailer` stays, since
/// trailers go on.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION).filter_map(|name| HeaderName::from_bytes(name).ok()).collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

fn append_forwarded_for(headers: &mut HeaderMap, peer: IpAddr) {
    /// Longest text of an address.
    const ADDRESS_CHARS_MAX: usize = 45;
    let earlier = headers.get_all(X_FORWARDED_FOR);
    let size = earlier.iter().map(|value| value.len() + 2).sum::<usize>() + ADDRESS_CHARS_MAX;
    let mut value = BytesMut::with_capacity(size);
    for line in earlier {
        value.extend_from_slice(line.as_bytes());
        value.extend_from_slice(b", ");
    }
    // Writing into a buffer that grows can't fail.
    std::io::Write::write_fmt(&mut (&mut value).writer(), format_args!("{}", peer.to_canonical())).ok();
    // Made of header values and an address, so it is one.
    if let Ok(value) = HeaderValue::from_maybe_shared(value.freeze()) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

/// The time as `Date` tells it, made once a second a thread.
fn date() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
    LAST.with_borrow_mut(|last| match last {
        Some((of, value)) if *of == second => value.clone(),
        _ => {
            let text = httpdate::fmt_http_date(now);
            let value = HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
            last.insert((second, value)).1.clone()
        }
    })
}

/// `Date` for an answer of our own.
pub(super) fn add_date(headers: &mut HeaderMap) {
    headers.insert(DATE, date());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let lines = lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut headers = HeaderMap::new();
        lines.for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    #[test]
    fn what_ends_at_this_hop_is_taken_off_and_trailers_may_go_on() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("te", "gzip, trailers"),
            ("trailer", "X-T"),
            ("transfer-encoding", "chunked"),
            ("knative-serving-revision", "a"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "5.6.7.8"),
        ]);
        toward_function(&mut headers, "::ffff:9.9.9.9".parse().expect("an address"), None);
        let expected = map(&[("te", "trailers"), ("trailer", "X-T"), ("x-forwarded-for", "1.2.3.4, 5.6.7.8, 9.9.9.9")]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn every_header_of_ours_is_taken_off_with_all_its_values() {
        let mut headers = map(&[("zipline-reference", "a"), ("zipline-reference", "b"), ("zipline-x", "c"), ("x", "d")]);
        let taken = take_zipline(&mut headers).expect("some");
        assert_eq!(headers, map(&[("x", "d")]));
        assert_eq!(taken, map(&[("zipline-reference", "a"), ("zipline-reference", "b"), ("zipline-x", "c")]));
        assert!(take_zipline(&mut headers).is_none());
    }
}
