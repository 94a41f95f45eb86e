//! `Msvm_ConcreteJob`, and the errors of jobs as `Msvm_Error`.

use crate::ids;
use crate::make::Make;
use jiff::Timestamp;
use standin_cim::{Datetime, Instance, Key};
use standin_model::{JobRecord, JobState, Refusal, ReturnCode};

/// Seconds that a job is kept after its end.
const KEPT_S: u64 = 300;

/// A job.
pub fn job(job: &JobRecord) -> Instance {
    let (operational, text) = operational(job.state);
    let changed = job.ended_at.or(job.started_at).unwrap_or(job.created_at);
    Make::new("Msvm_ConcreteJob", vec![Key::text("InstanceID", ids::guid(job.id))])
        .with("Caption", job.job_type.name())
        .with("Description", job.description.as_str())
        .with("ElementName", job.job_type.name())
        .with("Name", job.job_type.name())
        .time("InstallDate", Some(job.created_at))
        .numbers("OperationalStatus", &operational)
        .texts("StatusDescriptions", [text.to_owned()])
        .with("Status", text)
        .with("HealthState", if job.state == JobState::Exception { 25_u16 } else { 5_u16 })
        .with("JobStatus", text)
        .time("TimeSubmitted", Some(job.created_at))
        .time("StartTime", job.started_at)
        .with("ElapsedTime", elapsed(job))
        .with("LocalOrUtcTime", 2_u16)
        .with("Owner", job.owner.as_str())
        .with("PercentComplete", u16::from(job.percent))
        .with("DeleteOnCompletion", true)
        .with("ErrorCode", error_code(job))
        .maybe("ErrorDescription", job.error.as_ref().map(sentence))
        .maybe("ErrorSummaryDescription", job.error.as_ref().map(|error| error.message.clone()))
        .with("JobState", job.state.code())
        .time("TimeOfLastStateChange", Some(changed))
        .with("TimeBeforeRemoval", Datetime::seconds(KEPT_S))
        .with("Cancellable", job.cancellable && !job.state.is_final())
        .with("JobType", job.job_type.code())
        .done()
}

/// What happened and what to do, as one text.
pub fn sentence(error: &Refusal) -> String {
    format!("{}. {}", error.message.trim_end_matches('.'), error.remedy)
}

fn error_code(job: &JobRecord) -> u16 {
    job.error.as_ref().map_or(0, |error| u16::try_from(u32::from(error.code)).unwrap_or(u16::MAX))
}

fn elapsed(job: &JobRecord) -> Datetime {
    let from = job.started_at.unwrap_or(job.created_at);
    let micros = job.ended_at.unwrap_or_else(Timestamp::now).duration_since(from).as_micros();
    Datetime::Interval { microseconds: u64::try_from(micros).unwrap_or(0) }
}

/// `OperationalStatus` (CIM's own numbers) and a word for people.
fn operational(state: JobState) -> (Vec<u16>, &'static str) {
    match state {
        JobState::New => (vec![2], "New"),
        JobState::Starting => (vec![2], "Starting"),
        JobState::Running => (vec![2], "Running"),
        JobState::Suspended => (vec![2], "Suspended"),
        JobState::ShuttingDown => (vec![2], "Shutting down"),
        JobState::Completed => (vec![2, 17], "Completed"),
        JobState::Terminated => (vec![2], "Terminated"),
        JobState::Killed => (vec![2], "Killed"),
        JobState::Exception => (vec![6], "Failed"),
    }
}

/// Everything that went wrong in a job, the reason of its failure last.
pub fn errors(job: &JobRecord) -> Vec<Instance> {
    job.errors.iter().chain(&job.error).map(error).collect()
}

/// `ErrorType` of what none of the other types says.
const OTHER: u16 = 1;

/// `ErrorType` and `CIMStatusCode` (`CIM_Error`) of a return code.
fn kinds(code: ReturnCode) -> (u16, u32) {
    match code {
        ReturnCode::AccessDenied => (7, 2),
        ReturnCode::NotSupported => (10, 7),
        ReturnCode::NotAvailable => (9, 1),
        ReturnCode::OutOfMemory => (8, 1),
        ReturnCode::InvalidParameter | ReturnCode::IncorrectDataType => (OTHER, 4),
        ReturnCode::FileNotFound => (OTHER, 6),
        _ => (OTHER, 1),
    }
}

/// A refusal as `Msvm_Error`.
pub fn error(refusal: &Refusal) -> Instance {
    let (kind, status) = kinds(refusal.code);
    let make = Make::embedded("Msvm_Error").with("ErrorType", kind);
    let make = if kind == OTHER { make.with("OtherErrorType", format!("{:?}", refusal.code)) } else { make };
    make.with("MessageID", u32::from(refusal.code).to_string())
        .with("Message", refusal.message.as_str())
        .with("PerceivedSeverity", 5_u16)
        .texts("RecommendedActions", [refusal.remedy.clone()])
        .with("ErrorSourceFormat", 0_u16)
        .with("CIMStatusCode", status)
        .with("CIMStatusCodeDescription", refusal.message.as_str())
        .done()
}
