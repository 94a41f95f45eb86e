//! Modes, temporary names, directories, and several writers at once.

use standin_durable::{Files, Mode};
use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn a_secret_is_its_owners_only_whatever_was_there_before() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("host.key");
    for left in [&path, &directory.path().join("host.key.part")] {
        std::fs::write(left, "for everybody").expect("writable");
        std::fs::set_permissions(left, std::fs::Permissions::from_mode(0o644)).expect("ours");
    }
    Files::default().replace(&path, b"secret", Mode::Owner).expect("written");
    assert_eq!(mode(&path), 0o600);
    Files::default().replace(&path, b"public", Mode::Everybody).expect("written");
    assert_eq!(mode(&path) & 0o600, 0o600);
    assert!(mode(&path) & !0o644 == 0, "{:o}", mode(&path));
}

#[test]
fn a_secret_is_not_written_into_a_file_that_somebody_has_open() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let part = directory.path().join("host.key.part");
    std::fs::write(&part, "").expect("writable");
    let mut watcher = std::fs::File::open(&part).expect("readable");
    Files::default().replace(&directory.path().join("host.key"), b"secret", Mode::Owner).expect("written");
    let mut seen = String::new();
    std::io::Read::read_to_string(&mut watcher, &mut seen).expect("readable");
    assert_eq!(seen, "");
}

#[test]
fn a_link_in_the_place_of_the_temporary_file_is_not_followed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let elsewhere = directory.path().join("elsewhere");
    std::fs::write(&elsewhere, "untouched").expect("writable");
    std::os::unix::fs::symlink(&elsewhere, directory.path().join("f.part")).expect("a link");
    Files::default().replace(&directory.path().join("f"), b"new", Mode::Owner).expect("written");
    assert_eq!(std::fs::read(&elsewhere).expect("it is there"), b"untouched");
    assert_eq!(std::fs::read(directory.path().join("f")).expect("it is there"), b"new");
}

#[test]
fn many_writers_of_one_file_never_mix_their_contents() {
    const WRITERS: u8 = 8;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("f");
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..20 {
                    Files::default().replace(path, &vec![writer; 50_000], Mode::Owner).expect("written");
                    let found = std::fs::read(path).expect("it is there");
                    let kinds: HashSet<u8> = found.iter().copied().collect();
                    assert!(found.len() == 50_000 && kinds.len() == 1, "{} bytes, {kinds:?}", found.len());
                }
            });
        }
    });
    let left = std::fs::read_dir(directory.path()).expect("a directory").count();
    assert_eq!(left, 1);
}

#[test]
fn of_many_that_create_one_file_exactly_one_succeeds() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("f");
    let created: Vec<u8> = std::thread::scope(|scope| {
        let attempts: Vec<_> = (0..8)
            .map(|writer| {
                let path = &path;
                scope.spawn(move || match Files::default().create(path, &[writer], Mode::Owner) {
                    Ok(()) => Some(writer),
                    Err(error) => {
                        assert!(error.exists(), "{error}: {}", error.source);
                        None
                    }
                })
            })
            .collect();
        attempts.into_iter().filter_map(|attempt| attempt.join().expect("no panic")).collect()
    });
    assert_eq!(created.len(), 1);
    assert_eq!(std::fs::read(&path).expect("it is there"), created);
}

#[test]
fn a_recovery_lets_a_file_be_that_is_being_written() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("f");
    let mut staged = Files::default().stage(&path, Mode::Owner).expect("staged");
    staged.write(b"whole").expect("written");
    Files::default().recover_directory(directory.path()).expect("recoverable");
    Files::default().recover(&path).expect("recoverable");
    staged.publish().expect("published");
    assert_eq!(std::fs::read(&path).expect("it is there"), b"whole");
}

#[test]
fn a_staged_file_that_is_dropped_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut staged = Files::default().stage(&directory.path().join("f"), Mode::Owner).expect("staged");
    staged.write(b"half").expect("written");
    drop(staged);
    assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0);
}

#[test]
fn a_removal_of_what_is_not_there_succeeds() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    Files::default().remove(&directory.path().join("f")).expect("gone already");
    Files::default().remove(&directory.path().join("missing/f")).expect("gone already");
}

#[test]
fn directories_are_made_for_whom_they_are_meant() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("a/b/c");
    Files::default().make_directory(&path, Mode::Owner).expect("made");
    Files::default().make_directory(&path, Mode::Owner).expect("there already");
    assert_eq!((mode(&path), mode(&directory.path().join("a"))), (0o700, 0o700));
    Files::default().make_directory(&directory.path().join("run/x"), Mode::Everybody).expect("made");
    assert!(mode(&directory.path().join("run")) & !0o755 == 0);
    std::fs::write(path.join("f"), "").expect("writable");
    let error =
        Files::default().make_directory(&path.join("f/g"), Mode::Owner).expect_err("a file is in the way");
    assert!(error.path.starts_with(path.join("f")), "{error}");
}

#[test]
fn a_file_named_without_its_directory_is_in_the_current_one() {
    // Cargo runs tests in the crate's directory.
    let name = Path::new("no-such-file-of-these-tests");
    Files::default().recover(name).expect("the current directory can be synced");
    Files::default().remove(name).expect("gone already");
}
