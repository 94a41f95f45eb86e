use standin_state::{DirLock, StateError};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn a_held_directory_is_refused_and_its_holder_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("data/of/standin");
    let held = DirLock::take(&path).expect("free");
    assert_eq!(held.directory(), path);
    let error = DirLock::take(&path).expect_err("held");
    assert!(matches!(error, StateError::DirectoryHeld { .. }), "{error}");
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
    let mode = std::fs::metadata(&path).expect("it was made").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn what_the_holder_started_does_not_hold_the_directory() {
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
    assert!(matches!(error, StateError::Io { .. }) && error.to_string().contains("/data"), "{error}");
}
