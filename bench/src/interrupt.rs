//! Ctrl-C ends a run early, and what was measured is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether Ctrl-C came.
#[derive(Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on; a second Ctrl-C ends the process at once, and its children with it.
    pub(crate) fn listen() -> Self {
        let interrupt = Self::default();
        let flag = interrupt.clone();
        // Owned by the runtime, which lives as long as the process.
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                flag.0.store(true, Ordering::Relaxed);
                eprintln!("\nstopping after this round; Ctrl-C again to stop at once");
            }
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        });
        interrupt
    }

    /// True once it came.
    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// `None` for a failure after Ctrl-C: it comes from servers that got it too, and what was measured until then is kept.
    pub(crate) fn excuses<T>(&self, outcome: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(_) if self.came() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
