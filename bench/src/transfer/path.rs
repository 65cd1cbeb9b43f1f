//! The ways of a payload's bytes that are measured, what each is compared with, and how often it copies a byte.

/// A way of a payload's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    Memcpy,
    RawDescriptor,
    RawDescriptorRead,
    RawFillDescriptorRead,
    RawWriteToBuffer,
    RawToBuffer,
    PullToBuffer,
    RawWriteToMemfd,
    RawToMemfd,
    PullToMemfd,
    RawWriteToFunction,
    RawToFunction,
    PullToFunction,
    HandOver,
    HandOverRead,
    FillHandOverRead,
    FillPullRead,
    Redis,
    S3,
}

impl Path {
    /// In the order of a round.
    pub(super) const ALL: [Self; 19] = [
        Self::Memcpy,
        Self::RawDescriptor,
        Self::RawDescriptorRead,
        Self::RawFillDescriptorRead,
        Self::RawWriteToBuffer,
        Self::RawToBuffer,
        Self::PullToBuffer,
        Self::RawWriteToMemfd,
        Self::RawToMemfd,
        Self::PullToMemfd,
        Self::RawWriteToFunction,
        Self::RawToFunction,
        Self::PullToFunction,
        Self::HandOver,
        Self::HandOverRead,
        Self::FillHandOverRead,
        Self::FillPullRead,
        Self::Redis,
        Self::S3,
    ];

    /// Zipline's paths whose names contain `only`, with what they are compared with; all paths without it.
    pub(super) fn chosen(only: Option<&str>) -> Vec<Self> {
        let Some(only) = only else { return Self::ALL.to_vec() };
        let is_asked = |path: &Self| path.is_zipline() && path.name().contains(only);
        let asked: Vec<Self> = Self::ALL.into_iter().filter(is_asked).collect();
        let compared = |one: &Self, path: &Self| {
            one == path || one.ceilings().contains(path) || one.stores().iter().any(|(_, store)| store == path)
        };
        Self::ALL.into_iter().filter(|path| asked.iter().any(|one| compared(one, path))).collect()
    }

    /// Its name in tables and raw files.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Memcpy => "raw memcpy",
            Self::RawDescriptor => "raw descriptor over a Unix socket",
            Self::RawDescriptorRead => "raw descriptor and reading",
            Self::RawFillDescriptorRead => "raw filling, descriptor and reading",
            Self::RawWriteToBuffer => "raw write to a reused buffer",
            Self::RawToBuffer => "raw sendfile to a reused buffer",
            Self::RawWriteToMemfd => "raw write to a fresh memfd",
            Self::RawToMemfd => "raw sendfile to a fresh memfd",
            Self::RawWriteToFunction => "raw write through a relay to a function",
            Self::RawToFunction => "raw sendfile through a relay to a function",
            Self::PullToBuffer => "zipline pull to a reused buffer",
            Self::PullToMemfd => "zipline pull to a fresh memfd",
            Self::PullToFunction => "zipline pull to a plain HTTP function",
            Self::HandOver => "zipline hand-over",
            Self::HandOverRead => "zipline hand-over and reading",
            Self::FillHandOverRead => "zipline filling, hand-over and reading",
            Self::FillPullRead => "zipline filling, pull and reading",
            Self::Redis => "redis filling, SET, GET and reading",
            Self::S3 => "s3 filling, PUT, GET and reading",
        }
    }

    /// The raw programs into the same kind of destination: the faster one of a run is the ceiling. None for a raw program.
    pub(super) const fn ceilings(self) -> &'static [Self] {
        match self {
            Self::PullToBuffer => &[Self::RawToBuffer, Self::RawWriteToBuffer],
            Self::PullToMemfd => &[Self::RawToMemfd, Self::RawWriteToMemfd],
            Self::PullToFunction => &[Self::RawToFunction, Self::RawWriteToFunction],
            Self::HandOver => &[Self::RawDescriptor],
            Self::HandOverRead => &[Self::RawDescriptorRead],
            Self::FillHandOverRead => &[Self::RawFillDescriptorRead],
            _ => &[],
        }
    }

    /// The stores that do the same work: put, got, filled and read.
    pub(super) const fn stores(self) -> &'static [(&'static str, Self)] {
        match self {
            Self::FillHandOverRead | Self::FillPullRead => &[("redis", Self::Redis), ("s3", Self::S3)],
            _ => &[],
        }
    }

    /// Whether it is Zipline's.
    pub(super) const fn is_zipline(self) -> bool {
        !self.ceilings().is_empty() || !self.stores().is_empty()
    }

    /// Whether a store carries the bytes.
    pub(super) const fn is_store(self) -> bool {
        matches!(self, Self::Redis | Self::S3)
    }

    /// Times a payload byte is copied between the producer's and the consumer's memory, by construction; not known of a store's
    /// server. The counted pass checks all of them but [`Path::Memcpy`], which needs no system call.
    pub(super) const fn copies(self) -> Option<u32> {
        let copies = match self {
            Self::Redis | Self::S3 => return None,
            Self::RawDescriptor | Self::RawDescriptorRead | Self::HandOver | Self::HandOverRead => 0,
            // Filling is a `write` into the memfd's pages; reading is in place.
            Self::Memcpy | Self::FillHandOverRead | Self::RawFillDescriptorRead => 1,
            // `sendfile` from a memfd lends its pages to the socket; one copy out of it.
            Self::RawToBuffer | Self::PullToBuffer => 1,
            // Into the socket and out of it.
            Self::RawWriteToBuffer => 2,
            // Out of the socket and into the memfd.
            Self::RawToMemfd | Self::PullToMemfd => 2,
            // Into a memfd, out of it for its first sums, then as a pull to another.
            Self::FillPullRead => 4,
            // Out of the producer's socket, into the function's and out of it.
            Self::RawWriteToMemfd | Self::RawToFunction | Self::PullToFunction => 3,
            Self::RawWriteToFunction => 4,
        };
        Some(copies)
    }
}
