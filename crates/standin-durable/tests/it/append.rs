//! Files that only grow.

use crate::crash::OneFailure;
use standin_durable::faults::Crash;
use standin_durable::{Files, Mode};
use std::sync::Arc;

#[test]
fn an_acknowledged_line_is_there_wherever_the_process_dies() {
    const LINES: [&str; 3] = ["first\n", "second\n", "third\n"];
    for stop in 0.. {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("log");
        let mut acknowledged = String::new();
        if let Ok(mut log) = Files::with(Arc::new(Crash::at(stop))).append(&path, Mode::Owner) {
            for line in LINES {
                if log.append(line.as_bytes()).is_err() {
                    break;
                }
                acknowledged.push_str(line);
            }
            assert_eq!(log.length(), acknowledged.len() as u64);
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found.starts_with(&acknowledged) && LINES.concat().starts_with(&found),
            "{found:?} at {stop}"
        );
        if acknowledged == LINES.concat() {
            return;
        }
        assert!(stop < 100, "it never ends");
    }
}

#[test]
fn after_an_error_nothing_is_appended_until_it_is_opened_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("log");
    let files = Files::with(Arc::new(OneFailure::of("fsync")));
    let mut log = files.append(&path, Mode::Owner).expect("opened");
    assert!(log.append(b"lost?\n").expect_err("the sync fails").uncertain);
    let error = log.append(b"next\n").expect_err("poisoned");
    assert!(error.source.to_string().contains("open it again"), "{}", error.source);
    let mut log = files.append(&path, Mode::Owner).expect("opened again");
    log.append(b"next\n").expect("appended");
    assert_eq!(std::fs::read(&path).expect("it is there"), b"lost?\nnext\n");
    assert_eq!(log.length(), 11);
}
