//! What `standin store` prints.

use super::table::{Look, finish};
use crate::units;
use standin_model::view::{DirectoryKind, DirectoryView, RepairView};
use std::fmt::Write;

/// `standin store list`.
#[must_use]
pub fn directories(look: Look, found: &[DirectoryView]) -> String {
    if found.is_empty() {
        return "There are no replicas on this host, and none were kept.".to_owned();
    }
    let mut table = look.table(["VM", "IS", "FROM", "POINTS", "NEWEST", "SIZE", "DIRECTORY"]);
    for one in found {
        table.add_row(vec![
            one.vm.to_string(),
            one.kind.word().to_owned(),
            one.host.clone().unwrap_or_else(|| "-".to_owned()),
            one.points.to_string(),
            look.when(one.newest_point_at),
            units::size(one.size_bytes),
            one.path.clone(),
        ]);
    }
    let mut text = finish(&mut table, &[3, 5]);
    for one in found.iter().filter(|one| one.kind != DirectoryKind::Replica) {
        let _ = write!(text, "\n\n{}", one.path);
        if let Some(problem) = &one.problem {
            let _ = write!(text, "\n  {problem}");
        }
        let _ = write!(text, "\n  {}", one.remedy);
    }
    text
}

/// `standin store repair`.
#[must_use]
pub fn repaired(found: &RepairView) -> String {
    let mut text = format!("{}: {} recovery points are proven and offered again", found.vm, found.points);
    for why in &found.left_out {
        let _ = write!(text, "\n  {why}");
    }
    for path in &found.set_aside {
        let _ = write!(text, "\n  set aside: {path}");
    }
    text
}
