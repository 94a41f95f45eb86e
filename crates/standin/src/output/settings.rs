//! What was agreed of a VM's replication, for people.

use super::table::Details;
use crate::units;
use standin_model::retention::{Policy, Tier};
use standin_model::view::SettingsView;

/// `standin set VM`.
#[must_use]
pub fn agreed(view: &SettingsView) -> String {
    let mut text = Details::new();
    text.line("VM", &view.vm).line("id", view.id).line("peer", view.peer.as_deref().unwrap_or("-"));
    text.line("interval", units::span(u64::from(view.interval_s)));
    text.line("history", view.history);
    text.line("keeps all for", view.keep_all_for_s.map_or_else(|| "-".to_owned(), units::span));
    if view.keep_all_for_s.is_none() && view.retention != Policy::hyperv(view.history).tiers {
        text.line("retention", view.retention.iter().map(tier).collect::<Vec<_>>().join(", "));
    }
    text.line(
        "application-consistent",
        match view.application_consistent_hours {
            0 => "-".to_owned(),
            hours => format!("every {hours}h, frozen for {}s at most", view.freeze_deadline_s),
        },
    );
    text.line("compression", on_or_off(view.compression));
    text.line("automatic resynchronization", on_or_off(view.auto_resync));
    text.line("scratch reserve", units::size(view.scratch_reserve_bytes));
    text.line("granularity", units::size(u64::from(view.granularity_bytes)));
    let by = if view.when_peer_is_silent_set { "this VM" } else { "this host" };
    text.line("when another host is silent", format!("{} (set for {by})", view.when_peer_is_silent));
    let disks: Vec<_> = view.disks.iter().map(ToString::to_string).collect();
    text.line("disks", disks.join(", "));
    text.finish()
}

fn tier(tier: &Tier) -> String {
    match tier.every_s {
        0 => format!("every point for {}", units::span(tier.keep_for_s)),
        every => format!("one every {} for {}", units::span(every), units::span(tier.keep_for_s)),
    }
}

fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
