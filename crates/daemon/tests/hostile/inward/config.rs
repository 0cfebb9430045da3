//! What a repository's own files could make git run. Every program named here makes the canary, and nothing may.

use super::{Expect, Row, canary};
use crate::repositories::host::Case;
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub const HOOKS: &[&str] = &[
    "applypatch-msg",
    "fsmonitor-watchman",
    "post-checkout",
    "post-commit",
    "post-index-change",
    "post-merge",
    "post-rewrite",
    "post-update",
    "pre-auto-gc",
    "pre-commit",
    "pre-push",
    "pre-receive",
    "proc-receive",
    "push-to-checkout",
    "query-watchman",
    "reference-transaction",
    "sendemail-validate",
    "update",
];

/// Settings that name a program and change nothing of what git says of a work tree.
const PROGRAMS: &[&str] = &[
    "alias.config",
    "alias.fetch",
    "alias.ls-files",
    "alias.rev-parse",
    "alias.status",
    "alias.upload-pack",
    "core.alternateRefsCommand",
    "core.askPass",
    "core.editor",
    "core.gitProxy",
    "core.pager",
    "core.sshCommand",
    "credential.helper",
    "diff.external",
    "diff.evil.command",
    "diff.evil.textconv",
    "gc.recentObjectsHook",
    "gpg.program",
    "gpg.ssh.defaultKeyCommand",
    "interactive.diffFilter",
    "merge.evil.driver",
    "pager.config",
    "pager.ls-files",
    "remote.origin.receivepack",
    "remote.origin.uploadpack",
    "remote.origin.vcs",
    "sequence.editor",
    "submodule.x.update",
    "trace2.eventTarget",
    "uploadpack.packObjectsHook",
];

/// As lines of a configuration.
pub fn programs(command: &str) -> String {
    let line = |key: &&str| {
        let (section, name) = key.rsplit_once('.').expect("a key has a section");
        let section = match section.split_once('.') {
            Some((section, rest)) => format!("{section} \"{rest}\""),
            None => section.to_owned(),
        };
        let bang = if key.starts_with("alias") || key.starts_with("submodule") || *key == "credential.helper" {
            "!"
        } else {
            ""
        };
        format!("[{section}]\n\t{name} = \"{bang}{command}\"\n")
    };
    PROGRAMS.iter().map(line).collect()
}

pub fn write_script(path: &Path, command: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{command}\n")).expect("a file can be written");
    set_permissions(path, Permissions::from_mode(0o755)).expect("a mode can be set");
}

/// Filters of every kind, and a monitor.
fn filters(command: &str) -> String {
    let mut text = format!("[core]\n\tfsmonitor = \"{command}\"\n");
    for driver in ["evil", "a=b", "A B", "evil.clean"] {
        for name in ["clean", "smudge", "process"] {
            text += &format!("[filter \"{driver}\"]\n\t{name} = \"{command}\"\n\trequired = true\n");
        }
    }
    text
}

pub fn rows() -> Vec<Row> {
    let dirty = |case: &Case| {
        case.write(".gitattributes", "* filter=evil diff=evil merge=evil\ndir/* filter=a=b\n");
        case.write("file", "dirty\n");
        case.write("untracked", "x\n");
    };
    let into = |case: &Case, name: &str, text: &str| {
        let path = case.host().join(name);
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, before + text).expect("a file can be written");
    };
    vec![
        Row::new("filters, drivers and a monitor in the configuration", Expect::Files, move |case| {
            dirty(case);
            into(case, ".git/config", &filters(&canary(case)));
        }),
        Row::new("the same in the configuration of the work tree", Expect::Files, move |case| {
            dirty(case);
            case.git(&["config", "core.repositoryFormatVersion", "1"]);
            case.git(&["config", "extensions.worktreeConfig", "true"]);
            into(case, ".git/config.worktree", &(filters(&canary(case)) + &programs(&canary(case))));
        }),
        Row::new("the same in a file that is included", Expect::Files, move |case| {
            dirty(case);
            into(case, "evil.config", &(filters(&canary(case)) + &programs(&canary(case))));
            into(
                case,
                ".git/config",
                "[include]\n\tpath = ../evil.config\n[includeIf \"onbranch:**\"]\n\tpath = ../evil.config\n",
            );
        }),
        Row::new("hooks in a folder of the tree", Expect::Files, move |case| {
            dirty(case);
            std::fs::create_dir(case.host().join("hooks")).expect("a folder can be made");
            HOOKS.iter().for_each(|hook| write_script(&case.host().join("hooks").join(hook), &canary(case)));
            into(case, ".git/config", "[core]\n\thooksPath = hooks\n");
        }),
        Row::new("other places for what is fetched", Expect::Same, move |case| {
            let text = "[url \"ext::sh -c touch% canary\"]\n\tinsteadOf = /\n\tinsteadOf = file://\n[protocol]\n\tallow = always\n";
            into(case, ".git/config", text);
        }),
        Row::new(
            "a half of a clone, which fetches the rest by a program",
            Expect::Refused("git said: "),
            move |case| {
                let blob = String::from_utf8(case.git(&["rev-parse", "HEAD:file"])).expect("a name is text");
                let (folder, rest) = blob.trim().split_at(2);
                std::fs::remove_file(case.host().join(".git/objects").join(folder).join(rest)).expect("it was loose");
                case.git(&["config", "core.repositoryFormatVersion", "1"]);
                let text = "[extensions]\n\tpartialClone = origin\n[protocol \"ext\"]\n\tallow = always\n\
                        [remote \"origin\"]\n\tpromisor = true\n\turl = ext::sh -c touch% canary\n";
                into(case, ".git/config", text);
            },
        ),
        Row::new("settings whose values are options", Expect::Same, move |case| {
            into(
                case,
                ".git/config",
                "[user]\n\tname = --global\n\temail = --file=/nowhere\n[remote \"origin\"]\n\turl = -e\n",
            );
        }),
    ]
}
