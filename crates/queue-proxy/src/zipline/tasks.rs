//! Short tasks that outlive the request that caused them: acknowledgements on their way, rests of bodies.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::task::JoinSet;

/// Owns them; dropping it ends them. Each ends by the timeouts of what it does, and there are at most as many as
/// requests that ended within those.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    /// Runs a task on the current runtime.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Waits for all that have begun.
    pub(crate) async fn finished(&self) {
        let mut begun = std::mem::take(&mut *self.tasks());
        while begun.join_next().await.is_some() {}
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
