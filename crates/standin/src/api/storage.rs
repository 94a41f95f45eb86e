//! The routes of the replicas' disks: list, check, repair, adopt, remove.

use super::extract::{Answer, Body, answer};
use super::handlers::{CHANGE_LIMIT, Context, Id, JobAnswer, Started, find_job, relative};
use super::service::{Result, Service};
use super::types::{CheckRequest, DirectoryRequest, Done, RepairRequest, VmRef};
use axum::extract::State;
use standin_model::view::{CheckView, DirectoryView, RepairView};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) async fn list(State(context): State<Context>) -> Answer<Vec<DirectoryView>> {
    answer(context.ask(context.service.store_list()).await?)
}

pub(super) async fn check(State(context): State<Context>, Body(request): Body<CheckRequest>) -> JobAnswer {
    let vm: Option<VmRef> = request.vm.as_deref().map(str::parse).transpose()?;
    let go = move |service: Arc<dyn Service>| async move { service.store_check(vm.as_ref()).await };
    Ok(Started(context.change(CHANGE_LIMIT, go).await?))
}

pub(super) async fn check_result(State(context): State<Context>, Id(id): Id) -> Answer<Vec<CheckView>> {
    let id = find_job(&context, &id).await?;
    answer(context.ask(context.service.store_check_result(id)).await?)
}

pub(super) async fn repair(State(context): State<Context>, Body(request): Body<RepairRequest>) -> JobAnswer {
    let vm: VmRef = request.vm.parse()?;
    let go = move |service: Arc<dyn Service>| async move { service.store_repair(&vm).await };
    Ok(Started(context.change(CHANGE_LIMIT, go).await?))
}

pub(super) async fn repair_result(State(context): State<Context>, Id(id): Id) -> Answer<RepairView> {
    let id = find_job(&context, &id).await?;
    answer(context.ask(context.service.store_repair_result(id)).await?)
}

pub(super) async fn adopt(
    State(context): State<Context>,
    Body(request): Body<DirectoryRequest>,
) -> Answer<DirectoryView> {
    let path = absolute(request)?;
    let adopt = |service: Arc<dyn Service>| async move { service.store_adopt(path).await };
    answer(context.change(CHANGE_LIMIT, adopt).await?)
}

pub(super) async fn remove(
    State(context): State<Context>,
    Body(request): Body<DirectoryRequest>,
) -> Answer<Done> {
    let path = absolute(request)?;
    context.change(CHANGE_LIMIT, |service| async move { service.store_remove(path).await }).await?;
    answer(Done::default())
}

fn absolute(request: DirectoryRequest) -> Result<PathBuf> {
    match request.directory.is_absolute() {
        true => Ok(request.directory),
        false => Err(relative("directory", &request.directory)),
    }
}
