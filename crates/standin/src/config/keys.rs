//! Unknown keys and wrong types, told with the line and what was probably meant. Pure.
//!
//! The list of keys is kept here beside serde's own, because serde's error has neither the path of the key nor a
//! suggestion; `tests.rs` proves that the two lists are the same.

use toml::de::{DeTable, DeValue};

/// The keys of each table; `""` is the file itself, whose tables are keys too.
pub(super) const KEYS: [(&str, &[&str]); 8] = [
    (
        "",
        &[
            "host_name",
            "data_dir",
            "runtime_dir",
            "socket",
            "socket_group",
            "listen",
            "pki_dir",
            "replica_storage",
            "scratch_dir",
            "tls",
            "log",
            "limits",
            "qemu",
            "fence",
            "monitoring",
            "management",
            "network_map",
        ],
    ),
    ("tls", &["certificate", "key", "trust"]),
    ("log", &["level", "format"]),
    ("limits", &["max_cycles", "merge_rate", "scratch_reserve", "shutdown_grace"]),
    ("qemu", &["binary", "kvm"]),
    (
        "fence",
        &["when_peer_is_silent", "start_over_running_primary", "when_both_run", "witness", "fence_command"],
    ),
    ("monitoring", &["start", "interval"]),
    (
        "management",
        &[
            "listen",
            "wsman_http",
            "wsman_https",
            "cimxml_http",
            "cimxml_https",
            "certificate",
            "key",
            "client_trust",
            "users",
            "audit_log",
            "keytab",
            "allow_basic_over_http",
            "allow_unsealed_over_http",
            "negotiate",
            "max_connections",
            "max_connections_per_address",
            "max_request_kib",
        ],
    ),
];

/// Tables with keys of the operator's choice.
const MAPS: [&str; 1] = ["network_map"];

/// Checks that `text` is TOML and that every key is known.
///
/// # Errors
/// The line (from 1) and a sentence.
pub(super) fn check(text: &str) -> Result<(), (usize, String)> {
    let table = DeTable::parse(text).map_err(|error| {
        (line_of(text, error.span().map_or(0, |span| span.start)), describe(text, &error))
    })?;
    check_table(text, "", table.get_ref())
}

fn check_table(text: &str, name: &str, table: &DeTable<'_>) -> Result<(), (usize, String)> {
    let known = KEYS.iter().find(|(table, _)| *table == name).map_or(&[][..], |(_, keys)| keys);
    for (key, value) in table {
        if !known.contains(&key.get_ref().as_ref()) {
            return Err((line_of(text, key.span().start), unknown(name, key.get_ref(), known)));
        }
        // The keys of a map are names of the operator's own.
        if let (true, DeValue::Table(inner)) =
            (name.is_empty() && !MAPS.contains(&key.get_ref().as_ref()), value.get_ref())
        {
            check_table(text, key.get_ref(), inner)?;
        }
    }
    Ok(())
}

fn unknown(table: &str, key: &str, known: &[&str]) -> String {
    let shown: String = key.chars().take(64).collect();
    let place = if table.is_empty() { String::new() } else { format!(" in [{table}]") };
    // A key that another table has was probably written one table too late.
    let elsewhere = KEYS.iter().find(|(other, keys)| *other != table && keys.contains(&key));
    let advice = match (nearest(key, known), elsewhere) {
        (_, Some(("", _))) => "it belongs to the top of the file, before the first [table]".to_owned(),
        (_, Some((other, _))) => format!("it belongs to [{other}]"),
        (Some(near), None) => format!("did you mean {near:?}?"),
        (None, None) => format!("valid keys here are {}", known.join(", ")),
    };
    format!("unknown key {shown:?}{place}; {advice}")
}

/// The known key that a slip of the pen turns into `key`, if one is near enough.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    if key.len() > 64 {
        return None;
    }
    let bound = (key.len() / 3).max(2);
    let ranked = known.iter().map(|candidate| (distance(key, candidate), *candidate));
    ranked
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= bound)
        .map(|(_, key)| key)
}

/// Letters to insert, remove or replace to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The line of a byte offset, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The parser's complaint in one line, with the source it is about.
pub(super) fn describe(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().and_then(|span| text.lines().nth(line_of(text, span.start) - 1));
    // serde speaks of Rust's types, people do not.
    let message = error.message().lines().collect::<Vec<_>>().join(" ").replace("usize", "a whole number");
    match line.map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => format!("{message}, in `{}`", line.chars().take(120).collect::<String>()),
        None => message,
    }
}
