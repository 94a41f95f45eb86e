//! Methods of `Msvm_ConcreteJob`.

use super::call::Call;
use super::reason::{Argument, Method, Missing};
use super::{Answer, Done, Tools, not_here};
use crate::make::Out;
use crate::{ids, jobs};
use standin_cim::Instance;
use standin_model::{JobId, JobRecord, JobState, Refusal, ReturnCode};

/// `RequestStateChange`: terminate, kill.
const TERMINATE: u16 = 4;
const KILL: u16 = 5;

/// Calls a method of a job.
pub fn concrete_job(tools: &Tools, call: &Call) -> Answer {
    let job = find(tools, call)?;
    match call.method.as_str() {
        "GetError" => {
            let out = jobs::errors(&job).pop();
            Ok(Done::with(
                out.map_or_else(Out::default, |error: Instance| Out::default().with("Error", error)),
            ))
        }
        "GetErrorEx" => Ok(Done::with(Out::default().instances("Errors", jobs::errors(&job)))),
        "RequestStateChange" => match call.number("RequestedState") {
            Some(TERMINATE | KILL) => cancel(tools, &job),
            Some(_) => Err(not_here("Msvm_ConcreteJob", "RequestStateChange to this state")),
            None => Err(Argument::Missing { parameter: "RequestedState".to_owned() }.into()),
        },
        "KillJob" => cancel(tools, &job),
        method => Err(not_here("Msvm_ConcreteJob", method)),
    }
}

fn find(tools: &Tools, call: &Call) -> Result<JobRecord, Refusal> {
    let id = ids::key_text(&call.target, "InstanceID").unwrap_or_default();
    let watch = id.parse::<JobId>().ok().and_then(|id| tools.engine.jobs().watch(id));
    let watch = watch.ok_or_else(|| Missing::Job { id: id.to_owned() })?;
    let record = watch.borrow().clone();
    Ok(record)
}

fn cancel(tools: &Tools, job: &JobRecord) -> Answer {
    if job.state.is_final() {
        return Err(Method::JobEnded { state: JobState::name(job.state) }.into());
    }
    tools.engine.jobs().cancel(job.id)?;
    Ok(Done::default())
}

/// The code of a refusal in the table of the class that declares the method: the jobs of CIM have numbers of their own,
/// the services of Hyper-V share one table.
pub fn code_of(owner: &str, code: ReturnCode) -> u32 {
    if !matches!(owner, "CIM_ConcreteJob" | "Msvm_ConcreteJob") {
        return u32::from(code);
    }
    match code {
        ReturnCode::Completed => 0,
        ReturnCode::NotSupported => 1,
        ReturnCode::StatusUnknown => 2,
        ReturnCode::Timeout => 3,
        ReturnCode::InvalidParameter | ReturnCode::IncorrectDataType => 5,
        ReturnCode::InUse => 6,
        ReturnCode::JobStarted => 4096,
        ReturnCode::InvalidState => 4097,
        // The other vendor codes are the service's.
        ReturnCode::AccessDenied => 32769,
        _ => 4,
    }
}
