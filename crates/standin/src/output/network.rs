//! `standin network` for people.

use super::table::{Details, Look, finish};
use comfy_table::Cell;
use standin_model::network::{
    AdapterSettings, AdapterView, AppliedNetwork, ApplyState, NetworkView, SettingsOrigin,
};
use std::fmt::Write;

/// The cards of a VM, what each gets, and what became of it.
#[must_use]
pub fn cards(look: Look, view: &NetworkView) -> String {
    if view.adapters.is_empty() {
        return format!(
            "{} has no network card that is known here. On the replica its cards are known with the first recovery \
             point.",
            view.vm
        );
    }
    let mut table = look.table(["CARD", "MAC", "NETWORK", "AT A FAILOVER", "SET"]);
    for card in &view.adapters {
        table.add_row(vec![
            Cell::new(&card.name),
            Cell::new(card.mac.map_or_else(|| "gone".to_owned(), |mac| mac.to_string())),
            Cell::new(networks(card)),
            Cell::new(card.settings.as_ref().map_or_else(|| "as it is".to_owned(), summary)),
            Cell::new(match card.origin {
                Some(SettingsOrigin::Here) => "here",
                Some(SettingsOrigin::Primary) => "on the primary",
                None => "-",
            }),
        ]);
    }
    let mut text = Details::new();
    text.block(&finish(&mut table, &[]));
    for card in &view.adapters {
        let Some(settings) = &card.settings else { continue };
        let rest = rest(settings);
        if !rest.is_empty() {
            text.block(&format!("{}: {rest}", card.name));
        }
    }
    if let Some(applied) = &view.applied {
        text.block(&outcome(look, applied));
    }
    text.finish().trim_start().to_owned()
}

/// The network it is on, and the one that it gets where that is another.
fn networks(card: &AdapterView) -> String {
    match (&card.network, &card.failover_network) {
        (Some(now), Some(then)) if now != then => format!("{now}, here {then}"),
        (Some(now), _) => now.clone(),
        (None, _) => "-".to_owned(),
    }
}

fn summary(settings: &AdapterSettings) -> String {
    let mut parts: Vec<String> = settings.addresses.iter().map(ToString::to_string).collect();
    match (settings.dhcp4, settings.dhcp6) {
        (true, true) => parts.push("DHCP".to_owned()),
        (true, false) => parts.push("DHCP for IPv4".to_owned()),
        (false, true) => parts.push("DHCP for IPv6".to_owned()),
        (false, false) => {}
    }
    parts.join(", ")
}

fn rest(settings: &AdapterSettings) -> String {
    let mut text = String::new();
    for (what, list) in [("gateways", &settings.gateways), ("DNS", &settings.dns)] {
        if !list.is_empty() {
            let list: Vec<_> = list.iter().map(ToString::to_string).collect();
            let _ = write!(text, "{}{what} {}", if text.is_empty() { "" } else { "; " }, list.join(", "));
        }
    }
    text
}

fn outcome(look: Look, applied: &AppliedNetwork) -> String {
    let word = match applied.state {
        ApplyState::Pending => "pending",
        ApplyState::Applied => "applied",
        ApplyState::Offered => "handed over",
        ApplyState::Failed => "FAILED",
    };
    format!("{word}: {} ({})", applied.message, look.when(Some(applied.at)))
}
