//! The form of a request or an answer between functions.
//!
//! ```text
//! message = head_bytes (4 bytes, big-endian)  head (JSON)  *payload
//! ```
//!
//! The head names every attachment with its size; one that is held or stored has its reference there, one that travels
//! along (`inline`) lies behind the head as it is, in the order of the attachments. So the method `inline` pays for no
//! encoding of its bytes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zipline_sdk::{Payload, Reference};

use crate::journal::Invocation;

/// Bytes of the head that are read; a head holds names, sizes, references and journals.
const HEAD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes before the head.
const LENGTH_BYTES: usize = 4;

/// A payload that goes with a message.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Which payload, in journals.
    pub object: u64,
    /// Its size.
    pub bytes: u64,
    /// Where it is.
    pub place: Place,
}

/// Where an attachment's bytes are.
#[derive(Clone, Debug)]
pub enum Place {
    /// In the message.
    Along(Payload),
    /// Where the reference says.
    Elsewhere(Reference),
}

/// A message that was read.
#[derive(Debug)]
pub struct Letter<H> {
    /// What it says.
    pub head: H,
    /// What came with it.
    pub attachments: Vec<Attachment>,
    /// The work that made it: empty in a request.
    pub journal: Vec<Invocation>,
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// It ends before what it announces.
    Short {
        /// Bytes that there are.
        bytes: usize,
        /// Bytes that there should be.
        expected: u64,
    },
    /// The head is longer than any.
    Head(usize),
    /// The head is no JSON of the expected kind.
    Json(String),
    /// There are bytes behind the last attachment.
    Rest(usize),
}

impl std::fmt::Display for MessageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short { bytes, expected } => write!(f, "the message has {bytes} bytes, {expected} are announced"),
            Self::Head(bytes) => write!(f, "the message's head has {bytes} bytes, at most {HEAD_BYTES_MAX} are read"),
            Self::Json(reason) => write!(f, "the message's head is not understood: {reason}"),
            Self::Rest(bytes) => write!(f, "the message has {bytes} bytes behind its last attachment"),
        }
    }
}

impl std::error::Error for MessageError {}

#[derive(Serialize, Deserialize)]
struct Head<H> {
    head: H,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<Named>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    journal: Vec<Invocation>,
}

#[derive(Serialize, Deserialize)]
struct Named {
    object: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<Reference>,
}

/// Writes a message.
///
/// # Errors
/// [`MessageError::Json`] for a head that cannot be written, [`MessageError::Head`] for one that is too long.
pub fn encode<H: Serialize>(head: &H, attachments: &[Attachment], journal: Vec<Invocation>) -> Result<Payload, MessageError> {
    let named = |attachment: &Attachment| Named {
        object: attachment.object,
        bytes: attachment.bytes,
        reference: match &attachment.place {
            Place::Along(_) => None,
            Place::Elsewhere(reference) => Some(reference.clone()),
        },
    };
    let head = Head { head, attachments: attachments.iter().map(named).collect(), journal };
    let head = serde_json::to_vec(&head).map_err(|error| MessageError::Json(error.to_string()))?;
    let head_bytes = u32::try_from(head.len()).ok().filter(|_| head.len() <= HEAD_BYTES_MAX);
    let head_bytes = head_bytes.ok_or(MessageError::Head(head.len()))?;
    let along = || {
        attachments.iter().filter_map(|attachment| match &attachment.place {
            Place::Along(payload) => Some(payload),
            Place::Elsewhere(_) => None,
        })
    };
    let mut message = Vec::with_capacity(LENGTH_BYTES + head.len() + along().map(|payload| payload.len()).sum::<usize>());
    message.extend(head_bytes.to_be_bytes());
    message.extend(&head);
    along().for_each(|payload| message.extend_from_slice(payload));
    Ok(Payload::from(message))
}

/// Reads a message; attachments that came along are parts of `message`, without a copy.
///
/// # Errors
/// [`MessageError`]: the bytes are no message with such a head.
pub fn decode<H: DeserializeOwned>(message: &Payload) -> Result<Letter<H>, MessageError> {
    let short = |expected| MessageError::Short { bytes: message.len(), expected };
    let length = message.first_chunk::<LENGTH_BYTES>().ok_or(short(LENGTH_BYTES as u64))?;
    let head_bytes = u32::from_be_bytes(*length) as usize;
    if head_bytes > HEAD_BYTES_MAX {
        return Err(MessageError::Head(head_bytes));
    }
    let mut at = LENGTH_BYTES + head_bytes;
    let head = message.get(LENGTH_BYTES..at).ok_or(short(at as u64))?;
    let head: Head<H> = serde_json::from_slice(head).map_err(|error| MessageError::Json(error.to_string()))?;
    let mut attachments = Vec::with_capacity(head.attachments.len());
    for Named { object, bytes, reference } in head.attachments {
        let place = match reference {
            Some(reference) => Place::Elsewhere(reference),
            None => {
                let end = usize::try_from(bytes).ok().and_then(|bytes| at.checked_add(bytes)).filter(|end| *end <= message.len());
                let end = end.ok_or(short((at as u64).saturating_add(bytes)))?;
                Place::Along(message.slice(std::mem::replace(&mut at, end)..end))
            }
        };
        attachments.push(Attachment { object, bytes, place });
    }
    match message.len() - at {
        0 => Ok(Letter { head: head.head, attachments, journal: head.journal }),
        rest => Err(MessageError::Rest(rest)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn along(object: u64, bytes: &[u8]) -> Attachment {
        Attachment { object, bytes: bytes.len() as u64, place: Place::Along(Payload::from(bytes.to_vec())) }
    }

    #[test]
    fn what_is_written_is_read() {
        let elsewhere = Attachment { object: 2, bytes: 9, place: Place::Elsewhere(Reference::from_token("zl1.x")) };
        let message = encode(&"hello", &[along(1, b"abc"), elsewhere, along(3, b"")], Vec::new()).expect("written");
        let letter: Letter<String> = decode(&message).expect("read");
        assert_eq!(letter.head, "hello");
        let seen: Vec<_> = letter
            .attachments
            .iter()
            .map(|attachment| match &attachment.place {
                Place::Along(payload) => (attachment.object, String::from_utf8_lossy(payload).into_owned()),
                Place::Elsewhere(reference) => (attachment.object, reference.as_str().to_owned()),
            })
            .collect();
        assert_eq!(seen, [(1, "abc".to_owned()), (2, "zl1.x".to_owned()), (3, String::new())]);
    }

    #[test]
    fn what_is_cut_or_too_long_is_refused() {
        let whole = encode(&7, &[along(1, b"abcdef")], Vec::new()).expect("written");
        for bytes in 0..whole.len() {
            assert!(decode::<u32>(&whole.slice(0..bytes)).is_err(), "{bytes}");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert_eq!(decode::<u32>(&Payload::from(longer)).map(|_| ()), Err(MessageError::Rest(1)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _outcome = decode::<serde_json::Value>(&Payload::from(bytes));
        }
    }
}
