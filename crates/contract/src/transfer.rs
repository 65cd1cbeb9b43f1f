//! How payloads move: the values of [`TRANSFER`](crate::settings::TRANSFER).

/// A transfer method. A matter of configuration (`ZIPLINE_TRANSFER`), never of code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transfer {
    /// Payloads stay in the producer's memory; consumers pull them.
    #[default]
    Zipline,
    /// Payloads travel inside requests and answers; a reference carries its bytes.
    Inline,
    /// Payloads are parked in an S3 bucket; a reference holds the key.
    S3,
    /// Payloads are parked in a Redis server; a reference holds the key.
    Redis,
}

impl Transfer {
    /// Each of them; the first is the default.
    pub const ALL: [Self; 4] = [Self::Zipline, Self::Inline, Self::S3, Self::Redis];

    /// The name in `ZIPLINE_TRANSFER` and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zipline => "zipline",
            Self::Inline => "inline",
            Self::S3 => "s3",
            Self::Redis => "redis",
        }
    }

    /// The method of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }
}
