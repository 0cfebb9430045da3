//! What `bangerd` and a gateway say to each other, against golden files. `UPDATE_GOLDEN=1` writes the files of new
//! messages; a released file stays as it is.
#![cfg(feature = "gateway")]

use model::egress::Outbound;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::path::PathBuf;
use wire::gateway::{Answer, Ask, Policy};
use wire::privilege::facts::RefusedEntry;

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gateway").join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(message).expect("a message can be written") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, golden, "{name}");
    assert_eq!(&serde_json::from_str::<T>(&golden).expect("the golden file is a message"), message, "{name}");
}

#[test]
fn a_gateways_messages_keep_their_shape() {
    let policy = Policy {
        outbound: Outbound::Nat,
        allow_networks: vec!["192.168.0.0/16".parse().expect("a network")],
        names: "127.0.0.1:5300".parse().ok(),
    };
    check("policy", &policy);
    check("policy_least", &Policy { outbound: Outbound::Off, allow_networks: Vec::new(), names: None });
    check("ask_reload", &Ask::Reload);
    check("ask_refused", &Ask::Refused);
    let entry = RefusedEntry {
        destination: "169.254.169.254".parse().expect("an address"),
        protocol: "tcp".to_owned(),
        port: 80,
        packets: 3,
        last_s: 12,
    };
    check("answer_refused", &Answer::Refused(vec![entry]));
    check("answer_done", &Answer::Done);
    check("answer_failed", &Answer::Failed("cannot read the policy".to_owned()));
}

#[test]
fn a_policy_with_a_restriction_of_a_later_version_is_refused() {
    let later = r#"{"outbound": "nat", "deny_names": ["example.org"]}"#;
    assert!(serde_json::from_str::<Policy>(later).is_err());
}
