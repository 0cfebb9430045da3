//! Those who mean harm, in one table for each direction: repositories of the host on their way in, and what a guest sends
//! on its way home. Whatever it is, it arrives or is refused in a sentence; nothing that it names runs, nothing beside it
//! is read or written, and the host's repository is afterwards what it was.

use inward::config as inward_programs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

mod full;
mod homeward;
mod inward;
#[path = "../repositories/mod.rs"]
mod repositories;

/// Cases at once: each is many short processes.
const WORKERS: usize = 4;

/// Says how many there are, fails when somebody lost some, and tries each; those that fail are named together.
fn try_all<R: Sync>(direction: &str, rows: &[R], name: impl Fn(&R) -> &str + Sync, check: impl Fn(&R) + Sync) {
    writeln!(std::io::stderr(), "{} hostile cases {direction}", rows.len()).expect("stderr takes it");
    assert!(rows.len() >= 25, "only {} hostile cases {direction}", rows.len());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if catch_unwind(AssertUnwindSafe(|| check(row))).is_err() {
                        failed.lock().expect("nobody panics with it").push(name(row).to_owned());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panics with it");
    assert!(failed.is_empty(), "{} of {} cases fail: {failed:#?}", failed.len(), rows.len());
}
