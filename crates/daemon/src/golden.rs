//! Files in the repository that a test holds to what the code says; `UPDATE_GOLDEN=1` rewrites them.

use std::path::Path;

pub fn check(path_in_repository: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path_in_repository);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a golden file lies in a folder"))
            .expect("cannot make its folder");
        std::fs::write(&path, actual).expect("cannot write the golden file");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "{path_in_repository} is not what the code says; run with UPDATE_GOLDEN=1 and look at the difference"
    );
}
