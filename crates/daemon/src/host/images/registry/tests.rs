//! Pulls from registries that are honest, slow, torn or hostile. What must hold of each: one sentence, nothing half-made,
//! and the next pull goes on where it can.

use super::fake::{Asked, Fake, Held, Reply};
use super::*;
use crate::host::images::{Library, PullOptions};
use crate::layout::Layout;
use engine::host::images::Images;
use engine::host::{HostError, HostErrorKind, Report, Unwatched, Watch};
use model::image_ref::ImageRef;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

struct Rig {
    folder: tempfile::TempDir,
    library: Library,
}

/// Short, so that a test of giving up ends.
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(5),
    stall: Duration::from_millis(400),
    attempts: 3,
    backoff: Duration::from_millis(10),
};

impl Rig {
    fn new() -> Rig {
        Rig::with(Access { patience: PATIENCE, ..Access::default() })
    }

    fn with(access: Access) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let library = open(folder.path(), access);
        Rig { folder, library }
    }

    fn pull(&self, fake: &Fake, image: &str) -> Result<String, HostError> {
        self.pull_watched(fake, image, &Unwatched)
    }

    fn pull_watched(&self, fake: &Fake, image: &str, watch: &dyn Watch) -> Result<String, HostError> {
        let reference: ImageRef = format!("{}/{image}", fake.address).parse().unwrap();
        self.library
            .pull_image(&reference, &PullOptions::default(), &|_| Vec::new(), watch)
            .map(|name| name.to_string())
    }

    /// Names in a folder of the library that are not whole entries.
    fn half_made(&self) -> Vec<String> {
        let names = |folder: &str| {
            let entries = std::fs::read_dir(self.folder.path().join(folder)).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        names("s/images").into_iter().filter(|name| name.starts_with('.')).collect()
    }

    fn partials(&self) -> Vec<u64> {
        let entries = std::fs::read_dir(self.folder.path().join("c/blobs/sha256")).into_iter().flatten();
        let partial = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.unwrap();
            entry.file_name().to_string_lossy().ends_with(".partial").then(|| entry.metadata().unwrap().len())
        };
        entries.filter_map(partial).collect()
    }

    #[track_caller]
    fn refused(&self, fake: &Fake, kind: HostErrorKind, words: &str) {
        let error = self.pull(fake, "a/b:1").expect_err("it is refused");
        let said = chain(&error);
        assert!(said.contains(words), "{words:?} is not in: {said}");
        assert_eq!(error.kind, kind, "{said}");
        assert!(self.library.images().unwrap().is_empty() && self.half_made().is_empty());
    }
}

fn open(folder: &std::path::Path, access: Access) -> Library {
    let below = |name: &str| folder.join(name);
    let layout = Layout::at(below("s"), below("r"), below("c")).unwrap();
    layout.prepare().unwrap();
    Library::open(layout).unwrap().with_access(access)
}

fn chain(error: &HostError) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        said.push_str(&format!(": {source}"));
        cause = source.source();
    }
    said
}

fn has_checker() -> bool {
    std::process::Command::new("e2fsck").arg("-V").output().is_ok()
}

const FILES: &[&[(&str, &[u8])]] = &[
    &[("etc/os-release", b"PRETTY_NAME=\"Tiny 1\"\n"), ("bin/a", b"first")],
    &[("bin/a", b"second"), ("bin/b", b"b")],
    &[("bin/.wh.b", b""), ("srv/c", b"c")],
];

fn held() -> Held {
    Held::image(FILES)
}

/// A blob of some size that does not compress, so that it can be cut.
fn large() -> Held {
    let mut state = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    })
    .take(300_000)
    .collect();
    Held::image(&[&[("noise", &noise)]])
}

#[test]
fn an_image_of_gzip_zstd_and_plain_layers_is_pulled_once() {
    if !has_checker() {
        return;
    }
    let (rig, held) = (Rig::new(), held());
    let fake = Fake::serve(move |asked| held.answer(asked));
    assert_eq!(rig.pull(&fake, "a/b:1").unwrap(), "b-1");
    let asked = fake.asked().len();
    assert_eq!(rig.pull(&fake, "a/b:1").unwrap(), "b-1");
    assert_eq!(fake.asked().len(), asked + 1, "only whether the tag has moved on");
    let (facts, details) = rig.library.described(&"debian-cloud".parse().unwrap()).unwrap().remove(0);
    assert_eq!(details.references, [format!("{}/a/b:1", fake.address)]);
    assert_eq!(details.config.cmd, ["sh"]);
    assert_eq!(details.system.as_deref(), Some("Tiny 1"));
    assert!(facts.size.bytes() > 0 && rig.partials().is_empty() && rig.half_made().is_empty());
    // Another tag of the same layers costs its manifest alone.
    let blobs = fake.count("/blobs/");
    rig.pull(&fake, "a/b:2").unwrap();
    assert_eq!(fake.count("/blobs/"), blobs);
}

#[test]
fn of_many_platforms_the_own_one_is_chosen_and_of_none_that_is_said() {
    let mut held = held();
    let entry = |architecture: &str, held: &Held| {
        let digest = images::digest::of_bytes(&held.manifest);
        format!(
            r#"{{"mediaType":"{}","digest":"{digest}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
            fake::OCI_MANIFEST,
            held.manifest.len()
        )
    };
    let index = |entries: &str| format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#).into_bytes();
    let own = crate::host::images::architecture();
    let both = index(&format!("{},{}", entry("s390x", &held), entry(own, &held)));
    let neither = index(&entry("s390x", &held));
    let crowd = index(&vec![entry(own, &held); 10_000].join(","));
    let digest = images::digest::of_bytes(&held.manifest).to_string();
    held.blobs.insert(digest, held.manifest.clone());
    let serve = |index: Vec<u8>| {
        let held = held.clone();
        Fake::serve(move |asked| match asked.path.ends_with("/manifests/1") {
            true => Reply::new(200, index.clone()),
            false => held.answer(asked),
        })
    };
    if has_checker() {
        Rig::new().pull(&serve(both), "a/b:1").unwrap();
    }
    Rig::new().refused(&serve(neither), HostErrorKind::Invalid, "it is for linux/s390x");
    Rig::new().refused(&serve(crowd), HostErrorKind::Invalid, "lists 10000 manifests");
}

/// Answers as `held` does, but for layers.
fn but_for_layers(held: Held, answer: impl Fn(&Asked, Reply) -> Reply + Send + Sync + 'static) -> Fake {
    let layers = held.layers.clone();
    Fake::serve(move |asked| {
        let honest = held.answer(asked);
        match layers.iter().any(|layer| asked.path.ends_with(layer)) {
            true => answer(asked, honest),
            false => honest,
        }
    })
}

#[test]
fn a_wrong_blob_is_never_committed() {
    let fake = but_for_layers(held(), |_, mut honest| {
        honest.body[0] ^= 1;
        honest
    });
    let rig = Rig::new();
    rig.refused(&fake, HostErrorKind::Invalid, "is not what its digest says");
    assert!(rig.partials().is_empty());
}

#[test]
fn a_blob_that_is_longer_than_announced_is_cut_short() {
    let fake = but_for_layers(held(), |_, mut honest| {
        honest.body.extend(vec![0; 1 << 20]);
        honest
    });
    Rig::new().refused(&fake, HostErrorKind::Invalid, "is longer than");
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    if !has_checker() {
        return;
    }
    let fake = but_for_layers(large(), |_, honest| Reply { cut_after: Some(100_000), ..honest });
    let rig = Rig::new();
    rig.pull(&fake, "a/b:1").unwrap();
    let ranges: Vec<_> = fake.asked().iter().filter_map(|asked| asked.headers.get("range").cloned()).collect();
    assert_eq!(ranges[0], "bytes=100000-");
    assert!(ranges.len() >= 2, "{ranges:?}");
}

#[test]
fn what_a_dead_daemon_had_is_not_fetched_again() {
    if !has_checker() {
        return;
    }
    let broken = but_for_layers(large(), |asked, honest| match asked.headers.contains_key("range") {
        true => Reply::new(500, ""),
        false => Reply { cut_after: Some(200_000), ..honest },
    });
    let rig = Rig::new();
    rig.refused(&broken, HostErrorKind::Unfit, "answers 500");
    assert_eq!(rig.partials(), [200_000]);
    let held = large();
    let fake = Fake::serve(move |asked| held.answer(asked));
    let again = Rig { library: open(rig.folder.path(), Access { patience: PATIENCE, ..Access::default() }), ..rig };
    again.pull(&fake, "a/b:1").unwrap();
    let asked = fake.asked();
    let ranges: Vec<_> = asked.iter().filter_map(|asked| asked.headers.get("range")).collect();
    assert_eq!(ranges, ["bytes=200000-"]);
}

#[test]
fn what_an_earlier_try_left_wrong_is_fetched_anew() {
    if !has_checker() {
        return;
    }
    let (rig, held) = (Rig::new(), large());
    let blobs = rig.folder.path().join("c/blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let hex = held.layers[0].trim_start_matches("sha256:").to_owned();
    std::fs::write(blobs.join(format!("{hex}.partial")), vec![7; 1000]).unwrap();
    let fake = Fake::serve(move |asked| held.answer(asked));
    rig.pull(&fake, "a/b:1").unwrap();
    assert!(rig.partials().is_empty());
}

#[test]
fn a_server_without_ranges_is_asked_for_the_whole_again() {
    if !has_checker() {
        return;
    }
    let tries = AtomicUsize::new(0);
    let fake = but_for_layers(large(), move |asked, honest| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Reply { cut_after: Some(1000), ..honest },
        _ => {
            let whole = Asked { headers: Default::default(), ..asked.clone() };
            Reply { status: 200, headers: Vec::new(), ..large().answer(&whole) }
        }
    });
    Rig::new().pull(&fake, "a/b:1").unwrap();
}

#[test]
fn a_registry_that_stalls_is_given_up_and_what_came_is_kept() {
    let fake = but_for_layers(large(), |_, honest| match honest.status {
        206 => Reply { cut_after: Some(0), stall: true, ..honest },
        _ => Reply { cut_after: Some(1000), stall: true, ..honest },
    });
    let rig = Rig::new();
    rig.refused(&fake, HostErrorKind::TimedOut, "has said nothing for");
    assert_eq!(rig.partials(), [1000]);
}

#[test]
fn a_server_that_fails_twice_is_asked_a_third_time() {
    if !has_checker() {
        return;
    }
    let (held, tries) = (held(), AtomicUsize::new(0));
    let fake = Fake::serve(move |asked| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(503, ""),
        1 => Reply::new(429, "").header("Retry-After", "0"),
        _ => held.answer(asked),
    });
    Rig::new().pull(&fake, "a/b:1").unwrap();
}

#[test]
fn a_redirect_is_followed_to_another_host_without_the_login_and_never_to_another_scheme() {
    let storage = held();
    let store = Fake::serve(move |asked| storage.answer(asked));
    let place = store.address;
    let fake = but_for_layers(held(), move |asked, _| {
        Reply::new(307, "").header("Location", format!("http://{place}{}", asked.path))
    });
    if has_checker() {
        Rig::new().pull(&fake, "a/b:1").unwrap();
    }
    for to in ["https://127.0.0.1:1/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "//127.0.0.1/x", "", "x y"] {
        let fake = but_for_layers(held(), move |_, _| Reply::new(302, "").header("Location", to));
        Rig::new().refused(&fake, HostErrorKind::Invalid, "sends us on to");
    }
    let fake = but_for_layers(held(), |asked, _| Reply::new(302, "").header("Location", asked.path.clone()));
    Rig::new().refused(&fake, HostErrorKind::Invalid, "one redirect too many");
}

/// Wants `Authorization: <shown>` for everything, and says how to get it.
fn guarded(held: Held, challenge: &'static str, shown: impl Fn() -> String + Send + Sync + 'static) -> Fake {
    Fake::serve(move |asked| {
        if asked.path.starts_with("/token") {
            let basic = asked.headers.get("authorization").is_some_and(|header| header == "Basic dTpw");
            return match basic && asked.path.contains("scope=repository%3Aa%2Fb%3Apull") {
                true => Reply::new(200, format!(r#"{{"token":"{}"}}"#, shown().trim_start_matches("Bearer "))),
                false => Reply::new(401, ""),
            };
        }
        match asked.headers.get("authorization") == Some(&shown()) {
            true => held.answer(asked),
            false => {
                let host = &asked.headers["host"];
                Reply::new(401, "").header("WWW-Authenticate", challenge.replace("HOST", host))
            }
        }
    })
}

fn with_login(fake: &Fake, auth: &str) -> Rig {
    let rig = Rig::new();
    let file = rig.folder.path().join("config.json");
    std::fs::write(&file, format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, fake.address)).unwrap();
    let credentials = Credentials { files: vec![file] };
    Rig { library: open(rig.folder.path(), Access { credentials, patience: PATIENCE, ..Access::default() }), ..rig }
}

#[test]
fn a_login_is_shown_only_where_it_is_asked_for_and_a_wrong_one_is_said() {
    let fake = guarded(held(), "Basic realm=\"x\"", || "Basic dTpw".to_owned());
    Rig::new().refused(&fake, HostErrorKind::Unfit, "none is kept for it");
    with_login(&fake, "dTpx").refused(&fake, HostErrorKind::Unfit, "does not take the login");
    if has_checker() {
        with_login(&fake, "dTpw").pull(&fake, "a/b:1").unwrap();
    }
    let bearer = "Bearer realm=\"http://HOST/token\",service=\"s\",scope=\"repository:a/b:pull\"";
    let fake = guarded(held(), bearer, || "Bearer t0".to_owned());
    Rig::new().refused(&fake, HostErrorKind::Unfit, "gives no token to strangers");
    if has_checker() {
        with_login(&fake, "dTpw").pull(&fake, "a/b:1").unwrap();
    }
}

#[test]
fn a_token_that_expires_on_the_way_is_renewed() {
    if !has_checker() {
        return;
    }
    let (held, served) = (held(), AtomicUsize::new(0));
    let fake = Fake::serve(move |asked| {
        // After two answers the first token is worth nothing.
        let token = if served.load(Ordering::SeqCst) < 2 { "t0" } else { "t1" };
        if asked.path.starts_with("/token") {
            return Reply::new(200, format!(r#"{{"access_token":"{token}"}}"#));
        }
        if asked.headers.get("authorization") != Some(&format!("Bearer {token}")) {
            let challenge = format!("Bearer realm=\"http://{}/token\"", asked.headers["host"]);
            return Reply::new(401, "").header("WWW-Authenticate", challenge);
        }
        served.fetch_add(1, Ordering::SeqCst);
        held.answer(asked)
    });
    Rig::new().pull(&fake, "a/b:1").unwrap();
    assert!(fake.count("/token") > 1);
}

#[test]
fn documents_that_make_no_sense_are_refused() {
    let check = |manifest: Vec<u8>, words: &str| {
        let held = held();
        let fake = Fake::serve(move |asked| match asked.path.contains("/manifests/") {
            true => Reply::new(200, manifest.clone()),
            false => held.answer(asked),
        });
        Rig::new().refused(&fake, HostErrorKind::Invalid, words);
    };
    let good = String::from_utf8(held().manifest).unwrap();
    check(b"<html>".to_vec(), "no valid JSON");
    check(vec![b' '; (4 << 20) + 1], "more than");
    check(good.replace("layer.v1.tar+gzip", "layer.v1.squashfs").into_bytes(), "media type");
    check(good.replace("\"size\":", "\"size\":99999999").into_bytes(), "larger than");
    let huge = good
        .replacen("\"layers\":[", "\"layers\":[ ", 1)
        .replace("tar+gzip\",\"digest\"", "tar+gzip\",\"x\":0,\"digest\"");
    let lie =
        huge.rsplit_once("\"size\":").map(|(before, _)| format!("{before}\"size\":18446744073709551615}}]}}")).unwrap();
    check(lie.into_bytes(), "larger than");
    let swapped = {
        let held = held();
        good.replace(&held.layers[0], "x")
            .replace(&held.layers[2], &held.layers[0])
            .replace("\"x\"", &format!("\"{}\"", held.layers[2]))
    };
    let error = Rig::new();
    let held = held();
    let fake = Fake::serve(move |asked| match asked.path.contains("/manifests/") {
        true => Reply::new(200, swapped.clone()),
        false => held.answer(asked),
    });
    assert!(error.pull(&fake, "a/b:1").is_err(), "the sizes of the two differ");
}

#[test]
fn what_is_not_there_is_said_at_once() {
    let fake = Fake::serve(|_| Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#));
    Rig::new().refused(&fake, HostErrorKind::NotFound, "has no a/b/manifests/1");
    assert_eq!(fake.asked().len(), 1);
}

struct Impatient(Instant);

impl Watch for Impatient {
    fn report(&self, _: Report) {}
    fn cancelled(&self) -> bool {
        self.0.elapsed() > Duration::from_millis(150)
    }
}

#[test]
fn who_presses_ctrl_c_is_let_go_and_the_next_pull_goes_on() {
    let fake = but_for_layers(large(), |_, honest| Reply { cut_after: Some(5000), stall: true, ..honest });
    let access = Access { patience: Patience { stall: Duration::from_secs(30), ..PATIENCE }, ..Access::default() };
    let rig = Rig::with(access);
    let error = rig.pull_watched(&fake, "a/b:1", &Impatient(Instant::now())).unwrap_err();
    assert_eq!(error.kind, HostErrorKind::Cancelled);
    assert_eq!(rig.partials(), [5000]);
    assert!(rig.half_made().is_empty());
}

#[test]
fn two_pulls_of_one_image_fetch_each_blob_once() {
    if !has_checker() {
        return;
    }
    let (rig, held) = (Rig::new(), large());
    let fake = Fake::serve(move |asked| {
        std::thread::sleep(Duration::from_millis(50));
        held.answer(asked)
    });
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| rig.pull(&fake, "a/b:1"))).collect();
        for pull in pulls {
            assert_eq!(pull.join().unwrap().unwrap(), "b-1");
        }
    });
    assert_eq!(fake.count("/blobs/"), 2, "one config, one layer");
    // Another name for the same: fetched by nobody again.
    std::thread::scope(|scope| {
        let pulls: Vec<_> = ["x/c:1", "x/d:1"].map(|image| scope.spawn(|| rig.pull(&fake, image))).into();
        pulls.into_iter().for_each(|pull| drop(pull.join().unwrap().unwrap()));
    });
    assert_eq!(fake.count("/blobs/"), 2);
}

#[test]
fn a_reference_whose_short_name_is_taken_gets_another_one() {
    if !has_checker() {
        return;
    }
    let (rig, held) = (Rig::new(), held());
    let fake = Fake::serve(move |asked| held.answer(asked));
    assert_eq!(rig.pull(&fake, "a/b:1").unwrap(), "b-1");
    let other = rig.pull(&fake, "other/b:1").unwrap();
    assert!(other.starts_with("b-1-") && other.len() == 12, "{other}");
    assert_eq!(rig.pull(&fake, "other/b:1").unwrap(), other);
    let debian = rig.pull(&fake, "library/debian:bookworm").unwrap();
    assert!(debian.starts_with("debian-bookworm-"), "the catalog has that name: {debian}");
}

/// Serves `held` and, for the manifest that it has, a signature over what `names` says.
fn signed(held: Held, key: &p256::ecdsa::SigningKey, names: &str) -> Fake {
    use base64::Engine as _;
    use p256::ecdsa::signature::Signer;
    let payload = format!(r#"{{"critical":{{"image":{{"docker-manifest-digest":"{names}"}}}},"optional":null}}"#);
    let signature: p256::ecdsa::Signature = key.sign(payload.as_bytes());
    let signature = base64::engine::general_purpose::STANDARD.encode(signature.to_der());
    let (digest, tag) = (images::digest::of_bytes(payload.as_bytes()), images::digest::of_bytes(&held.manifest));
    let manifest = format!(
        r#"{{"schemaVersion":2,"layers":[{{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":"{digest}","size":{},"annotations":{{"dev.cosignproject.cosign/signature":"{signature}"}}}}]}}"#,
        payload.len()
    );
    let tag = format!("sha256-{}.sig", tag.hex());
    Fake::serve(move |asked| match asked.path.rsplit('/').next() {
        Some(last) if last == tag => Reply::new(200, manifest.clone()),
        Some(last) if last.ends_with(".sig") => Reply::new(404, ""),
        Some(last) if last == digest.as_str() => Reply::new(200, payload.clone()),
        _ => held.answer(asked),
    })
}

fn pem(key: &p256::ecdsa::SigningKey) -> String {
    use p256::pkcs8::{EncodePublicKey, LineEnding};
    key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap()
}

#[test]
fn an_image_must_be_signed_by_the_given_key_and_no_other() {
    let key = |seed: u8| p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap();
    let held = held();
    let own = images::digest::of_bytes(&held.manifest).to_string();
    let pull = |fake: &Fake, by: &str| {
        let rig = Rig::new();
        let reference: ImageRef = format!("{}/a/b:1", fake.address).parse().unwrap();
        let options = PullOptions { verify_key: Some(by.to_owned()), ..PullOptions::default() };
        let pulled =
            rig.library.pull_image(&reference, &options, &|_| Vec::new(), &Unwatched).map(|name| name.to_string());
        assert_eq!(pulled.is_err(), rig.library.images().unwrap().is_empty(), "{pulled:?}");
        pulled.map_err(|error| chain(&error))
    };
    if has_checker() {
        pull(&signed(held.clone(), &key(1), &own), &pem(&key(1))).unwrap();
    }
    let refused = |fake: &Fake, by: &str, words: &str| {
        let said = pull(fake, by).unwrap_err();
        assert!(said.contains(words), "{said}");
    };
    refused(&signed(held.clone(), &key(2), &own), &pem(&key(1)), "none of its signatures is by the given key");
    // A signature of another image, moved here.
    let other = images::digest::of_bytes(b"other").to_string();
    refused(&signed(held.clone(), &key(1), &other), &pem(&key(1)), "none of its signatures");
    refused(&signed(held.clone(), &key(1), &own), "no key", "no P-256 public key");
    let unsigned = Fake::serve(move |asked| match asked.path.ends_with(".sig") {
        true => Reply::new(404, ""),
        false => held.answer(asked),
    });
    refused(&unsigned, &pem(&key(1)), "nobody has signed it");
}

#[test]
fn a_tag_that_moved_on_is_pulled_anew_unless_a_sandbox_uses_what_is_here() {
    if !has_checker() {
        return;
    }
    let (rig, moved) = (Rig::new(), Arc::new(AtomicBool::new(false)));
    let (old, new, now) = (held(), large(), moved.clone());
    let fake = Fake::serve(move |asked| match now.load(Ordering::SeqCst) {
        true => new.answer(asked),
        false => old.answer(asked),
    });
    let reference: ImageRef = format!("{}/a/b:1", fake.address).parse().unwrap();
    let pull = |users: &[&str]| {
        let users: Vec<String> = users.iter().map(|user| (*user).to_owned()).collect();
        rig.library.pull_image(&reference, &PullOptions::default(), &|_| users.clone(), &Unwatched).unwrap();
        rig.library.images().unwrap().remove(0).digest
    };
    let first = pull(&[]);
    moved.store(true, Ordering::SeqCst);
    assert_eq!(pull(&["web"]), first);
    assert_ne!(pull(&[]), first);
    assert!(rig.half_made().is_empty());
}

/// A file system with so little room, gone when it is dropped. Needs root.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: std::path::PathBuf, kib: u32) -> Option<Small> {
        std::fs::create_dir_all(&at).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]).arg(&at);
        let mounted = mount.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then_some(Small(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_at_any_step_is_one_sentence_and_leaves_nothing_half_made() {
    if !has_checker() {
        return;
    }
    let held = large();
    let fake = Fake::serve(move |asked| held.answer(asked));
    let rig = Rig::new();
    let Some(small) = Small::mount(rig.folder.path().join("c/blobs"), 100) else {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: nothing can be mounted here\n");
        return;
    };
    rig.refused(&fake, HostErrorKind::Unfit, "and there is room for");
    drop(small);
    // While layers are unpacked, while the disks are written.
    let mut full = 0;
    for kib in [32, 200, 310, 400, 600, 1000, 4000] {
        let _small = Small::mount(rig.folder.path().join("s/images"), kib).expect("the first one was mounted");
        let name = format!("a/b:{kib}");
        if let Err(error) = rig.pull(&fake, &name) {
            assert!(error.attempt.contains("there is no room left on the disk"), "{kib}: {}", chain(&error));
            assert!(rig.library.images().unwrap().is_empty() && rig.half_made().is_empty(), "{kib}");
            full += 1;
        }
    }
    assert!((2..7).contains(&full), "{full} of 7 were too small");
}
