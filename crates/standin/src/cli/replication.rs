//! The verbs of replication.

use super::vm::path;
use super::{Session, confirm, wait};
use crate::api::client::segment;
use crate::api::types::{
    FailoverRequest, KeepRequest, Outcome, PeerAddress, PinRequest, PointRequest, ReplicateRequest,
};
use crate::args::{Failover, Keep, Point, Points, Replicate, WaitingVm};
use crate::exit::Failure;
use crate::output::{fence, table};
use standin_model::ReturnCode;
use standin_model::view::{PointView, PreflightView, StatusView};

/// `standin replicate`
pub(super) async fn replicate(session: &Session, args: Replicate) -> Result<(), Failure> {
    // The daemon would refuse it as well; here it costs no connection.
    let to: PeerAddress = args.to.parse()?;
    let seconds = args.interval.as_secs();
    let request = ReplicateRequest {
        to: to.to_string(),
        start: !args.no_start,
        // What does not fit is out of range in any case; the daemon says so.
        interval_s: Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
        history: Some(args.history),
        keep_all_for_s: args.keep_all_for.map(|span| span.as_secs()),
        application_consistent_hours: args.application_consistent_hours,
        compression: Some(!args.no_compression),
        granularity: args.granularity,
        disks: args.disks,
    };
    let outcome: Outcome = session.client.send(&path(&args.vm, "/replicate"), &request).await?;
    if let Some(points) = outcome.found_points {
        let then = if args.no_start { "it will be compared" } else { "comparing" };
        eprintln!("found {points} recovery points of this VM on {to}; {then} instead of copying");
    }
    let done = if args.no_start {
        format!("{} is ready to replicate to {to}; begin with `standin resume {}`", args.vm, args.vm)
    } else {
        format!("{} replicates to {to}; see `standin status {}`", args.vm, args.vm)
    };
    wait::finish(session, outcome, args.wait, &done).await
}

/// `standin status [VM]`
pub(super) async fn status(session: &Session, vm: Option<String>) -> Result<(), Failure> {
    match vm {
        Some(vm) => {
            let view: StatusView = session.client.get(&path(&vm, "/status")).await?;
            session.style.print(&view, |view| table::status(session.look(), view))
        }
        None => {
            let views: Vec<StatusView> = session.client.get("/v1/status").await?;
            session.style.print(&views, |views| table::statuses(session.look(), views))
        }
    }
}

/// `standin points VM`
pub(super) async fn points(session: &Session, args: Points) -> Result<(), Failure> {
    let pinned = args.pin.is_some();
    let points: Vec<PointView> = match args.pin.or(args.unpin) {
        Some(point) => {
            session.client.send(&path(&args.vm, "/points/pin"), &PinRequest { point, pinned }).await?
        }
        None => session.client.get(&path(&args.vm, "/points")).await?,
    };
    session.style.print(&points, |points| table::points(session.look(), points))
}

/// The verbs that take a VM and nothing else. `route` is theirs in the API, `done` what is true afterwards.
pub(super) async fn simple(
    session: &Session,
    verb: WaitingVm,
    route: &str,
    done: &str,
) -> Result<(), Failure> {
    let outcome: Outcome = session.client.post(&path(&verb.vm, &format!("/{route}"))).await?;
    wait::finish(session, outcome, verb.wait, &format!("{}: {done}", verb.vm)).await
}

/// `standin point VM`
pub(super) async fn point(session: &Session, args: Point) -> Result<(), Failure> {
    let request = PointRequest { application_consistent: args.application_consistent };
    let outcome: Outcome = session.client.send(&path(&args.vm, "/points"), &request).await?;
    let done = format!("{}: the recovery point is on the replica", args.vm);
    wait::finish(session, outcome, args.wait, &done).await
}

/// Begins a failover. Where the primary does not answer, somebody has to say that it is down: whoever sits at a terminal
/// is asked.
async fn begin_failover(session: &Session, args: &Failover) -> Result<Outcome, Failure> {
    let request =
        FailoverRequest { point: args.point.clone(), start: args.start, yes: args.yes, force: args.force };
    let target = path(&args.vm, "/failover");
    match session.client.send(&target, &request).await {
        Err(Failure::Refused(refusal)) if refusal.code == ReturnCode::NotAvailable && session.style.asks => {
            if !confirm(&format!("{}. Is that other host certainly down?", refusal.message))? {
                return Err(Failure::Refused(refusal));
            }
            session.client.send(&target, &FailoverRequest { yes: true, ..request }).await
        }
        other => other,
    }
}

/// `standin failover VM --dry-run`
async fn preflight(session: &Session, args: &Failover) -> Result<(), Failure> {
    let point = args.point.as_ref().map_or_else(String::new, |point| format!("?point={}", segment(point)));
    let view: PreflightView = session.client.get(&path(&args.vm, &format!("/failover{point}"))).await?;
    session.style.print(&view, |view| fence::preflight(session.look(), view))
}

/// `standin failover VM`
pub(super) async fn failover(session: &Session, args: Failover) -> Result<(), Failure> {
    let vm = &args.vm;
    if args.dry_run {
        return preflight(session, &args).await;
    }
    let (outcome, done): (Outcome, String) = if args.revert {
        let outcome = session.client.post(&path(vm, "/failover/revert")).await?;
        (outcome, format!("{vm}: the failover is undone"))
    } else if args.commit {
        let outcome = session.client.post(&path(vm, "/failover/commit")).await?;
        (outcome, format!("{vm}: the failover is committed"))
    } else if let Some(keep) = args.keep {
        let request = KeepRequest { here: keep == Keep::Here };
        let outcome = session.client.send(&path(vm, "/failover/keep"), &request).await?;
        let (kept, other) =
            if request.here { ("this host", "the other") } else { ("the other host", "this") };
        let kept = format!("{vm}: the copy of {kept} stays; the one of {other} is stopped");
        (
            outcome,
            format!(
                "{kept}. If that one was a failover, what it wrote is a pinned recovery point there (`standin points \
                 {vm}`); else its disks are left, and `standin status {vm}` there says how to save them"
            ),
        )
    } else {
        let outcome = begin_failover(session, &args).await?;
        let state = if args.start { "runs here now" } else { "is ready; start it with `standin vm start`" };
        let next = format!("then `standin failover {vm} --commit`, or `--revert` to go back");
        (outcome, format!("{vm} failed over and {state}; {next}"))
    };
    wait::finish(session, outcome, args.wait, &done).await
}
