//! Documents: what is read is what was written, or an error that says what to do.

use crate::crash::OneFailure;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use standin_durable::faults::Crash;
use standin_durable::{Content, Document, DocumentError, Files, Upgrade};
use std::path::Path;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    pub text: String,
    pub count: u64,
}

impl Note {
    pub fn of(text: &str) -> Self {
        Self { text: text.into(), count: u64::MAX }
    }
}

impl Content for Note {
    const KIND: &'static str = "note";
    const VERSION: u32 = 3;
    const IF_LOST: &'static str = "write the note again";
    const LIMIT: u64 = 4096;
    const UPGRADES: &'static [Upgrade] = &[
        |body| Ok(json!({ "text": body["text"], "count": 0 })),
        |body| {
            let count = body["count"].as_u64().ok_or("the count is no number")?;
            Ok(json!({ "text": body["text"], "count": count + 100 }))
        },
    ];
    const WITHOUT_ENVELOPE: Option<Upgrade> = Some(|body| match body {
        Value::Object(mut fields) => Ok(json!({ "text": fields.remove("words") })),
        _ => Err("it is no object".to_owned()),
    });
}

/// As two builds before wrote it.
#[derive(Debug, Serialize, Deserialize)]
struct FirstNote {
    text: String,
}

impl Content for FirstNote {
    const KIND: &'static str = "note";
    const VERSION: u32 = 1;
    const IF_LOST: &'static str = "write the note again";
}

/// Another kind of document.
#[derive(Debug, Serialize, Deserialize)]
struct Letter {
    text: String,
}

impl Content for Letter {
    const KIND: &'static str = "letter";
    const VERSION: u32 = 1;
    const IF_LOST: &'static str = "ask for the letter again";
}

fn open<T: Content>(path: &Path) -> Document<T> {
    Document::open(Files::default(), path).expect("the directory is there")
}

fn in_a_directory(test: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    test(&directory.path().join("note.json"));
}

#[test]
fn a_written_document_is_read_by_the_next_process() {
    in_a_directory(|path| {
        assert_eq!(open::<Note>(path).read().expect("nothing"), None);
        open::<Note>(path).write(&Note::of("one")).expect("written");
        open::<Note>(path).write(&Note::of("two")).expect("written");
        assert_eq!(open::<Note>(path).read().expect("whole"), Some(Note::of("two")));
        open::<Note>(path).remove().expect("removed");
        assert_eq!(open::<Note>(path).read().expect("nothing"), None);
    });
}

#[test]
fn a_document_is_made_once_and_only_read_from_then_on() {
    in_a_directory(|path| {
        let made = open::<Note>(path).read_or_create(|| Note::of("one")).expect("made");
        let found = open::<Note>(path).read_or_create(|| Note::of("two")).expect("found");
        assert_eq!((made, found), (Note::of("one"), Note::of("one")));
        let error = open::<Note>(path).create(&Note::of("three")).expect_err("it is there");
        assert!(matches!(error, DocumentError::Exists { .. }), "{error}");
    });
}

#[test]
fn all_that_make_a_document_at_once_get_the_same() {
    in_a_directory(|path| {
        let got: Vec<Note> = std::thread::scope(|scope| {
            let make =
                |number| scope.spawn(move || open(path).read_or_create(|| Note::of(&format!("{number}"))));
            let makers: Vec<_> = (0..8).map(make).collect();
            makers.into_iter().map(|maker| maker.join().expect("no panic").expect("made or found")).collect()
        });
        let kept = open::<Note>(path).read().expect("whole").expect("there");
        assert!(got.iter().all(|note| *note == kept), "{got:?}");
    });
}

#[test]
fn a_document_is_the_same_after_a_crash_at_every_step() {
    for stop in 0.. {
        let mut done = false;
        in_a_directory(|path| {
            let crash = Files::with(Arc::new(Crash::at(stop)));
            let made = Document::open(crash, path).and_then(|one| one.read_or_create(|| Note::of("one")));
            done = made.is_ok();
            let next = open::<Note>(path).read_or_create(|| Note::of("two")).expect("made or found");
            if done {
                assert_eq!(next, Note::of("one"));
            }
            assert_eq!(open::<Note>(path).read().expect("whole"), Some(next));
        });
        if done {
            return;
        }
        assert!(stop < 100, "it never ends");
    }
}

#[test]
fn the_file_is_json_that_a_person_can_read() {
    in_a_directory(|path| {
        open::<Note>(path).write(&Note::of("for people")).expect("written");
        let text = std::fs::read_to_string(path).expect("text");
        let file: Value = serde_json::from_str(&text).expect("JSON as a whole");
        assert_eq!(file["format"], "standin note");
        assert_eq!(file["version"], 3);
        assert_eq!(file["body"]["text"], "for people");
        assert!(text.lines().count() > 3, "{text}");
    });
}

#[test]
fn every_cut_and_every_flipped_bit_is_damage() {
    in_a_directory(|path| {
        open::<Note>(path).write(&Note::of("one")).expect("written");
        let whole = std::fs::read(path).expect("it is there");
        let check = |changed: &[u8], how: &str| {
            std::fs::write(path, changed).expect("writable");
            let error = open::<Note>(path).read().expect_err(how);
            let text = error.to_string();
            assert!(!matches!(error, DocumentError::Newer { .. } | DocumentError::File(_)), "{how}: {text}");
            assert!(text.contains("note.json") && text.contains("write the note again"), "{how}: {text}");
        };
        for length in 0..whole.len() {
            check(&whole[..length], &format!("cut at {length}"));
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                check(&changed, &format!("bit {bit} of byte {at}"));
            }
        }
        check(&[&whole[..], b"\n"].concat(), "something behind it");
        std::fs::write(path, &whole).expect("writable");
        assert_eq!(open::<Note>(path).read().expect("whole"), Some(Note::of("one")));
    });
}

#[test]
fn an_older_version_is_upgraded_step_by_step() {
    in_a_directory(|path| {
        open::<FirstNote>(path).write(&FirstNote { text: "old".into() }).expect("written");
        let upgraded = Note { text: "old".into(), count: 100 };
        assert_eq!(open::<Note>(path).read().expect("upgraded"), Some(upgraded.clone()));
        let before = std::fs::read(path).expect("it is there");
        assert!(!before.windows(11).any(|w| w == b"\"version\":3"), "reading has written");
        open::<Note>(path).write(&upgraded).expect("written");
        assert_eq!(open::<Note>(path).read().expect("whole"), Some(upgraded));
    });
}

#[test]
fn a_file_from_before_the_envelope_is_taken_up() {
    in_a_directory(|path| {
        std::fs::write(path, "{\n  \"words\": \"bare\"\n}\n").expect("writable");
        let note = open::<Note>(path).read().expect("taken up");
        assert_eq!(note, Some(Note { text: "bare".into(), count: 100 }));
        std::fs::write(path, "[]").expect("writable");
        let error = open::<Note>(path).read().expect_err("not one");
        assert!(matches!(error, DocumentError::Damaged { .. }), "{error}");
    });
}

#[test]
fn a_newer_version_is_refused_with_the_way_out() {
    in_a_directory(|path| {
        open::<Note>(path).write(&Note::of("new")).expect("written");
        let error = open::<FirstNote>(path).read().expect_err("newer");
        assert!(matches!(error, DocumentError::Newer { found: 3, known: 1, .. }), "{error}");
        assert!(error.to_string().contains("start the newer standin"), "{error}");
    });
}

#[test]
fn a_document_of_another_kind_and_what_is_none_are_foreign() {
    in_a_directory(|path| {
        open::<Note>(path).write(&Note::of("one")).expect("written");
        let foreign = |how: &str| {
            let error = open::<Letter>(path).read().expect_err(how);
            assert!(matches!(error, DocumentError::Foreign { .. }), "{how}: {error}");
            let text = error.to_string();
            assert!(
                text.contains("move it elsewhere") && text.contains("ask for the letter again"),
                "{text}"
            );
        };
        foreign("another kind");
        std::fs::write(path, "dear sir").expect("writable");
        foreign("no document");
        std::fs::write(path, vec![b'{'; 2 << 20]).expect("writable");
        foreign("too large");
        std::fs::remove_file(path).expect("removable");
        std::fs::create_dir(path).expect("a directory");
        foreign("a directory");
    });
}

#[test]
fn a_value_that_could_not_be_read_back_is_not_written() {
    in_a_directory(|path| {
        open::<Note>(path).write(&Note::of("one")).expect("written");
        let error = open::<Note>(path).write(&Note::of(&"x".repeat(5000))).expect_err("too large");
        assert!(error.to_string().contains("4096"), "{error}");
        assert_eq!(open::<Note>(path).read().expect("whole"), Some(Note::of("one")));
    });
}

#[test]
fn after_a_change_that_may_not_be_durable_a_document_is_silent() {
    in_a_directory(|path| {
        open::<Note>(path).write(&Note::of("one")).expect("written");
        for (step, changed) in [("fsync", false), ("rename", false), ("fsync directory", true)] {
            let document = open::<Note>(path);
            let document = if changed {
                drop(document);
                // The first sync of the directory is that of the opening.
                Document::open(Files::with(Arc::new(SecondFailure::of(step))), path).expect("opened")
            } else {
                Document::open(Files::with(Arc::new(OneFailure::of(step))), path).expect("opened")
            };
            document.write(&Note::of(step)).expect_err("the disk fails");
            assert_eq!(document.read().is_err(), changed, "{step}");
            assert_eq!(document.write(&Note::of("two")).is_err(), changed, "{step}");
        }
        open::<Note>(path).write(&Note::of("three")).expect("opened anew it can be written");
    });
}

/// Fails the second call of a name.
#[derive(Debug)]
pub struct SecondFailure {
    name: &'static str,
    seen: std::sync::atomic::AtomicU64,
}

impl SecondFailure {
    pub fn of(name: &'static str) -> Self {
        Self { name, seen: 0.into() }
    }
}

impl standin_durable::faults::Faults for SecondFailure {
    fn before(&self, step: &standin_durable::faults::Step<'_>) -> standin_durable::faults::Verdict {
        use standin_durable::faults::Verdict;
        let seen = &self.seen;
        if step.name() == self.name && seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1 {
            return Verdict::Fail(rustix::io::Errno::IO.into());
        }
        Verdict::Go
    }
}
