//! Ctrl-C or SIGTERM ends a run early, and what was measured is kept; a second one ends it at once, and nothing is.
//!
//! Either way every process that the bench started is gone when it ends: they are values of the run, which is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// Whether a signal came that ends the run.
#[derive(Clone, Default)]
pub(crate) struct Interrupt(Arc<Signals>);

#[derive(Default)]
struct Signals {
    came: AtomicBool,
    again: Notify,
}

/// A run that a second signal ended; nothing of it is kept.
#[derive(Debug)]
pub(crate) struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped at once, by a second signal; nothing was kept")
    }
}

impl std::error::Error for Stopped {}

impl Interrupt {
    /// Listens from now on.
    pub(crate) fn listen() -> Result<Self> {
        let interrupt = Self::default();
        let signals = Arc::clone(&interrupt.0);
        let mut sources = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Owned by the runtime, which lives as long as the process.
        tokio::spawn(async move {
            next(&mut sources).await;
            signals.came.store(true, Ordering::Relaxed);
            eprintln!("\nstopping after this round; Ctrl-C again to stop at once");
            next(&mut sources).await;
            signals.again.notify_one();
        });
        Ok(interrupt)
    }

    /// True once one came.
    pub(crate) fn came(&self) -> bool {
        self.0.came.load(Ordering::Relaxed)
    }

    /// `None` for a failure after a signal: it comes from programs that got it too, and what was measured until then is kept.
    pub(crate) fn excuses<T>(&self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(_) if self.came() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The outcome of a run; a second signal drops it with all that it has started.
    ///
    /// # Errors
    /// Those of the run, and [`Stopped`].
    pub(crate) async fn or_stop<T>(&self, run: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            outcome = run => outcome,
            () = self.0.again.notified() => Err(Stopped.into()),
        }
    }
}

/// Waits for either.
async fn next((interrupt, terminate): &mut (tokio::signal::unix::Signal, tokio::signal::unix::Signal)) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_first_signal_is_noted_and_a_second_one_drops_the_run() {
        let interrupt = Interrupt::listen().expect("signals can be listened for");
        let (held, mut dropped) = oneshot::channel::<()>();
        let run = async {
            kill_process(getpid(), Signal::TERM).expect("a signal to ourselves");
            while !interrupt.came() {
                tokio::task::yield_now().await;
            }
            kill_process(getpid(), Signal::INT).expect("another");
            std::future::pending::<()>().await;
            drop(held);
            Ok(())
        };
        let error = interrupt.or_stop(run).await.expect_err("the run never ends");
        assert!(error.is::<Stopped>(), "{error}");
        assert_eq!(dropped.try_recv(), Err(oneshot::error::TryRecvError::Closed), "what the run held is gone");
    }
}
