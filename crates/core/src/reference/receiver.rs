//! Who may read: the name of a service, `NAMESPACE/SERVICE`.

use core::fmt;
use core::str::FromStr;

use zipline_contract::limits::RECEIVER_BYTES_MAX;

/// Bytes of a DNS label, the form of a namespace's and a service's name.
const LABEL_BYTES_MAX: usize = 63;
const _: () = assert!(LABEL_BYTES_MAX * 2 < RECEIVER_BYTES_MAX + 1, "two labels and a slash fit");

/// The one service that a reference is for.
///
/// It binds functions and mistakes, not proxies: those share the trust domain's keys.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Receiver(Box<str>);

impl Receiver {
    /// The receiver with these names; each a DNS label (letters a–z, digits, `-` inside, at most 63).
    pub fn new(namespace: &str, service: &str) -> Result<Self, ReceiverError> {
        format!("{namespace}/{service}").parse()
    }

    /// `NAMESPACE/SERVICE`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, service)| service)
    }
}

/// A text that names no service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a receiver is NAMESPACE/SERVICE, each a DNS label of at most {LABEL_BYTES_MAX} characters a-z, 0-9 and -")]
pub struct ReceiverError;

impl FromStr for Receiver {
    type Err = ReceiverError;

    fn from_str(text: &str) -> Result<Self, ReceiverError> {
        match text.split_once('/') {
            Some((namespace, service)) if is_label(namespace) && is_label(service) => Ok(Self(text.into())),
            _ => Err(ReceiverError),
        }
    }
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({})", self.0)
    }
}

fn is_label(text: &str) -> bool {
    let letters = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    letters && (1..=LABEL_BYTES_MAX).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_is_two_dns_labels() {
        let longest = format!("{}/{}", "a".repeat(63), "b".repeat(63));
        for good in ["default/reducer", "a/b", "n-1/s-2", &longest] {
            assert_eq!(good.parse::<Receiver>().map(|r| r.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", "/", "a/", "/b", "a", "a/b/c", "A/b", "a/-b", "a/b-", "a/b\n", "ä/b", &format!("{longest}b")] {
            assert_eq!(bad.parse::<Receiver>(), Err(ReceiverError), "{bad:?}");
        }
    }
}
