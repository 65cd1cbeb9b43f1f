//! What lies under the seal, byte by byte.

use core::num::{NonZeroU32, NonZeroU64};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zipline_contract::limits::{RECEIVER_BYTES_MAX, RETRIEVALS_MAX};

use super::{Extent, Reference, TierName};
use crate::object::{Epoch, ObjectId};
use crate::pull::SumKind;
use crate::time::WallTime;

const FAMILY_IPV4: u8 = 4;
const FAMILY_IPV6: u8 = 6;
const FLAG_SLOT: u8 = 1 << 0;
const FLAG_RECEIVER: u8 = 1 << 1;
const FLAG_RANGE: u8 = 1 << 2;
const FLAG_TIER: u8 = 1 << 3;
/// A size that is not known yet.
const SIZE_UNKNOWN: u64 = u64::MAX;

/// A sealed field that cannot be: the sealing proxy is broken or much newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reference is genuine, but its {field} is not one; the proxy that made it is broken or of another release")]
pub struct FieldError {
    /// Which field.
    pub field: &'static str,
}

/// Appends the fields of `reference`.
pub(super) fn write_fields(reference: &Reference, out: &mut Vec<u8>) {
    out.push(reference.pull_version);
    match reference.producer.ip() {
        IpAddr::V4(ip) => {
            out.push(FAMILY_IPV4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(FAMILY_IPV6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&reference.producer.port().to_be_bytes());
    out.extend_from_slice(reference.epoch.as_bytes());
    out.extend_from_slice(reference.object.as_bytes());
    out.extend_from_slice(&reference.size.unwrap_or(SIZE_UNKNOWN).to_be_bytes());
    out.push(reference.sum.number());
    out.extend_from_slice(&reference.expires.unix_millis().to_be_bytes());
    out.extend_from_slice(&reference.retrievals.get().to_be_bytes());
    let flag = |present: bool, bit: u8| if present { bit } else { 0 };
    out.push(
        flag(reference.slot.is_some(), FLAG_SLOT)
            | flag(reference.receiver.is_some(), FLAG_RECEIVER)
            | flag(reference.range.is_some(), FLAG_RANGE)
            | flag(reference.tier.is_some(), FLAG_TIER),
    );
    if let Some(slot) = reference.slot {
        out.extend_from_slice(&slot.to_be_bytes());
    }
    if let Some(receiver) = &reference.receiver {
        write_text(receiver.as_str(), out);
    }
    if let Some(range) = reference.range {
        out.extend_from_slice(&range.first().to_be_bytes());
        out.extend_from_slice(&range.length().get().to_be_bytes());
    }
    if let Some(tier) = &reference.tier {
        write_text(tier.as_str(), out);
    }
}

/// The texts' own types bound their length to what one byte can say.
fn write_text(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.push(u8::try_from(bytes.len()).expect("receivers and tier names are shorter than 256 bytes"));
    out.extend_from_slice(bytes);
}

const _: () = assert!(RECEIVER_BYTES_MAX < 256 && zipline_contract::limits::TIER_NAME_BYTES_MAX < 256);

/// Reads the fields; whatever follows them belongs to a later version and is ignored, as are unknown flags.
pub(super) fn read_fields(bytes: &[u8]) -> Result<Reference, FieldError> {
    let mut fields = Fields(bytes);
    let pull_version = fields.byte("pull version")?;
    if pull_version == 0 {
        return Err(FieldError { field: "pull version" });
    }
    let producer = fields.address()?;
    let epoch = Epoch::from_bytes(fields.array("epoch")?);
    let object = ObjectId::from_bytes(fields.array("object id")?);
    let size = Some(fields.u64("size")?).filter(|size| *size != SIZE_UNKNOWN);
    let sum = SumKind::from_number(fields.byte("sum kind")?).ok_or(FieldError { field: "sum kind" })?;
    let expires = WallTime::from_unix_millis(fields.u64("expiry")?);
    let retrievals = NonZeroU32::new(fields.u32("retrievals")?)
        .filter(|retrievals| retrievals.get() <= RETRIEVALS_MAX)
        .ok_or(FieldError { field: "retrievals" })?;
    let flags = fields.byte("flags")?;
    let flagged = |bit: u8| flags & bit != 0;

    let slot = if flagged(FLAG_SLOT) { Some(fields.u32("slot")?) } else { None };
    if slot.is_some_and(|slot| slot >= retrievals.get()) {
        return Err(FieldError { field: "slot" });
    }
    let receiver = if flagged(FLAG_RECEIVER) {
        Some(fields.text("receiver")?.parse().map_err(|_| FieldError { field: "receiver" })?)
    } else {
        None
    };
    let range = if flagged(FLAG_RANGE) { Some(fields.range(size)?) } else { None };
    let tier = if flagged(FLAG_TIER) {
        Some(TierName::new(fields.text("tier")?).map_err(|_| FieldError { field: "tier" })?)
    } else {
        None
    };
    Ok(Reference { pull_version, producer, epoch, object, size, sum, expires, retrievals, slot, receiver, range, tier })
}

/// What is left to read. Every step checks that it is there.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize, field: &'static str) -> Result<&'a [u8], FieldError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(FieldError { field })?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FieldError> {
        self.take(N, field)?.try_into().map_err(|_| FieldError { field })
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, FieldError> {
        self.array(field).map(|[byte]: [u8; 1]| byte)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, FieldError> {
        self.array(field).map(u32::from_be_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, FieldError> {
        self.array(field).map(u64::from_be_bytes)
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, FieldError> {
        let length = self.byte(field)?;
        core::str::from_utf8(self.take(usize::from(length), field)?).map_err(|_| FieldError { field })
    }

    fn address(&mut self) -> Result<SocketAddr, FieldError> {
        const FIELD: &str = "producer address";
        let ip = match self.byte(FIELD)? {
            FAMILY_IPV4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>(FIELD)?)),
            FAMILY_IPV6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>(FIELD)?)),
            _ => return Err(FieldError { field: FIELD }),
        };
        let port = u16::from_be_bytes(self.array(FIELD)?);
        if port == 0 {
            return Err(FieldError { field: FIELD });
        }
        Ok(SocketAddr::new(ip, port))
    }

    fn range(&mut self, size: Option<u64>) -> Result<Extent, FieldError> {
        const FIELD: &str = "range";
        let first = self.u64(FIELD)?;
        let length = NonZeroU64::new(self.u64(FIELD)?).ok_or(FieldError { field: FIELD })?;
        Extent::new(first, length).filter(|range| size.is_none_or(|size| range.end() <= size)).ok_or(FieldError { field: FIELD })
    }
}
