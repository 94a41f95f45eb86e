//! Finds what a person named by the beginning of an id. Pure.

use super::types::invalid;
use standin_model::view::PointView;
use standin_model::{PointId, Refusal, ReturnCode};
use std::fmt::Display;

/// Fewer letters of an id than this are a guess, not a name.
const MIN_PREFIX: usize = 4;

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
    let shown: String = text.chars().take(64).collect();
    let wanted = text.to_ascii_lowercase();
    let mut fitting = ids.into_iter().filter(|id| id.to_string().starts_with(&wanted));
    if wanted.len() < MIN_PREFIX {
        return Err(invalid(
            format!("{shown:?} is too short to be the id of one {what}"),
            format!("Give at least {MIN_PREFIX} characters of the id; `{list}` shows them."),
        ));
    }
    match (fitting.next(), fitting.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err(Refusal::new(
            ReturnCode::FileNotFound,
            format!("there is no {what} {shown:?}"),
            format!("`{list}` shows what there is."),
        )),
        (Some(_), Some(_)) => Err(invalid(
            format!("{shown:?} begins the ids of more than one {what}"),
            format!("Give more of the id; `{list}` shows them in full."),
        )),
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
            return Err(Refusal::new(
                ReturnCode::FileNotFound,
                format!("{vm} has no recovery point of epoch {epoch}"),
                format!("`standin points {vm}` shows the points there are."),
            ));
        }
    }
    by_prefix(text, points.iter().map(|point| point.id), "recovery point", &format!("standin points {vm}"))
        .map(Some)
}
