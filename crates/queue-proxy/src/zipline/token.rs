//! Tokens of the doors on loopback TCP, where no kernel says who connects.
//!
//! The egress's is the one secret a function holds, so that only it can use its own egress. The local API's is in a file
//! that only our uid can read. Either reaches us as the password of `http://zipline:TOKEN@127.…`: in
//! `Proxy-Authorization` when the URL is a proxy's, in `Authorization` when it is a base URL. Whichever carried it is
//! removed before the request goes on.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, PROXY_AUTHORIZATION};
use subtle::ConstantTimeEq;
use zipline_contract::ErrorCode;

use crate::zipline::problem::Problem;

/// The user name in the credentials says whose password it is and is not compared.
const SCHEME: &str = "basic ";

/// Bytes of a token in a file.
const FILE_BYTES_MAX: u64 = 1024;

/// What a request must show.
pub(crate) struct Token {
    /// None where the network namespace is the guard (in a pod).
    expected: Option<String>,
    refusal: ErrorCode,
}

/// Why a token file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// Not readable.
    #[error("{}: {error}; hint: see that ZIPLINE_API_TOKEN_FILE names a file that we may read", .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// Others may read or write it.
    #[error("{} may be used by others (mode {mode:03o}); hint: chmod 600 it, and give it another token", .path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Nothing a request could show.
    #[error("{} holds no token: 1 to {FILE_BYTES_MAX} bytes of visible ASCII on one line", .0.display())]
    NoToken(PathBuf),
}

/// How a request reached the egress, which decides where its token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// As an HTTP proxy.
    Proxy,
    /// By the base URL.
    BaseUrl,
}

impl Token {
    /// The egress's, or none.
    pub(crate) const fn of_egress(expected: Option<String>) -> Self {
        Self { expected, refusal: ErrorCode::EgressUnauthorized }
    }

    /// The local API's on TCP: what the file holds, or none where there is to be none.
    ///
    /// # Errors
    /// A file that can't be read, that others may use, or that holds no token.
    pub(crate) fn of_api(file: Option<&Path>) -> Result<Self, TokenFileError> {
        let expected = file.map(read).transpose()?;
        Ok(Self { expected, refusal: ErrorCode::ApiUnauthorized })
    }

    /// Lets a request in and takes its credentials off.
    ///
    /// # Errors
    /// The door's error, the same for a wrong token as for none.
    pub(crate) fn admit(&self, headers: &mut HeaderMap, via: Via) -> Result<(), Problem> {
        let Some(token) = &self.expected else {
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
        Err(Problem::new(self.refusal, "the request does not carry the token of this door"))
    }
}

fn read(path: &Path) -> Result<String, TokenFileError> {
    let unreadable = |error| TokenFileError::Unreadable { path: path.to_owned(), error };
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TokenFileError::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    let token = text.trim_end_matches(['\r', '\n']);
    let is_token = (1..=FILE_BYTES_MAX).contains(&(token.len() as u64)) && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token { Ok(token.to_owned()) } else { Err(TokenFileError::NoToken(path.to_owned())) }
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
        f.write_str(if self.expected.is_some() { "Token(set)" } else { "Token(none)" })
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
        let token = Token::of_egress(Some("s3cret".into()));
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
        let token = Token::of_egress(Some("s3cret".into()));
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
    fn a_token_file_is_ours_alone_and_holds_one_line() {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join("token");
        let of = |text: &str, mode| {
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("ours");
            Token::of_api(Some(&path))
        };
        let token = of("s3cret\n", 0o600).expect("a token");
        assert_eq!(token.admit(&mut basic(AUTHORIZATION, "zipline:s3cret"), Via::BaseUrl), Ok(()));
        let refused = token.admit(&mut HeaderMap::new(), Via::BaseUrl).expect_err("no token");
        assert_eq!(refused.code, ErrorCode::ApiUnauthorized);
        assert!(matches!(of("s3cret", 0o644), Err(TokenFileError::Open { mode: 0o644, .. })));
        for text in ["", "\n", "two\nlines", "a b", &"x".repeat(1025)] {
            assert!(matches!(of(text, 0o600), Err(TokenFileError::NoToken(_))), "{text:?}");
        }
        let gone = Token::of_api(Some(&scratch.path().join("none")));
        assert!(matches!(gone, Err(TokenFileError::Unreadable { .. })));
        assert!(Token::of_api(None).expect("none").admit(&mut HeaderMap::new(), Via::BaseUrl).is_ok());
    }

    #[test]
    fn without_a_token_everybody_is_let_in_and_the_targets_authorization_stays() {
        let mut headers = basic(AUTHORIZATION, "user:password");
        assert_eq!(Token::of_egress(None).admit(&mut headers, Via::BaseUrl), Ok(()));
        assert!(headers.contains_key(AUTHORIZATION));
    }
}
