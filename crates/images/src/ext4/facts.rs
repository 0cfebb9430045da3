//! What kind of system a tree is: what starts in it, whether one can log in, what it calls itself.

use super::contents::Stream;
use crate::layer::Layer;
use crate::tree::{NodeId, NodeKind, Tree};
use std::io::Read;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemFacts {
    pub init: Init,
    pub sshd: bool,
    /// `/bin/sh` exists.
    pub shell: bool,
    /// The text of `/etc/os-release`, at most 64 KiB of it.
    pub os_release: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    Systemd,
    /// Something else answers to `/sbin/init`: OpenRC, busybox, sysvinit.
    Other,
    /// The image is no machine by itself.
    None,
}

const OS_RELEASE_BYTES: u64 = 64 << 10;

impl SystemFacts {
    pub fn of(tree: &Tree, layers: &[Layer]) -> Self {
        let file = |path| tree.lookup(path).filter(|id| matches!(tree.node(*id).kind, NodeKind::File { .. }));
        let os_release = file("/etc/os-release").or_else(|| file("/usr/lib/os-release"));
        SystemFacts {
            init: init(file),
            sshd: file("/usr/sbin/sshd").is_some(),
            shell: file("/bin/sh").is_some(),
            os_release: os_release.and_then(|id| read_text(tree, layers, id)),
        }
    }
}

/// `/sbin/init` decides, if there is one: an image may hold systemd as a library's dependency and boot another init.
fn init(file: impl Fn(&'static str) -> Option<NodeId>) -> Init {
    let systemd = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"].into_iter().find_map(&file);
    match (file("/sbin/init"), systemd) {
        (Some(init), Some(systemd)) if init == systemd => Init::Systemd,
        (Some(_), _) => Init::Other,
        (None, Some(_)) => Init::Systemd,
        (None, None) => Init::None,
    }
}

fn read_text(tree: &Tree, layers: &[Layer], id: NodeId) -> Option<String> {
    let NodeKind::File { layer, contents } = &tree.node(id).kind else { return None };
    let mut text = Vec::new();
    Stream::new(layers.get(*layer)?, contents).take(OS_RELEASE_BYTES).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}
