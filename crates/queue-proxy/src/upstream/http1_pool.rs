//! Kept HTTP/1 connections to the function.
//!
//! An own pool rather than hyper-util's, because a request here owns its connection outright and drives it in its own task:
//! giving it back is a push under a lock that is held for nanoseconds, and there is no task and no channel a connection.
//! The youngest is used first, so that surplus ones grow old and end.
//!
//! A connection that the function has closed meanwhile is never used: each is looked at by a system call before it is
//! handed out. What remains is a function that closes in the very moment a request is sent; that request fails, because nobody
//! can tell whether the function had begun to work on it.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use zipline_fault_point::kept_for;

use crate::http1::Conn;

/// How long a connection is kept without use.
const KEPT_FOR: Duration = Duration::from_secs(90);

/// A connection to the function.
pub type FunctionConn = Conn<TcpStream>;

/// Connections that wait for a request.
#[derive(Debug)]
pub struct Http1Pool {
    /// Oldest first.
    kept: Mutex<VecDeque<Kept>>,
    kept_max: usize,
    /// Wakes [`Http1Pool::expire`] when the first connection comes in.
    filled: Notify,
}

#[derive(Debug)]
struct Kept {
    conn: FunctionConn,
    since: Instant,
}

impl Http1Pool {
    /// An empty pool that keeps so many at most; a connection on top is closed.
    pub const fn new(kept_max: usize) -> Self {
        Self { kept: Mutex::new(VecDeque::new()), kept_max, filled: Notify::const_new() }
    }

    /// Takes the youngest that the function has not closed.
    pub fn take(&self) -> Option<FunctionConn> {
        loop {
            let kept = self.kept().pop_back()?;
            if is_open(kept.conn.io()) {
                return Some(kept.conn);
            }
        }
    }

    /// Keeps a connection on which no answer is outstanding; one that is closed, or on which more came than was asked for, is not.
    pub fn keep(&self, mut conn: FunctionConn) {
        if !conn.inbound.is_empty() || conn.is_closed() {
            return;
        }
        conn.shrink();
        let mut kept = self.kept();
        if kept.len() < self.kept_max {
            kept.push_back(Kept { conn, since: Instant::now() });
            if kept.len() == 1 {
                drop(kept);
                self.filled.notify_one();
            }
        }
    }

    /// Closes connections as they grow too old. Runs as long as the process.
    pub async fn expire(&self) {
        loop {
            match self.close_old() {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => self.filled.notified().await,
            }
        }
    }

    /// Answers when the next one is due.
    fn close_old(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut kept = self.kept();
        loop {
            let due = kept.front()?.since + kept_for(KEPT_FOR);
            if due > now {
                return Some(due);
            }
            kept.pop_front();
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        // Nothing in here panics half way; a poisoned lock still guards sound state.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the peer has neither closed nor said anything. The system is asked, since the runtime may not have heard yet.
fn is_open(stream: &TcpStream) -> bool {
    let mut byte = [0; 1];
    matches!(recv(stream.as_fd(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::WOULDBLOCK))
}
