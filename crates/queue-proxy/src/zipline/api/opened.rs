//! Objects whose reference was given out before their bytes came: they wait here for their `PUT`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use zipline_contract::ErrorCode;
use zipline_contract::limits::OPEN_WRITES_MAX;
use zipline_core::time::WallTime;
use zipline_transfer::Writer;

use crate::zipline::problem::Problem;

/// Random bytes of a write token.
const TOKEN_BYTES: usize = 16;

/// The writers that wait, by write token. What expires meanwhile is dropped when the table is full.
#[derive(Default)]
pub(crate) struct Opened(Mutex<HashMap<String, Writer>>);

impl Opened {
    /// Keeps a writer until its object expires; returns the token that its `PUT` must show.
    ///
    /// # Errors
    /// `buffer-full` when too many wait, or the system has no randomness.
    pub(crate) fn keep(&self, writer: Writer, now: WallTime) -> Result<String, Problem> {
        let mut random = [0_u8; TOKEN_BYTES];
        getrandom::fill(&mut random)
            .map_err(|error| Problem::new(ErrorCode::BufferFull, format!("no write token can be made: {error}")))?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut waiting = self.waiting();
        if waiting.len() >= OPEN_WRITES_MAX {
            waiting.retain(|_, writer| writer.expires() > now);
        }
        if waiting.len() >= OPEN_WRITES_MAX {
            let count = waiting.len() as u64;
            let detail = format!("{count} objects are open and wait for their bytes; the limit is {OPEN_WRITES_MAX}");
            return Err(Problem::new(ErrorCode::BufferFull, detail).with_limit(OPEN_WRITES_MAX as u64, count));
        }
        waiting.insert(token.clone(), writer);
        Ok(token)
    }

    /// Takes the writer for its one `PUT`.
    ///
    /// # Errors
    /// `request-invalid` for a token that was used or never given out.
    pub(crate) fn take(&self, token: &str) -> Result<Writer, Problem> {
        self.waiting()
            .remove(token)
            .ok_or_else(|| Problem::invalid("Zipline-Write: the token was used before, has expired, or is none of this proxy's"))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<String, Writer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An opened object of which nobody was told yet: dropped before [`Untold::told`], its writer goes, and the object with it.
pub(crate) struct Untold {
    opened: Arc<Opened>,
    pub(crate) token: String,
    is_told: bool,
}

impl Untold {
    /// Keeps a writer, as [`Opened::keep`].
    ///
    /// # Errors
    /// As [`Opened::keep`].
    pub(crate) fn keep(opened: &Arc<Opened>, writer: Writer) -> Result<Self, Problem> {
        let token = opened.keep(writer, super::objects::now())?;
        Ok(Self { opened: Arc::clone(opened), token, is_told: false })
    }

    /// The answer with reference and token has left.
    pub(crate) fn told(mut self) {
        self.is_told = true;
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        if !self.is_told {
            // Fails when it expired and made room for another, which is as good.
            self.opened.take(&self.token).ok();
        }
    }
}
