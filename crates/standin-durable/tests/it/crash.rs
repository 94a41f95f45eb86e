//! A process that is killed before or within each system call.

use standin_durable::faults::{Crash, Crashed};
use standin_durable::{FileError, Files, Mode};
use std::path::Path;
use std::sync::Arc;

const OLD: &[u8] = b"the old content";
const NEW: &[u8] = b"the new content, longer than the old one";

/// Runs `change` on a directory as `before` made it, and crashes it at each stop in turn; `after` looks at what the
/// next process finds.
fn at_every_stop(
    before: impl Fn(&Path),
    change: impl Fn(&Files, &Path) -> Result<(), FileError>,
    after: impl Fn(&Path, bool),
) -> u64 {
    for stop in 0.. {
        let directory = tempfile::tempdir().expect("a temporary directory");
        before(directory.path());
        let crash = Arc::new(Crash::at(stop));
        let outcome = change(&Files::with(crash.clone()), directory.path());
        if let Err(error) = &outcome {
            assert!(Crashed::of(&error.source).is_some(), "at stop {stop}: {error}: {}", error.source);
        }
        after(directory.path(), outcome.is_ok());
        if outcome.is_ok() {
            return stop;
        }
        assert!(stop < 1000, "it never ends");
    }
    unreachable!("the loop returns")
}

fn content(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path).ok()
}

fn names(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> =
        names.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

#[test]
fn a_replaced_file_is_old_or_new_wherever_the_process_dies() {
    let stops = at_every_stop(
        |directory| std::fs::write(directory.join("f"), OLD).expect("writable"),
        |files, directory| files.replace(&directory.join("f"), NEW, Mode::Owner),
        |directory, done| {
            let found = content(&directory.join("f"));
            assert!(found.as_deref() == Some(NEW) || (!done && found.as_deref() == Some(OLD)), "{found:?}");
            // The next write clears away what is left, and succeeds.
            Files::default().replace(&directory.join("f"), b"next", Mode::Owner).expect("writable");
            assert_eq!(content(&directory.join("f")).as_deref(), Some(&b"next"[..]));
            assert_eq!(names(directory), ["f"]);
        },
    );
    // Create, write (before and within), fsync, rename, fsync of the directory.
    assert_eq!(stops, 6);
}

#[test]
fn a_created_file_is_whole_or_absent_wherever_the_process_dies() {
    let stops = at_every_stop(
        |_| {},
        |files, directory| files.create(&directory.join("f"), NEW, Mode::Owner),
        |directory, done| {
            let found = content(&directory.join("f"));
            assert!(found.as_deref() == Some(NEW) || (!done && found.is_none()), "{found:?}");
            // Whoever comes next makes it, or finds it whole; what is left under two names is no harm.
            let again = Files::default().create(&directory.join("f"), b"next", Mode::Owner);
            assert_eq!(again.is_ok(), found.is_none(), "{again:?}");
            Files::default().recover(&directory.join("f")).expect("recoverable");
            assert_eq!(names(directory), ["f"]);
            let expected = if found.is_none() { b"next" } else { NEW };
            assert_eq!(content(&directory.join("f")).as_deref(), Some(expected));
        },
    );
    assert_eq!(stops, 7);
}

#[test]
fn a_removed_file_is_whole_or_gone_wherever_the_process_dies() {
    at_every_stop(
        |directory| std::fs::write(directory.join("f"), OLD).expect("writable"),
        |files, directory| files.remove(&directory.join("f")),
        |directory, done| {
            let found = content(&directory.join("f"));
            assert!(found.is_none() || (!done && found.as_deref() == Some(OLD)), "{found:?}");
        },
    );
}

#[test]
fn a_recovery_that_dies_is_finished_by_the_next() {
    at_every_stop(
        |directory| {
            std::fs::write(directory.join("f"), OLD).expect("writable");
            for left in ["f.part", "g.part"] {
                std::fs::write(directory.join(left), "half").expect("writable");
            }
        },
        |files, directory| files.recover_directory(directory),
        |directory, done| {
            assert!(done.then(|| names(directory)).is_none_or(|names| names == ["f"]));
            Files::default().recover_directory(directory).expect("recoverable");
            assert_eq!(names(directory), ["f"]);
            assert_eq!(content(&directory.join("f")).as_deref(), Some(OLD));
        },
    );
}

#[test]
fn an_error_says_whether_anything_has_changed() {
    for stop in 0..6 {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("f");
        std::fs::write(&path, OLD).expect("writable");
        let files = Files::with(Arc::new(Crash::at(stop)));
        let error = files.replace(&path, NEW, Mode::Owner).expect_err("it crashes");
        let changed = content(&path).as_deref() == Some(NEW);
        assert_eq!(error.uncertain, changed, "at stop {stop}: {error}");
    }
}

#[test]
fn a_staged_file_whose_write_failed_cannot_be_published() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("f");
    std::fs::write(&path, OLD).expect("writable");
    // Through: the creation. Not: the first write.
    let mut staged =
        Files::with(Arc::new(OneFailure::of("write"))).stage(&path, Mode::Owner).expect("staged");
    staged.write(NEW).expect_err("it fails");
    staged.write(NEW).expect_err("it is poisoned");
    let error = staged.publish().expect_err("it is poisoned");
    assert!(!error.uncertain);
    assert_eq!(content(&path).as_deref(), Some(OLD));
    assert_eq!(names(directory.path()), ["f"]);
}

/// Fails the first call of a name, as a disk does; all others work.
#[derive(Debug)]
pub struct OneFailure {
    name: &'static str,
    done: std::sync::atomic::AtomicBool,
}

impl OneFailure {
    pub fn of(name: &'static str) -> Self {
        Self { name, done: false.into() }
    }
}

impl standin_durable::faults::Faults for OneFailure {
    fn before(&self, step: &standin_durable::faults::Step<'_>) -> standin_durable::faults::Verdict {
        use standin_durable::faults::Verdict;
        if step.name() == self.name && !self.done.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Verdict::Fail(rustix::io::Errno::IO.into());
        }
        Verdict::Go
    }
}
