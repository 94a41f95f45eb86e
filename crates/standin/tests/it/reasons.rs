//! The names of reasons are a contract: `docs/reasons.md` lists them, unique, and no more than there are.

use standin::reasons::rooms;
use standin_model::reason::Room;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The part of the document that follows from the code, room by room.
fn tables(rooms: &[Room]) -> String {
    let mut text = String::new();
    for room in rooms {
        write!(text, "\n## {}\n\n| Reason | Code | When |\n| --- | --- | --- |\n", room.title)
            .expect("a text");
        let mut reasons = room.reasons.to_vec();
        reasons.sort_by_key(|reason| reason.name);
        for reason in reasons {
            let says = reason.says.split_whitespace().collect::<Vec<_>>().join(" ");
            writeln!(text, "| `{}` | {} | {says} |", reason.name, u32::from(reason.code)).expect("a text");
        }
    }
    text
}

#[test]
fn every_reason_is_in_the_document_and_no_other() {
    let mut rooms = rooms();
    rooms.sort_by_key(|room| room.title);
    let path = root().join("docs/reasons.md");
    let text = std::fs::read_to_string(&path).expect("the document");
    let (head, found) = text.split_at(text.find("\n## ").unwrap_or(text.len()));
    let wanted = tables(&rooms);
    if found != wanted && std::env::var_os("STANDIN_WRITE_DOCS").is_some() {
        return std::fs::write(&path, format!("{head}{wanted}")).expect("the document is written");
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (found_lines, wanted_lines) = (lines(found), lines(&wanted));
    let missing: Vec<_> = wanted_lines.difference(&found_lines).collect();
    let stale: Vec<_> = found_lines.difference(&wanted_lines).collect();
    assert!(
        found == wanted,
        "docs/reasons.md is not what the code says; STANDIN_WRITE_DOCS=1 writes it\nmissing {missing:#?}\nstale {stale:#?}"
    );
}

#[test]
fn a_name_means_one_thing_and_a_program_can_write_it() {
    let mut seen = BTreeSet::new();
    for reason in rooms().iter().flat_map(|room| room.reasons) {
        assert!(seen.insert(reason.name), "{} is there twice", reason.name);
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let words = reason.name.split('_').all(|part| !part.is_empty() && part.chars().all(word));
        assert!(words && reason.name.len() <= 64, "{} is no name", reason.name);
        assert!(reason.says.trim_end().ends_with('.'), "{}: no sentence: {}", reason.name, reason.says);
    }
}

/// A room that nobody lists would be missing from the document without a word.
#[test]
fn every_enum_of_reasons_is_in_a_list_of_rooms() {
    let mut declared = 0;
    let mut directories = vec![root().join("crates")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("the sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && path.iter().any(|part| part == "src")
            {
                let text = std::fs::read_to_string(&path).expect("a source");
                declared += text.lines().filter(|line| *line == "reasons! {").count();
            }
        }
    }
    assert_eq!(declared, rooms().len());
}
