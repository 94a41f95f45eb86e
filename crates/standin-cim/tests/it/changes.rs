//! Changing instances and calling methods.

use crate::scene::*;
use standin_cim::arguments::{self, BindError};
use standin_cim::{
    CimType, Context, Keys, MethodCall, Named, Namespace, ObjectPath, Operations, RawValue, Role, StatusCode,
    TypedValue, Value, schema,
};

fn text(name: &str, value: &str) -> Named {
    Named { name: name.to_owned(), value: RawValue::Text(value.to_owned()) }
}

fn service() -> ObjectPath {
    reference("Msvm_ReplicationService", &[("Name", "replicasvc")]).within(namespace())
}

fn call(method: &str, arguments: Vec<Named>) -> MethodCall {
    MethodCall { target: service(), method: method.to_owned(), arguments }
}

#[tokio::test]
async fn a_writable_property_is_changed_and_the_others_are_not() {
    let broker = broker();
    let point = point_path("a").within(namespace());
    let changed = broker
        .modify_instance(&administrator(), &point, vec![text("chassisassettag", "rack 7")])
        .await
        .unwrap();
    assert_eq!(changed.value("ChassisAssetTag"), Some(&"rack 7".into()));
    // An instance sent back whole changes what differs.
    let whole = changed.properties.into_iter().map(|property| {
        let value = match &*property.name {
            "DebugPort" => RawValue::Text("99".to_owned()),
            _ => RawValue::Typed(property.value),
        };
        Named { name: property.name.to_string(), value }
    });
    let changed = broker.modify_instance(&administrator(), &point, whole.collect()).await.unwrap();
    assert_eq!(changed.value("DebugPort"), Some(&Value::Uint32(99)));
    for (change, status) in [
        (text("ElementName", "other"), StatusCode::NotSupported),
        (text("Colour", "red"), StatusCode::NoSuchProperty),
        (text("DebugPort", "many"), StatusCode::TypeMismatch),
        (text("DebugPort", "4294967296"), StatusCode::TypeMismatch),
        (text("DebugPort", "-1"), StatusCode::TypeMismatch),
    ] {
        let error = broker.modify_instance(&administrator(), &point, vec![change.clone()]).await.unwrap_err();
        assert_eq!(error.status, status, "{change:?}: {error}");
    }
}

#[tokio::test]
async fn only_an_administrator_changes_anything() {
    let broker = broker();
    let point = point_path("a").within(namespace());
    for role in [Role::Viewer, Role::Operator] {
        let caller = caller(role);
        let modified = broker.modify_instance(&caller, &point, vec![text("ChassisAssetTag", "x")]).await;
        assert_eq!(modified.unwrap_err().status, StatusCode::AccessDenied);
        let created = broker.create_instance(&caller, &namespace(), "Msvm_ConcreteJob", vec![]).await;
        assert_eq!(created.unwrap_err().status, StatusCode::AccessDenied);
        assert_eq!(
            broker.delete_instance(&caller, &point).await.unwrap_err().status,
            StatusCode::AccessDenied
        );
    }
    assert!(broker.get_instance(&caller(Role::Viewer), &point).await.is_ok());
}

#[tokio::test]
async fn an_instance_is_made_found_and_removed() {
    let broker = broker();
    let make = |properties| {
        let broker = broker.clone();
        async move {
            let class = "msvm_replicationsettingdata";
            broker.create_instance(&administrator(), &namespace(), class, properties).await
        }
    };
    let path = make(vec![text("InstanceID", "new"), text("CompressionEnabled", "TRUE")]).await.unwrap();
    assert_eq!(path.namespace, Some(namespace()));
    let found = broker.get_instance(&administrator(), &path).await.unwrap();
    assert_eq!(found.value("CompressionEnabled"), Some(&true.into()));
    assert_eq!(found.value("ReplicationInterval"), Some(&300_u16.into()), "a default of the class");
    let error = make(vec![text("InstanceID", "new")]).await.unwrap_err();
    assert_eq!(error.status, StatusCode::AlreadyExists);
    assert_eq!(make(vec![]).await.unwrap_err().status, StatusCode::InvalidParameter, "without its key");
    broker.delete_instance(&administrator(), &path).await.unwrap();
    assert_eq!(broker.get_instance(&administrator(), &path).await.unwrap_err().status, StatusCode::NotFound);
    let error =
        broker.create_instance(&administrator(), &namespace(), "CIM_SettingData", vec![]).await.unwrap_err();
    assert_eq!(error.status, StatusCode::NotSupported);
}

#[tokio::test]
async fn a_method_is_found_through_its_bases_and_answers_with_every_out_parameter() {
    let broker = broker();
    let system = Named { name: "computersystem".into(), value: RawValue::Reference(machine_path("vm-a")) };
    let answer = broker.invoke(&administrator(), call("initiatefailover", vec![system])).await.unwrap();
    assert_eq!(answer.return_value, 4096);
    let names: Vec<_> = answer.out.iter().map(|(name, value)| (&**name, value.cim_type)).collect();
    assert_eq!(names, [("Job", CimType::Reference)]);
    let mut by_base = call("InitiateFailover", vec![]);
    by_base.target = reference("CIM_Service", &[("Name", "replicasvc")]).within(namespace());
    assert!(broker.invoke(&administrator(), by_base).await.is_ok());
    let mut on_class = call("InitiateFailover", vec![]);
    on_class.target.keys = Keys::None;
    for (call, status) in [
        (call("Explode", vec![]), StatusCode::MethodNotFound),
        (call("InitiateFailover", vec![text("Colour", "red")]), StatusCode::InvalidParameter),
        (on_class, StatusCode::InvalidParameter),
        (call("StartService", vec![]), StatusCode::MethodNotAvailable),
        (
            MethodCall {
                target: machine_path("vm-z").within(namespace()),
                ..call("RequestStateChange", vec![])
            },
            StatusCode::NotFound,
        ),
    ] {
        let error = broker.invoke(&administrator(), call.clone()).await.unwrap_err();
        assert_eq!(error.status, status, "{call:?}: {error}");
    }
}

#[tokio::test]
async fn a_change_ends_though_nobody_waits_for_it() {
    let (begun, wait) = tokio::sync::oneshot::channel::<()>();
    let begun = std::sync::Mutex::new(Some(begun));
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = done.clone();
    let slow = repository().with_method("Msvm_ReplicationService.StartService", move |_, _| {
        if let Some(begun) = begun.lock().unwrap().take() {
            let _ = begun.send(());
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        seen.store(true, std::sync::atomic::Ordering::SeqCst);
        Ok(standin_cim::MethodAnswer { return_value: 0, out: vec![] })
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let broker = standin_cim::broker::Broker::new(slow);
    let task =
        runtime.spawn(async move { broker.invoke(&administrator(), call("StartService", vec![])).await });
    wait.await.unwrap();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    for _ in 0..100 {
        if done.load(std::sync::atomic::Ordering::SeqCst) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(done.load(std::sync::atomic::Ordering::SeqCst));
    runtime.shutdown_background();
}

fn bind(class: &str, method: &str, given: Vec<Named>) -> Result<arguments::Arguments, BindError> {
    let schema = schema::virtualization();
    let namespace = namespace();
    let context = Context { schema: &schema, namespace: &namespace, host: HOST };
    let method = schema.class(class).unwrap().method(method).unwrap();
    arguments::bind(&context, method, given)
}

const SETTINGS: &str = r#"<INSTANCE CLASSNAME="Msvm_ReplicationSettingData"><PROPERTY NAME="__PATH" TYPE="string"
  CLASSORIGIN="___SYSTEM"><VALUE>x</VALUE></PROPERTY><PROPERTY NAME="replicationinterval" TYPE="uint16"><VALUE>30</VALUE>
  </PROPERTY><PROPERTY NAME="CompressionEnabled" TYPE="boolean"><VALUE>true</VALUE></PROPERTY></INSTANCE>"#;

#[test]
fn arguments_get_the_types_of_their_declaration() {
    let system = Named { name: "COMPUTERSYSTEM".into(), value: RawValue::Reference(machine_path("vm-a")) };
    let given = vec![system, text("ReplicationSettingData", SETTINGS)];
    let bound = bind("Msvm_ReplicationService", "CreateReplicationRelationship", given).unwrap();
    assert!(bound.reference("ComputerSystem").unwrap().same_object(&machine_path("vm-a")));
    let settings = bound.instance("replicationsettingdata").unwrap();
    assert_eq!(settings.value("ReplicationInterval"), Some(&Value::Uint16(30)));
    assert_eq!(settings.value("CompressionEnabled"), Some(&true.into()));
    assert_eq!(settings.property("ReplicationInterval").unwrap().name, "ReplicationInterval");
    assert!(settings.property("__PATH").is_none());

    let given = vec![
        text("RecoveryServerPortNumber", "8080"),
        text("BypassProxyServer", "False"),
        Named { name: "Job".into(), value: RawValue::Null },
    ];
    let bound = bind("Msvm_ReplicationService", "TestReplicationConnection", given).unwrap();
    assert_eq!(bound.get("RecoveryServerPortNumber"), Some(&Value::Uint16(8080)));
    assert_eq!(bound.get("BypassProxyServer"), Some(&false.into()));
    assert_eq!(bound.get("AuthenticationType"), None);

    let network = "<INSTANCE CLASSNAME=\"Msvm_FailoverNetworkAdapterSettingData\"></INSTANCE>";
    for given in [
        RawValue::Array(vec![RawValue::Text(network.into()), RawValue::Text(network.into())]),
        RawValue::Text(network.into()),
    ] {
        let given = vec![Named { name: "NetworkSettings".into(), value: given }];
        let bound = bind("Msvm_ReplicationService", "SetFailoverNetworkAdapterSettings", given).unwrap();
        assert!(bound.elements("NetworkSettings").all(|one| matches!(one, Value::Instance(_))));
        assert!(bound.elements("NetworkSettings").count() > 0);
    }
}

#[test]
fn a_point_may_be_named_by_a_path_by_its_text_or_by_the_instance() {
    let path = point_path("a-1");
    let xml = r#"<INSTANCE CLASSNAME="Msvm_VirtualSystemSettingData"><PROPERTY NAME="InstanceID" TYPE="string">
        <VALUE>Microsoft:a-1</VALUE></PROPERTY></INSTANCE>"#;
    for value in [
        RawValue::Reference(path.clone()),
        RawValue::Reference(path.clone().within(Namespace::new(r"root\virtualization\v2"))),
        RawValue::Text(format!(r"\\KVM1\root\virtualization\v2:{path}")),
        RawValue::Text(xml.to_owned()),
        RawValue::Instance(Box::new(point("a-1", "vm-a", "Snapshot:Replica:Standard"))),
        RawValue::Typed(TypedValue {
            cim_type: CimType::Reference,
            array: false,
            value: Some(path.clone().into()),
        }),
    ] {
        let given = vec![Named { name: "SnapshotSettingData".into(), value: value.clone() }];
        let bound = bind("Msvm_ReplicationService", "InitiateFailover", given);
        let bound = bound.unwrap_or_else(|error| panic!("{value:?}: {error}"));
        let found = bound.reference("SnapshotSettingData").unwrap();
        assert!(found.same_object(&path), "{found}");
        assert_eq!((&found.namespace, &found.host), (&None, &None));
    }
    for nothing in [RawValue::Null, RawValue::Text("  ".into())] {
        let given = vec![Named { name: "SnapshotSettingData".into(), value: nothing }];
        assert_eq!(
            bind("Msvm_ReplicationService", "InitiateFailover", given).unwrap().get("SnapshotSettingData"),
            None
        );
    }
}

#[test]
fn what_does_not_fit_has_the_code_of_its_kind() {
    let mut elsewhere = machine_path("vm-a");
    elsewhere.host = Some("kvm2".into());
    let other = |value| Named { name: "ComputerSystem".into(), value };
    let typed = |cim_type, value: Value| {
        RawValue::Typed(TypedValue { cim_type, array: matches!(value, Value::Array(_)), value: Some(value) })
    };
    let no_such = SETTINGS.replace("CompressionEnabled", "Colour");
    let wrong_number = SETTINGS.replace("<VALUE>30</VALUE>", "<VALUE>often</VALUE>");
    for (method, argument, code) in [
        ("CommitFailover", text("Colour", "red"), 32773),
        ("CommitFailover", other(RawValue::Text("no path at all".into())), 32776),
        ("CommitFailover", other(RawValue::Reference(point_path("a"))), 32776),
        ("CommitFailover", other(typed(CimType::Uint32, 7_u32.into())), 32776),
        ("CommitFailover", other(RawValue::Array(vec![RawValue::Null, RawValue::Null])), 32776),
        ("CommitFailover", other(RawValue::Reference(elsewhere)), 32773),
        (
            "CommitFailover",
            other(RawValue::Reference(machine_path("vm-a").within(Namespace::new("root/cimv2")))),
            32773,
        ),
        ("CommitFailover", other(RawValue::Reference(reference("Msvm_Nothing", &[]))), 32773),
        ("CreateReplicationRelationship", text("ReplicationSettingData", "<INSTANCE"), 32773),
        ("CreateReplicationRelationship", text("ReplicationSettingData", &no_such), 32773),
        ("CreateReplicationRelationship", text("ReplicationSettingData", &wrong_number), 32773),
        (
            "CreateReplicationRelationship",
            text("ReplicationSettingData", "<INSTANCE CLASSNAME=\"Msvm_ReplicationStatistics\"/>"),
            32776,
        ),
        (
            "CreateReplicationRelationship",
            text("ReplicationSettingData", "<INSTANCE CLASSNAME=\"Msvm_Nothing\"/>"),
            32776,
        ),
        ("TestReplicationConnection", text("RecoveryServerPortNumber", "https"), 32776),
        ("TestReplicationConnection", text("RecoveryServerPortNumber", "65536"), 32776),
        ("TestReplicationConnection", text("BypassProxyServer", "perhaps"), 32776),
        ("StartReplication", text("StartTime", "tomorrow"), 32776),
    ] {
        let error = bind("Msvm_ReplicationService", method, vec![argument.clone()]).unwrap_err();
        assert_eq!(error.return_code(), code, "{argument:?}: {error}");
        assert_eq!(error.parameter(), argument.name, "{error}");
    }
    let twice = vec![text("StartTime", ""), text("starttime", "")];
    assert!(bind("Msvm_ReplicationService", "StartReplication", twice).is_err());
}

#[test]
fn a_missing_parameter_is_missing_only_where_it_is_required() {
    let schema = schema::virtualization();
    let namespace = namespace();
    let context = Context { schema: &schema, namespace: &namespace, host: HOST };
    let mut method =
        schema.class("Msvm_ReplicationService").unwrap().method("CommitFailover").unwrap().clone();
    assert!(arguments::bind(&context, &method, vec![]).is_ok());
    method.parameters[0].required = true;
    let error = arguments::bind(&context, &method, vec![]).unwrap_err();
    assert_eq!((error.return_code(), error.parameter()), (32773, "ComputerSystem"));
}
