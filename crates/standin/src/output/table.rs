//! Lists and details for people. Pure text; the views of `standin-model` in, lines out.

use super::fence;
use crate::api::types::PeerView;
use crate::units;
use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table};
use jiff::Timestamp;
use standin_model::view::{AuthView, CheckView, ErrorView, JobView, PointView, StatusView, VmView};
use standin_model::{Health, JobState, ReplicationMode};
use std::fmt::Write;

/// How to lay out.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Colours.
    pub colour: bool,
    /// What "ago" counts from.
    pub now: Timestamp,
}

impl Look {
    pub(super) fn table<const N: usize>(self, headings: [&str; N]) -> Table {
        let mut table = Table::new();
        table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.map(|heading| {
            let cell = Cell::new(heading);
            if self.colour { cell.add_attribute(Attribute::Bold) } else { cell }
        }));
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table
    }

    fn paint(self, text: impl ToString, colour: Option<Color>) -> Cell {
        match colour.filter(|_| self.colour) {
            Some(colour) => Cell::new(text).fg(colour),
            None => Cell::new(text),
        }
    }

    pub(super) fn when(self, at: Option<Timestamp>) -> String {
        at.map_or_else(|| "-".to_owned(), |at| units::when(at, self.now))
    }

    fn health(self, health: Health) -> Cell {
        let colour = match health {
            Health::Ok => Some(Color::Green),
            Health::Warning => Some(Color::Yellow),
            Health::Critical => Some(Color::Red),
            Health::NotApplicable => None,
        };
        self.paint(health, colour)
    }
}

pub(super) fn finish(table: &mut Table, right: &[usize]) -> String {
    for index in right {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    // A table without borders pads its last column: nothing to see, but it wraps on a narrow terminal.
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn or_dash<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), T::to_string)
}

/// A lag in seconds, which a clock that is ahead must not make negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a span of years")]
fn lag(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |s| units::span(s.clamp(0.0, 1e9).round() as u64))
}

/// The words of a mode. `ReplicationMode` has its own; this is for a column.
fn mode(mode: ReplicationMode) -> String {
    mode.to_string().to_lowercase()
}

/// `standin vm list`.
#[must_use]
pub fn vms(look: Look, vms: &[VmView]) -> String {
    if vms.is_empty() {
        return "There are no VMs on this host. Define one with `standin vm define FILE`.".to_owned();
    }
    let mut table = look.table(["VM", "POWER", "DISKS", "SIZE", "REPLICATION", "STATE", "ID"]);
    for vm in vms {
        let power = (vm.power == "running").then_some(Color::Green);
        table.add_row(vec![
            Cell::new(&vm.vm),
            look.paint(&vm.power, power),
            Cell::new(vm.disks.len()),
            Cell::new(units::size(vm.disks.iter().map(|disk| disk.size).sum())),
            Cell::new(mode(vm.mode)),
            Cell::new(vm.state),
            Cell::new(vm.id),
        ]);
    }
    finish(&mut table, &[2, 3])
}

/// `standin vm show`, `start`, `stop`, `define` and `adopt`.
#[must_use]
pub fn vm(look: Look, vm: &VmView) -> String {
    let mut text = Details::new();
    text.line("VM", &vm.vm).line("id", vm.id).line("power", &vm.power);
    if let Some(accelerator) = &vm.accelerator {
        text.line("accelerator", accelerator);
    }
    if let Some(pid) = vm.pid {
        text.line("process", pid);
    }
    if vm.adopted {
        text.line("adopted", "yes: somebody else starts and stops it");
    }
    text.line("replication", format!("{}, {}", mode(vm.mode), vm.state));
    let mut table = look.table(["DISK", "SIZE", "FORMAT", "PATH"]);
    for disk in &vm.disks {
        table.add_row(vec![
            disk.name.to_string(),
            units::size(disk.size),
            disk.format.clone(),
            disk.path.clone(),
        ]);
    }
    if !vm.disks.is_empty() {
        text.block(&finish(&mut table, &[1]));
    }
    for disk in &vm.disks {
        if let Some(problem) = &disk.problem {
            text.block(&format!("disk {} cannot replicate: {problem}", disk.name));
        }
    }
    text.finish()
}

/// `standin status`.
#[must_use]
pub fn statuses(look: Look, views: &[StatusView]) -> String {
    if views.is_empty() {
        return "Nothing replicates on this host. Begin with `standin replicate VM --to HOST`.".to_owned();
    }
    let mut table = look.table(["VM", "MODE", "STATE", "HEALTH", "LAST POINT", "LAG", "PENDING", "PEER"]);
    for view in views {
        let last = view.last_point_at.map_or_else(|| "-".to_owned(), |at| units::ago(at, look.now));
        table.add_row(vec![
            Cell::new(both_names(view)),
            Cell::new(mode(view.mode)),
            Cell::new(with_percent(view)),
            look.health(view.health),
            Cell::new(last),
            Cell::new(lag(view.lag_s)),
            Cell::new(view.pending_bytes.map_or_else(|| "-".to_owned(), units::size)),
            Cell::new(or_dash(view.peer.as_ref())),
        ]);
    }
    let mut text = finish(&mut table, &[5, 6]);
    for view in views.iter().filter(|view| view.health >= Health::Warning) {
        for issue in &view.health_issues {
            let _ = write!(text, "\n\n{}: {}\n  what to do: {}", view.vm, issue.message, issue.remedy);
        }
    }
    text
}

/// The name of a VM on this host, and that on its primary where it is another one.
fn both_names(view: &StatusView) -> String {
    match view.primary_name.as_ref().filter(|primary| **primary != view.vm) {
        Some(primary) => format!("{} ({primary})", view.vm),
        None => view.vm.to_string(),
    }
}

fn with_percent(view: &StatusView) -> String {
    match view.progress {
        Some(progress) if progress.bytes_total > 0 => format!("{} {} %", view.state, progress.percent),
        _ => view.state.to_string(),
    }
}

/// `standin status VM`.
#[must_use]
pub fn status(look: Look, view: &StatusView) -> String {
    let mut text = Details::new();
    text.line("VM", &view.vm);
    if let Some(primary) = &view.primary_name {
        text.line("name on the primary", primary);
    }
    text.line("id", view.id).line("mode", mode(view.mode));
    text.line("state", format!("{} ({})", view.state, view.state_code)).line("health", view.health);
    text.line("power", or_dash(view.power.as_ref()));
    if let Some(accelerator) = &view.accelerator {
        text.line("accelerator", accelerator);
    }
    text.line("peer", or_dash(view.peer.as_ref()));
    if let Some(interval) = view.interval_s {
        text.line("interval", units::span(u64::from(interval)));
    }
    let disks: Vec<_> = view.disks.iter().map(ToString::to_string).collect();
    text.line("disks", if disks.is_empty() { "-".to_owned() } else { disks.join(", ") });
    text.line("last point", look.when(view.last_point_at)).line("lag", lag(view.lag_s));
    text.line("last application-consistent", look.when(view.last_application_consistent_at));
    text.line("points", view.points);
    text.line("pending", view.pending_bytes.map_or_else(|| "-".to_owned(), units::size));
    text.line("generation", view.generation);
    if let Some(known) = &view.fence {
        fence::lines(look, &mut text, known);
    }
    if let Some(p) = &view.progress {
        let left = p.remaining_s.map_or_else(String::new, |left| format!(", {} left", units::span(left)));
        let (done, total) = (units::size(p.bytes_done), units::size(p.bytes_total));
        text.line("progress", format!("{} %, {done} of {total}, {}{left}", p.percent, units::rate(p.rate)));
    }
    if let Some(s) = &view.statistics {
        text.line(
            "cycles",
            format!("{} ok, {} missed, {} failed", s.cycles_ok, s.cycles_missed, s.cycles_failed),
        );
        text.line(
            "sent",
            format!("{} for {} changed", units::size(s.bytes_sent), units::size(s.bytes_changed)),
        );
        if s.application_consistent_failed > 0 {
            text.line("freezes that failed", s.application_consistent_failed);
        }
    }
    if let Some(error) = &view.last_error {
        text.block(&last_error(look, error));
    }
    for issue in &view.health_issues {
        text.block(&format!("{}: {}\nwhat to do: {}", issue.severity, issue.message, issue.remedy));
    }
    text.finish()
}

fn last_error(look: Look, error: &ErrorView) -> String {
    let at = error.at.map_or_else(String::new, |at| format!(", {}", units::when(at, look.now)));
    let code = u32::from(error.code);
    format!("last error ({code}{at}): {}\nwhat to do: {}", error.message, error.remedy)
}

/// `standin points VM`.
#[must_use]
pub fn points(look: Look, points: &[PointView]) -> String {
    if points.is_empty() {
        return "There are no recovery points here. They are on the replica host, once the first copy is complete."
            .to_owned();
    }
    let mut table = look.table(["EPOCH", "CREATED", "KIND", "CHANGED", "STORED", "PINNED", "ID"]);
    for point in points {
        table.add_row(vec![
            point.epoch.to_string(),
            units::when(point.created_at, look.now),
            point.kind.to_string(),
            units::size(point.changed_bytes),
            units::size(point.stored_bytes),
            if point.pinned { "yes" } else { "-" }.to_owned(),
            point.id.to_string(),
        ]);
    }
    let table = finish(&mut table, &[0, 3, 4]);
    match points.first().filter(|point| point.primary_name != point.vm) {
        Some(point) => format!("{}, on its primary {}\n\n{table}", point.vm, point.primary_name),
        None => table,
    }
}

/// `standin jobs`.
#[must_use]
pub fn jobs(look: Look, jobs: &[JobView]) -> String {
    if jobs.is_empty() {
        return "No jobs run, and none ended in the last five minutes.".to_owned();
    }
    let mut table = look.table(["JOB", "VM", "WHAT", "STATE", "%", "BEGAN", "ERROR"]);
    for job in jobs {
        table.add_row(vec![
            Cell::new(job.id),
            Cell::new(or_dash(job.vm.as_ref())),
            Cell::new(job.job_type),
            look.paint(job.state, job_colour(job.state)),
            Cell::new(job.percent),
            Cell::new(units::ago(job.started_at.unwrap_or(job.created_at), look.now)),
            Cell::new(job.error.as_deref().unwrap_or("-").lines().next().unwrap_or("-")),
        ]);
    }
    finish(&mut table, &[4])
}

fn job_colour(state: JobState) -> Option<Color> {
    match state {
        JobState::Completed => Some(Color::Green),
        JobState::Exception | JobState::Killed | JobState::Terminated => Some(Color::Red),
        _ => None,
    }
}

/// One job in a line, for streams and plain output.
#[must_use]
pub fn job_line(job: &JobView) -> String {
    let vm = job.vm.as_ref().map_or_else(String::new, |vm| format!(" {vm}:"));
    let mut line = format!("{}{vm} {}: {}, {} %", job.id, job.job_type, job.state, job.percent);
    if job.bytes_total > 0 {
        let _ = write!(line, ", {} of {}", units::size(job.bytes_done), units::size(job.bytes_total));
    }
    if let Some(error) = &job.error {
        let _ = write!(line, ": {error}");
    }
    line
}

/// `standin jobs ID`, and what a verb that does not wait prints.
#[must_use]
pub fn job(look: Look, job: &JobView) -> String {
    let mut text = Details::new();
    text.line("job", job.id).line("what", format!("{} ({})", job.job_type, job.type_code));
    text.line("VM", or_dash(job.vm.as_ref())).line("state", format!("{} ({})", job.state, job.state_code));
    text.line("progress", format!("{} %", job.percent));
    if job.bytes_total > 0 {
        text.line("bytes", format!("{} of {}", units::size(job.bytes_done), units::size(job.bytes_total)));
    }
    text.line("asked for by", &job.owner).line("began", look.when(job.started_at));
    if job.ended_at.is_some() {
        text.line("ended", look.when(job.ended_at));
    }
    if job.cancellable {
        text.line("to cancel it", format!("standin jobs cancel {}", job.id));
    }
    if let Some(error) = &job.error {
        let code = job.return_code.map_or(0, u32::from);
        text.block(&format!("failed ({code}): {error}"));
        if let Some(remedy) = &job.remedy {
            text.block(&format!("what to do: {remedy}"));
        }
    }
    text.finish()
}

/// `standin auth list`.
#[must_use]
pub fn authorizations(look: Look, entries: &[AuthView]) -> String {
    if entries.is_empty() {
        return "No host may replicate to this one. Let one in with `standin auth add HOST`.".to_owned();
    }
    let mut table = look.table(["PRIMARY", "TRUST GROUP", "STORAGE", "ID"]);
    for entry in entries {
        table.add_row(vec![
            entry.allowed_primary.clone(),
            entry.trust_group.clone(),
            entry.storage_location.clone(),
            entry.id.to_string(),
        ]);
    }
    finish(&mut table, &[])
}

/// `standin peer list`.
#[must_use]
pub fn peers(look: Look, peers: &[PeerView]) -> String {
    if peers.is_empty() {
        return "This host has met no other one yet.".to_owned();
    }
    let mut table = look.table(["HOST", "ADDRESS", "CONNECTED", "ID"]);
    for peer in peers {
        table.add_row(vec![
            peer.names.first().cloned().unwrap_or_default(),
            peer.addresses.first().cloned().unwrap_or_default(),
            if peer.connected { "yes" } else { "no" }.to_owned(),
            peer.id.to_string(),
        ]);
    }
    finish(&mut table, &[])
}

/// `standin store check`.
#[must_use]
pub fn checks(checks: &[CheckView]) -> String {
    if checks.is_empty() {
        return "There are no replicas on this host.".to_owned();
    }
    let mut blocks = Vec::new();
    for check in checks {
        let verdict = if check.good { "good" } else { "NOT GOOD" };
        let mut block = format!("{}: {verdict}, {} read", check.vm, units::size(check.checked_bytes));
        for point in &check.points {
            let verdict = if point.good { "good" } else { "BAD " };
            let _ = write!(
                block,
                "\n  {verdict}  epoch {:<6} {}",
                point.epoch.to_string(),
                units::local(point.created_at)
            );
            for problem in &point.problems {
                let _ = write!(block, "\n          {problem}");
            }
        }
        for problem in &check.problems {
            let _ = write!(block, "\n  {problem}");
        }
        blocks.push(block);
    }
    blocks.join("\n")
}

/// Lines of a name and a value, and blocks of text after them.
pub(super) struct Details {
    lines: Vec<(String, String)>,
    blocks: Vec<String>,
}

impl Details {
    pub(super) fn new() -> Self {
        Self { lines: Vec::new(), blocks: Vec::new() }
    }

    pub(super) fn line(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.lines.push((name.to_owned(), value.to_string()));
        self
    }

    pub(super) fn block(&mut self, text: &str) -> &mut Self {
        self.blocks.push(text.to_owned());
        self
    }

    pub(super) fn finish(&self) -> String {
        let width = self.lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let lines = self.lines.iter().map(|(name, value)| format!("{name:<width$}  {value}"));
        let mut text = lines.collect::<Vec<_>>().join("\n");
        for block in &self.blocks {
            let _ = write!(text, "\n\n{block}");
        }
        text
    }
}
