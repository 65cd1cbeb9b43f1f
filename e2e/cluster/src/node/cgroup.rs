//! The cgroups of a cluster: one in every hierarchy, so that its pods stand apart from everything else on the machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const MOUNTS: &str = "/sys/fs/cgroup";

/// The name of a cluster's cgroup, made of its state folder's.
pub fn of_state(state: &Path) -> String {
    let name = state.file_name().map_or_else(|| "zipline-cluster".into(), |name| name.to_string_lossy().into_owned());
    format!("zipline-e2e-{name}")
}

/// Makes the cgroup in every hierarchy.
pub fn make(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let own = hierarchy.join(name);
        fs::create_dir_all(&own).with_context(|| own.display().to_string())?;
        // A new cpuset of version 1 has neither processors nor memory, and takes in no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let inherited = fs::read_to_string(hierarchy.join(file));
            if let (true, Ok(value)) = (own.join(file).exists(), inherited) {
                fs::write(own.join(file), value.trim()).with_context(|| own.join(file).display().to_string())?;
            }
        }
    }
    Ok(())
}

/// Removes the cgroup from every hierarchy; returns those that still have a process in them.
pub fn remove(name: &str) -> Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    for hierarchy in hierarchies()? {
        for entry in fs::read_dir(&hierarchy).into_iter().flatten().flatten() {
            // Every node has one, told apart by what follows the name.
            if entry.file_name().to_string_lossy().starts_with(name) && !remove_tree(&entry.path()) {
                left.push(entry.path());
            }
        }
    }
    Ok(left)
}

/// Cgroups are removed leaf by leaf; the files in them are the kernel's.
fn remove_tree(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}

/// Where hierarchies are mounted: version 2's one, or version 1's many.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    let mut found: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (path.starts_with(MOUNTS) && matches!(kind, "cgroup" | "cgroup2")).then(|| PathBuf::from(path))
        })
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}
