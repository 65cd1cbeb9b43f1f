//! Headers that belong to one connection and end at a proxy (RFC 9110, 7.6.1).

use http::header::{CONNECTION, HeaderName, PROXY_AUTHENTICATE, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes them; an upgrade that is asked for, or agreed to, stays asked for.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let upgrade = wants_upgrade(headers).then(|| headers.get(UPGRADE).cloned()).flatten();
    let trailers = headers.get(TE).is_some_and(|te| te.as_bytes().windows(8).any(|word| word.eq_ignore_ascii_case(b"trailers")));
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in
        listed.iter().chain(&[CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, TE, TRANSFER_ENCODING, UPGRADE])
    {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// Whether these headers ask for, or agree to, another protocol.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    headers.contains_key(UPGRADE)
        && connection.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_belongs_to_the_connection_goes_and_the_rest_stays() {
        let mut headers = map(&[
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers, gzip"),
            ("upgrade", "h2c"),
            ("content-length", "5"),
            ("trailer", "x"),
            ("authorization", "Bearer a"),
        ]);
        strip(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers"), ("content-length", "5"), ("trailer", "x"), ("authorization", "Bearer a")]));
    }

    #[test]
    fn an_upgrade_that_is_asked_for_stays() {
        let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        strip(&mut headers);
        assert_eq!(headers, map(&[("connection", "upgrade"), ("upgrade", "websocket")]));
    }
}
