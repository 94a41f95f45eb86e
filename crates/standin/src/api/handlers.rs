//! One function a route: take the request apart, check it, ask the service, answer.
//!
//! Questions are dropped when the client goes away or the time is up. Changes run in tasks of their own and are
//! never dropped: what the service began, it ends, whoever still listens.

use super::extract::{Answer, Body, Query, Raw, Refused, answer};
use super::reason::{Daemon, Request, Select};
use super::select;
use super::service::{Result, Service};
use super::settings::{RenameRequest, SettingsRequest};
use super::types::{
    AdoptRequest, AuthRequest, ConnectionTestRequest, Done, FailoverRequest, HostView, KeepRequest,
    NetworkRequest, Outcome, PeerView, PinRequest, PointRequest, PreflightQuery, RebindRequest,
    ReplicateRequest, StartRequest, StartView, StopRequest, VmRef, WatchQuery,
};
use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::{StatusCode, request::Parts};
use axum::response::{IntoResponse, Response};
use standin_engine::replica::failover::Failover;
use standin_model::network::NetworkView;
use standin_model::settings::RelationshipSettings;
use standin_model::view::{AuthView, JobView, PointView, PreflightView, SettingsView, StatusView, VmView};
use standin_model::{JobId, PointId, Refusal};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a question may take.
const ASK_LIMIT: Duration = Duration::from_secs(30);
/// How long a client waits for a change; the change itself goes on.
pub(super) const CHANGE_LIMIT: Duration = Duration::from_secs(120);
/// The longest time that a guest can be given to shut down.
const MAX_STOP: Duration = Duration::from_secs(3600);
/// A watched job is looked at no more often than this, however fast it moves.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// What every handler has.
#[derive(Clone)]
pub(super) struct Context {
    pub service: Arc<dyn Service>,
    pub defaults: Arc<RelationshipSettings>,
    pub tasks: TaskTracker,
    pub stopping: CancellationToken,
}

impl Context {
    /// Waits for the answer to a question.
    pub(super) async fn ask<T>(&self, question: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(ASK_LIMIT, question).await {
            Ok(answer) => answer,
            Err(_) => Err(Daemon::Late { seconds: ASK_LIMIT.as_secs(), change: false }.into()),
        }
    }

    /// Runs a change to its end and waits for that, at most for `limit`.
    pub(super) async fn change<T, F>(
        &self,
        limit: Duration,
        change: impl FnOnce(Arc<dyn Service>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let task = self.tasks.spawn(change(self.service.clone()));
        match tokio::time::timeout(limit, task).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::error!(%error, "an operation of the local API ended without an answer");
                Err(Daemon::Defect.into())
            }
            Err(_) => Err(Daemon::Late { seconds: limit.as_secs(), change: true }.into()),
        }
    }
}

/// The `{vm}` of a path.
pub(super) struct Target(VmRef);

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, Response> {
        let text = path_text(parts, state).await?;
        text.parse().map(Self).map_err(|refusal| Refused(refusal).into_response())
    }
}

/// The `{id}` of a path.
pub(super) struct Id(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, Response> {
        path_text(parts, state).await.map(Self)
    }
}

async fn path_text<S: Send + Sync>(parts: &mut Parts, state: &S) -> std::result::Result<String, Response> {
    Path::<String>::from_request_parts(parts, state)
        .await
        .map(|path| path.0)
        .map_err(|rejection| Refused(Request::Path { error: rejection.body_text() }.into()).into_response())
}

/// `return_code` 0 is HTTP 200, a job is 202.
pub(super) struct Started(pub(super) Outcome);

impl IntoResponse for Started {
    fn into_response(self) -> Response {
        let status = if self.0.job.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
        (status, Json(self.0)).into_response()
    }
}

pub(super) type JobAnswer = std::result::Result<Started, Refused>;

pub(super) async fn host(State(context): State<Context>) -> Answer<HostView> {
    answer(context.ask(context.service.host_info()).await?)
}

pub(super) async fn reload(State(context): State<Context>) -> Answer<Done> {
    context.change(CHANGE_LIMIT, |service| async move { service.reload().await }).await?;
    answer(Done::default())
}

pub(super) async fn list_vms(State(context): State<Context>) -> Answer<Vec<VmView>> {
    answer(context.ask(context.service.list_vms()).await?)
}

pub(super) async fn show_vm(State(context): State<Context>, Target(vm): Target) -> Answer<VmView> {
    answer(context.ask(context.service.show_vm(&vm)).await?)
}

/// Query of `POST /v1/vms`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DefineQuery {
    base_dir: Option<PathBuf>,
}

pub(super) async fn define_vm(
    State(context): State<Context>,
    Query(query): Query<DefineQuery>,
    raw: Raw,
) -> Answer<VmView> {
    let text = std::str::from_utf8(&raw.bytes).map_err(|_| Refusal::from(Request::DefinitionText))?;
    let json = raw.content_type.starts_with("application/json");
    let (mut definition, has_id) = super::define::read(text, json, query.base_dir.as_deref())?;
    // A list looks at the images of every VM: with a thousand of them it is not taken where it is not needed.
    if !has_id {
        let known = context.ask(context.service.list_vms()).await?;
        let same = known.into_iter().find(|vm| vm.vm == definition.name);
        definition.uuid = same.map_or(definition.uuid, |vm| vm.id);
    }
    answer(context.change(CHANGE_LIMIT, |service| async move { service.define_vm(definition).await }).await?)
}

pub(super) async fn start_vm(
    State(context): State<Context>,
    Target(vm): Target,
    Body(request): Body<StartRequest>,
) -> Answer<StartView> {
    let start = move |service: Arc<dyn Service>| async move { service.start_vm(&vm, request).await };
    answer(context.change(CHANGE_LIMIT, start).await?)
}

pub(super) async fn keep_copy(
    State(context): State<Context>,
    Target(vm): Target,
    Body(request): Body<KeepRequest>,
) -> JobAnswer {
    let keep = move |service: Arc<dyn Service>| async move { service.keep_copy(&vm, request).await };
    Ok(Started(context.change(CHANGE_LIMIT, keep).await?))
}

pub(super) async fn forget_claim(State(context): State<Context>, Target(vm): Target) -> Answer<Done> {
    let forget = move |service: Arc<dyn Service>| async move { service.forget_claim(&vm).await };
    context.change(CHANGE_LIMIT, forget).await?;
    answer(Done::default())
}

pub(super) async fn stop_vm(
    State(context): State<Context>,
    Target(vm): Target,
    Body(request): Body<StopRequest>,
) -> Answer<VmView> {
    let timeout = Duration::from_secs(request.timeout_s);
    if timeout > MAX_STOP {
        return Err(Refusal::from(Request::StopTimeout { seconds: request.timeout_s }).into());
    }
    let stopped = context
        .change(timeout + CHANGE_LIMIT, move |service| async move {
            service.stop_vm(&vm, request.force, timeout).await
        })
        .await?;
    answer(stopped)
}

pub(super) async fn adopt_vm(
    State(context): State<Context>,
    Body(request): Body<AdoptRequest>,
) -> Answer<VmView> {
    if !request.qmp.is_absolute() {
        return Err(relative("qmp", &request.qmp).into());
    }
    answer(context.change(CHANGE_LIMIT, |service| async move { service.adopt_vm(request).await }).await?)
}

pub(super) fn relative(field: &'static str, path: &std::path::Path) -> Refusal {
    Request::Relative { field, path: path.to_owned() }.into()
}

pub(super) async fn remove_vm(State(context): State<Context>, Target(vm): Target) -> Answer<Done> {
    context.change(CHANGE_LIMIT, |service| async move { service.remove_vm(&vm).await }).await?;
    answer(Done::default())
}

pub(super) async fn auth_list(State(context): State<Context>) -> Answer<Vec<AuthView>> {
    answer(context.ask(context.service.auth_list()).await?)
}

pub(super) async fn auth_add(
    State(context): State<Context>,
    Body(request): Body<AuthRequest>,
) -> Answer<AuthView> {
    if let Some(path) = request.storage.as_ref().filter(|path| !path.is_absolute()) {
        return Err(relative("storage", path).into());
    }
    answer(context.change(CHANGE_LIMIT, |service| async move { service.auth_add(request).await }).await?)
}

pub(super) async fn auth_remove(State(context): State<Context>, Id(id): Id) -> Answer<Done> {
    let known = context.ask(context.service.auth_list()).await?;
    let id = select::entry(&id, &known)?;
    context.change(CHANGE_LIMIT, move |service| async move { service.auth_remove(id).await }).await?;
    answer(Done::default())
}

pub(super) async fn peers(State(context): State<Context>) -> Answer<Vec<PeerView>> {
    answer(context.ask(context.service.peers()).await?)
}

pub(super) async fn rebind_peer(
    State(context): State<Context>,
    Id(id): Id,
    Body(request): Body<RebindRequest>,
) -> Answer<Done> {
    let host = id.parse().map_err(|_| Refusal::from(Request::HostId { text: id.clone() }))?;
    let rebind =
        move |service: Arc<dyn Service>| async move { service.rebind_peer(host, request.name).await };
    context.change(CHANGE_LIMIT, rebind).await?;
    answer(Done::default())
}

pub(super) async fn connection_test(
    State(context): State<Context>,
    Body(request): Body<ConnectionTestRequest>,
) -> Answer<Done> {
    let peer = request.to.parse()?;
    context.ask(context.service.test_connection(&peer)).await?;
    answer(Done::default())
}

pub(super) async fn status_all(State(context): State<Context>) -> Answer<Vec<StatusView>> {
    answer(context.ask(context.service.status(None)).await?)
}

pub(super) async fn status(State(context): State<Context>, Target(vm): Target) -> Answer<StatusView> {
    let views = context.ask(context.service.status(Some(&vm))).await?;
    let none = || Refusal::from(Select::NoStatus { vm: vm.to_string() });
    answer(views.into_iter().next().ok_or_else(none)?)
}

pub(super) async fn points(State(context): State<Context>, Target(vm): Target) -> Answer<Vec<PointView>> {
    let mut points = context.ask(context.service.points(&vm)).await?;
    points.sort_by_key(|point| std::cmp::Reverse(point.epoch));
    answer(points)
}

pub(super) async fn replicate(
    State(context): State<Context>,
    Target(vm): Target,
    Body(request): Body<ReplicateRequest>,
) -> JobAnswer {
    let order = request.into_order(&context.defaults)?;
    let outcome =
        context.change(CHANGE_LIMIT, |service| async move { service.replicate(&vm, order).await }).await?;
    Ok(Started(outcome))
}

pub(super) async fn take_point(
    State(context): State<Context>,
    Target(vm): Target,
    Body(request): Body<PointRequest>,
) -> JobAnswer {
    let take = move |service: Arc<dyn Service>| async move {
        service.take_point(&vm, request.application_consistent).await
    };
    Ok(Started(context.change(CHANGE_LIMIT, take).await?))
}

pub(super) async fn failover(
    State(context): State<Context>,
    Target(vm): Target,
    Body(request): Body<FailoverRequest>,
) -> JobAnswer {
    let point = find_point(&context, &vm, request.point.as_deref()).await?;
    let failover = Failover { point, start: request.start, asserts: request.asserts() };
    let go = move |service: Arc<dyn Service>| async move { service.failover(&vm, failover).await };
    Ok(Started(context.change(CHANGE_LIMIT, go).await?))
}

pub(super) async fn pin_point(
    State(context): State<Context>,
    Target(vm): Target,
    Body(request): Body<PinRequest>,
) -> Answer<Vec<PointView>> {
    let points = context.ask(context.service.points(&vm)).await?;
    let Some(point) = select::point(&request.point, &vm.to_string(), &points)? else {
        return Err(Refusal::from(Request::PinLatest).into());
    };
    let pin =
        move |service: Arc<dyn Service>| async move { service.pin_point(&vm, point, request.pinned).await };
    let mut points = context.change(CHANGE_LIMIT, pin).await?;
    points.sort_by_key(|point| std::cmp::Reverse(point.epoch));
    answer(points)
}

/// The point that a text means; `None` for the latest.
async fn find_point(context: &Context, vm: &VmRef, text: Option<&str>) -> Result<Option<PointId>> {
    let Some(text) = text else { return Ok(None) };
    let points = context.ask(context.service.points(vm)).await?;
    select::point(text, &vm.to_string(), &points)
}

pub(super) async fn preflight(
    State(context): State<Context>,
    Target(vm): Target,
    Query(query): Query<PreflightQuery>,
) -> Answer<PreflightView> {
    let point = find_point(&context, &vm, query.point.as_deref()).await?;
    answer(context.ask(context.service.preflight(&vm, point)).await?)
}

pub(super) async fn network(State(context): State<Context>, Target(vm): Target) -> Answer<NetworkView> {
    answer(context.ask(context.service.network(&vm)).await?)
}

pub(super) async fn set_network(
    State(context): State<Context>,
    Target(vm): Target,
    Body(request): Body<NetworkRequest>,
) -> Answer<NetworkView> {
    let set = |service: Arc<dyn Service>| async move { service.set_network(&vm, request.changes).await };
    answer(context.change(CHANGE_LIMIT, set).await?)
}

pub(super) async fn settings(State(context): State<Context>, Target(vm): Target) -> Answer<SettingsView> {
    answer(context.ask(context.service.settings(&vm)).await?)
}

pub(super) async fn modify(
    State(context): State<Context>,
    Target(vm): Target,
    Body(request): Body<SettingsRequest>,
) -> Answer<SettingsView> {
    let wanted = request.into_modification()?;
    let modify = |service: Arc<dyn Service>| async move { service.modify(&vm, wanted).await };
    answer(context.change(CHANGE_LIMIT, modify).await?)
}

pub(super) async fn rename(
    State(context): State<Context>,
    Target(vm): Target,
    Body(request): Body<RenameRequest>,
) -> Answer<StatusView> {
    let rename = |service: Arc<dyn Service>| async move { service.rename(&vm, request.name).await };
    answer(context.change(CHANGE_LIMIT, rename).await?)
}

/// Handlers of `POST /v1/vms/{vm}/<verb>` that take no body.
macro_rules! verb {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        pub(super) async fn $name(State(context): State<Context>, Target(vm): Target) -> JobAnswer {
            let go = move |service: Arc<dyn Service>| async move { service.$name(&vm).await };
            Ok(Started(context.change(CHANGE_LIMIT, go).await?))
        }
    )*};
}

verb! {
    unreplicate;
    suspend;
    resume;
    resync;
    revert_failover;
    commit_failover;
}

pub(super) async fn jobs(State(context): State<Context>) -> Answer<Vec<JobView>> {
    answer(context.ask(context.service.jobs()).await?)
}

pub(super) async fn job(State(context): State<Context>, Id(id): Id) -> Answer<JobView> {
    let id = find_job(&context, &id).await?;
    answer(context.ask(context.service.job(id)).await?)
}

pub(super) async fn cancel_job(State(context): State<Context>, Id(id): Id) -> Answer<JobView> {
    let id = find_job(&context, &id).await?;
    answer(context.change(CHANGE_LIMIT, move |service| async move { service.cancel_job(id).await }).await?)
}

/// A full id is taken as it is; the beginning of one is looked up.
pub(super) async fn find_job(context: &Context, text: &str) -> Result<JobId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let jobs = context.ask(context.service.jobs()).await?;
    select::by_prefix(text, jobs.iter().map(|job| job.id), "job", "standin jobs")
}

pub(super) async fn watch_job(
    State(context): State<Context>,
    Id(id): Id,
    Query(query): Query<WatchQuery>,
) -> Answer<JobView> {
    let id = find_job(&context, &id).await?;
    let mut receiver = context.ask(context.service.watch_job(id)).await?;
    let limit = Duration::from_secs(query.timeout.unwrap_or(20).min(60));
    let moved_on = async {
        while !has_moved(&receiver.borrow_and_update(), &query) {
            // Progress is told now and then, the end at once. The sender is gone when the job has ended: what was
            // last said is all there is.
            tokio::select! {
                _ = receiver.wait_for(|job| job.ended_at.is_some()) => break,
                () = tokio::time::sleep(WATCH_PAUSE) => {}
            }
            let moved = has_moved(&receiver.borrow_and_update(), &query);
            if moved || receiver.changed().await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = moved_on => {}
        () = tokio::time::sleep(limit) => {}
        () = context.stopping.cancelled() => {}
    }
    let job = receiver.borrow().clone();
    answer(job)
}

/// Whether the client has not seen this yet.
fn has_moved(job: &JobView, seen: &WatchQuery) -> bool {
    let differs = seen.after_percent != Some(job.percent)
        || seen.after_state != Some(job.state_code)
        || seen.after_bytes.is_some_and(|bytes| bytes != job.bytes_done);
    differs || job.ended_at.is_some()
}
