//! Who may run a VM, for people.

use super::table::{Details, Look};
use crate::units;
use standin_model::fence::{Place, Role};
use standin_model::view::{FenceHostView, FenceView, PreflightView, WitnessView};

/// Lines of `standin status VM`.
pub(super) fn lines(look: Look, text: &mut Details, view: &FenceView) {
    let set = if view.set_for_vm { " (set for this VM)" } else { "" };
    text.line("when another host is silent", format!("{}{set}", view.when_peer_is_silent));
    if let Some(witness) = &view.witness {
        text.line("witness", format!("{}{}", witness.address, worth(witness)));
    }
    for host in view.hosts.iter().filter(|host| host.role == Role::Source) {
        text.line("when this host is silent", meanwhile(look, host));
    }
}

fn worth(witness: &WitnessView) -> String {
    match (witness.answers, &witness.counts_for[..], witness.knows) {
        (false, _, _) => ": does not answer".to_owned(),
        (true, _, Some(true)) => ": knows that the VM lives here".to_owned(),
        (true, _, Some(false)) => ": does not know that the VM lives here".to_owned(),
        (true, [], None) => ": counts for no other host, none has named it too".to_owned(),
        (true, hosts, None) => format!(": answers for {}", hosts.join(", ")),
    }
}

/// What a host does when this one is silent, and until when that is known.
fn meanwhile(look: Look, host: &FenceHostView) -> String {
    let Some(when) = &host.when_peer_is_silent else { return format!("{} never told", host.host) };
    let told = match host.heard_at {
        Some(at) if !host.connected => format!(" (as of {})", units::ago(at, look.now)),
        _ => String::new(),
    };
    format!("{} has {when}{told}", host.host)
}

/// `standin failover VM --dry-run`.
#[must_use]
pub fn preflight(look: Look, view: &PreflightView) -> String {
    let mut text = Details::new();
    text.line("VM", &view.vm).line("id", view.id);
    text.line("point", format!("epoch {}, {}", view.epoch, units::when(view.point_at, look.now)));
    text.line("primary", &view.primary.host);
    text.line("it answers", answers(view.primary_says));
    text.line("when this host is silent", meanwhile(look, &view.primary));
    match &view.refusal {
        Some(refusal) => text.block(&format!(
            "The VM would not be started: {}\nwhat to do: {}",
            refusal.message, refusal.remedy
        )),
        None => text.block("Nothing stands in the way of a failover with a start."),
    };
    text.finish()
}

fn answers(place: Place) -> &'static str {
    match place {
        Place::Runs => "the VM runs there",
        Place::Lives => "the VM lives there, and does not run",
        Place::NotHere => "the VM does not run there",
        Place::Unknown => "it does not know the VM",
        Place::Silent => "nothing",
    }
}
