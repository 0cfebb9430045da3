//! What the control API says of work on its way home, against golden files; as in `control.rs`.
#![cfg(feature = "control")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::path::PathBuf;
use wire::control::{DeleteRequest, PullRequest, Pulled, WorkFacts, WorkRequest, WorkView};

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug + Default>(name: &str, message: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/control").join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(message).expect("a message can be written") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, golden, "{name}");
    let later = golden.replacen('{', "{\"of_a_later_version\": [1],", 1);
    assert_eq!(&serde_json::from_str::<T>(&later).expect("a later message is read"), message, "{name}");
    assert_eq!(serde_json::from_str::<T>("{}").expect("nothing has to be said"), T::default(), "{name}");
}

#[test]
fn messages_about_work_keep_their_shape() {
    let commit = "0123456789abcdef0123456789abcdef01234567".to_owned();
    let request = WorkRequest {
        view: Some(WorkView::Mbox),
        guest_path: Some("/root/repo".into()),
        base_commit: Some("HEAD~2".into()),
    };
    check("work_request", &request);
    check(
        "work_facts",
        &WorkFacts {
            looked_at_ns: 1_700_000_000_123_456_789,
            branch: Some("main".into()),
            head_commit: Some(commit.clone()),
            wip_commit: Some(commit.clone()),
            moved: true,
            commits: 2,
            changed_files: 3,
            references: [("refs/banger/web/main".to_owned(), commit.clone())].into(),
            left: vec!["`big.bin` is too large: 600000000 bytes".into()],
        },
    );
    check("work_facts_least", &WorkFacts::default());
    check("pull_request", &PullRequest { guest_path: None, branch: Some("from-web".into()) });
    check(
        "pulled",
        &Pulled {
            host_path: "/home/ada/shop".into(),
            branch: Some("main".into()),
            from_commit: Some(commit.clone()),
            to_commit: Some(commit),
            uncommitted_files: 3,
        },
    );
    check("delete_request_discard", &DeleteRequest { discard: true, ..DeleteRequest::default() });
}
