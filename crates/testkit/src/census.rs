//! What a process and its descendants hold, read from `/proc`.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};

/// One line of the process table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Parent's process id.
    pub parent: u32,
    /// `Z` is a zombie; see proc(5).
    pub state: char,
    /// Arguments, joined by spaces; empty for a zombie.
    pub command: String,
}

/// Memory of a process. Pages of memfds count whether or not they are mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Anonymous resident bytes.
    pub anonymous_bytes: u64,
    /// Shared resident bytes that are not of a memfd it holds.
    pub shared_bytes: u64,
    /// Bytes allocated to the memfds it has open.
    pub memfd_bytes: u64,
}

impl Memory {
    /// All of them.
    pub fn total_bytes(&self) -> u64 {
        self.anonymous_bytes + self.shared_bytes + self.memfd_bytes
    }
}

/// What a process has read and written through files since it began: `read`, `write`, `pread`, `writev`, `splice` and
/// `sendfile`, on whatever kind of descriptor. The kernel does not count `recv` and `send` here, which sockets are read
/// and written by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Calls that read.
    pub read_calls: u64,
    /// Calls that wrote.
    pub write_calls: u64,
}

impl std::ops::Sub for Io {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            read_bytes: self.read_bytes - before.read_bytes,
            written_bytes: self.written_bytes - before.written_bytes,
            read_calls: self.read_calls - before.read_calls,
            write_calls: self.write_calls - before.write_calls,
        }
    }
}

/// What a process has read and written so far.
pub fn io(pid: u32) -> Result<Io> {
    let path = format!("/proc/{pid}/io");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok());
        value.with_context(|| format!("{name} in {path}"))
    };
    Ok(Io {
        read_bytes: field("rchar")?,
        written_bytes: field("wchar")?,
        read_calls: field("syscr")?,
        write_calls: field("syscw")?,
    })
}

/// All processes that can be seen.
pub fn processes() -> Result<Vec<Process>> {
    let entries = fs::read_dir("/proc").context("the process table")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(process).collect())
}

/// The descendants of `pid`, zombies included, without itself.
pub fn descendants(pid: u32) -> Result<Vec<Process>> {
    let all = processes()?;
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for child in all.iter().filter(|process| process.parent == parent) {
            parents.push(child.pid);
            found.push(child.clone());
        }
    }
    Ok(found)
}

/// Whether a process of that id exists and is not a zombie.
pub fn is_running(pid: u32) -> bool {
    process(pid).is_some_and(|process| process.state != 'Z')
}

/// What each open descriptor of a process points to, sorted: sockets, pipes and files, with inode numbers removed so that two
/// censuses can be compared.
pub fn descriptors(pid: u32) -> Result<Vec<String>> {
    let folder = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&folder).with_context(|| folder.clone())?;
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let mut kinds: Vec<String> = links.map(|link| kind_of(&link.to_string_lossy())).collect();
    kinds.sort();
    Ok(kinds)
}

/// The memory of a process now.
pub fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).context(path)?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let (memfd_bytes, mapped) = memfds(pid)?;
    Ok(Memory {
        anonymous_bytes: field("RssAnon"),
        // A mapped memfd is in RssShmem too, and is not counted twice.
        shared_bytes: if mapped { field("RssShmem").saturating_sub(memfd_bytes) } else { field("RssShmem") },
        memfd_bytes,
    })
}

/// The largest [`Memory::total_bytes`] seen while `work` ran. Sampled every 5 ms: a peak shorter than that can be missed, the
/// growth with a payload's size cannot.
pub async fn peak_memory<T>(pid: u32, work: impl Future<Output = T>) -> (T, u64) {
    peak_of(pid, Memory::total_bytes, work).await
}

/// The same without open memfds: what a process has of its own when the descriptors it uses are another's memory.
pub async fn peak_resident<T>(pid: u32, work: impl Future<Output = T>) -> (T, u64) {
    peak_of(pid, |memory| memory.anonymous_bytes + memory.shared_bytes, work).await
}

async fn peak_of<T>(pid: u32, bytes: impl Fn(&Memory) -> u64, work: impl Future<Output = T>) -> (T, u64) {
    let mut peak = 0;
    let mut sampling = tokio::time::interval(std::time::Duration::from_millis(5));
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return (done, peak),
            _ = sampling.tick() => peak = peak.max(memory(pid).map_or(0, |memory| bytes(&memory))),
        }
    }
}

/// Bytes allocated to open memfds (each once, however many descriptors it has), and whether the process maps any memfd.
fn memfds(pid: u32) -> Result<(u64, bool)> {
    let folder = format!("/proc/{pid}/fd");
    let mut seen = Vec::new();
    let mut bytes = 0;
    for entry in fs::read_dir(&folder).with_context(|| folder.clone())?.flatten() {
        let is_memfd = fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:"));
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if is_memfd && !seen.contains(&metadata.ino()) {
            seen.push(metadata.ino());
            bytes += metadata.blocks() * 512;
        }
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    Ok((bytes, maps.contains("/memfd:")))
}

fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; what follows the last one is regular.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    Some(Process { pid, parent, state, command })
}

fn kind_of(link: &str) -> String {
    match link.split_once(":[") {
        Some((kind, _)) => kind.into(),
        None => link.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_census_finds_a_child_and_a_descriptor_of_its_own() {
        let own = std::process::id();
        let before = descriptors(own).unwrap().len();
        let _file = fs::File::open("/dev/null").unwrap();
        assert!(descriptors(own).unwrap().len() > before);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(descendants(own).unwrap().iter().any(|process| process.pid == child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_running(child.id()));
        assert!(memory(own).unwrap().anonymous_bytes > 0);
    }
}
