//! That something about services or instances has changed: what those wait for who wait for a state.

use tokio::sync::watch;

/// Tells of changes, without saying which.
#[derive(Clone, Debug)]
pub(crate) struct Changes(watch::Sender<u64>);

impl Changes {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Something has changed.
    pub(crate) fn note(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Waits until `state` answers something. It is asked at once, and after each change.
    pub(crate) async fn until<T>(&self, mut state: impl FnMut() -> Option<T>) -> T {
        let mut changes = self.0.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(answer) = state() {
                return answer;
            }
            if changes.changed().await.is_err() {
                // The sender is `self`, which is borrowed.
                std::future::pending::<()>().await;
            }
        }
    }
}
