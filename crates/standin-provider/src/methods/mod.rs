//! The methods. Each is a few lines: take the arguments, ask the engine, give its answer. What all of them share is
//! here: who may call, how arguments that do not fit are answered, and how a refusal becomes a return value.

pub mod authorization;
mod call;
pub mod certificates;
mod disks;
mod failover;
mod job;
mod management;
mod network;
mod power;
pub(crate) mod reason;
mod relationship;
mod snapshot;
mod statistics;

use crate::make::Out;
use crate::world::Site;
use crate::{Provider, VIRTUALIZATION, ids};
use call::Call;
use reason::{Argument, Method};
use standin_cim::arguments::{BindError, bind};
use standin_cim::{Caller, CimError, Context, MethodAnswer, MethodCall, Role, StatusCode, same_name};
use standin_engine::Engine;
use standin_model::{JobId, Refusal, ReturnCode};
use std::sync::Arc;

/// What a method does its work with.
#[derive(Clone)]
pub struct Tools {
    /// The engine.
    pub engine: Arc<Engine>,
    /// Facts of this host.
    pub site: Arc<Site>,
    /// That of this host's certificate.
    pub thumbprint: Arc<certificates::Thumbprint>,
}

/// How a method ended: at once, or with a job that goes on.
#[derive(Default)]
pub struct Done {
    /// The job.
    pub job: Option<JobId>,
    /// The other out parameters.
    pub out: Out,
}

impl Done {
    /// A job goes on, or nothing is left to do.
    pub fn job(job: Option<JobId>) -> Self {
        Self { job, out: Out::default() }
    }

    /// Ended, with out parameters.
    pub fn with(out: Out) -> Self {
        Self { job: None, out }
    }
}

/// What a method answers.
pub type Answer = Result<Done, Refusal>;

/// Methods that read; every viewer may call them, and they are not audited.
const READING: [&str; 8] = [
    "GetReplicationStatistics",
    "GetReplicationStatisticsEx",
    "GetSystemCertificates",
    "GetSummaryInformation",
    "GetError",
    "GetErrorEx",
    "FormatError",
    "TestReplicationConnection",
];

/// Methods that operators may call: rehearsals and statistics.
const OPERATING: [&str; 3] =
    ["TestReplicaSystem", "ResetReplicationStatistics", "ResetReplicationStatisticsEx"];

/// Who may call a method.
#[must_use]
pub fn role_of(method: &str) -> Role {
    if READING.iter().any(|name| same_name(name, method)) {
        Role::Viewer
    } else if OPERATING.iter().any(|name| same_name(name, method)) {
        Role::Operator
    } else {
        Role::Administrator
    }
}

/// Whether calls of a method belong into the audit log.
#[must_use]
pub fn audited(method: &str) -> bool {
    role_of(method) > Role::Viewer
}

/// Calls a method. It runs to its end also when the client goes away.
pub async fn invoke(
    provider: &Provider,
    caller: &Caller,
    call: MethodCall,
) -> standin_cim::Result<MethodAnswer> {
    let schema = standin_cim::schema::virtualization();
    let class = call.target.class.to_string();
    let declared = schema.class(&class).and_then(|class| class.method(&call.method)).ok_or_else(|| {
        CimError::new(StatusCode::MethodNotFound, format!("{class} has no method {}", call.method))
    })?;
    let tools = Tools {
        engine: Arc::clone(&provider.engine),
        site: Arc::clone(&provider.site),
        thumbprint: Arc::clone(&provider.thumbprint),
    };
    let (owner, name) = (declared.origin.to_string(), declared.name.to_string());
    let answer = if caller.may(role_of(&name)) {
        let point = call::point_argument(&call);
        let mut call = call;
        call.arguments.retain(|argument| !call::is_point(&argument.name));
        let context = Context { schema: &schema, namespace: &VIRTUALIZATION, host: &provider.site.host };
        match bind(&context, declared, call.arguments) {
            Err(error) => Err(refused(&error)),
            Ok(arguments) => {
                let bound = Call { class, method: name.clone(), target: call.target, arguments, point };
                run(tools, bound).await
            }
        }
    } else {
        Err(Method::Role { user: caller.name.to_string(), role: caller.role.as_str(), method: name }.into())
    };
    Ok(answered(&owner, declared, answer))
}

/// Runs a method to its end, whatever becomes of the one who asked.
async fn run(tools: Tools, call: Call) -> Answer {
    let work = tokio::spawn(async move { dispatch(&tools, &call).await });
    work.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a method ended by a defect");
        Err(Method::Defect.into())
    })
}

async fn dispatch(tools: &Tools, call: &Call) -> Answer {
    match call.class.as_str() {
        "Msvm_ReplicationService" => replication_service(tools, call).await,
        "Msvm_ComputerSystem" => power::computer_system(tools, call).await,
        "Msvm_ConcreteJob" => job::concrete_job(tools, call),
        "Msvm_VirtualSystemManagementService" => management::service(tools, call).await,
        "Msvm_VirtualSystemSnapshotService" => snapshot::service(tools, call).await,
        class => Err(not_here(class, &call.method)),
    }
}

async fn replication_service(tools: &Tools, call: &Call) -> Answer {
    match call.method.as_str() {
        "CreateReplicationRelationship" => relationship::create(tools, call).await,
        "ModifyReplicationSettings" => relationship::modify(tools, call).await,
        "StartReplication" => relationship::start(tools, call).await,
        "RemoveReplicationRelationship" | "RemoveReplicationRelationshipEx" => {
            relationship::remove(tools, call).await
        }
        "TestReplicationConnection" => relationship::test_connection(tools, call).await,
        "InitiateFailover" => failover::initiate(tools, call).await,
        "RevertFailover" => failover::revert(tools, call).await,
        "CommitFailover" => failover::commit(tools, call).await,
        "SetFailoverNetworkAdapterSettings" => network::set(tools, call).await,
        "GetReplicationStatistics" | "GetReplicationStatisticsEx" => statistics::get(tools, call),
        "ResetReplicationStatistics" | "ResetReplicationStatisticsEx" => statistics::reset(tools, call).await,
        "AddAuthorizationEntry" => authorization::add(tools, call).await,
        "ModifyAuthorizationEntry" => authorization::modify(tools, call).await,
        "RemoveAuthorizationEntry" => authorization::remove(tools, call).await,
        "SetAuthorizationEntry" => authorization::bind(tools, call).await,
        "ModifyServiceSettings" => authorization::service_settings(tools, call).await,
        "GetSystemCertificates" => certificates::get(tools),
        // It runs for as long as it can be asked.
        "StartService" => Ok(Done::default()),
        "Resynchronize" => later(tools, call, "a resynchronization at a time of the client's choice"),
        "TestReplicaSystem" => later(tools, call, "test failovers"),
        "ReverseReplicationRelationship" => later(tools, call, "reversing a relationship"),
        "ImportInitialReplica" => later(tools, call, "initial replication by export and import"),
        "ChangeReplicationModeToPrimary" => later(tools, call, "extended replication"),
        "InitiateFailback" => later(tools, call, "failback"),
        method => Err(not_here("Msvm_ReplicationService", method)),
    }
}

/// A method whose flow this version has not got: its arguments are checked all the same.
fn later(tools: &Tools, call: &Call, what: &'static str) -> Answer {
    call.machine(tools)?;
    Err(Method::Later { method: call.method.clone(), what }.into())
}

/// A method that is declared and has nothing behind it here.
fn not_here(class: &str, method: &str) -> Refusal {
    Method::NotHere { class: class.to_owned(), method: method.to_owned() }.into()
}

/// Arguments that do not fit: 32773 when one is missing or unknown, 32776 when it has another type.
fn refused(error: &BindError) -> Refusal {
    let text = error.to_string();
    match error {
        BindError::WrongType { .. } => Argument::WrongType { error: text }.into(),
        _ => Argument::Unfit { error: text }.into(),
    }
}

/// The answer with every out parameter of the declaration, null where there is nothing to say.
fn answered(owner: &str, method: &standin_cim::MethodDecl, answer: Answer) -> MethodAnswer {
    let (code, done) = match answer {
        Ok(done) if done.job.is_some() => (u32::from(ReturnCode::JobStarted), done),
        Ok(done) => (0, done),
        Err(refusal) => {
            tracing::info!(method = %method.name, code = u32::from(refusal.code), reason = %refusal.message, "a method was refused");
            (job::code_of(owner, refusal.code), Done::default())
        }
    };
    let Out(mut given) = done.out;
    if let Some(job) = done.job {
        given.extend(Out::default().with("Job", ids::job_path(job)).0);
    }
    let out = method
        .parameters
        .iter()
        .filter(|parameter| parameter.output)
        .map(|parameter| {
            let found = given.iter().find(|(name, _)| same_name(name, &parameter.name));
            let null =
                standin_cim::TypedValue { cim_type: parameter.cim_type, array: parameter.array, value: None };
            (parameter.name.clone(), found.map_or(null, |(_, value)| value.clone()))
        })
        .collect();
    MethodAnswer { return_value: code, out }
}
