//! A loss of power after each system call; [`crate::recorder`] says what can be found then.

use crate::document::Note;
use crate::recorder::{Recorder, State};
use standin_durable::{Document, Documents, Files, Mode};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

const OLD: &[u8] = b"the old content";
const NEW: &[u8] = b"the new content, longer than the old one";

/// What can be found after each of the calls that `change` makes on a directory as `before` made it.
fn losses(before: impl FnOnce(&Path), change: impl FnOnce(Files, &Path)) -> Vec<BTreeSet<State>> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    before(directory.path());
    let recorder = Arc::new(Recorder::of(directory.path()));
    change(Files::with(recorder.clone()), directory.path());
    recorder.states()
}

fn with_old(directory: &Path) {
    std::fs::write(directory.join("f"), OLD).expect("writable");
}

/// Puts a state on disk, for a reader that wants to see files.
fn found_as<T>(state: &State, read: impl FnOnce(&Path) -> T) -> T {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, content) in state {
        std::fs::write(directory.path().join(name), content).expect("writable");
    }
    read(directory.path())
}

#[test]
fn a_replaced_file_is_old_or_new_wherever_the_power_fails() {
    let losses = losses(with_old, |files, directory| {
        files.replace(&directory.join("f"), NEW, Mode::Owner).expect("written");
    });
    let last = losses.len() - 1;
    for (calls, states) in losses.iter().enumerate() {
        for state in states {
            let found = state.get("f").map(Vec::as_slice);
            let old = calls < last && found == Some(OLD);
            assert!(old || found == Some(NEW), "after {calls} calls: {state:?}");
        }
    }
    assert_eq!(losses[last].len(), 1, "what was acknowledged is certain");
}

#[test]
fn a_created_file_is_whole_or_absent_wherever_the_power_fails() {
    let losses = losses(
        |_| {},
        |files, directory| {
            files.create(&directory.join("f"), NEW, Mode::Owner).expect("made");
        },
    );
    let last = losses.len() - 1;
    for (calls, states) in losses.iter().enumerate() {
        for state in states {
            let found = state.get("f").map(Vec::as_slice);
            assert!(
                found == Some(NEW) || (calls < last && found.is_none()),
                "after {calls} calls: {state:?}"
            );
        }
    }
}

#[test]
fn a_removed_file_stays_gone_when_the_power_fails() {
    let losses = losses(with_old, |files, directory| files.remove(&directory.join("f")).expect("removed"));
    assert!(losses.last().expect("calls").iter().all(|state| state.is_empty()));
    assert!(losses.iter().flatten().all(|state| state.get("f").is_none_or(|found| found == OLD)));
}

#[test]
fn a_file_for_this_boot_can_be_torn_when_the_power_fails() {
    let losses = losses(with_old, |files, directory| {
        files.replace_for_this_boot(&directory.join("f"), NEW, Mode::Owner).expect("written");
    });
    // This is why its content must tell of which boot it is; and that the model can find such a thing.
    let torn = |state: &State| state.get("f").is_some_and(|found| found != OLD && found != NEW);
    assert!(losses.iter().flatten().any(torn));
}

#[test]
fn an_acknowledged_line_stays_when_the_power_fails() {
    let mut acknowledged = Vec::new();
    let losses = losses(
        |_| {},
        |files, directory| {
            let mut log = files.append(&directory.join("log"), Mode::Owner).expect("opened");
            log.append(b"first\n").expect("appended");
            log.append(b"second\n").expect("appended");
            // Create, sync of the directory, then write and sync of each.
            acknowledged = vec![(4, &b"first\n"[..]), (6, &b"first\nsecond\n"[..])];
        },
    );
    assert_eq!(losses.len(), 7);
    for (calls, text) in acknowledged {
        for state in losses.iter().skip(calls).flatten() {
            assert!(state["log"].starts_with(text), "after {calls} calls: {state:?}");
        }
    }
}

#[test]
fn a_document_that_was_read_once_is_the_same_after_any_loss_of_power() {
    // A process was killed between the rename and the sync of the directory: the next one sees the new content, and
    // acts on it only when it can not be lost any more.
    let losses = losses(with_old, |files, directory| {
        let path = directory.join("note.json");
        let document = Document::open(files, &path).expect("opened");
        document.read_or_create(|| Note::of("one")).expect("made");
    });
    let last = losses.len() - 1;
    for (calls, states) in losses.iter().enumerate() {
        for state in states {
            let next = found_as(state, |directory| {
                let document = Document::open(Files::default(), directory.join("note.json")).expect("opened");
                document.read_or_create(|| Note::of("two")).expect("nothing is torn")
            });
            assert!(calls < last || next == Note::of("one"), "after {calls} calls: {state:?}");
        }
    }
}

#[test]
fn an_opened_directory_holds_what_it_shows_when_the_power_fails() {
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let notes = Documents::open(Files::default(), elsewhere.path()).expect("opened");
    notes.write("a", &Note::of("new")).expect("written");
    let text = std::fs::read(elsewhere.path().join("a.json")).expect("it is there");

    let directory = tempfile::tempdir().expect("a temporary directory");
    let recorder = Arc::new(Recorder::of(directory.path()));
    let files = Files::with(recorder.clone());
    let certain = || recorder.states().pop().expect("states");
    // All that a process does which is killed between the rename and the sync of the directory.
    let mut staged = files.stage(&directory.path().join("a.json"), Mode::Owner).expect("staged");
    staged.write(&text).expect("written");
    staged.sync().expect("synced");
    staged.publish_for_this_boot().expect("renamed");
    assert!(certain().len() > 1, "nothing is at risk");

    let opened: Documents<Note> = Documents::open(files, directory.path()).expect("opened");
    assert_eq!(opened.read("a").expect("whole"), Some(Note::of("new")));
    assert_eq!(certain(), BTreeSet::from([State::from([("a.json".to_owned(), text)])]));
}
