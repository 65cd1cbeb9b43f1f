//! The most memory that processes have while something runs: anonymous and shared pages, memfds they hold, and bytes that wait
//! in their sockets.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use zipline_testkit::census;

/// Time between two looks: a peak shorter than that can be missed, growth with a payload's size cannot.
const EVERY: Duration = Duration::from_millis(1);

/// Watches one process from its beginning to its end.
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    watching: JoinHandle<u64>,
}

impl Watch {
    /// Looks from now on.
    pub(crate) fn begin(process: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let watching = std::thread::spawn(move || {
            let mut peak = 0;
            while !seen.load(Ordering::Relaxed) {
                peak = peak.max(now(process));
                std::thread::sleep(EVERY);
            }
            peak
        });
        Self { over, watching }
    }

    /// The most that was seen, in bytes.
    pub(crate) fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.watching.join().unwrap_or(0)
    }
}

/// What a process has now: its pages, its memfds' and what waits in its TCP sockets' buffers, in bytes; 0 once it is gone.
pub(crate) fn now(process: u32) -> u64 {
    census::memory(process).map_or(0, |memory| memory.total_bytes()) + socket_bytes(process)
}

/// Bytes received and not read, and sent and not acknowledged, in the TCP sockets of a process.
fn socket_bytes(process: u32) -> u64 {
    let links = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let own: HashSet<String> = links
        .filter_map(|entry| {
            let link = fs::read_link(entry.path()).ok()?;
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    table.lines().skip(1).filter_map(|line| queued(line, &own)).sum()
}

/// `tx_queue:rx_queue` of a line of `/proc/net/tcp` whose socket is one of `own`.
fn queued(line: &str, own: &HashSet<String>) -> Option<u64> {
    /// A listening socket's queues count connections, not bytes.
    const LISTENING: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (state, queues, inode) = (*fields.get(3)?, *fields.get(4)?, *fields.get(9)?);
    if state == LISTENING || !own.contains(inode) {
        return None;
    }
    let (sending, received) = queues.split_once(':')?;
    Some(u64::from_str_radix(sending, 16).ok()? + u64::from_str_radix(received, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_wait_in_a_socket_are_counted_to_its_process() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_far, _) = listener.accept().unwrap();
        let before = socket_bytes(std::process::id());
        near.write_all(&[0; 10_000]).unwrap();
        assert!(socket_bytes(std::process::id()) >= before + 10_000);
    }
}
