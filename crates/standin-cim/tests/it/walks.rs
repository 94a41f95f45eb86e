//! Associations.

use crate::scene::*;
use standin_cim::{AssociationFilter, Instance, ObjectPath, Operations, Result, Role, StatusCode};

fn filter(association: &str, result: &str, role: &str, result_role: &str) -> AssociationFilter {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    AssociationFilter {
        association_class: given(association),
        result_class: given(result),
        role: given(role),
        result_role: given(result_role),
    }
}

async fn associators(from: ObjectPath, filter: &AssociationFilter) -> Result<Vec<Instance>> {
    broker().associators(&caller(Role::Viewer), &from.within(namespace()), filter).await
}

#[tokio::test]
async fn a_machine_leads_to_its_settings_and_points_and_back() {
    let point = |id: &str| format!("point {id}");
    for (from, filter, wanted) in [
        (machine_path("vm-a"), filter("", "", "", ""), vec![point("a"), point("a-1"), point("a-2")]),
        (machine_path("vm-a"), filter("Msvm_SettingsDefineState", "", "", ""), vec![point("a")]),
        (
            machine_path("vm-a"),
            filter("CIM_SettingsDefineState", "CIM_SettingData", "", ""),
            vec![point("a")],
        ),
        (
            machine_path("vm-a"),
            filter("Msvm_SnapshotOfVirtualSystem", "", "", ""),
            vec![point("a-1"), point("a-2")],
        ),
        (machine_path("vm-a"), filter("CIM_Dependency", "", "", ""), vec![point("a-1"), point("a-2")]),
        (machine_path("vm-a"), filter("Msvm_MostCurrentSnapshotInBranch", "", "", ""), vec![point("a-2")]),
        (machine_path("vm-a"), filter("", "Msvm_ConcreteJob", "", ""), vec![]),
        (machine_path("vm-a"), filter("", "", "managedelement", "SettingData"), vec![point("a")]),
        (machine_path("vm-a"), filter("", "", "SettingData", ""), vec![]),
        (machine_path("vm-b"), filter("", "", "", ""), vec![point("b")]),
        (machine_path(HOST), filter("", "", "", ""), vec![]),
        (point_path("a-2"), filter("", "", "", ""), vec!["web server".to_owned()]),
        (
            point_path("a-2"),
            filter("", "CIM_System", "Dependent", "Antecedent"),
            vec!["web server".to_owned()],
        ),
        // A part of the keys, and a base, name the source as well.
        (reference("CIM_ComputerSystem", &[("Name", "vm-b")]), filter("", "", "", ""), vec![point("b")]),
    ] {
        let found =
            associators(from.clone(), &filter).await.unwrap_or_else(|error| panic!("{from}: {error}"));
        assert_eq!(names(&found, "ElementName"), wanted, "{from} {filter:?}");
        for one in found {
            let path = one.path.unwrap();
            assert!(broker().get_instance(&administrator(), &path).await.is_ok(), "{path}");
        }
    }
}

#[tokio::test]
async fn references_are_the_associations_themselves() {
    let ask = |from: ObjectPath, filter: AssociationFilter| async move {
        broker().references(&caller(Role::Viewer), &from.within(namespace()), &filter).await
    };
    assert_eq!(ask(machine_path("vm-a"), filter("", "", "", "")).await.unwrap().len(), 4);
    assert_eq!(ask(machine_path("vm-a"), filter("", "CIM_Dependency", "", "")).await.unwrap().len(), 3);
    assert_eq!(ask(machine_path("vm-a"), filter("", "", "ManagedElement", "")).await.unwrap().len(), 1);
    assert_eq!(ask(point_path("a-2"), filter("", "", "", "")).await.unwrap().len(), 2);
    let found = ask(point_path("b"), filter("", "", "", "")).await.unwrap();
    assert_eq!((found.len(), &*found[0].class), (1, "Msvm_SettingsDefineState"));
    let error = ask(point_path("b"), filter("", "Msvm_Nothing", "", "")).await.unwrap_err();
    assert_eq!(error.status, StatusCode::InvalidClass);
}

#[tokio::test]
async fn a_source_that_is_not_there_is_an_error_and_not_an_empty_answer() {
    let error = associators(machine_path("vm-z"), &filter("", "", "", "")).await.unwrap_err();
    assert_eq!(error.status, StatusCode::NotFound);
    let error = associators(machine_path("vm-a"), &filter("Nothing", "", "", "")).await.unwrap_err();
    assert_eq!(error.status, StatusCode::InvalidClass);
}

#[tokio::test]
async fn an_association_to_what_is_gone_gives_nothing() {
    let repository = repository();
    let gone = instance(
        "Msvm_SnapshotOfVirtualSystem",
        &[("Antecedent", machine_path("vm-b").into()), ("Dependent", point_path("b-9").into())],
    );
    repository.put(V2, gone).unwrap();
    let broker = standin_cim::broker::Broker::new(repository).with_host(HOST);
    let from = machine_path("vm-b").within(namespace());
    let found = broker.associators(&administrator(), &from, &filter("", "", "", "")).await.unwrap();
    assert_eq!(names(&found, "ElementName"), ["point b"]);
}

#[tokio::test]
async fn many_ends_of_one_class_are_asked_for_at_once() {
    let repository = repository();
    for number in 0..100 {
        let id = format!("b-{number}");
        repository.put(V2, point(&id, "vm-b", "Snapshot:Replica:Standard")).unwrap();
        let ends = [("Antecedent", machine_path("VM-B").into()), ("Dependent", point_path(&id).into())];
        repository.put(V2, instance("Msvm_SnapshotOfVirtualSystem", &ends)).unwrap();
    }
    let broker = standin_cim::broker::Broker::new(repository).with_host(HOST);
    let from = machine_path("vm-b").within(namespace());
    let through = filter("Msvm_SnapshotOfVirtualSystem", "", "", "");
    let found = broker.associators(&administrator(), &from, &through).await.unwrap();
    assert_eq!(found.len(), 100);
    assert_eq!(found[7].value("ElementName"), Some(&"point b-7".into()), "in the order of the associations");
    // The machine, the associations, and every point once.
    assert_eq!(broker.source().handed_out(), 1 + 100 + 104);
}

#[tokio::test]
async fn queries_walk_as_well() {
    let path = "{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='vm-a'}";
    let ask = |text: String| async move {
        broker().query(&caller(Role::Viewer), &namespace(), "WQL", &text).await.unwrap().instances
    };
    let found = ask(format!("ASSOCIATORS OF {path} WHERE AssocClass = Msvm_SettingsDefineState")).await;
    assert_eq!(names(&found, "ElementName"), ["point a"]);
    let found =
        ask(format!("ASSOCIATORS OF {path} WHERE ResultClass = Msvm_VirtualSystemSettingData KeysOnly"))
            .await;
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|one| one.properties.len() == 1), "{found:?}");
    let found = ask(format!("ASSOCIATORS OF {path} WHERE ClassDefsOnly")).await;
    assert_eq!(found.iter().map(|one| &*one.class).collect::<Vec<_>>(), ["Msvm_VirtualSystemSettingData"]);
    assert_eq!(ask(format!("REFERENCES OF {path}")).await.len(), 4);
    assert_eq!(
        ask(format!("REFERENCES OF {path} WHERE ResultClass = Msvm_SettingsDefineState")).await.len(),
        1
    );
    assert_eq!(ask(format!("REFERENCES OF {path} WHERE RequiredQualifier = Association")).await.len(), 4);
    assert_eq!(ask(format!("REFERENCES OF {path} WHERE RequiredQualifier = Aggregation")).await.len(), 0);
    assert_eq!(
        ask(format!("ASSOCIATORS OF {path} WHERE RequiredAssocQualifier = Aggregation")).await.len(),
        0
    );
}
