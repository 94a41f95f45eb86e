//! The page docs/vm-definition.md has every key of a definition with its default, and nothing that is not there.
//! The keys are asked of the parser itself, so that a new one cannot be forgotten here.

use super::VmDefinition;
use std::collections::{BTreeMap, BTreeSet};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vm-definition.md");

/// The smallest definition that has every table.
const SMALLEST: &str = r#"
name = "a"
memory_mib = 64
[firmware]
code = "/code"
[[disks]]
name = "d"
file = "/d"
format = "qcow2"
backing = { socket = "/s", export = "e" }
[[nics]]
name = "n"
"#;

/// Headings of the page with the text behind which a key of that table can be put, and where it is in a definition.
const TABLES: [(&str, &str, &str); 5] = [
    ("## The VM", "memory_mib = 64\n", ""),
    ("## [firmware]", "[firmware]\n", "/firmware"),
    ("## [[disks]]", "[[disks]]\n", "/disks/0"),
    ("### backing", "backing = { ", "/disks/0/backing"),
    ("## [[nics]]", "[[nics]]\n", "/nics/0"),
];

fn page() -> String {
    std::fs::read_to_string(FILE).expect("the page")
}

/// The rows of the table below a heading, as cells: key, type, default, on the replica, what it is.
fn rows(page: &str, heading: &str) -> BTreeMap<String, Vec<String>> {
    let section = page.lines().skip_while(|line| *line != heading).skip(1);
    let table = section.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells =
        table.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect());
    let rows = cells.filter(|cells: &Vec<String>| cells[0].starts_with('`'));
    rows.map(|cells| (cells[0].trim_matches('`').to_owned(), cells)).collect()
}

/// What the parser says it would have taken where something else is put.
fn expected(find: &str, replace: &str) -> BTreeSet<String> {
    assert_eq!(SMALLEST.matches(find).count(), 1, "{find:?}");
    let text = SMALLEST.replace(find, replace);
    let error = toml::from_str::<VmDefinition>(&text).expect_err("it is wrong").message().to_owned();
    let (_, list) = error.split_once("expected").unwrap_or_else(|| panic!("{error}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_key_is_on_the_page_and_every_row_is_a_key() {
    let page = page();
    toml::from_str::<VmDefinition>(SMALLEST).expect("the smallest definition is one");
    for (heading, before, _) in TABLES {
        let end = if before.ends_with('\n') { "\n" } else { ", " };
        let keys = expected(before, &format!("{before}unheard_of = 1{end}"));
        let documented: BTreeSet<String> = rows(&page, heading).into_keys().collect();
        assert!(keys.len() > 1 && documented == keys, "{heading}: {documented:?} instead of {keys:?}");
    }
}

#[test]
fn every_row_says_type_default_limits_and_what_travels() {
    let page = page();
    for (heading, _, _) in TABLES {
        for (key, cells) in rows(&page, heading) {
            assert_eq!(cells.len(), 5, "{heading} {key}: {cells:?}");
            assert!(cells.iter().all(|cell| !cell.is_empty()), "{heading} {key}: {cells:?}");
            let travels = ["travels", "changed", "stays"].contains(&cells[3].as_str());
            assert!(travels, "{heading} {key} {:?}", cells[3]);
        }
    }
}

#[test]
fn the_defaults_of_the_page_are_those_of_the_parser() {
    let page = page();
    let smallest: VmDefinition = toml::from_str(SMALLEST).expect("valid");
    let filled = serde_json::to_value(&smallest).expect("as values");
    let mut checked = 0;
    for (heading, _, place) in TABLES {
        for (key, cells) in rows(&page, heading) {
            let found = filled.pointer(&format!("{place}/{key}"));
            let given =
                SMALLEST.contains(&format!("{key} = ")) || ["firmware", "disks", "nics"].contains(&&*key);
            match cells[2].as_str() {
                "required" => assert!(given, "{heading} {key} is not needed"),
                "made up" => assert!(!given, "{heading} {key}"),
                "none" => assert!(given || found.is_none_or(serde_json::Value::is_null), "{key}: {found:?}"),
                "`[]`" => assert!(given || found.is_none(), "{key}: {found:?}"),
                default => {
                    let shown = found.map(|value| format!("`{value}`"));
                    assert_eq!(shown.as_deref(), Some(default), "{heading} {key}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked >= 8, "only {checked} defaults were compared");
}

#[test]
fn every_word_that_a_key_takes_is_in_its_row() {
    let page = page();
    for (heading, key, before) in [
        ("## The VM", "accelerator", "memory_mib = 64\n"),
        ("## [[disks]]", "bus", "[[disks]]\n"),
        ("## [[nics]]", "kind", "[[nics]]\n"),
    ] {
        let words = expected(before, &format!("{before}{key} = \"unheard-of\"\n"));
        let row = &rows(&page, heading)[key][4];
        assert!(
            words.len() > 1 && words.iter().all(|word| row.contains(&format!("`\"{word}\"`"))),
            "{words:?}: {row}"
        );
    }
    let words = expected("format = \"qcow2\"", "format = \"unheard-of\"");
    let row = &rows(&page, "## [[disks]]")["format"][4];
    assert!(
        words.len() > 1 && words.iter().all(|word| row.contains(&format!("`\"{word}\"`"))),
        "{words:?}: {row}"
    );
}

#[test]
fn the_examples_of_the_page_are_definitions() {
    let page = page();
    let examples: Vec<&str> =
        page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        VmDefinition::from_toml(example).expect("a valid example");
    }
}
