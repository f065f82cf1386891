//! What the control groups of this process let it have of memory (Linux; `cgroups(7)`), in either version.

use std::path::Path;

/// Where a version has its groups and what it calls things.
struct Version {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// The line of `memory.stat` that counts cached files.
    files: &'static str,
}

const FIRST: Version = Version {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    files: "total_cache ",
};
const SECOND: Version = Version { root: "/sys/fs/cgroup", limit: "memory.max", used: "memory.current", files: "file " };

/// The lowest limit of the groups that this process is in, and what is free below it, in bytes. Cached files count as
/// free: they give way.
pub(crate) fn memory() -> Option<(u64, u64)> {
    memory_by(&|path| std::fs::read_to_string(path).ok())
}

fn memory_by(read: &dyn Fn(&Path) -> Option<String>) -> Option<(u64, u64)> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    groups.lines().filter_map(|line| of_group(read, line)).min_by_key(|(_, free)| *free)
}

/// A line is `NUMBER:CONTROLLERS:/GROUP`; the second version has one line, without controllers.
fn of_group(read: &dyn Fn(&Path) -> Option<String>, line: &str) -> Option<(u64, u64)> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, group) = (parts.next()?, parts.next()?);
    let version = match controllers {
        "" => SECOND,
        _ if controllers.split(',').any(|controller| controller == "memory") => FIRST,
        _ => return None,
    };
    let root = Path::new(version.root);
    let group = root.join(group.trim_start_matches('/'));
    let number = |folder: &Path, file: &str| -> Option<u64> { read(&folder.join(file))?.trim().parse().ok() };
    let memory = |folder: &Path| {
        let (limit, used) = (number(folder, version.limit)?, number(folder, version.used)?);
        let statistics = read(&folder.join("memory.stat")).unwrap_or_default();
        let files = statistics.lines().find_map(|line| line.strip_prefix(version.files)?.parse().ok()).unwrap_or(0);
        Some((limit, limit.saturating_sub(used.saturating_sub(files))))
    };
    group.ancestors().take_while(|folder| folder.starts_with(root)).filter_map(memory).min_by_key(|(_, free)| *free)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a system with these files.
    fn memory_of(files: &[(&str, &str)]) -> Option<(u64, u64)> {
        let text = |path: &Path| files.iter().find(|file| Path::new(file.0) == path).map(|file| file.1.to_owned());
        memory_by(&text)
    }

    #[test]
    fn the_tightest_group_counts_and_cached_files_are_free() {
        let second = memory_of(&[
            ("/proc/self/cgroup", "0::/users/one\n"),
            ("/sys/fs/cgroup/users/memory.max", "5000\n"),
            ("/sys/fs/cgroup/users/memory.current", "4000\n"),
            ("/sys/fs/cgroup/users/memory.stat", "anon 1000\nfile 3000\n"),
            ("/sys/fs/cgroup/users/one/memory.max", "max\n"),
            ("/sys/fs/cgroup/users/one/memory.current", "10\n"),
        ]);
        assert_eq!(second, Some((5000, 4000)));
        let first = memory_of(&[
            ("/proc/self/cgroup", "4:cpu,cpuacct:/x\n7:memory:/lim\n0::/\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9000\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "100\n"),
            ("/sys/fs/cgroup/memory/lim/memory.limit_in_bytes", "700\n"),
            ("/sys/fs/cgroup/memory/lim/memory.usage_in_bytes", "650\n"),
            ("/sys/fs/cgroup/memory/lim/memory.stat", "cache 1\ntotal_cache 50\n"),
        ]);
        assert_eq!(first, Some((700, 100)));
        assert_eq!(memory_of(&[]), None);
    }
}
