//! The memory of the machine, or of the control group of this process.

use std::fs;
use std::path::{Component, Path};

/// The bytes of memory that this process may use: the memory of the machine, or the limit of its
/// control groups (version 1 or 2), whichever is less. `None` where this is unknown, as on all
/// systems but Linux.
pub(super) fn memory() -> Option<usize> {
    memory_under(Path::new("/"))
}

fn memory_under(root: &Path) -> Option<usize> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let of_groups = groups.lines().filter_map(|group| of_group(root, group));
    let bytes = of_machine(root).into_iter().chain(of_groups).min()?;
    Some(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// `MemTotal:       24601740 kB`
fn of_machine(root: &Path) -> Option<u64> {
    let info = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least limit of a group and its ancestors. A line of `/proc/self/cgroup` is
/// `0::/system.slice/echo.service` in version 2 and `4:memory:/docker/1f2e` in version 1.
fn of_group(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let controllers = parts.next()?;
    let path = Path::new(parts.next()?);
    let (mount, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        list if list.split(',').any(|controller| controller == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return None,
    };
    // In a container the path may be the one outside, while the container's own group is mounted.
    // So the root of the mount is read as well. A path that leads upwards is not visible from here.
    let is_visible = !path.components().any(|part| part == Component::ParentDir);
    let path = path.strip_prefix("/").ok().filter(|_| is_visible).unwrap_or_else(|| Path::new(""));
    let limits = path.ancestors().map(|group| root.join(mount).join(group).join(file));
    // `max` means that there is no limit; it does not parse as a number.
    limits.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::memory_under;

    const MEMINFO: &str = "MemTotal:           2048 kB\nMemFree:            1000 kB\n";
    const MIB: usize = 1024 * 1024;

    /// A machine of 2 MiB whose files are these.
    fn machine(files: &[(&str, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (path, text) in [("proc/meminfo", MEMINFO)].iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_memory_is_the_least_of_the_machine_s_and_its_groups() {
        let v2 = |path: &'static str, limit| [("proc/self/cgroup", "0::/a/b\n"), (path, limit)];
        let v1 = |path: &'static str, limit| {
            [("proc/self/cgroup", "5:cpu:/\n4:hugetlb,memory:/a/b\n"), (path, limit)]
        };
        let cases = [
            // No group, one without a limit, one with more than the machine has.
            (machine(&[]), 2 * MIB),
            (machine(&v2("sys/fs/cgroup/a/b/memory.max", "max\n")), 2 * MIB),
            (machine(&v2("sys/fs/cgroup/a/b/memory.max", "4194304\n")), 2 * MIB),
            (
                machine(&v1(
                    "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
                    "9223372036854771712\n",
                )),
                2 * MIB,
            ),
            // The limit of the group, of an ancestor, and of a container's own group as it sees it.
            (machine(&v2("sys/fs/cgroup/a/b/memory.max", "1048576\n")), MIB),
            (machine(&v2("sys/fs/cgroup/a/memory.max", "1048576\n")), MIB),
            (machine(&v2("sys/fs/cgroup/memory.max", "1048576\n")), MIB),
            (machine(&v1("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "1048576\n")), MIB),
            (machine(&v1("sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576\n")), MIB),
            // A path that leads out of the mount, and lines that don't name a group.
            (
                machine(&[
                    ("proc/self/cgroup", "0::/../x\n"),
                    ("sys/fs/cgroup/memory.max", "1048576\n"),
                ]),
                MIB,
            ),
            (
                machine(&[
                    ("proc/self/cgroup", "nonsense\n\n0:\n"),
                    ("sys/fs/cgroup/memory.max", "1\n"),
                ]),
                2 * MIB,
            ),
        ];
        for (n, (root, expected)) in cases.iter().enumerate() {
            assert_eq!(memory_under(root.path()), Some(*expected), "case {n}");
        }
    }

    #[test]
    fn a_system_that_does_not_say_has_no_known_memory() {
        assert_eq!(memory_under(TempDir::new().unwrap().path()), None);
    }
}
