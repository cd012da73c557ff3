//! How much memory there is for this process: the machine's, or less where its control groups
//! (version 2) allow less.

use std::{fs, path::Path};

const GROUPS: &str = "/sys/fs/cgroup";

/// Bytes that this process may have at most.
pub(super) fn of_process() -> u64 {
    let info = rustix::system::sysinfo();
    let machine = u64::from(info.mem_unit).saturating_mul(info.totalram);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = group_of(&groups).and_then(|group| limit_of(Path::new(GROUPS), group));
    limit.map_or(machine, |limit| limit.min(machine))
}

/// The group of a process, as its `cgroup` file tells it; none: it is in none of version 2.
fn group_of(groups: &str) -> Option<&str> {
    let mut groups = groups.lines();
    groups.find_map(|line| line.strip_prefix("0::/"))
}

/// The least limit of a group and those that it is in.
fn limit_of(root: &Path, group: &str) -> Option<u64> {
    let group = root.join(group);
    let groups = group.ancestors().take_while(|of| of.starts_with(root));
    let limits = groups.filter_map(|of| {
        let limit = fs::read_to_string(of.join("memory.max")).ok()?;
        // Without a limit, it is "max".
        limit.trim().parse().ok()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_the_memory_that_its_groups_allow() {
        assert_eq!(group_of("0::/\n"), Some(""));
        let groups = "1:memory:/old\n0::/system.slice/a.service\n";
        assert_eq!(group_of(groups), Some("system.slice/a.service"));
        assert_eq!(group_of("1:memory:/old\n"), None);
        assert_eq!(group_of(""), None);
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("groups");
        fs::create_dir_all(root.join("a/b")).expect("makes");
        let set = |group: &str, limit: &str| {
            fs::write(root.join(group).join("memory.max"), limit).expect("writes");
        };
        assert_eq!(limit_of(&root, "a/b"), None);
        set("a/b", "max\n");
        assert_eq!(limit_of(&root, "a/b"), None);
        set("a", "1048576\n");
        set("", "4194304\n");
        assert_eq!(limit_of(&root, "a/b"), Some(1 << 20));
        assert_eq!(limit_of(&root, ""), Some(4 << 20));
        set("a/b", "4096\n");
        assert_eq!(limit_of(&root, "a/b"), Some(4096));
        // Above the root there is nothing of this process.
        fs::write(directory.path().join("memory.max"), "1").expect("writes");
        assert_eq!(limit_of(&root, "a"), Some(1 << 20));
        assert!(of_process() >= 1 << 20, "{}", of_process());
    }
}
