//! The end of the platform, as a value that its parts wait for.

use tokio::sync::watch;

/// Begins the end for everybody who holds a [`Shutdown`].
#[derive(Debug)]
pub(crate) struct ShutdownSender(watch::Sender<bool>);

/// The end of the platform, which may have begun.
#[derive(Clone, Debug)]
pub(crate) struct Shutdown(watch::Receiver<bool>);

pub(crate) fn channel() -> (ShutdownSender, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (ShutdownSender(sender), Shutdown(receiver))
}

impl ShutdownSender {
    pub(crate) fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Waits until the end has begun; it has, too, once nobody can begin it any more.
    pub(crate) async fn begun(&mut self) {
        if self.0.wait_for(|begun| *begun).await.is_err() {
            tracing::debug!("whoever could have ended the platform is gone");
        }
    }
}
