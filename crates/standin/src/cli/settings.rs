//! `standin set` and `standin rename`.

use super::Session;
use super::vm::path;
use crate::api::settings::{RenameRequest, SettingsRequest};
use crate::api::types::{PeerAddress, refused_name};
use crate::args::{Rename, Set, Switch};
use crate::exit::Failure;
use crate::output::settings;
use standin_model::VmName;
use standin_model::view::{SettingsView, StatusView};
use std::time::Duration;

/// Shows what was agreed, or changes it.
pub(super) async fn set(session: &Session, args: Set) -> Result<(), Failure> {
    let target = path(&args.vm, "/settings");
    let request = request(args)?;
    let view: SettingsView = match request == SettingsRequest::default() {
        true => session.client.get(&target).await?,
        false => session.client.send(&target, &request).await?,
    };
    session.style.print(&view, settings::agreed)
}

fn request(args: Set) -> Result<SettingsRequest, Failure> {
    // The daemon would refuse it as well; here it costs no connection.
    let to: Option<PeerAddress> = args.to.as_deref().map(str::parse).transpose()?;
    // What does not fit is out of range in any case; the daemon says so.
    let seconds = |span: Duration| u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
    let is_on = |switch: Switch| switch == Switch::On;
    Ok(SettingsRequest {
        to: to.map(|to| to.to_string()),
        interval_s: args.interval.map(seconds),
        history: args.history,
        keep_all_for_s: args.keep_all_for.map(|span| span.as_secs()),
        application_consistent_hours: args.application_consistent_hours,
        freeze_deadline_s: args.freeze_deadline.map(seconds),
        compression: args.compression.map(is_on),
        auto_resync: args.auto_resync.map(is_on),
        scratch_reserve: args.scratch_reserve,
        when_peer_is_silent: args.when_peer_is_silent,
        granularity: args.granularity,
        disks: args.disks,
    })
}

/// `standin rename VM NAME`
pub(super) async fn rename(session: &Session, args: Rename) -> Result<(), Failure> {
    let name = VmName::new(args.name).map_err(|error| refused_name(&error))?;
    let view: StatusView = session.client.send(&path(&args.vm, "/rename"), &RenameRequest { name }).await?;
    session.style.print(&view, |view| {
        let primary = view.primary_name.as_ref().filter(|primary| **primary != view.vm);
        let there = primary.map_or_else(String::new, |name| format!("; on its primary it is {name}"));
        format!("{} is called {} on this host{there}", args.vm, view.vm)
    })
}
