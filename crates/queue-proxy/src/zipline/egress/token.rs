//! The egress token: the one secret a function holds, so that only it can use its own egress.
//!
//! It reaches us as the password of `http://zipline:TOKEN@127.…`: in `Proxy-Authorization` when the URL is a proxy's,
//! in `Authorization` when it is a base URL. Whichever carried it is removed before the request leaves.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, PROXY_AUTHORIZATION};
use subtle::ConstantTimeEq;
use zipline_contract::ErrorCode;

use crate::zipline::problem::Problem;

/// The user name in the credentials says whose password it is and is not compared.
const SCHEME: &str = "basic ";

/// What a request must show.
pub(crate) struct Token(Option<String>);

/// How a request reached the egress, which decides where its token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// As an HTTP proxy.
    Proxy,
    /// By the base URL.
    BaseUrl,
}

impl Token {
    /// The token, or none where the network namespace is the guard (in a pod).
    pub(crate) fn new(token: Option<String>) -> Self {
        Self(token)
    }

    /// Lets a request in and takes its credentials off.
    ///
    /// # Errors
    /// `egress-unauthorized`, the same for a wrong token as for none.
    pub(crate) fn admit(&self, headers: &mut HeaderMap, via: Via) -> Result<(), Problem> {
        let Some(token) = &self.0 else {
            headers.remove(PROXY_AUTHORIZATION); // It is for a proxy, and we are the one.
            return Ok(());
        };
        let places: &[HeaderName] = match via {
            Via::Proxy => &[PROXY_AUTHORIZATION],
            Via::BaseUrl => &[AUTHORIZATION, PROXY_AUTHORIZATION],
        };
        for place in places {
            if headers.get(place).is_some_and(|value| carries(value.as_bytes(), token)) {
                headers.remove(place);
                return Ok(());
            }
        }
        Err(Problem::new(ErrorCode::EgressUnauthorized, "the request does not carry this instance's egress token"))
    }
}

/// Whether a header's value is `Basic` with the token as its password. Takes as long for every wrong token of its length.
fn carries(value: &[u8], token: &str) -> bool {
    let Some((scheme, encoded)) = value.split_at_checked(SCHEME.len()) else { return false };
    if !scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) {
        return false;
    }
    let Ok(credentials) = STANDARD.decode(encoded.trim_ascii()) else { return false };
    let Some(colon) = credentials.iter().position(|byte| *byte == b':') else { return false };
    credentials[colon + 1..].ct_eq(token.as_bytes()).into()
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Token(set)" } else { "Token(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn basic(place: HeaderName, credentials: &str) -> HeaderMap {
        let value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(credentials)));
        HeaderMap::from_iter(value.ok().map(|value| (place, value)))
    }

    #[test]
    fn the_token_lets_in_and_is_taken_off() {
        let token = Token::new(Some("s3cret".into()));
        for (via, place) in
            [(Via::Proxy, PROXY_AUTHORIZATION), (Via::BaseUrl, AUTHORIZATION), (Via::BaseUrl, PROXY_AUTHORIZATION)]
        {
            let mut headers = basic(place, "zipline:s3cret");
            assert_eq!(token.admit(&mut headers, via), Ok(()));
            assert!(headers.is_empty());
        }
    }

    #[test]
    fn a_wrong_or_missing_token_is_refused() {
        let token = Token::new(Some("s3cret".into()));
        let refused =
            |mut headers: HeaderMap, via| token.admit(&mut headers, via).is_err_and(|p| p.code == ErrorCode::EgressUnauthorized);
        assert!(refused(HeaderMap::new(), Via::Proxy));
        for credentials in ["zipline:", "zipline:s3creT", "zipline:s3cret2", "s3cret", "zipline s3cret"] {
            assert!(refused(basic(PROXY_AUTHORIZATION, credentials), Via::Proxy), "{credentials}");
        }
        // An Authorization towards the target is not for us.
        assert!(refused(basic(AUTHORIZATION, "zipline:s3cret"), Via::Proxy));
        for value in ["Basic", "Basic !!!", "Bearer s3cret", "é"] {
            let headers =
                HeaderMap::from_iter(HeaderValue::from_bytes(value.as_bytes()).ok().map(|value| (PROXY_AUTHORIZATION, value)));
            assert!(refused(headers, Via::Proxy), "{value}");
        }
    }

    #[test]
    fn without_a_token_everybody_is_let_in_and_the_targets_authorization_stays() {
        let mut headers = basic(AUTHORIZATION, "user:password");
        assert_eq!(Token::new(None).admit(&mut headers, Via::BaseUrl), Ok(()));
        assert!(headers.contains_key(AUTHORIZATION));
    }
}
