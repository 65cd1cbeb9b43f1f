//! What a producer answers, and how the consumer knows that it was the producer.
//!
//! The MAC covers the request's MAC, so an answer fits one request only, and every field that the consumer acts on.

use core::fmt;
use core::str::FromStr;

use zipline_contract::limits::{CONTENT_TYPE_BYTES_MAX, DETAIL_BYTES_MAX};
use zipline_contract::{ErrorCode, PULL_VERSION, headers};

use super::mac::{Mac, mac_over_lines};
use super::range::Span;
use super::sum::SumKind;
use crate::object::{Epoch, ObjectId};
use crate::reference::DomainKey;
use crate::time::WallTime;

/// Bytes of an error's name.
const ERROR_NAME_BYTES_MAX: usize = 64;

/// An object's size, where it may still be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectSize {
    /// That many bytes.
    Known(u64),
    /// It is still being written.
    Unknown,
}

impl ObjectSize {
    /// The size, if it is known.
    pub const fn known(self) -> Option<u64> {
        match self {
            Self::Known(size) => Some(size),
            Self::Unknown => None,
        }
    }
}

impl From<Option<u64>> for ObjectSize {
    fn from(size: Option<u64>) -> Self {
        size.map_or(Self::Unknown, Self::Known)
    }
}

impl fmt::Display for ObjectSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(size) => write!(f, "{size}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// The bytes that a 206 carries: `FIRST-LAST/SIZE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerRange {
    /// Offset of the first byte.
    pub first: u64,
    /// Which byte is the last.
    pub last: LastByte,
    /// The whole object's size.
    pub size: ObjectSize,
}

impl AnswerRange {
    /// The range that an answer with the bytes of `span` names, of an object of `size`.
    pub const fn of(span: Span, size: ObjectSize) -> Self {
        let last = match size {
            ObjectSize::Unknown => LastByte::Unknown,
            ObjectSize::Known(size) if span.end(size) <= span.first => LastByte::Nothing,
            ObjectSize::Known(size) => LastByte::At(span.end(size) - 1),
        };
        Self { first: span.first, last, size }
    }
}

/// The last byte of an answered range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastByte {
    /// That offset.
    At(u64),
    /// Not known yet: the last record ends it.
    Unknown,
    /// There is none: the range begins at the object's end.
    Nothing,
}

impl fmt::Display for AnswerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            LastByte::At(last) => write!(f, "{}-{last}/{}", self.first, self.size),
            LastByte::Unknown => write!(f, "{}-unknown/{}", self.first, self.size),
            LastByte::Nothing => write!(f, "{}-nothing/{}", self.first, self.size),
        }
    }
}

/// Printable ASCII of bounded length: what may stand in a header and under a MAC.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HeaderText(Box<str>);

impl HeaderText {
    /// The text, if it is printable ASCII without a space at either end and has 1 to `bytes_max` bytes.
    pub fn new(text: &str, bytes_max: usize) -> Option<Self> {
        let printable = text.bytes().all(|b| (b' '..=b'~').contains(&b));
        (printable && (1..=bytes_max).contains(&text.len()) && text.trim() == text).then(|| Self(text.into()))
    }

    /// A content type to keep with an object.
    pub fn content_type(text: &str) -> Option<Self> {
        Self::new(text, CONTENT_TYPE_BYTES_MAX)
    }

    /// A detail line: whatever is not printable becomes `?`, whatever is too much is cut.
    pub fn detail(text: &str) -> Option<Self> {
        let line: String =
            text.trim().chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).take(DETAIL_BYTES_MAX).collect();
        Self::new(line.trim_end(), DETAIL_BYTES_MAX)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerHead {
    /// HTTP status.
    pub status: u16,
    /// The instance that answers.
    pub epoch: Epoch,
    /// What follows, on a 206.
    pub range: Option<AnswerRange>,
    /// The whole object's size; absent on errors.
    pub size: Option<ObjectSize>,
    /// Retrievals that the object still grants.
    pub retrievals_left: Option<u32>,
    /// When it ends, by the producer's clock.
    pub expires: Option<WallTime>,
    /// The content type it was put with.
    pub content_type: Option<HeaderText>,
    /// How its blocks are summed.
    pub sum: Option<SumKind>,
    /// Name of an error. May be one that this release does not know.
    pub error: Option<HeaderText>,
    /// One line about the error.
    pub detail: Option<HeaderText>,
}

impl AnswerHead {
    /// An answer without any field but the two that are always there.
    pub const fn bare(status: u16, epoch: Epoch) -> Self {
        Self {
            status,
            epoch,
            range: None,
            size: None,
            retrievals_left: None,
            expires: None,
            content_type: None,
            sum: None,
            error: None,
            detail: None,
        }
    }

    /// The answer that says `code`.
    pub fn error(code: ErrorCode, detail: &str, epoch: Epoch) -> Self {
        Self {
            error: HeaderText::new(code.name(), ERROR_NAME_BYTES_MAX),
            detail: HeaderText::detail(detail),
            ..Self::bare(code.http_status(), epoch)
        }
    }

    /// The MAC of the answer to the request with MAC `request` about `object`.
    pub fn sign(&self, key: &DomainKey, request: &Mac, object: ObjectId) -> Mac {
        let text = |value: Option<String>| value.unwrap_or_default();
        let line = |value: &Option<HeaderText>| value.as_ref().map(|text| text.as_str().to_owned()).unwrap_or_default();
        mac_over_lines(
            &key.pull_answer,
            &[
                "zipline-answer/1",
                &request.to_string(),
                &self.status.to_string(),
                &self.epoch.to_string(),
                &object.to_string(),
                &text(self.range.map(|range| range.to_string())),
                &text(self.size.map(|size| size.to_string())),
                &text(self.retrievals_left.map(|left| left.to_string())),
                &text(self.expires.map(|expires| expires.unix_millis().to_string())),
                &line(&self.content_type),
                self.sum.map_or("", SumKind::name),
                &line(&self.error),
                &line(&self.detail),
            ],
        )
    }

    /// The headers that carry the answer. `mac` is `None` where the request failed authentication.
    pub fn headers(&self, mac: Option<&Mac>) -> Vec<(&'static str, String)> {
        let mut list = vec![(headers::PULL, PULL_VERSION.to_string()), (headers::EPOCH, self.epoch.to_string())];
        list.extend(self.range.map(|range| (headers::RANGE, range.to_string())));
        list.extend(self.size.map(|size| (headers::SIZE, size.to_string())));
        list.extend(self.retrievals_left.map(|left| (headers::RETRIEVALS_LEFT, left.to_string())));
        list.extend(self.expires.map(|expires| (headers::EXPIRES, expires.unix_millis().to_string())));
        list.extend(self.content_type.as_ref().map(|text| (CONTENT_TYPE_HEADER, text.as_str().to_owned())));
        list.extend(self.sum.map(|sum| (headers::SUM, sum.name().to_owned())));
        list.extend(self.error.as_ref().map(|text| (headers::ERROR, text.as_str().to_owned())));
        list.extend(self.detail.as_ref().map(|text| (headers::DETAIL, text.as_str().to_owned())));
        list.extend(mac.map(|mac| (headers::MAC, mac.to_string())));
        list
    }

    /// Reads an answer's head and its MAC, if it has one. Nothing of it may be believed before
    /// [`AnswerHead::sign`] gives the same MAC.
    pub fn read<'a>(
        status: u16,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<(Self, Option<Mac>), AnswerError> {
        let mut head = Self::bare(status, Epoch::from_bytes([0; 8]));
        let (mut version, mut epoch, mut mac) = (None, None, None);
        for (name, value) in headers {
            let Some(ours) = READ_HEADERS.iter().find(|ours| ours.eq_ignore_ascii_case(name)) else { continue };
            let field = Field { name: ours, text: core::str::from_utf8(value).map_err(|_| AnswerError::Header(ours))? };
            match *ours {
                headers::PULL => field.once(&mut version, |text| Some(text.to_owned()))?,
                headers::EPOCH => field.once(&mut epoch, parse)?,
                headers::RANGE => field.once(&mut head.range, parse_range)?,
                headers::SIZE => field.once(&mut head.size, parse_size)?,
                headers::RETRIEVALS_LEFT => field.once(&mut head.retrievals_left, parse_number)?,
                headers::EXPIRES => field.once(&mut head.expires, |text| parse_number(text).map(WallTime::from_unix_millis))?,
                CONTENT_TYPE_HEADER => field.once(&mut head.content_type, HeaderText::content_type)?,
                headers::SUM => field.once(&mut head.sum, parse)?,
                headers::ERROR => field.once(&mut head.error, |text| HeaderText::new(text, ERROR_NAME_BYTES_MAX))?,
                headers::DETAIL => field.once(&mut head.detail, |text| HeaderText::new(text, DETAIL_BYTES_MAX))?,
                headers::MAC => field.once(&mut mac, parse)?,
                _ => {}
            }
        }
        let version = version.ok_or(AnswerError::Missing(headers::PULL))?;
        if version != PULL_VERSION.to_string() {
            return Err(AnswerError::Version { theirs: version.chars().take(16).collect() });
        }
        head.epoch = epoch.ok_or(AnswerError::Missing(headers::EPOCH))?;
        Ok((head, mac))
    }

    /// The error it names, where this release knows it.
    pub fn error_code(&self) -> Option<ErrorCode> {
        self.error.as_ref().and_then(|name| ErrorCode::from_name(name.as_str()))
    }
}

const CONTENT_TYPE_HEADER: &str = "content-type";
const READ_HEADERS: [&str; 11] = [
    headers::PULL,
    headers::EPOCH,
    headers::RANGE,
    headers::SIZE,
    headers::RETRIEVALS_LEFT,
    headers::EXPIRES,
    CONTENT_TYPE_HEADER,
    headers::SUM,
    headers::ERROR,
    headers::DETAIL,
    headers::MAC,
];

struct Field<'a> {
    name: &'static str,
    text: &'a str,
}

impl Field<'_> {
    /// Reads the value into `place`, which must be empty.
    fn once<T>(&self, place: &mut Option<T>, read: impl FnOnce(&str) -> Option<T>) -> Result<(), AnswerError> {
        let value = read(self.text).ok_or(AnswerError::Header(self.name))?;
        if place.replace(value).is_some() {
            return Err(AnswerError::Header(self.name));
        }
        Ok(())
    }
}

fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn parse_number<T: FromStr + fmt::Display>(text: &str) -> Option<T> {
    parse(text).filter(|number: &T| number.to_string() == text)
}

fn parse_size(text: &str) -> Option<ObjectSize> {
    if text == "unknown" { Some(ObjectSize::Unknown) } else { parse_number(text).map(ObjectSize::Known) }
}

fn parse_range(text: &str) -> Option<AnswerRange> {
    let (run, size) = text.split_once('/')?;
    let (first, last) = run.split_once('-')?;
    let last = match last {
        "unknown" => LastByte::Unknown,
        "nothing" => LastByte::Nothing,
        last => LastByte::At(parse_number(last)?),
    };
    Some(AnswerRange { first: parse_number(first)?, last, size: parse_size(size)? })
}

/// A head that is no answer of the pull protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Another version of the protocol.
    #[error("the producer answers in pull protocol {theirs}, this proxy speaks {PULL_VERSION}")]
    Version {
        /// The version it answers in.
        theirs: String,
    },
    /// A header that must be there is not: something else listens at the address.
    #[error("the answer has no {0}; what listens at the producer's address is no queue-proxy of ours")]
    Missing(&'static str),
    /// A header that is not what it should be, or stands twice.
    #[error("the answer's {0} is not one, or stands twice")]
    Header(&'static str),
}

impl AnswerError {
    /// The public error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Version { .. } => ErrorCode::ProtocolUnsupported,
            Self::Missing(_) | Self::Header(_) => ErrorCode::PullUnauthenticated,
        }
    }
}
