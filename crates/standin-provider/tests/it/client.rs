//! A client of one host: calls through the broker, in the daemon's own runtime, as a user with a role.

use crate::host::Host;
use crate::world::{World, keep_all};
use jiff::Timestamp;
use standin_cim::broker::Broker;
use standin_cim::{
    AssociationFilter, Caller, CimType, Instance, Key, MethodAnswer, MethodCall, Named, Namespace,
    ObjectPath, Operations, RawValue, Role, TypedValue, Value,
};
use standin_hypervisor::{NicDefinition, NicKind};
use standin_model::VmId;
use standin_provider::{Provider, Site, VIRTUALIZATION};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub const PRIMARY: &str = "primary.example.org";
pub const REPLICA: &str = "replica.example.org";

/// A user at a host.
pub struct Client<'a> {
    host: &'a Host,
    name: &'static str,
    role: Role,
    certificate: PathBuf,
}

impl World {
    /// An administrator at the primary.
    pub fn at_a(&self) -> Client<'_> {
        let certificate = self.root().join("pki-a/host.crt");
        Client { host: &self.a, name: PRIMARY, role: Role::Administrator, certificate }
    }

    /// An administrator at the replica.
    pub fn at_b(&self) -> Client<'_> {
        let certificate = self.root().join("pki/host.crt");
        Client { host: &self.b, name: REPLICA, role: Role::Administrator, certificate }
    }

    /// Its VM has these network cards, and replicates.
    pub async fn with_cards(cards: &[&str]) -> Self {
        let world = Self::new().await;
        world.a.fake.redefine(world.vm, |definition| {
            let kind = NicKind::Bridge { bridge: "br-prod".to_owned() };
            let card = |name: &&str| NicDefinition {
                name: (*name).to_owned(),
                mac: None,
                model: "virtio".to_owned(),
                kind: kind.clone(),
            };
            definition.nics = cards.iter().map(card).collect();
        });
        world.look().await;
        let job = world.begin(keep_all()).await;
        world.done(job).await;
        world.both_replicate().await;
        world
    }

    /// The primary has looked at its VMs: the one of the test came after its start.
    pub async fn look(&self) {
        let vm = self.vm;
        self.a.call(move |engine| async move { engine.vm_changed(vm).await }).await;
    }

    /// The VM's `Msvm_ComputerSystem`.
    pub fn system(&self) -> ObjectPath {
        system(self.vm)
    }

    /// A property of the VM at the replica.
    pub async fn replica_state(&self) -> u64 {
        number(&self.at_b().get(&self.system()).await, "ReplicationState")
    }

    /// Fails over to the latest point by the API.
    pub async fn fails_over(&self) {
        let begun = self.at_b().replication("InitiateFailover", vec![self.computer_system()]).await;
        self.at_b().well(&begun).await;
        assert_eq!(self.replica_state().await, 5);
    }

    /// The argument that most methods have.
    pub fn computer_system(&self) -> Named {
        reference("ComputerSystem", self.system())
    }
}

pub fn guid(vm: VmId) -> String {
    vm.to_string().to_ascii_uppercase()
}

pub fn system(vm: VmId) -> ObjectPath {
    system_named(&guid(vm))
}

pub fn system_named(name: &str) -> ObjectPath {
    let keys =
        vec![Key::text("CreationClassName", "Msvm_ComputerSystem"), Key::text("Name", name.to_owned())];
    local(ObjectPath::new("Msvm_ComputerSystem", keys))
}

/// The path of an instance whose key is its `InstanceID`.
pub fn with_id(class: &'static str, id: impl Into<String>) -> ObjectPath {
    local(ObjectPath::new(class, vec![Key::text("InstanceID", id.into())]))
}

fn local(path: ObjectPath) -> ObjectPath {
    path.within(VIRTUALIZATION)
}

pub fn named(name: &str, value: RawValue) -> Named {
    Named { name: name.to_owned(), value }
}

pub fn reference(name: &str, path: ObjectPath) -> Named {
    named(name, RawValue::Reference(path))
}

pub fn text(name: &str, value: impl Into<String>) -> Named {
    named(name, RawValue::Text(value.into()))
}

pub fn embedded(name: &str, instance: Instance) -> Named {
    named(name, RawValue::Instance(Box::new(instance)))
}

pub fn typed(value: Value) -> RawValue {
    let cim_type = value.cim_type().unwrap_or(CimType::String);
    RawValue::Typed(TypedValue { cim_type, array: matches!(value, Value::Array(_)), value: Some(value) })
}

/// Sets a scalar property of an instance that goes back to the host.
pub fn set(instance: &mut Instance, name: &'static str, value: impl Into<Value>) {
    let value = value.into();
    let (cim_type, array) = match &value {
        Value::Array(_) => (CimType::String, true),
        other => (other.cim_type().unwrap_or(CimType::String), false),
    };
    instance.set(name, cim_type, array, Some(value));
}

#[track_caller]
pub fn string<'a>(instance: &'a Instance, name: &str) -> &'a str {
    match instance.value(name) {
        Some(Value::String(text)) => text,
        other => panic!("{name} of {}: {other:?}", instance.class),
    }
}

#[track_caller]
pub fn number(instance: &Instance, name: &str) -> u64 {
    match instance.value(name) {
        Some(value) => as_number(value).unwrap_or_else(|| panic!("{name} is {value:?}")),
        None => panic!("{name} of {} is null", instance.class),
    }
}

pub fn as_number(value: &Value) -> Option<u64> {
    match value {
        Value::Uint8(number) => Some(u64::from(*number)),
        Value::Uint16(number) => Some(u64::from(*number)),
        Value::Uint32(number) => Some(u64::from(*number)),
        Value::Uint64(number) => Some(*number),
        _ => None,
    }
}

/// The value of an out parameter.
pub fn out<'a>(answer: &'a MethodAnswer, name: &str) -> Option<&'a Value> {
    let found = answer.out.iter().find(|(found, _)| found == name);
    found.unwrap_or_else(|| panic!("no out parameter {name}: {:?}", answer.out)).1.value.as_ref()
}

/// The instances of an out parameter.
pub fn instances(answer: &MethodAnswer, name: &str) -> Vec<Instance> {
    let Some(Value::Array(values)) = out(answer, name) else { return Vec::new() };
    let instance = |value: &Value| match value {
        Value::Instance(instance) => (**instance).clone(),
        other => panic!("{other:?}"),
    };
    values.iter().flatten().map(instance).collect()
}

impl Client<'_> {
    /// The same place, another role.
    pub fn with_role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    pub fn site(&self) -> Site {
        Site {
            host: self.name.to_owned(),
            machine_id: Some("F1A5C0DE-0000-4000-8000-00000000ABCD".to_owned()),
            port: 28444,
            version: "1.2.3",
            started_at: Timestamp::now(),
            booted_at: None,
            certificates: vec![self.certificate.clone()],
        }
    }

    pub fn caller(&self) -> Caller {
        Caller {
            name: "somebody".into(),
            role: self.role,
            from: SocketAddr::from(([127, 0, 0, 1], 4)),
            proof: "basic",
            protocol: "cim-xml",
        }
    }

    async fn ask<T, F, Fut>(&self, ask: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(Broker<Provider>, Caller) -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        let (site, caller, name) = (self.site(), self.caller(), self.name);
        self.host
            .call(move |engine| ask(Broker::new(Provider::new(engine, site)).with_host(name), caller))
            .await
    }

    pub async fn try_get(&self, path: &ObjectPath) -> standin_cim::Result<Instance> {
        let path = path.clone();
        self.ask(move |broker, caller| async move { broker.get_instance(&caller, &path).await }).await
    }

    pub async fn get(&self, path: &ObjectPath) -> Instance {
        self.try_get(path).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub async fn modify(&self, path: &ObjectPath, changes: Vec<Named>) -> standin_cim::Result<Instance> {
        let path = path.clone();
        self.ask(move |broker, caller| async move { broker.modify_instance(&caller, &path, changes).await })
            .await
    }

    pub async fn all_in(&self, namespace: Namespace, class: &str) -> Vec<Instance> {
        let class = class.to_owned();
        self.ask(move |broker, caller| async move {
            broker.enumerate(&caller, &namespace, &class).await.expect("a class")
        })
        .await
    }

    pub async fn all(&self, class: &str) -> Vec<Instance> {
        self.all_in(VIRTUALIZATION, class).await
    }

    /// The instances of a class that an association of a class relates to this one.
    pub async fn related(&self, from: &ObjectPath, by: &str, to: &str) -> Vec<Instance> {
        let filter = AssociationFilter {
            association_class: Some(by.to_owned()),
            result_class: Some(to.to_owned()),
            ..AssociationFilter::default()
        };
        let from = from.clone();
        self.ask(move |broker, caller| async move {
            broker.associators(&caller, &from, &filter).await.expect("associators")
        })
        .await
    }

    pub async fn try_invoke(
        &self,
        target: ObjectPath,
        method: &str,
        arguments: Vec<Named>,
    ) -> standin_cim::Result<MethodAnswer> {
        let call = MethodCall { target, method: method.to_owned(), arguments };
        self.ask(move |broker, caller| async move { broker.invoke(&caller, call).await }).await
    }

    pub async fn invoke(&self, target: ObjectPath, method: &str, arguments: Vec<Named>) -> MethodAnswer {
        let answer = self.try_invoke(target, method, arguments).await;
        answer.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// A method of the service of a class.
    pub async fn of_service(&self, class: &'static str, method: &str, arguments: Vec<Named>) -> MethodAnswer {
        let service = self.all(class).await.pop().expect("the service").path.expect("a path");
        self.invoke(service, method, arguments).await
    }

    pub async fn replication(&self, method: &str, arguments: Vec<Named>) -> MethodAnswer {
        self.of_service("Msvm_ReplicationService", method, arguments).await
    }

    /// The job of an answer, at its end.
    pub async fn ended(&self, answer: &MethodAnswer) -> Instance {
        assert_eq!(answer.return_value, 4096, "{:?}", answer.out);
        let Some(Value::Reference(path)) = out(answer, "Job") else { panic!("no job: {:?}", answer.out) };
        self.ended_at((**path).clone().within(VIRTUALIZATION)).await
    }

    /// A job, at its end.
    pub async fn ended_at(&self, path: ObjectPath) -> Instance {
        let begun = Instant::now();
        loop {
            let job = self.get(&path).await;
            if number(&job, "JobState") >= 7 {
                return job;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{job:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The job of an answer ends well.
    pub async fn well(&self, answer: &MethodAnswer) -> Instance {
        let job = self.ended(answer).await;
        assert_eq!((number(&job, "JobState"), number(&job, "ErrorCode")), (7, 0), "{job:?}");
        assert_eq!(number(&job, "PercentComplete"), 100);
        job
    }
}
