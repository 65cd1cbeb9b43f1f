//! Where an object's bytes may lie beside memory: what may go there, under which name, in which form.
//!
//! ```text
//! memory ──► local disk      at the high watermark; [`ChunkCipher`] with a key that dies with the process
//!        └─► durable store   before the put is answered, or at a drain; [`Envelope`] under a key of the ring
//! ```
//!
//! The durable copy needs nobody's help to be found: [`DurableName`] is made of what every reference says (epoch and
//! object id), and its key of the ring's key that the copy names. The store is not trusted: it can lose a copy, and it
//! can neither read nor change one. Which object goes where, and when, is decided in `object`; here are only forms.

mod cipher;
mod envelope;
mod name;

pub use cipher::{CHUNK_TAG_BYTES, ChunkCipher, SALT_BYTES};
pub use envelope::{ENVELOPE_HEAD_BYTES, Envelope, EnvelopeError, Facts, StoredSpan};
pub use name::DurableName;

/// What is promised about an object beyond its producer's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Durability {
    /// It lives and dies with its producer.
    #[default]
    None,
    /// A planned end of its producer does not end it: what is unread then is written to the durable tier.
    Drain,
    /// It is in the durable tier before its put is answered.
    Always,
}

impl Durability {
    /// Every one, the weakest first.
    pub const ALL: [Self; 3] = [Self::None, Self::Drain, Self::Always];

    /// The name, as it stands in a query or a setting.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Drain => "drain",
            Self::Always => "always",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|durability| durability.name() == name)
    }
}
