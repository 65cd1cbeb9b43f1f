//! What a consumer asks a producer, and how the producer knows that a proxy of its trust domain asked.
//!
//! The same request travels over TCP as HTTP/1.1 and over a hand-over socket as JSON; both carry the same headers and
//! the same MAC. Everything that means something stands under the MAC; texts are read strictly, so that what was
//! signed can be rebuilt from what was read. [`SignedRequest::authenticate`] checks in this order: key, MAC, time,
//! nonce. Until the MAC holds nothing is remembered.

use core::fmt::Display;
use core::time::Duration;
use std::net::SocketAddr;

use zipline_contract::limits::CLOCK_SKEW_MS_MAX;
use zipline_contract::{ErrorCode, PULL_VERSION, headers};

use super::mac::{Mac, mac_over_lines};
use super::nonces::{Nonce, NonceRefusal, NonceWindow};
use super::range::ByteRange;
use crate::object::{Epoch, LeaseId, Now, ObjectId};
use crate::reference::{DomainKey, KeyId, KeyRing, Receiver};
use crate::time::WallTime;

const PATH_PREFIX: &str = "/v1/objects/";

/// What is asked of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PullMethod {
    /// Its bytes.
    Get,
    /// Its state. With a lease: keeps the lease alive.
    Head,
    /// Counts the lease as a retrieval.
    Acknowledge,
    /// Gives the lease back.
    Release,
    /// Ends the object for everybody.
    Free,
    /// Its descriptor, over a hand-over socket.
    Handover,
}

impl PullMethod {
    /// The method of the request line.
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Acknowledge | Self::Release | Self::Free => "POST",
            Self::Handover => "HANDOVER",
        }
    }

    /// Whether the request must name a lease, may, or must not.
    const fn lease(self) -> LeaseUse {
        match self {
            Self::Get | Self::Acknowledge | Self::Release | Self::Handover => LeaseUse::Required,
            Self::Head => LeaseUse::Optional,
            Self::Free => LeaseUse::Forbidden,
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Get | Self::Head | Self::Handover => "",
            Self::Acknowledge => "/acknowledge",
            Self::Release => "/release",
            Self::Free => "/free",
        }
    }

    fn of(verb: &str, suffix: &str) -> Option<Self> {
        [Self::Get, Self::Head, Self::Acknowledge, Self::Release, Self::Free, Self::Handover]
            .into_iter()
            .find(|method| method.verb() == verb && method.suffix() == suffix)
    }
}

enum LeaseUse {
    Required,
    Optional,
    Forbidden,
}

/// A request of the pull port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequest {
    /// What is asked.
    pub method: PullMethod,
    /// Of which object.
    pub object: ObjectId,
    /// Which of its bytes; `None`: all.
    pub range: Option<ByteRange>,
    /// The address the consumer dialled: a producer that is not there does not answer for it.
    pub dialled: SocketAddr,
    /// The instance the consumer expects.
    pub epoch: Epoch,
    /// The read this is part of; see [`PullMethod`] for when there is one.
    pub lease: Option<LeaseId>,
    /// As whom the consumer reads.
    pub receiver: Option<Receiver>,
    /// The reference's slot.
    pub slot: Option<u32>,
    /// The consumer's time.
    pub time: WallTime,
    /// Random.
    pub nonce: Nonce,
}

impl PullRequest {
    /// The path of the request line.
    pub fn path(&self) -> String {
        format!("{PATH_PREFIX}{}{}", self.object, self.method.suffix())
    }

    /// The MAC under the request key of `key`.
    pub fn sign(&self, key: &DomainKey) -> Mac {
        let text = |value: Option<&dyn Display>| value.map(ToString::to_string).unwrap_or_default();
        mac_over_lines(
            &key.pull_request,
            &[
                "zipline-pull/1",
                self.method.verb(),
                &self.path(),
                &text(self.range.as_ref().map(|range| range as &dyn Display)),
                &canonical(self.dialled).to_string(),
                &self.epoch.to_string(),
                &text(self.lease.as_ref().map(|lease| lease as &dyn Display)),
                self.receiver.as_ref().map_or("", Receiver::as_str),
                &text(self.slot.as_ref().map(|slot| slot as &dyn Display)),
                &self.time.unix_millis().to_string(),
                &self.nonce.to_string(),
            ],
        )
    }

    /// The headers that carry the request under `mac`, made by [`PullRequest::sign`] with `key`.
    pub fn headers(&self, key: KeyId, mac: &Mac) -> Vec<(&'static str, String)> {
        let mut list = vec![
            (headers::PULL, PULL_VERSION.to_string()),
            (headers::KEY, key.to_string()),
            (headers::EPOCH, self.epoch.to_string()),
            (headers::TIME, self.time.unix_millis().to_string()),
            (headers::NONCE, self.nonce.to_string()),
            (headers::MAC, mac.to_string()),
        ];
        list.extend(self.lease.map(|lease| (headers::LEASE, lease.to_string())));
        list.extend(self.receiver.as_ref().map(|receiver| (headers::RECEIVER, receiver.to_string())));
        list.extend(self.slot.map(|slot| (headers::SLOT, slot.to_string())));
        list.extend(self.range.map(|range| (RANGE_HEADER, range.to_string())));
        list
    }
}

const RANGE_HEADER: &str = "range";

/// One text for one address: a socket bound to all addresses sees IPv4 in IPv6 form, and a scope is one machine's own.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A request as it was read: well formed, but nobody's yet.
#[derive(Clone, Debug)]
pub struct SignedRequest {
    request: PullRequest,
    key: KeyId,
    mac: Mac,
}

/// A request that a proxy of the trust domain made, once, just now.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// What it asks.
    pub request: PullRequest,
    /// The key that it and its answer are signed with.
    pub key: KeyId,
    /// Its MAC, which the answer's MAC covers.
    pub mac: Mac,
}

impl SignedRequest {
    /// Reads a request's head. `dialled` is the address at which this producer was reached. Headers that are not of
    /// the protocol are ignored; one of ours that stands twice is refused.
    pub fn read<'a>(
        verb: &str,
        path: &str,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        dialled: SocketAddr,
    ) -> Result<Self, RequestError> {
        let target = path.strip_prefix(PATH_PREFIX).ok_or(RequestError::Target)?;
        let (object, suffix) = target.split_at_checked(ObjectId::BYTES * 2).ok_or(RequestError::Target)?;
        let method = PullMethod::of(verb, suffix).ok_or(RequestError::Target)?;
        let object = object.parse().map_err(|_| RequestError::Target)?;
        let found = Found::among(headers)?;
        let version = found.required(found.version, headers::PULL)?;
        if version != PULL_VERSION.to_string() {
            return Err(RequestError::Version { theirs: version.chars().take(16).collect() });
        }
        let lease = parse_optional(found.lease, headers::LEASE)?;
        match (method.lease(), lease) {
            (LeaseUse::Required, None) => return Err(RequestError::Missing(headers::LEASE)),
            (LeaseUse::Forbidden, Some(_)) => return Err(RequestError::Header(headers::LEASE)),
            _ => {}
        }
        let range = match found.range {
            Some(text) if method == PullMethod::Get => {
                Some(ByteRange::parse_exact(text).map_err(|_| RequestError::Header(RANGE_HEADER))?)
            }
            Some(_) => return Err(RequestError::Header(RANGE_HEADER)),
            None => None,
        };
        let request = PullRequest {
            method,
            object,
            range,
            dialled,
            epoch: parse(found.required(found.epoch, headers::EPOCH)?, headers::EPOCH)?,
            lease,
            receiver: parse_optional(found.receiver, headers::RECEIVER)?,
            slot: found.slot.map(|text| parse_number(text, headers::SLOT)).transpose()?,
            time: WallTime::from_unix_millis(parse_number(found.required(found.time, headers::TIME)?, headers::TIME)?),
            nonce: parse(found.required(found.nonce, headers::NONCE)?, headers::NONCE)?,
        };
        let key = parse(found.required(found.key, headers::KEY)?, headers::KEY)?;
        let mac = parse(found.required(found.mac, headers::MAC)?, headers::MAC)?;
        Ok(Self { request, key, mac })
    }

    /// Checks key, MAC, time and nonce, in this order.
    pub fn authenticate(self, ring: &KeyRing, seen: &mut NonceWindow, now: Now) -> Result<Authenticated, Refusal> {
        let Self { request, key, mac } = self;
        let domain_key = ring.accepting(key, now.wall).ok_or(Refusal::UnknownKey { key })?;
        if !request.sign(domain_key).matches(&mac) && !mutant!("request-mac-not-checked") {
            return Err(Refusal::Mac);
        }
        if request.time.distance(now.wall) > Duration::from_millis(CLOCK_SKEW_MS_MAX) && !mutant!("skew-not-checked") {
            return Err(Refusal::ClockSkew {
                theirs: request.time,
                ours: now.wall,
                request: Box::new(Authenticated { request, key, mac }),
            });
        }
        seen.admit(request.nonce, request.time, now.wall, now.mono).map_err(|refusal| match refusal {
            NonceRefusal::Replayed => Refusal::Replayed,
            NonceRefusal::Full => Refusal::TooManyRequests,
        })?;
        Ok(Authenticated { request, key, mac })
    }
}

/// The protocol's headers among all others, each at most once.
#[derive(Default)]
struct Found<'a> {
    version: Option<&'a str>,
    key: Option<&'a str>,
    epoch: Option<&'a str>,
    lease: Option<&'a str>,
    time: Option<&'a str>,
    nonce: Option<&'a str>,
    receiver: Option<&'a str>,
    slot: Option<&'a str>,
    range: Option<&'a str>,
    mac: Option<&'a str>,
}

impl<'a> Found<'a> {
    fn among(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, RequestError> {
        let mut found = Self::default();
        for (name, value) in headers {
            let Some((place, ours)) = found.place(name) else { continue };
            let text = core::str::from_utf8(value).map_err(|_| RequestError::Header(ours))?;
            if place.replace(text).is_some() {
                return Err(RequestError::Header(ours));
            }
        }
        Ok(found)
    }

    fn place(&mut self, name: &str) -> Option<(&mut Option<&'a str>, &'static str)> {
        let places = [
            (headers::PULL, &mut self.version),
            (headers::KEY, &mut self.key),
            (headers::EPOCH, &mut self.epoch),
            (headers::LEASE, &mut self.lease),
            (headers::TIME, &mut self.time),
            (headers::NONCE, &mut self.nonce),
            (headers::RECEIVER, &mut self.receiver),
            (headers::SLOT, &mut self.slot),
            (RANGE_HEADER, &mut self.range),
            (headers::MAC, &mut self.mac),
        ];
        places.into_iter().find(|(ours, _)| ours.eq_ignore_ascii_case(name)).map(|(ours, place)| (place, ours))
    }

    fn required(&self, value: Option<&'a str>, name: &'static str) -> Result<&'a str, RequestError> {
        value.ok_or(RequestError::Missing(name))
    }
}

fn parse<T: core::str::FromStr>(text: &str, name: &'static str) -> Result<T, RequestError> {
    text.parse().map_err(|_| RequestError::Header(name))
}

fn parse_optional<T: core::str::FromStr>(text: Option<&str>, name: &'static str) -> Result<Option<T>, RequestError> {
    text.map(|text| parse(text, name)).transpose()
}

/// A number in its one text: digits without sign or leading zeros.
fn parse_number<T: core::str::FromStr + Display>(text: &str, name: &'static str) -> Result<T, RequestError> {
    let number: T = parse(text, name)?;
    if number.to_string() == text { Ok(number) } else { Err(RequestError::Header(name)) }
}

/// A head that is no request of the pull protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Another method or path.
    #[error("the pull port knows GET, HEAD and POST acknowledge, release, free on /v1/objects/OBJECT")]
    Target,
    /// Another version of the protocol.
    #[error("the request speaks pull protocol {theirs}, this proxy speaks {PULL_VERSION}")]
    Version {
        /// The version asked for.
        theirs: String,
    },
    /// A header that must be there is not.
    #[error("the request has no {0}")]
    Missing(&'static str),
    /// A header that is not what it should be, stands twice, or may not stand here.
    #[error("the request's {0} is not one, stands twice, or may not stand here")]
    Header(&'static str),
}

impl RequestError {
    /// The public error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Version { .. } => ErrorCode::ProtocolUnsupported,
            Self::Target | Self::Missing(_) | Self::Header(_) => ErrorCode::PullUnauthenticated,
        }
    }
}

/// A well-formed request that is not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// Signed with a key that is not in the ring.
    #[error("the pull is signed with key {key}, which is not in this proxy's ring")]
    UnknownKey {
        /// The key's name.
        key: KeyId,
    },
    /// The MAC does not hold.
    #[error("the pull's MAC does not hold for this address, object and lease")]
    Mac,
    /// The clocks are too far apart. The request is genuine, so this answer can be signed.
    #[error(
        "the consumer's clock says {} and the producer's {} (Unix ms); {CLOCK_SKEW_MS_MAX} ms are allowed between them",
        .theirs.unix_millis(), .ours.unix_millis()
    )]
    ClockSkew {
        /// The consumer's time.
        theirs: WallTime,
        /// The producer's time.
        ours: WallTime,
        /// The request, whose MAC held.
        request: Box<Authenticated>,
    },
    /// Seen before.
    #[error("the pull's nonce was seen before")]
    Replayed,
    /// More requests than nonces can be remembered.
    #[error("more pulls came within the allowed clock skew than can be told from replays")]
    TooManyRequests,
}

impl Refusal {
    /// The public error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::ClockSkew { .. } => ErrorCode::ClockSkew,
            Self::UnknownKey { .. } | Self::Mac | Self::Replayed | Self::TooManyRequests => ErrorCode::PullUnauthenticated,
        }
    }

    /// The request, where its MAC held and the refusal can therefore be signed.
    pub fn into_signable(self) -> Option<Authenticated> {
        match self {
            Self::ClockSkew { request, .. } => Some(*request),
            _ => None,
        }
    }
}
