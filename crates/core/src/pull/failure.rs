//! Why a read fails, and which answers may be believed.

use core::time::Duration;

use zipline_contract::ErrorCode;

use super::answer::{AnswerError, AnswerHead};
use super::mac::Mac;
use crate::object::ObjectId;
use crate::reference::DomainKey;

/// Checks the MAC of an answer to the request with MAC `request`, and gives it back. The error, if the answer is one, is
/// the caller's to read.
pub fn verified(
    head: &AnswerHead,
    mac: Option<&Mac>,
    key: &DomainKey,
    request: &Mac,
    object: ObjectId,
) -> Result<Mac, PullError> {
    let mac = mac.ok_or(PullError::Unsigned { status: head.status })?;
    if head.sign(key, request, object).matches(mac) || mutant!("answer-mac-not-checked") {
        Ok(*mac)
    } else {
        Err(PullError::Forged)
    }
}

/// Why a read has failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The producer says why, genuinely.
    #[error("the producer refuses: {}{}", .code.title(), detail_text(.detail.as_deref()))]
    Refused {
        /// What it says.
        code: ErrorCode,
        /// Its line about it.
        detail: Option<String>,
    },
    /// The producer says so too, but in a name that this release does not know.
    #[error("the producer refuses with {name}, which this release does not know")]
    RefusedOtherwise {
        /// The name.
        name: String,
    },
    /// The answer carries no MAC: the producer could not authenticate the request, or is not one.
    #[error("the answer with status {status} is not signed: the producer does not know our key, or is none")]
    Unsigned {
        /// Its status.
        status: u16,
    },
    /// The answer's MAC does not hold.
    #[error("the answer's MAC does not hold: it is not from the producer, or was changed on the way")]
    Forged,
    /// The answer's head is not one.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// A record's MAC did not hold twice at the same place.
    #[error("a record's MAC does not hold at byte {offset}")]
    RecordForged {
        /// Where.
        offset: u64,
    },
    /// A block's sum did not hold twice.
    #[error("the block at byte {offset} does not match its sum, and did not when it was asked for once more")]
    Corrupt {
        /// Where.
        offset: u64,
    },
    /// A genuine answer that contradicts the reference, the request or itself.
    #[error("the producer's {0} contradicts what was asked or said before")]
    Contradicts(&'static str),
    /// The connection broke more often than is allowed.
    #[error("the connection to the producer broke at byte {offset}, and may not be made again as often as that")]
    Broken {
        /// Where.
        offset: u64,
    },
    /// The writer failed, and the producer cannot say more.
    #[error("the object's writer failed before it was complete")]
    Aborted,
    /// Nothing came for too long.
    #[error("no byte came for {} ms at byte {offset}", .idle.as_millis())]
    Idle {
        /// Where.
        offset: u64,
        /// For how long.
        idle: Duration,
    },
}

impl PullError {
    /// The public error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Refused { code, .. } => *code,
            Self::RefusedOtherwise { .. } => ErrorCode::ProtocolUnsupported,
            Self::Unsigned { .. } | Self::Forged | Self::RecordForged { .. } => ErrorCode::PullUnauthenticated,
            Self::Answer(error) => error.code(),
            Self::Corrupt { .. } | Self::Contradicts(_) => ErrorCode::PayloadCorrupt,
            Self::Broken { .. } => ErrorCode::ProducerUnreachable,
            Self::Aborted => ErrorCode::PayloadAborted,
            Self::Idle { .. } => ErrorCode::PullIdleTimeout,
        }
    }

    /// What a genuine answer with an error status says.
    pub fn refused(head: &AnswerHead) -> Self {
        match (head.error_code(), &head.error) {
            (Some(code), _) => Self::Refused { code, detail: head.detail.as_ref().map(|text| text.as_str().to_owned()) },
            (None, Some(name)) => Self::RefusedOtherwise { name: name.as_str().to_owned() },
            (None, None) => Self::RefusedOtherwise { name: head.status.to_string() },
        }
    }
}

fn detail_text(detail: Option<&str>) -> String {
    detail.map(|detail| format!(" ({detail})")).unwrap_or_default()
}
