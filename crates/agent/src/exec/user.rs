//! Who a command runs as, read from /etc/passwd and /etc/group as they stand in the guest. No NSS: the binary is static.

use rustix::process::{Gid, Uid};
use std::path::Path;
use wire::{Fault, FaultKind};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: Uid,
    pub gid: Gid,
    /// Supplementary groups, the primary one included.
    pub groups: Vec<Gid>,
    pub home: String,
    pub shell: String,
}

/// `wanted` is a name or a number, with `:group` as in Docker's `USER`; absent: root, or whoever runs the agent where that is not root.
pub fn find(wanted: Option<&str>) -> Result<User, Fault> {
    let own = rustix::process::geteuid();
    let own_number = own.as_raw().to_string();
    let wanted = wanted.unwrap_or(&own_number);
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let (name, own_group) = wanted.split_once(':').map_or((wanted, None), |(name, group)| (name, Some(group)));
    let mut user = look_up(&passwd, &group, name)
        .ok_or_else(|| Fault::new(FaultKind::NotFound, format!("the guest has no user {name}")))?;
    if let Some(wanted) = own_group {
        let gid = group_id(&group, wanted)
            .ok_or_else(|| Fault::new(FaultKind::NotFound, format!("the guest has no group {wanted}")))?;
        // Whoever names a group wants no other, as in Docker.
        (user.gid, user.groups) = (gid, vec![gid]);
    }
    if !own.is_root() && user.uid != own {
        return Err(Fault::new(FaultKind::Refused, format!("cannot run as {wanted}"))
            .with_cause("the agent does not run as root"));
    }
    Ok(user)
}

/// A number without an entry is fine, as in a container; so is root without an /etc/passwd.
fn look_up(passwd: &str, group: &str, wanted: &str) -> Option<User> {
    let number = wanted.parse::<u32>().ok();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 7 && (fields[0] == wanted || number.is_some() && fields[2].parse().ok() == number)
    });
    if let Some(fields) = entry {
        let name = fields[0].to_owned();
        let gid = Gid::from_raw(fields[3].parse().ok()?);
        return Some(User {
            uid: Uid::from_raw(fields[2].parse().ok()?),
            gid,
            groups: groups_of(group, &name, gid),
            home: or_else(fields[5], "/"),
            shell: or_else(fields[6], "/bin/sh"),
            name,
        });
    }
    let id = number.or((wanted == "root").then_some(0))?;
    let (name, home) = if id == 0 { ("root".to_owned(), "/root") } else { (id.to_string(), "/") };
    let gid = Gid::from_raw(id);
    let groups = groups_of(group, &name, gid);
    Some(User { uid: Uid::from_raw(id), gid, groups, home: home.to_owned(), shell: "/bin/sh".to_owned(), name })
}

/// A number without an entry is fine here, too.
fn group_id(group: &str, wanted: &str) -> Option<Gid> {
    let named = group.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| match fields[..] {
        [name, _, id, ..] if name == wanted => id.parse().ok(),
        _ => None,
    });
    named.or_else(|| wanted.parse().ok()).map(Gid::from_raw)
}

fn or_else(field: &str, default: &str) -> String {
    if field.is_empty() { default.to_owned() } else { field.to_owned() }
}

fn groups_of(group: &str, name: &str, primary: Gid) -> Vec<Gid> {
    let mut groups = vec![primary];
    for fields in group.lines().map(|line| line.split(':').collect::<Vec<_>>()) {
        let [_, _, id, members] = fields[..] else { continue };
        let Ok(id) = id.parse() else { continue };
        let gid = Gid::from_raw(id);
        if members.split(',').any(|member| member == name) && !groups.contains(&gid) {
            groups.push(gid);
        }
    }
    groups
}

/// What /etc/environment sets, as pam_env reads it: `NAME=value` lines, `export` and quotes allowed.
pub fn machine_environment() -> Vec<(String, String)> {
    parse_environment(&std::fs::read_to_string(Path::new("/etc/environment")).unwrap_or_default())
}

fn parse_environment(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
            let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let value =
                ['"', '\''].iter().find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(value);
            plain.then(|| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nbroken\ndev:x:1000:100::/home/dev:\nsys:x:7:7:::/bin/false\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:dev\ndocker:x:999:other,dev\nbad:x:y:dev\nshort\n";

    fn ids(user: &User) -> Vec<u32> {
        user.groups.iter().map(|gid| gid.as_raw()).collect()
    }

    #[test]
    fn a_name_and_its_number_are_the_same_user() {
        let user = look_up(PASSWD, GROUP, "dev").expect("dev");
        assert_eq!(look_up(PASSWD, GROUP, "1000").as_ref(), Some(&user));
        assert_eq!((user.uid.as_raw(), user.gid.as_raw(), ids(&user)), (1000, 100, vec![100, 999]));
        assert_eq!((user.home.as_str(), user.shell.as_str()), ("/home/dev", "/bin/sh"));
        assert_eq!(look_up(PASSWD, GROUP, "sys").map(|user| user.home), Some("/".to_owned()));
    }

    #[test]
    fn unknown_numbers_run_and_unknown_names_do_not() {
        let user = look_up(PASSWD, GROUP, "4242").expect("a number");
        assert_eq!((user.name.as_str(), user.gid.as_raw(), user.home.as_str()), ("4242", 4242, "/"));
        assert_eq!(look_up(PASSWD, GROUP, "nobody"), None);
        assert_eq!(look_up("", "", "root").map(|user| user.home), Some("/root".to_owned()));
        assert_eq!(look_up("", "", "0").map(|user| user.name), Some("root".to_owned()));
    }

    #[test]
    fn a_group_is_a_name_or_a_number() {
        for (wanted, gid) in [("docker", Some(999)), ("4242", Some(4242)), ("nobody", None), ("bad", None)] {
            assert_eq!(group_id(GROUP, wanted).map(|gid| gid.as_raw()), gid, "{wanted}");
        }
    }

    #[test]
    fn etc_environment_is_read_without_its_quotes() {
        let text = "# c\nPATH=\"/bin\"\nexport LANG='C.UTF-8'\nA=b=c\nnot a line\n-x=1\n";
        let read = parse_environment(text);
        let pairs: Vec<_> = read.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("PATH", "/bin"), ("LANG", "C.UTF-8"), ("A", "b=c")]);
    }
}
