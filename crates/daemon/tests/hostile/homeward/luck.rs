//! Bytes of the guest's repository and tree, changed, cut or replaced at random.

use crate::repositories::home::{Rig, git, run, write};
use proptest::prelude::*;
use std::fs;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_guest_sends_leaves_the_host_whole(
        which in 0_usize..9, at in any::<prop::sample::Index>(), with in proptest::collection::vec(any::<u8>(), 0..40), cut in any::<bool>(),
    ) {
        let rig = Rig::new();
        git(&rig.guest, &["commit", "-q", "--allow-empty", "-m", "more"]);
        git(&rig.guest, &["pack-refs", "--all"]);
        write(&rig.guest.join("count"), "edited\n");
        let before = rig.fingerprint();
        let head = git(&rig.guest, &["rev-parse", "HEAD"]);
        let object = format!(".git/objects/{}/{}", &head[..2], &head[2..]);
        let pack = fs::read_dir(rig.guest.join(".git/objects/pack")).unwrap()
            .map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some_and(|end| end == "pack")).unwrap();
        let paths = [".git/HEAD", ".git/packed-refs", ".git/index", &object, ".gitignore", ".git/info/exclude", ".git/shallow", "count"];
        let path = paths.get(which).map_or(pack, |path| rig.guest.join(path));
        let mut bytes = fs::read(&path).unwrap_or_default();
        let start = if bytes.is_empty() { 0 } else { at.index(bytes.len()) };
        let end = if cut { bytes.len() } else { (start + with.len()).min(bytes.len()) };
        bytes.splice(start..end, with);
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        let _ = rig.sync();
        prop_assert_eq!(rig.fingerprint(), before);
        let sound = run(&rig.host, &["fsck", "--strict", "--full", "--no-dangling"]);
        prop_assert!(sound.status.success(), "{}", String::from_utf8_lossy(&sound.stderr));
    }
}
