//! Groups as folders of cgroupfs that we may make ourselves: cgroup v2 where our own cgroup was delegated to us, else the
//! hierarchies of cgroup v1 that we may write to.
//!
//! ```text
//!  <our cgroup>/banger-<tag>/<id>/cgroup.procs …
//!                           └ leader/   v2 only: where we go ourselves, since a group that hands controllers down may
//!                                       hold no process itself (cgroup-v2.rst, "No Internal Process Constraint")
//! ```

use super::Limits;
use model::{Change, SandboxId};
use rustix::fs::{Access, access};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The hierarchies of v1 that limit something; a VMM is placed in each of them.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "blkio"];

#[derive(Debug)]
pub struct Tree {
    parents: Parents,
    controllers: Vec<String>,
}

#[derive(Debug)]
enum Parents {
    /// Our own cgroup, and the name of the group that holds all others.
    V2 { own: PathBuf, name: String },
    /// One folder for each controller.
    V1(Vec<PathBuf>),
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.parents {
            Parents::V2 { .. } => "cgroup v2",
            Parents::V1(_) => "cgroup v1",
        };
        match self.controllers.is_empty() {
            true => write!(f, "{version}, without any limit"),
            false => write!(f, "{version}: {}", self.controllers.join(", ")),
        }
    }
}

impl Tree {
    /// Looks and changes nothing; the error says why there is none.
    pub fn find(name: &str) -> Result<Tree, String> {
        let read = |path| fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"));
        let (mounts, own) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        let v2 = folder(&mounts, &own, None).filter(|own| writable(own));
        let delegated = v2.as_ref().map(|own| words(&own.join("cgroup.controllers"))).unwrap_or_default();
        if let Some(own) = v2.clone().filter(|_| !delegated.is_empty()) {
            return Ok(Tree { parents: Parents::V2 { own, name: name.to_owned() }, controllers: delegated });
        }
        let v1 = CONTROLLERS.iter().filter_map(|controller| {
            let own = folder(&mounts, &own, Some(*controller)).filter(|own| writable(own))?;
            Some((controller.to_string(), own.join(name)))
        });
        let (controllers, parents): (Vec<_>, Vec<_>) = v1.unzip();
        if !parents.is_empty() {
            return Ok(Tree { parents: Parents::V1(parents), controllers });
        }
        match v2 {
            Some(own) => Ok(Tree { parents: Parents::V2 { own, name: name.to_owned() }, controllers: Vec::new() }),
            None => Err("no cgroup was delegated to bangerd".into()),
        }
    }

    pub fn place(&self, id: &SandboxId, pids: &[u32], limits: Limits) -> io::Result<()> {
        if let Parents::V2 { own, name } = &self.parents {
            hand_down(own, &own.join(name), &self.controllers)?;
        }
        for group in self.groups(id) {
            fs::create_dir_all(&group).map_err(|error| told("make", &group, error))?;
            limit(&group, limits);
            for pid in pids {
                write(&group.join("cgroup.procs"), &pid.to_string())?;
            }
        }
        Ok(())
    }

    pub fn remove(&self, id: &SandboxId) -> io::Result<Change> {
        let mut change = Change::Unchanged;
        for group in self.groups(id) {
            match fs::remove_dir(&group) {
                Ok(()) => change = Change::Changed,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            // With the last of its groups the one above goes; it stays while there are others.
            if let (Parents::V1(_), Some(parent)) = (&self.parents, group.parent()) {
                let _ = fs::remove_dir(parent);
            }
        }
        Ok(change)
    }

    pub fn list(&self) -> Vec<SandboxId> {
        let parents: Vec<PathBuf> = match &self.parents {
            Parents::V2 { own, name } => vec![own.join(name)],
            Parents::V1(parents) => parents.clone(),
        };
        let entries = parents.iter().flat_map(fs::read_dir).flatten().flatten();
        let mut ids: Vec<SandboxId> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    fn groups(&self, id: &SandboxId) -> Vec<PathBuf> {
        match &self.parents {
            Parents::V2 { own, name } => vec![own.join(name).join(id.as_str())],
            Parents::V1(parents) => parents.iter().map(|parent| parent.join(id.as_str())).collect(),
        }
    }
}

/// Lets the groups below have the controllers that we have. Whatever is refused is missing below, and no more than that.
fn hand_down(own: &Path, parent: &Path, controllers: &[String]) -> io::Result<()> {
    fs::create_dir_all(parent).map_err(|error| told("make", parent, error))?;
    for controller in controllers {
        let word = format!("+{controller}");
        if let Err(error) = write(&own.join("cgroup.subtree_control"), &word)
            && error.kind() == io::ErrorKind::ResourceBusy
        {
            let leader = parent.join("leader");
            fs::create_dir_all(&leader).map_err(|error| told("make", &leader, error))?;
            write(&leader.join("cgroup.procs"), &std::process::id().to_string())?;
            // Others may share our cgroup (a shell that started us): then its controllers cannot be handed down.
            let _ = write(&own.join("cgroup.subtree_control"), &word);
        }
        let _ = write(&parent.join("cgroup.subtree_control"), &word);
    }
    Ok(())
}

/// Each limit is a file that is there where its controller is. A host that refuses one of them still has the others.
fn limit(group: &Path, limits: Limits) {
    let Limits { cpu_weight, io_weight, memory_bytes, tasks } = limits;
    // v1 counts shares of 1024 where v2 counts a weight of 100 (cgroups-v1/../scheduler/sched-design-CFS.rst).
    let shares = (u64::from(cpu_weight) * 1024 / 100).max(2);
    let files = [
        ("cpu.weight", cpu_weight.to_string()),
        ("cpu.shares", shares.to_string()),
        ("memory.max", memory_bytes.to_string()),
        ("memory.limit_in_bytes", memory_bytes.to_string()),
        ("pids.max", tasks.to_string()),
        ("io.weight", format!("default {io_weight}")),
        ("blkio.bfq.weight", io_weight.clamp(1, 1000).to_string()),
        ("blkio.weight", io_weight.clamp(10, 1000).to_string()),
    ];
    for (file, value) in files.iter().filter(|(file, _)| group.join(file).exists()) {
        if let Err(error) = write(&group.join(file), value) {
            tracing::warn!(%error, "a limit was refused");
        }
    }
}

/// Where our own cgroup lies: of v2, or of v1's `controller`.
fn folder(mounts: &str, own: &str, controller: Option<&str>) -> Option<PathBuf> {
    let (root, mounted) = mounts.lines().find_map(|line| mount(line, controller))?;
    // `4:memory:/path`, and `0::/path` for v2 (cgroups(7)).
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        let ours = match controller {
            Some(controller) => names.split(',').any(|name| name == controller),
            None => names.is_empty(),
        };
        ours.then_some(path)
    })?;
    // What is mounted may be a part of the hierarchy, in a container.
    let below = path.strip_prefix(root.trim_end_matches('/'))?;
    Some(mounted.join(below.trim_start_matches('/')))
}

/// Root and place of a mount of cgroupfs: `32 31 0:29 /root /place options … - cgroup cgroup rw,cpu` (proc(5)).
fn mount<'a>(line: &'a str, controller: Option<&str>) -> Option<(&'a str, PathBuf)> {
    let (head, tail) = line.split_once(" - ")?;
    let mut tail = tail.split(' ');
    let (kind, options) = (tail.next()?, tail.nth(1)?);
    let wanted = match controller {
        Some(controller) => kind == "cgroup" && options.split(',').any(|option| option == controller),
        None => kind == "cgroup2",
    };
    let mut head = head.split(' ').skip(3);
    wanted.then_some((head.next()?, PathBuf::from(head.next()?)))
}

fn writable(folder: &Path) -> bool {
    let may_write = |path: &Path| access(path, Access::WRITE_OK).is_ok();
    may_write(folder) && may_write(&folder.join("cgroup.procs"))
}

fn words(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let known = ["cpu", "memory", "pids", "io"];
    text.split_ascii_whitespace().filter(|word| known.contains(word)).map(str::to_owned).collect()
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    fs::write(file, text).map_err(|error| told("write to", file, error))
}

fn told(what: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /box /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn our_own_cgroup_is_found_in_every_hierarchy() {
        let own = "4:memory:/box/a\n2:cpu,cpuacct:/user.slice\n0::/\n";
        let check = |controller, expected: Option<&str>| {
            assert_eq!(folder(HYBRID, own, controller), expected.map(PathBuf::from), "{controller:?}");
        };
        check(Some("cpu"), Some("/sys/fs/cgroup/cpu,cpuacct/user.slice"));
        check(Some("memory"), Some("/sys/fs/cgroup/memory/a"));
        check(Some("pids"), None);
        check(None, Some("/sys/fs/cgroup/unified/"));
        assert_eq!(folder(HYBRID, "4:memory:/elsewhere\n", Some("memory")), None, "outside of what is mounted");
        let v2 = "25 20 0:22 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let scope = "0::/user.slice/user-7.slice/session-1.scope\n";
        let expected = "/sys/fs/cgroup/user.slice/user-7.slice/session-1.scope";
        assert_eq!(folder(v2, scope, None), Some(expected.into()));
    }

    #[test]
    fn limits_are_written_where_their_controller_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        ["cpu.shares", "memory.max", "io.weight"].iter().for_each(|name| fs::write(file(name), "").unwrap());
        limit(folder.path(), Limits { cpu_weight: 50, io_weight: 200, memory_bytes: 4096, tasks: 7 });
        let read = |name| fs::read_to_string(file(name)).unwrap();
        assert_eq!(
            (read("cpu.shares"), read("memory.max"), read("io.weight")),
            ("512".into(), "4096".into(), "default 200".into())
        );
        assert!(!file("pids.max").exists());
    }
}
