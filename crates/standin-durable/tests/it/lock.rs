//! One process at a time.

use standin_durable::{DirLock, FileLock, LockError};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn a_held_directory_is_refused_and_its_holder_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("data/of/standin");
    let held = DirLock::take(&path).expect("free");
    assert_eq!(held.directory(), path);
    let error = DirLock::take(&path).expect_err("held");
    assert!(matches!(error, LockError::Directory { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&format!("process {}", std::process::id())) && text.contains("end that daemon"),
        "{text}"
    );
    drop(held);
    DirLock::take(&path).expect("free again");
}

#[test]
fn a_new_directory_is_its_owners_only() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("data");
    let _held = DirLock::take(&path).expect("free");
    let mode = |path| std::fs::metadata(path).expect("it was made").permissions().mode() & 0o777;
    assert_eq!((mode(path.clone()), mode(path.join("lock"))), (0o700, 0o600));
}

#[test]
fn a_program_that_the_holder_started_does_not_hold_the_directory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let held = DirLock::take(directory.path()).expect("free");
    let mut child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
    drop(held);
    let again = DirLock::take(directory.path());
    child.kill().expect("it runs");
    child.wait().expect("a child");
    again.expect("free although the child runs");
}

#[test]
fn a_holder_that_wrote_no_number_is_still_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let held = DirLock::take(directory.path()).expect("free");
    std::fs::write(directory.path().join("lock"), "x".repeat(10_000)).expect("writable");
    let error = DirLock::take(directory.path()).expect_err("held");
    assert!(error.to_string().contains("another process"), "{error}");
    drop(held);
}

#[test]
fn a_file_in_the_place_of_the_directory_is_an_error_with_its_path() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("data");
    std::fs::write(&path, "").expect("writable");
    let error = DirLock::take(&path).expect_err("a file");
    assert!(matches!(error, LockError::File(_)) && error.to_string().contains("/data"), "{error}");
}

#[test]
fn a_patient_process_gets_a_lock_that_is_held_for_a_moment() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("lock");
    let held = FileLock::take(&path, Duration::ZERO).expect("free");
    let begun = Instant::now();
    FileLock::take(&path, Duration::from_millis(100)).expect_err("held all the time");
    assert!(begun.elapsed() >= Duration::from_millis(100));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            drop(held);
        });
        FileLock::take(&path, Duration::from_secs(30)).expect("free in time");
    });
}

#[test]
fn a_waiting_process_gets_the_lock_after_the_one_before() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("lock");
    let order = std::sync::Mutex::new(Vec::new());
    let held = FileLock::wait(&path).expect("free");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _held = FileLock::wait(&path).expect("waited for");
            order.lock().expect("no panic").push("second");
        });
        std::thread::sleep(Duration::from_millis(50));
        order.lock().expect("no panic").push("first");
        drop(held);
    });
    assert_eq!(order.into_inner().expect("no panic"), ["first", "second"]);
}
