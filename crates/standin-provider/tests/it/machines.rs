//! VMs by `Msvm_VirtualSystemManagementService`: summaries, definitions, errors in words.

use crate::client::{embedded, guid, instances, named, number, out, reference, set, string, text};
use crate::world::{World, keep_all};
use standin_cim::{CimType, Instance, RawValue, Value};
use standin_hypervisor::Hypervisor;
use standin_model::VmId;

const SERVICE: &str = "Msvm_VirtualSystemManagementService";

#[tokio::test(flavor = "multi_thread")]
async fn summaries_of_all_vms_and_of_those_named() {
    let world = World::replicating(keep_all()).await;
    world.look().await;
    world.point().await;
    let client = world.at_b();
    let answer = client.of_service(SERVICE, "GetSummaryInformation", Vec::new()).await;
    let summary = instances(&answer, "SummaryInformation").remove(0);
    assert_eq!((string(&summary, "Name"), string(&summary, "ElementName")), (&*guid(world.vm), "web"));
    assert_eq!((number(&summary, "ReplicationState"), number(&summary, "ReplicationMode")), (3, 2));
    let Some(Value::Array(points)) = summary.value("Snapshots") else { panic!("{summary:?}") };
    assert_eq!(points.len(), 2);
    let Some(Value::String(first)) = &points[0] else { panic!("{points:?}") };
    let path =
        standin_cim::ObjectPath::parse(first).expect("a path").within(standin_provider::VIRTUALIZATION);
    assert_eq!(&*client.get(&path).await.class, "Msvm_VirtualSystemSettingData");
    assert!(summary.value("MemoryUsage").is_none(), "it is off");
    let realized = world.at_a().all("Msvm_VirtualSystemSettingData").await.remove(0);
    let which = RawValue::Array(vec![RawValue::Reference(realized.path.expect("a path"))]);
    let arguments = vec![named("SettingData", which)];
    let answer = world.at_a().of_service(SERVICE, "GetSummaryInformation", arguments).await;
    let summary = instances(&answer, "SummaryInformation").remove(0);
    assert_eq!((number(&summary, "EnabledState"), number(&summary, "MemoryUsage")), (2, 64));
    let unknown = crate::client::with_id(
        "Msvm_VirtualSystemSettingData",
        format!("Microsoft:{}", guid(VmId::random())),
    );
    let arguments = vec![named("SettingData", RawValue::Array(vec![RawValue::Reference(unknown)]))];
    let answer = client.of_service(SERVICE, "GetSummaryInformation", arguments).await;
    assert_eq!(answer.return_value, 32779);
}

fn resource(class: &'static str, quantity: Option<u64>, file: Option<&str>) -> RawValue {
    let mut resource = Instance::new(class);
    if let Some(quantity) = quantity {
        set(&mut resource, "VirtualQuantity", quantity);
    }
    if let Some(file) = file {
        resource.set("HostResource", CimType::String, true, Some(Value::from(vec![file])));
    }
    RawValue::Instance(Box::new(resource))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_defined_from_its_resources_and_destroyed() {
    let world = World::replicating(keep_all()).await;
    let client = world.at_a();
    let mut system = Instance::new("Msvm_VirtualSystemSettingData");
    set(&mut system, "ElementName", "db");
    let image = world.root().join("db.qcow2").display().to_string();
    let resources = vec![
        resource("Msvm_MemorySettingData", Some(512), None),
        resource("Msvm_ProcessorSettingData", Some(2), None),
        resource("Msvm_StorageAllocationSettingData", None, Some(&image)),
    ];
    let define = |resources: Vec<RawValue>| {
        vec![
            embedded("SystemSettings", system.clone()),
            named("ResourceSettings", RawValue::Array(resources)),
        ]
    };
    let answer = client.of_service(SERVICE, "DefineSystem", define(resources)).await;
    assert_eq!(answer.return_value, 0);
    let Some(Value::Reference(path)) = out(&answer, "ResultingSystem") else { panic!("{answer:?}") };
    let path = (**path).clone().within(standin_provider::VIRTUALIZATION);
    let shown = client.get(&path).await;
    assert_eq!((string(&shown, "ElementName"), number(&shown, "EnabledState")), ("db", 3));
    let id: VmId = string(&shown, "Name").to_ascii_lowercase().parse().expect("a GUID");
    let definition = world.a.fake.inspect(id).await.expect("defined").definition;
    assert_eq!((definition.memory_mib, definition.vcpus, definition.disks.len()), (512, 2, 1));
    // The format of an image is told by its name alone.
    let unclear = vec![resource("Msvm_StorageAllocationSettingData", None, Some("/var/lib/disk"))];
    assert_eq!(client.of_service(SERVICE, "DefineSystem", define(unclear)).await.return_value, 32773);
    let other = vec![resource("Msvm_SyntheticEthernetPortSettingData", None, None)];
    assert_eq!(client.of_service(SERVICE, "DefineSystem", define(other)).await.return_value, 32770);
    let destroy = vec![reference("AffectedSystem", path.clone())];
    assert_eq!(client.of_service(SERVICE, "DestroySystem", destroy.clone()).await.return_value, 0);
    client.try_get(&path).await.expect_err("it is gone");
    assert_eq!(client.of_service(SERVICE, "DestroySystem", destroy).await.return_value, 32779);
    let replicates = vec![reference("AffectedSystem", world.system())];
    assert_eq!(client.of_service(SERVICE, "DestroySystem", replicates).await.return_value, 32774);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_given_back_are_taken_and_of_changes_only_the_name() {
    let world = World::replicating(keep_all()).await;
    let client = world.at_a();
    let mut settings = client.all("Msvm_VirtualSystemSettingData").await.remove(0);
    let modify = |settings: &Instance| vec![embedded("SystemSettings", settings.clone())];
    assert_eq!(client.of_service(SERVICE, "ModifySystemSettings", modify(&settings)).await.return_value, 0);
    let mut other = settings.clone();
    set(&mut other, "VirtualSystemType", "another");
    let answer = client.of_service(SERVICE, "ModifySystemSettings", modify(&other)).await;
    assert_eq!(answer.return_value, 32770);
    set(&mut settings, "ElementName", "a b");
    let answer = client.of_service(SERVICE, "ModifySystemSettings", modify(&settings)).await;
    assert_eq!(answer.return_value, 32773);
    set(&mut settings, "ElementName", "shop");
    assert_eq!(client.of_service(SERVICE, "ModifySystemSettings", modify(&settings)).await.return_value, 0);
    assert_eq!(string(&client.get(&world.system()).await, "ElementName"), "shop");
    settings.set("InstanceID", CimType::String, false, None);
    assert_eq!(
        client.of_service(SERVICE, "ModifySystemSettings", modify(&settings)).await.return_value,
        32773
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_shows_its_own_name_and_that_on_the_primary() {
    let world = World::replicating(keep_all()).await;
    let vm = world.vm;
    let here = standin_model::VmName::new("stand-in").expect("a name");
    world.b.call(move |engine| async move { engine.rename(vm, here).await }).await.expect("renamed");
    let shown = world.at_b().get(&world.system()).await;
    assert_eq!(string(&shown, "ElementName"), "stand-in");
    assert_eq!(shown.value("OtherIdentifyingInfo"), Some(&Value::from(vec!["web"])));
    assert_eq!(shown.value("IdentifyingDescriptions"), Some(&Value::from(vec!["Name on the primary host"])));
    let shown = world.at_a().get(&world.system()).await;
    assert_eq!((string(&shown, "ElementName"), shown.value("OtherIdentifyingInfo")), ("web", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_become_words() {
    let world = World::new().await;
    let mut error = Instance::new("Msvm_Error");
    set(&mut error, "Message", "the disk is full");
    let errors = RawValue::Array(vec![RawValue::Instance(Box::new(error))]);
    let arguments = vec![named("Errors", errors)];
    let answer = world.at_a().of_service(SERVICE, "FormatError", arguments).await;
    assert_eq!(out(&answer, "ErrorMessage"), Some(&Value::from("the disk is full")));
    let nothing = world.at_a().of_service(SERVICE, "FormatError", vec![text("Errors", "")]).await;
    assert_eq!(nothing.return_value, 32773);
}
