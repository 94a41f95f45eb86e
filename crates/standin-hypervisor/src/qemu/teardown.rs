//! Removing what a view made in a QEMU. There is one way, whether a view is closed, its opening failed half-way,
//! or another process of the daemon died with it: look for what bears the tracker's name, and remove it.
//!
//! ```text
//! jobs (their filters go with them) ─► exports ─► snapshot nodes ─► scratch nodes ─► frozen bitmaps
//! ```
//!
//! The order is QEMU's: a node is held by its export, a bitmap by its export too.

use super::machine::Machine;
use super::marks;
use super::names::{Kind, Names};
use crate::error::Error;
use crate::qmp::{Event, Qmp, json};
use serde_json::{Value, json as value};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::Instant;

/// A job ends once the guest's requests in flight are done.
const PATIENCE: Duration = Duration::from_secs(30);
/// Events tell when to look again; this is for one that was missed.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy)]
enum Part {
    Jobs,
    Exports,
    Nodes,
}

impl Part {
    /// The names of the tracker's parts of this kind that are there.
    async fn present(self, qmp: &Qmp, names: &Names) -> Result<Vec<String>, Error> {
        let (command, field) = match self {
            Self::Jobs => ("query-jobs", "id"),
            Self::Exports => ("query-block-exports", "id"),
            Self::Nodes => ("query-named-block-nodes", "node-name"),
        };
        let arguments =
            if command == "query-named-block-nodes" { value!({ "flat": true }) } else { Value::Null };
        let answer = qmp.execute(command, arguments).await?;
        let all = json::items(&answer).iter().map(|item| json::text(item, field).to_owned());
        Ok(all.filter(|name| names.owns(name)).collect())
    }

    fn removal(self, name: &str) -> (&'static str, Value) {
        match self {
            Self::Jobs => ("block-job-cancel", value!({ "device": name, "force": true })),
            Self::Exports => ("block-export-del", value!({ "id": name, "mode": "hard" })),
            Self::Nodes => ("blockdev-del", value!({ "node-name": name })),
        }
    }
}

/// Ends the tracker's jobs, and waits until their filters are gone: from then on the guest writes as ever. The
/// answer tells whether there were any.
pub(crate) async fn cancel_jobs(qmp: &Qmp, names: &Names) -> Result<bool, Error> {
    remove(qmp, names, Part::Jobs).await
}

/// Removes everything of the tracker's from a QEMU but its marks.
pub(crate) async fn everything(machine: &Machine, names: &Names) -> Result<(), Error> {
    let qmp = &machine.qmp;
    let had_jobs = cancel_jobs(qmp, names).await?;
    if had_jobs {
        rescue(machine).await?;
    }
    remove(qmp, names, Part::Exports).await?;
    remove(qmp, names, Part::Nodes).await?;
    let nodes = qmp.execute("query-named-block-nodes", value!({ "flat": true })).await?;
    for node in json::items(&nodes) {
        for bitmap in json::list(node, "dirty-bitmaps") {
            let name = json::text(bitmap, "name");
            if names.owns(name) {
                marks::remove(qmp, json::text(node, "node-name"), name).await?;
            }
        }
    }
    Ok(())
}

/// Lets a guest go on that QEMU stopped because a write found no space: the write is tried again, and with the
/// jobs gone it does not need the scratch space any more. If it is the disk's own space that is short, QEMU
/// stops the guest again, as it would without standin.
pub(crate) async fn rescue(machine: &Machine) -> Result<bool, Error> {
    if machine.status().await? != "io-error" {
        return Ok(false);
    }
    machine.qmp.execute("cont", Value::Null).await?;
    tracing::warn!("a guest that had been stopped for lack of scratch space goes on");
    Ok(true)
}

async fn remove(qmp: &Qmp, names: &Names, part: Part) -> Result<bool, Error> {
    let mut events = qmp.events();
    let until = Instant::now() + PATIENCE;
    let mut any = false;
    loop {
        let mut left = part.present(qmp, names).await?;
        if left.is_empty() {
            return Ok(any);
        }
        any = true;
        if Instant::now() >= until {
            return Err(Error::Timeout { what: format!("removing {}", left.join(", ")), after: PATIENCE });
        }
        // Snapshot nodes stand on filters and come first; a filter goes with its job and not by itself.
        left.sort_by_key(|name| !names.is(Kind::Access, name));
        let mut removed = 0;
        for name in &left {
            removed += usize::from(try_remove(qmp, part, name).await?);
        }
        match part {
            // Unlike the others, a node is gone when the command returns.
            Part::Nodes if removed == left.len() => return Ok(any),
            _ => wait_for_change(&mut events).await,
        }
    }
}

/// `false` when it is held by something that is still ending.
async fn try_remove(qmp: &Qmp, part: Part, name: &str) -> Result<bool, Error> {
    let (command, arguments) = part.removal(name);
    match qmp.execute(command, arguments).await {
        Ok(_) => Ok(true),
        Err(Error::Qmp { desc, class, .. }) => {
            let gone = class == "DeviceNotActive"
                || ["not found", "Failed to find", "Cannot find", "is not found"]
                    .iter()
                    .any(|s| desc.contains(s));
            tracing::debug!(name, %desc, gone, "removing what a view left");
            Ok(gone)
        }
        Err(error) => Err(error),
    }
}

async fn wait_for_change(events: &mut broadcast::Receiver<Event>) {
    let ended = async {
        while let Ok(event) = events.recv().await {
            if matches!(event.name.as_str(), "BLOCK_EXPORT_DELETED" | "BLOCK_JOB_CANCELLED")
                || is_last(&event)
            {
                return;
            }
        }
    };
    // Whether it was an event or the time: the caller looks.
    let _ = tokio::time::timeout(LOOK_AGAIN, ended).await;
}

/// A job's last change of status.
fn is_last(event: &Event) -> bool {
    event.name == "JOB_STATUS_CHANGE" && json::text(&event.data, "status") == "null"
}
