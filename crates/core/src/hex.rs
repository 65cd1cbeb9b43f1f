//! Lower-case hexadecimal of fixed length, the one text form of ids, keys, sums and MACs.
//!
//! Decoding is strict (exact length, lower case): one value has one text, so that a text can stand under a MAC.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The text of `bytes`, two digits a byte.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Writes the value of `text` into `out`; false when it is not exactly that many lower-case digits.
#[must_use]
pub(crate) fn decode_into(text: &str, out: &mut [u8]) -> bool {
    let text = text.as_bytes();
    if text.len() != out.len() * 2 {
        return false;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return false };
        *byte = high << 4 | low;
    }
    true
}

/// The value of `text`, or `None` when it is not exactly `2 * N` lower-case digits.
pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    decode_into(text, &mut bytes).then_some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

/// A text that is not an id: ids are lower-case hexadecimal of fixed length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {digits} lower-case hexadecimal digits")]
pub struct IdError {
    what: &'static str,
    digits: usize,
}

impl IdError {
    pub(crate) const fn new(what: &'static str, digits: usize) -> Self {
        Self { what, digits }
    }
}

/// A type for an id of fixed length whose text is hexadecimal.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Bytes of the id.
            pub const BYTES: usize = $bytes;

            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// Its bytes, as they stand on the wire.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(&$crate::hex::encode(&self.0))
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl core::str::FromStr for $name {
            type Err = $crate::hex::IdError;

            fn from_str(text: &str) -> Result<Self, $crate::hex::IdError> {
                $crate::hex::decode(text).map(Self).ok_or($crate::hex::IdError::new($what, $bytes * 2))
            }
        }
    };
}
pub(crate) use hex_id;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_text_of_a_value_is_read() {
        assert_eq!(encode(&[0x00, 0x7f, 0xff]), "007fff");
        assert_eq!(decode::<3>("007fff"), Some([0x00, 0x7f, 0xff]));
        for wrong in ["007FFF", "007ff", "007fff0", "007fffff", " 07fff", "00 fff", "007ffg", "", "ä07ff"] {
            assert_eq!(decode::<3>(wrong), None, "{wrong:?}");
        }
    }
}
