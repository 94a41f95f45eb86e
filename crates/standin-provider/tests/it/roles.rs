//! Who may call what: a viewer reads, an operator rehearses and resets statistics, an administrator does everything.

use crate::client::with_id;
use crate::world::{World, keep_all};
use standin_cim::{ObjectPath, Role, schema};
use standin_provider::{VIRTUALIZATION, audited, role_of};

const READING: [&str; 8] = [
    "GetReplicationStatistics",
    "GetReplicationStatisticsEx",
    "GetSystemCertificates",
    "TestReplicationConnection",
    "GetSummaryInformation",
    "FormatError",
    "GetError",
    "GetErrorEx",
];
const OPERATING: [&str; 3] =
    ["TestReplicaSystem", "ResetReplicationStatistics", "ResetReplicationStatisticsEx"];

/// The instances that have methods, and all of their methods.
async fn methods(world: &World) -> Vec<(ObjectPath, String)> {
    world.fails_over().await;
    let schema = schema::virtualization();
    let mut all = Vec::new();
    for class in [
        "Msvm_ReplicationService",
        "Msvm_ComputerSystem",
        "Msvm_VirtualSystemManagementService",
        "Msvm_VirtualSystemSnapshotService",
        "Msvm_ConcreteJob",
    ] {
        let path = match class {
            "Msvm_ComputerSystem" => world.system(),
            class => world.at_b().all(class).await.remove(0).path.expect("a path"),
        };
        let methods = &schema.class(class).expect("a class").methods;
        all.extend(methods.iter().map(|method| (path.clone(), method.name.to_string())));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_and_an_operator_get_32769_for_all_that_is_not_theirs() {
    let world = World::replicating(keep_all()).await;
    let methods = methods(&world).await;
    assert!(methods.len() > 50, "{}", methods.len());
    for (path, method) in methods {
        let reading = READING.contains(&&*method);
        let operating = OPERATING.contains(&&*method);
        for (role, may) in [(Role::Viewer, reading), (Role::Operator, reading || operating)] {
            let client = world.at_b().with_role(role);
            let code = client.invoke(path.clone(), &method, Vec::new()).await.return_value;
            assert_eq!(code != 32769, may, "{method} of {} for the {}: {code}", path.class, role.as_str());
        }
        assert_eq!(audited(&method), !reading, "{method}");
        let role = if reading {
            Role::Viewer
        } else if operating {
            Role::Operator
        } else {
            Role::Administrator
        };
        assert_eq!(role_of(&method), role, "{method}");
    }
    assert_eq!(world.replica_state().await, 5, "nothing was done");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_resets_statistics_and_a_viewer_sees_everything() {
    let world = World::replicating(keep_all()).await;
    let operator = world.at_b().with_role(Role::Operator);
    let arguments = || vec![world.computer_system()];
    assert_eq!(operator.replication("ResetReplicationStatistics", arguments()).await.return_value, 0);
    assert_eq!(operator.replication("TestReplicaSystem", arguments()).await.return_value, 32770);
    let viewer = world.at_b().with_role(Role::Viewer);
    assert_eq!(viewer.replication("GetReplicationStatistics", arguments()).await.return_value, 0);
    assert!(!viewer.all("Msvm_ComputerSystem").await.is_empty());
    let unknown = with_id("Msvm_ConcreteJob", "none").within(VIRTUALIZATION);
    let error = viewer.try_get(&unknown).await.expect_err("there is none");
    assert_eq!(error.status, standin_cim::StatusCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_the_service_answers_with_a_code_of_its_own_and_those_to_come_with_32770() {
    let world = World::replicating(keep_all()).await;
    let schema = schema::virtualization();
    let class = schema.class("Msvm_ReplicationService").expect("the service");
    let later = [
        "Resynchronize",
        "TestReplicaSystem",
        "ReverseReplicationRelationship",
        "ImportInitialReplica",
        "ChangeReplicationModeToPrimary",
        "InitiateFailback",
        "StopService",
        "RequestStateChange",
    ];
    assert_eq!(class.methods.len(), 29);
    for method in &class.methods {
        let takes_vm = method.parameters.iter().any(|parameter| parameter.name == "ComputerSystem");
        let arguments = if takes_vm { vec![world.computer_system()] } else { Vec::new() };
        if ["InitiateFailover", "RemoveReplicationRelationship", "RemoveReplicationRelationshipEx"]
            .contains(&&*method.name)
        {
            continue;
        }
        let answer = world.at_b().replication(&method.name, arguments).await;
        let code = answer.return_value;
        let to_come = later.contains(&&*method.name);
        assert_eq!(code == 32770, to_come, "{}: {code}", method.name);
        assert!(code == 0 || code >= 32768, "{}: {code}", method.name);
        // A method that is to come looks at its arguments all the same.
        if to_come && takes_vm {
            assert_eq!(world.at_b().replication(&method.name, Vec::new()).await.return_value, 32773);
        }
    }
    assert_eq!(world.replica_state().await, 3);
}
