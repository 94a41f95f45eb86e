//! A host with virtual machines, recovery points and a replication service, in memory.

use standin_cim::broker::Broker;
use standin_cim::memory::Repository;
use standin_cim::{
    Caller, CimType, Class, Datetime, Instance, MethodAnswer, Namespace, ObjectPath, Role, Value, schema,
};
use std::sync::Arc;

pub const V2: &str = schema::VIRTUALIZATION_NAMESPACE;
pub const HOST: &str = "kvm1";

pub fn namespace() -> Namespace {
    Namespace::from_static(V2)
}

pub fn caller(role: Role) -> Caller {
    let from = ([127, 0, 0, 1], 1).into();
    Caller { name: "ann".into(), role, from, proof: "basic", protocol: "cim-xml" }
}

pub fn administrator() -> Caller {
    caller(Role::Administrator)
}

/// An instance of a class with values of the types that the class declares.
pub fn instance(class: &str, values: &[(&str, Value)]) -> Instance {
    let schema = schema::virtualization();
    let class: &Class = schema.class(class).unwrap();
    let mut instance = Instance::new(class.name.clone());
    for (name, value) in values {
        let declared = class.property(name).unwrap_or_else(|| panic!("{}.{name}", class.name));
        let fits = value.cim_type().is_none_or(|found| found == declared.default.cim_type);
        assert!(fits, "{}.{name} is no {:?}", class.name, value.cim_type());
        instance.set(
            declared.name.clone(),
            declared.default.cim_type,
            declared.default.array,
            Some(value.clone()),
        );
    }
    instance
}

pub fn machine(name: &str, element: &str, state: u16) -> Instance {
    instance(
        "Msvm_ComputerSystem",
        &[
            ("CreationClassName", "Msvm_ComputerSystem".into()),
            ("Name", name.into()),
            ("ElementName", element.into()),
            ("EnabledState", state.into()),
            ("OperationalStatus", vec![2_u16, 11].into()),
            ("InstallDate", Datetime::utc("2026-03-01T12:00:00Z".parse().unwrap()).into()),
            ("OnTimeInMilliseconds", 5_000_000_000_u64.into()),
        ],
    )
}

pub fn point(id: &str, vm: &str, kind: &str) -> Instance {
    instance(
        "Msvm_VirtualSystemSettingData",
        &[
            ("InstanceID", format!("Microsoft:{id}").into()),
            ("VirtualSystemIdentifier", vm.into()),
            ("VirtualSystemType", format!("Microsoft:Hyper-V:{kind}").into()),
            ("ElementName", format!("point {id}").into()),
        ],
    )
}

pub fn reference(class: &str, keys: &[(&'static str, &str)]) -> ObjectPath {
    let key = |(name, value): &(&'static str, &str)| standin_cim::Key::text(*name, (*value).to_owned());
    ObjectPath::new(class.to_owned(), keys.iter().map(key).collect())
}

pub fn machine_path(name: &str) -> ObjectPath {
    reference("Msvm_ComputerSystem", &[("CreationClassName", "Msvm_ComputerSystem"), ("Name", name)])
}

pub fn point_path(id: &str) -> ObjectPath {
    reference("Msvm_VirtualSystemSettingData", &[("InstanceID", &format!("Microsoft:{id}"))])
}

fn link(class: &str, ends: [(&str, ObjectPath); 2]) -> Instance {
    let values = ends.map(|(name, path)| (name, Value::from(path)));
    instance(class, &values)
}

pub fn repository() -> Repository {
    let repository = Repository::new()
        .with_namespace(V2, schema::virtualization())
        .with_namespace(schema::INTEROP_NAMESPACE, schema::interop())
        .with_method("Msvm_ReplicationService.InitiateFailover", |_, call| {
            assert_eq!(call.method, "InitiateFailover");
            let job = reference("Msvm_ConcreteJob", &[("InstanceID", "job-1")]);
            let job = standin_cim::TypedValue {
                cim_type: CimType::Reference,
                array: false,
                value: Some(job.into()),
            };
            Ok(MethodAnswer { return_value: 4096, out: vec![("Job".into(), job)] })
        });
    for one in [
        machine(HOST, HOST, 2),
        machine("vm-a", "web server", 2),
        machine("vm-b", "Mail_1", 3),
        point("a", "vm-a", "System:Realized"),
        point("a-1", "vm-a", "Snapshot:Replica:Standard"),
        point("a-2", "vm-a", "Snapshot:Replica:ApplicationConsistent"),
        point("b", "vm-b", "System:Realized"),
        instance(
            "Msvm_ReplicationService",
            &[
                ("SystemCreationClassName", "Msvm_ComputerSystem".into()),
                ("SystemName", HOST.into()),
                ("CreationClassName", "Msvm_ReplicationService".into()),
                ("Name", "replicasvc".into()),
            ],
        ),
        instance(
            "Msvm_ReplicationSettingData",
            &[("InstanceID", r"Microsoft:vm-a\HVR".into()), ("ReplicationInterval", 300_u16.into())],
        ),
        link(
            "Msvm_SettingsDefineState",
            [("ManagedElement", machine_path("vm-a")), ("SettingData", point_path("a"))],
        ),
        link(
            "Msvm_SettingsDefineState",
            [("ManagedElement", machine_path("vm-b")), ("SettingData", point_path("b"))],
        ),
        link(
            "Msvm_SnapshotOfVirtualSystem",
            [("Antecedent", machine_path("vm-a")), ("Dependent", point_path("a-1"))],
        ),
        link(
            "Msvm_SnapshotOfVirtualSystem",
            [("Antecedent", machine_path("vm-a")), ("Dependent", point_path("a-2"))],
        ),
        link(
            "Msvm_MostCurrentSnapshotInBranch",
            [("Antecedent", machine_path("vm-a")), ("Dependent", point_path("a-2"))],
        ),
    ] {
        repository.put(V2, one).unwrap();
    }
    repository
}

pub fn broker() -> Arc<Broker<Repository>> {
    Arc::new(Broker::new(repository()).with_host(HOST))
}

/// The values of a property, sorted, of what was found.
pub fn names(found: &[Instance], property: &str) -> Vec<String> {
    let mut names: Vec<_> = found.iter().filter_map(|one| one.value(property)).map(Value::to_text).collect();
    names.sort();
    names
}
