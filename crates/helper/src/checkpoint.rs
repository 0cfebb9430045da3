//! Places where a test may end this process, as `kill -9` would: between every two deeds that leave a trace.
//! In a release build they are nothing.

/// In a debug build, ends the process when this is the place whose number stands in `BANGER_ROOT_DIE_AT`, counted from
/// 1 since the start.
#[cfg(debug_assertions)]
pub fn reached(place: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static PASSED: AtomicU32 = AtomicU32::new(0);

    let Some(fatal) = std::env::var("BANGER_ROOT_DIE_AT").ok().and_then(|text| text.parse::<u32>().ok()) else {
        return;
    };
    if PASSED.fetch_add(1, Ordering::SeqCst) + 1 == fatal {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "ending at checkpoint {fatal}: {place}");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(not(debug_assertions))]
pub fn reached(_: &str) {}
