//! One piece of work for everybody who asks for the same thing at once: the first one works, the others wait and share
//! what came of it. If the first one gives up because nobody waits for *it* any more, the next one takes over.

use engine::host::{HostError, HostErrorKind, Result, Watch};
use model::Change;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often one who waits asks whether anybody still wants it; the end of the work wakes it at once.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Default)]
pub struct Shared {
    under_way: Mutex<HashMap<String, Arc<Work>>>,
}

#[derive(Default)]
struct Work {
    outcome: Mutex<Option<Outcome>>,
    ended: Condvar,
}

/// An error goes to the one who worked; the others get its words.
#[derive(Clone)]
enum Outcome {
    Done,
    Failed { kind: HostErrorKind, attempt: String, causes: String, hint: Option<String> },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn once(&self, key: &str, watch: &dyn Watch, work: impl Fn() -> Result<Change>) -> Result<Change> {
        loop {
            let (shared, first) = {
                let mut under_way = lock(&self.under_way);
                match under_way.get(key) {
                    Some(shared) => (shared.clone(), false),
                    None => (under_way.entry(key.to_owned()).or_default().clone(), true),
                }
            };
            if first {
                let _end = End { table: self, key };
                let result = work();
                *lock(&shared.outcome) = Some(outcome(&result));
                return result;
            }
            match await_outcome(&shared, key, watch)? {
                Outcome::Failed { kind: HostErrorKind::Cancelled, .. } => {}
                Outcome::Done => return Ok(Change::Changed),
                Outcome::Failed { kind, attempt, causes, hint } => {
                    let mut error = HostError::new(kind, attempt);
                    error.hint = hint;
                    return Err(if causes.is_empty() { error } else { error.with_source(causes) });
                }
            }
        }
    }
}

fn outcome(result: &Result<Change>) -> Outcome {
    let Err(error) = result else { return Outcome::Done };
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        causes.push(source.to_string());
        cause = source.source();
    }
    Outcome::Failed {
        kind: error.kind,
        attempt: error.attempt.clone(),
        causes: causes.join(": "),
        hint: error.hint.clone(),
    }
}

fn await_outcome(work: &Work, key: &str, watch: &dyn Watch) -> Result<Outcome> {
    let mut outcome = lock(&work.outcome);
    loop {
        if let Some(outcome) = outcome.as_ref() {
            return Ok(outcome.clone());
        }
        if watch.cancelled() {
            return Err(HostError::new(HostErrorKind::Cancelled, format!("nobody waits for {key} any more")));
        }
        outcome = match work.ended.wait_timeout(outcome, LOOK) {
            Ok((outcome, _)) => outcome,
            Err(poisoned) => poisoned.into_inner().0,
        };
    }
}

/// The work is over, whether it returned or panicked; those who wait see its outcome, or take over.
struct End<'a> {
    table: &'a Shared,
    key: &'a str,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let Some(work) = lock(&self.table.under_way).remove(self.key) else { return };
        let panicked = || Outcome::Failed {
            kind: HostErrorKind::Cancelled,
            attempt: String::new(),
            causes: String::new(),
            hint: None,
        };
        lock(&work.outcome).get_or_insert_with(panicked);
        work.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::host::{Report, Unwatched};
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::sync::mpsc::channel;
    use std::thread;

    #[derive(Default)]
    struct Person {
        gone: AtomicBool,
    }

    impl Watch for Person {
        fn report(&self, _: Report) {}
        fn cancelled(&self) -> bool {
            self.gone.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn two_who_ask_at_once_share_one_piece_of_work() {
        let shared = Shared::default();
        let runs = AtomicU32::new(0);
        let (begun, begins) = channel();
        let (go, goes) = channel::<()>();
        let goes = Mutex::new(goes);
        let work = || {
            runs.fetch_add(1, Ordering::SeqCst);
            let _ = begun.send(());
            let _ = lock(&goes).recv();
            Ok(Change::Changed)
        };
        thread::scope(|scope| {
            let first = scope.spawn(|| shared.once("a", &Unwatched, work));
            begins.recv().unwrap();
            let second = scope.spawn(|| shared.once("a", &Unwatched, || panic!("somebody works already")));
            while Arc::strong_count(lock(&shared.under_way).get("a").unwrap()) < 3 {
                thread::yield_now();
            }
            go.send(()).unwrap();
            assert_eq!(first.join().unwrap().unwrap(), Change::Changed);
            assert_eq!(second.join().unwrap().unwrap(), Change::Changed);
        });
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn who_does_not_want_it_any_more_leaves_and_the_work_goes_on() {
        let shared = Shared::default();
        let (begun, begins) = channel();
        let (go, goes) = channel::<()>();
        let goes = Mutex::new(goes);
        let person = Person { gone: AtomicBool::new(true) };
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                shared.once("a", &Unwatched, || {
                    let _ = begun.send(());
                    let _ = lock(&goes).recv();
                    Ok(Change::Changed)
                })
            });
            begins.recv().unwrap();
            let left = shared.once("a", &person, || panic!("somebody works already")).unwrap_err();
            assert_eq!(left.kind, HostErrorKind::Cancelled);
            go.send(()).unwrap();
            assert_eq!(first.join().unwrap().unwrap(), Change::Changed);
        });
    }

    #[test]
    fn a_failure_is_told_to_everybody_and_the_next_one_tries_anew() {
        let shared = Shared::default();
        let fail = || Err(HostError::new(HostErrorKind::Unfit, "cannot"));
        assert_eq!(shared.once("a", &Unwatched, fail).unwrap_err().attempt, "cannot");
        assert_eq!(shared.once("a", &Unwatched, || Ok(Change::Changed)).unwrap(), Change::Changed);
    }
}
