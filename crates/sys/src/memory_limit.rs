//! The memory limit of the own cgroup.
//!
//! Both versions of cgroups are read, and every ancestor, since the tightest limit is the one that kills. No limit, or none that can
//! be read, is none.

use std::fs;
use std::path::{Path, PathBuf};

/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// The tightest memory limit over this process, in bytes.
pub fn own() -> Option<u64> {
    tightest(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new(MOUNT))
}

/// `memberships` is the text of `/proc/self/cgroup`: lines of `ID:CONTROLLERS:PATH`.
fn tightest(memberships: &str, mount: &Path) -> Option<u64> {
    memberships
        .lines()
        .filter_map(|line| line.splitn(3, ':').skip(1).collect::<Vec<_>>().try_into().ok())
        .filter_map(|[controllers, path]: [&str; 2]| match controllers {
            "" => limit_above(mount, path, "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                limit_above(&mount.join("memory"), path, "memory.limit_in_bytes")
            }
            _ => None,
        })
        .min()
}

/// The smallest limit from the group up to its root. Inside a container's namespace the path may be unknown; the mount
/// is then the own group.
fn limit_above(root: &Path, group: &str, file: &str) -> Option<u64> {
    /// What version 1 says for "none": the largest whole number of pages.
    const NONE_MIN: u64 = 1 << 62;
    let group: PathBuf = root.join(group.trim_start_matches('/'));
    let levels = group.ancestors().take_while(|level| level.starts_with(root));
    levels
        .filter_map(|level| fs::read_to_string(level.join(file)).ok()?.trim().parse::<u64>().ok()) // `max` is no number.
        .filter(|limit| *limit < NONE_MIN)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(files: &[(&str, &str)]) -> tempfile::TempDir {
        let mount = tempfile::tempdir().expect("a scratch directory");
        for (path, text) in files {
            let path = mount.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        mount
    }

    #[test]
    fn the_tightest_limit_of_a_group_and_its_ancestors_holds() {
        let mount = mount(&[("memory.max", "max\n"), ("pod/memory.max", "1000\n"), ("pod/box/memory.max", "2000\n")]);
        assert_eq!(tightest("0::/pod/box\n", mount.path()), Some(1000));
        assert_eq!(tightest("0::/\n", mount.path()), None);
    }

    #[test]
    fn version_1_is_read_and_its_largest_number_means_none() {
        let mount =
            mount(&[("memory/memory.limit_in_bytes", "9223372036854771712\n"), ("memory/a/memory.limit_in_bytes", "4096\n")]);
        assert_eq!(tightest("5:cpu,memory:/a\n4:pids:/a\n", mount.path()), Some(4096));
        assert_eq!(tightest("5:memory:/\n", mount.path()), None);
    }

    #[test]
    fn in_a_container_the_mount_is_the_own_group_and_garbage_is_no_limit() {
        let mount = mount(&[("memory.max", "5000")]);
        assert_eq!(tightest("0::/unknown/here\n", mount.path()), Some(5000));
        assert_eq!(tightest("garbage\n\n0::\n", mount.path()), Some(5000));
        assert_eq!(tightest("", mount.path()), None);
    }
}
