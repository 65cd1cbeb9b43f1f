//! Gives the memory of ended objects back, off the event loop: freeing 1 GiB of a memfd takes some 50 ms.
//!
//! A thread of its own drops what it is handed. It has a short queue; when that is full, whoever hands over frees in
//! place, which is the back-pressure.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use crate::stored::Stored;

/// Payloads that wait to be freed.
const QUEUE_MAX: usize = 1024;

/// The thread that frees. It ends with this handle, after the last payload that was handed over.
#[derive(Debug)]
pub(crate) struct Reclaimer {
    queue: SyncSender<Arc<Stored>>,
}

impl Reclaimer {
    pub(crate) fn start() -> io::Result<Self> {
        let (queue, payloads) = sync_channel::<Arc<Stored>>(QUEUE_MAX);
        std::thread::Builder::new().name("reclaimer".into()).spawn(move || payloads.into_iter().for_each(drop))?;
        Ok(Self { queue })
    }

    /// Drops the payload soon. Readers that still have it keep its memory until they are stopped.
    pub(crate) fn take(&self, payload: Arc<Stored>) {
        match self.queue.try_send(payload) {
            Ok(()) => {}
            Err(TrySendError::Full(payload) | TrySendError::Disconnected(payload)) => drop(payload),
        }
    }
}
