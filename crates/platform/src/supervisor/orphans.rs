//! Descendants of functions that left their process group: reported and ended, since nobody else would.

use super::log::InstanceLog;

/// Ends every process that fell to this one because its parents died.
///
/// All children of the process are started by the supervisor; whoever embeds the platform must do the same.
pub(crate) async fn end_all(log: &InstanceLog) {
    let looked = tokio::task::spawn_blocking(|| -> std::io::Result<Vec<String>> {
        let mut ended = Vec::new();
        for orphan in zipline_sys::child::orphans()? {
            if !orphan.ended {
                ended.push(format!("{} (pid {})", orphan.name, orphan.pid));
            }
            orphan.end()?;
        }
        Ok(ended)
    });
    match looked.await {
        Ok(Ok(ended)) => {
            for who in ended {
                log.say(format!("warning: {who} had left its process group and was killed"));
            }
        }
        Ok(Err(error)) => log.say(format!("processes that left their group could not be looked for: {error}")),
        Err(error) => log.say(format!("processes that left their group could not be looked for: {error}")),
    }
}
