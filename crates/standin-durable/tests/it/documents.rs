//! A directory of documents.

use crate::document::{Note, SecondFailure};
use standin_durable::faults::Crash;
use standin_durable::{DocumentError, Documents, Files};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

fn open(directory: &Path) -> Documents<Note> {
    Documents::open(Files::default(), directory).expect("opened")
}

#[test]
fn all_that_were_written_are_listed_by_name() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let directory = home.path().join("notes/of/mine");
    let notes = open(&directory);
    for name in ["b", "a", "c"] {
        notes.write(name, &Note::of(name)).expect("written");
    }
    notes.write("a", &Note::of("anew")).expect("replaced");
    notes.remove("c").expect("removed");
    notes.remove("never").expect("not there");
    let error = notes.create("a", &Note::of("x")).expect_err("there");
    assert!(matches!(error, DocumentError::Exists { .. }), "{error}");
    let listed: Vec<_> = open(&directory)
        .list()
        .expect("listed")
        .into_iter()
        .map(|listed| (listed.name, listed.content.expect("whole").text))
        .collect();
    assert_eq!(listed, [("a".into(), "anew".into()), ("b".to_owned(), "b".to_owned())]);
    assert_eq!(open(&directory).read("c").expect("nothing"), None);
    let mode = std::fs::metadata(&directory).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_bad_file_is_named_and_hides_no_other() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let notes = open(home.path());
    notes.write("good", &Note::of("good")).expect("written");
    notes.write("torn", &Note::of("torn")).expect("written");
    let torn = home.path().join("torn.json");
    let whole = std::fs::read(&torn).expect("it is there");
    std::fs::write(&torn, &whole[..whole.len() / 2]).expect("writable");
    std::fs::write(home.path().join("notes.txt"), "mine").expect("writable");
    std::fs::create_dir(home.path().join("sub.json")).expect("a directory");
    let listed = notes.list().expect("listed");
    let names: Vec<&str> = listed.iter().map(|listed| listed.name.as_str()).collect();
    assert_eq!(names, ["good", "notes.txt", "sub", "torn"]);
    for entry in &listed {
        match (&entry.content, entry.name.as_str()) {
            (Ok(note), "good") => assert_eq!(note, &Note::of("good")),
            (Err(error @ DocumentError::Damaged { .. }), "torn")
            | (Err(error @ DocumentError::Foreign { .. }), "notes.txt" | "sub") => {
                let text = error.to_string();
                assert!(text.contains(&entry.name) && text.contains("write the note again"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_name_that_could_leave_the_directory_is_refused() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let notes = open(&home.path().join("notes"));
    for bad in ["", ".", "..", "../x", "a/b", "a.part", "a\0", &"x".repeat(129)] {
        let error = notes.write(bad, &Note::of("x")).expect_err(bad);
        assert!(matches!(error, DocumentError::Name { .. }), "{error}");
        notes.read(bad).expect_err(bad);
        notes.remove(bad).expect_err(bad);
    }
    assert_eq!(std::fs::read_dir(home.path()).expect("a directory").count(), 1);
}

#[test]
fn a_document_of_many_is_old_or_new_after_a_crash_at_every_step() {
    for stop in 0.. {
        let home = tempfile::tempdir().expect("a temporary directory");
        let directory = home.path().join("notes");
        open(&directory).write("a", &Note::of("old")).expect("written");
        let files = Files::with(Arc::new(Crash::at(stop)));
        let outcome = Documents::open(files, &directory).and_then(|notes| {
            notes.write("a", &Note::of("new"))?;
            notes.write("b", &Note::of("new"))?;
            notes.remove("a")
        });
        let listed = open(&directory).list().expect("listed");
        let found: Vec<_> = listed
            .into_iter()
            .map(|listed| (listed.name, listed.content.expect("no file is torn").text))
            .collect();
        let found: Vec<_> = found.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let states: [&[(&str, &str)]; 4] =
            [&[("a", "old")], &[("a", "new")], &[("a", "new"), ("b", "new")], &[("b", "new")]];
        assert!(states.contains(&&found[..]), "at stop {stop}: {found:?}");
        let left = std::fs::read_dir(&directory).expect("a directory").count();
        assert_eq!(left, found.len(), "something was left at stop {stop}");
        if outcome.is_ok() {
            assert_eq!(found, states[3]);
            return;
        }
        assert!(stop < 100, "it never ends");
    }
}

#[test]
fn after_a_change_that_may_not_be_durable_the_directory_is_silent() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let files = Files::with(Arc::new(SecondFailure::of("fsync directory")));
    let notes: Documents<Note> = Documents::open(files, home.path()).expect("opened");
    notes.write("a", &Note::of("a")).expect_err("the disk fails");
    let error = notes.list().expect_err("poisoned");
    assert!(error.to_string().contains("restart the daemon"), "{error}");
    notes.write("b", &Note::of("b")).expect_err("poisoned");
    open(home.path()).write("b", &Note::of("b")).expect("opened anew it can be written");
}
