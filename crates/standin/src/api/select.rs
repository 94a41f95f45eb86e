//! Finds what a person named by the beginning of an id. Pure.

use super::reason::Select;
use standin_model::view::{AuthView, PointView};
use standin_model::{AuthId, PointId, Refusal};
use std::fmt::Display;

/// Fewer letters of an id than this are a guess, not a name.
const MIN_PREFIX: usize = 4;

/// So many entries fit into a sentence.
const SHOWN: usize = 8;

/// The one id of `ids` that `text` is, or begins. `what` and `list` name the thing and the verb that lists it.
///
/// # Errors
/// 32779 when there is none, 32773 when `text` is too short or fits several.
pub(super) fn by_prefix<I: Display + Copy>(
    text: &str,
    ids: impl IntoIterator<Item = I>,
    what: &str,
    list: &str,
) -> Result<I, Refusal> {
    let wanted = text.to_ascii_lowercase();
    let mut fitting = ids.into_iter().filter(|id| id.to_string().starts_with(&wanted));
    if wanted.len() < MIN_PREFIX {
        return Err(Select::TooShort {
            what: what.to_owned(),
            text: text.to_owned(),
            least: MIN_PREFIX,
            list: list.to_owned(),
        }
        .into());
    }
    match (fitting.next(), fitting.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => {
            Err(Select::NoId { what: what.to_owned(), text: text.to_owned(), list: list.to_owned() }.into())
        }
        (Some(_), Some(_)) => {
            Err(Select::SeveralIds { what: what.to_owned(), text: text.to_owned(), list: list.to_owned() }
                .into())
        }
    }
}

/// The authorization entry that `text` names: by the hosts that it admits, as `standin auth add` took them, by its id, or
/// by the beginning of that.
///
/// # Errors
/// 32779 when there is none, 32773 when it fits several; both say what there is.
pub(super) fn entry(text: &str, entries: &[AuthView]) -> Result<AuthId, Refusal> {
    let host = text.strip_suffix('.').filter(|host| !host.is_empty()).unwrap_or(text);
    let by_host = |entry: &&AuthView| entry.allowed_primary.eq_ignore_ascii_case(host);
    let begins = text.to_ascii_lowercase();
    let by_id = |entry: &&AuthView| begins.len() >= MIN_PREFIX && entry.id.to_string().starts_with(&begins);
    let fitting: Vec<&AuthView> = entries.iter().filter(|entry| by_host(entry) || by_id(entry)).collect();
    match fitting[..] {
        [one] => Ok(one.id),
        [] => Err(Select::NoEntry { text: text.to_owned(), there_is: there_is(entries.iter()) }.into()),
        _ => {
            Err(Select::SeveralEntries { text: text.to_owned(), there_is: there_is(fitting.iter().copied()) }
                .into())
        }
    }
}

fn there_is<'a>(entries: impl ExactSizeIterator<Item = &'a AuthView>) -> String {
    let more = entries.len().saturating_sub(SHOWN);
    let shown: Vec<String> =
        entries.take(SHOWN).map(|entry| format!("{} ({})", entry.allowed_primary, entry.id)).collect();
    match (shown.is_empty(), more) {
        (true, _) => "there are none".to_owned(),
        (false, 0) => format!("there is {}", shown.join(", ")),
        (false, more) => format!("there is {}, and {more} more", shown.join(", ")),
    }
}

/// The point that `text` names: an id or the beginning of one, an epoch, or `latest` (which is `None`).
///
/// A number is an epoch if there is a point of that epoch, and otherwise the beginning of an id.
///
/// # Errors
/// As [`by_prefix`].
pub(super) fn point(text: &str, vm: &str, points: &[PointView]) -> Result<Option<PointId>, Refusal> {
    if text.eq_ignore_ascii_case("latest") {
        return Ok(None);
    }
    if let Ok(epoch) = text.parse::<u64>() {
        if let Some(point) = points.iter().find(|point| point.epoch.0 == epoch) {
            return Ok(Some(point.id));
        }
        if text.len() < MIN_PREFIX {
            return Err(Select::NoEpoch { vm: vm.to_owned(), epoch }.into());
        }
    }
    by_prefix(text, points.iter().map(|point| point.id), "recovery point", &format!("standin points {vm}"))
        .map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use standin_model::ReturnCode;

    fn entry_of(id: &str, hosts: &str) -> AuthView {
        AuthView {
            id: id.parse().expect("an id"),
            allowed_primary: hosts.to_owned(),
            trust_group: "default".to_owned(),
            storage_location: "/r".to_owned(),
        }
    }

    fn entries() -> Vec<AuthView> {
        vec![
            entry_of("beef0000-0000-4000-8000-000000000001", "alpha.example.org"),
            entry_of("cafe0000-0000-4000-8000-000000000002", "*.example.net"),
            entry_of("0fed0000-0000-4000-8000-000000000003", "beef"),
            entry_of("0fed0000-0000-4000-8000-000000000004", "*"),
        ]
    }

    #[test]
    fn an_entry_is_named_by_its_hosts_or_its_id() {
        let entries = entries();
        for (text, index) in [
            ("alpha.example.org", 0),
            ("ALPHA.example.ORG.", 0),
            ("*.example.net", 1),
            ("*", 3),
            ("cafe", 1),
            ("CAFE0000-0000-4000-8000-000000000002", 1),
            ("0fed0000-0000-4000-8000-000000000003", 2),
        ] {
            assert_eq!(entry(text, &entries), Ok(entries[index].id), "{text}");
        }
    }

    #[test]
    fn an_entry_that_is_not_there_is_refused_with_those_that_are() {
        let refusal = entry("gamma", &entries()).expect_err("there is none");
        assert_eq!(refusal.code, ReturnCode::FileNotFound);
        assert!(refusal.message.contains("*.example.net (cafe0000"), "{refusal}");
        let refusal = entry("caf", &entries()).expect_err("too short for an id");
        assert_eq!(refusal.code, ReturnCode::FileNotFound);
        assert!(entry("x", &[]).expect_err("there is none").message.contains("there are none"));
    }

    #[test]
    fn what_fits_several_entries_is_refused_with_those() {
        for text in ["beef", "0fed"] {
            let refusal = entry(text, &entries()).expect_err("ambiguous");
            assert_eq!(refusal.code, ReturnCode::InvalidParameter, "{text}");
            assert!(refusal.message.contains("beef (0fed0000-0000-4000-8000-000000000003)"), "{refusal}");
            assert!(!refusal.message.contains("cafe"), "{refusal}");
        }
    }
}
