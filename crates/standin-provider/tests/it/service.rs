//! What is set on a replica host: authorization entries, the service's settings, its certificates; and what the cards
//! of a VM get at a failover.

use crate::client::{embedded, named, number, out, reference, set, string, text};
use crate::world::{World, keep_all};
use base64::Engine as _;
use standin_cim::{CimType, Datetime, Instance, Named, RawValue, Role, Value};
use standin_model::state::ReplicationState as S;

fn entry(hosts: &str, group: &str, location: &str) -> Instance {
    let mut entry = Instance::new("Msvm_ReplicationAuthorizationSettingData");
    set(&mut entry, "AllowedPrimaryHostSystem", hosts);
    set(&mut entry, "TrustGroup", group);
    set(&mut entry, "ReplicaStorageLocation", location);
    entry
}

impl World {
    async fn entries(&self) -> Vec<Instance> {
        self.at_b().all("Msvm_ReplicationAuthorizationSettingData").await
    }

    async fn with_entry(&self, method: &str, entry: &Instance) -> u32 {
        let arguments = vec![embedded("AuthorizationEntry", entry.clone())];
        self.at_b().replication(method, arguments).await.return_value
    }

    async fn serves(&self, change: impl FnOnce(&mut Instance)) -> u32 {
        let mut settings = self.at_b().all("Msvm_ReplicationServiceSettingData").await.remove(0);
        change(&mut settings);
        let arguments = vec![embedded("SettingData", settings)];
        self.at_b().replication("ModifyServiceSettings", arguments).await.return_value
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_added_modified_bound_and_removed() {
    let world = World::replicating(keep_all()).await;
    let location = world.b.replicas_dir().display().to_string();
    let other = entry("*.example.com", "two", &location);
    assert_eq!(world.with_entry("AddAuthorizationEntry", &other).await, 0);
    assert_eq!(world.with_entry("AddAuthorizationEntry", &other).await, 32774, "twice");
    let wrong = entry("www.*.example.com", "two", &location);
    assert_eq!(world.with_entry("AddAuthorizationEntry", &wrong).await, 32773, "a wildcard in the middle");
    let mut nowhere = other.clone();
    nowhere.set("ReplicaStorageLocation", CimType::String, false, None);
    assert_eq!(world.with_entry("AddAuthorizationEntry", &nowhere).await, 32773);
    let none = world.at_b().replication("AddAuthorizationEntry", Vec::new()).await;
    assert_eq!(none.return_value, 32773);
    let entries = world.entries().await;
    assert_eq!(entries.len(), 2);
    let mut added = entries.into_iter().find(|one| string(one, "TrustGroup") == "two").expect("the entry");
    assert_eq!(string(&added, "ReplicaStorageLocation"), location);
    // Found by its id, changed in part.
    set(&mut added, "AllowedPrimaryHostSystem", "*.example.net");
    added.set("TrustGroup", CimType::String, false, None);
    assert_eq!(world.with_entry("ModifyAuthorizationEntry", &added).await, 0);
    let path = added.path.clone().expect("a path");
    let found = world.at_b().get(&path).await;
    assert_eq!(
        (string(&found, "AllowedPrimaryHostSystem"), string(&found, "TrustGroup")),
        ("*.example.net", "two")
    );
    // The same by a Put, which the class allows for these properties, and to administrators only.
    let group = |name: &str| vec![text("TrustGroup", name)];
    let changed = world.at_b().modify(&path, group("three")).await.expect("a Put");
    assert_eq!(string(&changed, "TrustGroup"), "three");
    assert!(world.at_b().with_role(Role::Operator).modify(&path, group("four")).await.is_err());
    assert!(world.at_b().modify(&path, group(" ")).await.is_err(), "no trust group is called so");
    let back = world.at_b().modify(&path, group("two")).await.expect("a Put");
    assert_eq!(string(&back, "TrustGroup"), "two");
    // Bound to another group's entry, the VM is not received any more.
    let bind = vec![world.computer_system(), embedded("AuthorizationEntry", found)];
    assert_eq!(world.at_b().replication("SetAuthorizationEntry", bind).await.return_value, 0);
    let job = world.order_point().await;
    assert_eq!(u32::from(world.a.job(job).await.return_code.expect("a code")), 32769);
    let remove = |hosts: &str| vec![text("AllowedPrimaryHostSystem", hosts)];
    let client = world.at_b();
    assert_eq!(client.replication("RemoveAuthorizationEntry", remove("*.EXAMPLE.net")).await.return_value, 0);
    assert_eq!(
        client.replication("RemoveAuthorizationEntry", remove("*.example.net")).await.return_value,
        32779
    );
    assert_eq!(client.replication("RemoveAuthorizationEntry", Vec::new()).await.return_value, 32773);
    assert_eq!(world.entries().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_disabled_and_enabled_and_its_window_moved() {
    let world = World::replicating(keep_all()).await;
    assert_eq!(world.serves(|_| ()).await, 0, "given back as it was");
    assert_eq!(world.serves(|settings| set(settings, "RecoveryServerEnabled", false)).await, 0);
    let job = world.order_point().await;
    assert_ne!(u32::from(world.a.job(job).await.return_code.expect("a code")), 0);
    assert_eq!(world.serves(|settings| set(settings, "RecoveryServerEnabled", true)).await, 0);
    world.a.reaches(world.vm, S::Replicating).await;
    let start = jiff::Timestamp::from_second(1_600_000_000).expect("a time");
    let moved = world.serves(|settings| {
        set(settings, "MonitoringInterval", 7200_u32);
        set(settings, "MonitoringStartTime", Datetime::utc(start));
    });
    assert_eq!(moved.await, 0);
    let settings = world.at_b().all("Msvm_ReplicationServiceSettingData").await.remove(0);
    assert_eq!(number(&settings, "MonitoringInterval"), 7200);
    assert_eq!(settings.value("MonitoringStartTime"), Some(&Value::Datetime(Datetime::utc(start))));
    assert_eq!(world.serves(|settings| set(settings, "MonitoringInterval", 10_u32)).await, 32773);
    assert_eq!(world.serves(|settings| set(settings, "AllowedAuthenticationType", 7_u16)).await, 32773);
    assert_eq!(world.serves(|settings| set(settings, "AllowedAuthenticationType", 1_u16)).await, 32770);
    let interval = Datetime::seconds(5);
    assert_eq!(world.serves(|settings| set(settings, "MonitoringStartTime", interval)).await, 32773);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificates_are_those_of_the_host() {
    let world = World::new().await;
    let answer = world.at_a().replication("GetSystemCertificates", Vec::new()).await;
    let Some(Value::Array(values)) = out(&answer, "EncodedCertificates") else { panic!("{answer:?}") };
    let Some(Value::String(first)) = &values[0] else { panic!("{values:?}") };
    let pem = std::fs::read_to_string(world.root().join("pki-a/host.crt")).expect("the file");
    let body: String = pem.lines().skip(1).take_while(|line| !line.starts_with('-')).collect();
    assert_eq!(*first, body);
    let der = base64::engine::general_purpose::STANDARD.decode(first).expect("base64");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &der);
    let thumbprint: String = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    let settings = world.at_a().all("Msvm_ReplicationServiceSettingData").await.remove(0);
    assert_eq!(string(&settings, "CertificateThumbPrint"), thumbprint);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cards_get_at_a_failover_is_kept_card_by_card_and_taken_away() {
    let world = World::with_cards(&["lan", "dmz"]).await;
    let client = world.at_b();
    let class = "Msvm_FailoverNetworkAdapterSettingData";
    let cards = client.all(class).await;
    assert!(cards.iter().all(|card| card.value("DHCPEnabled").is_none()), "nobody gave them any");
    let texts = |values: &[&str]| Some(Value::from(values.to_vec()));
    let mut lan = cards.iter().find(|card| string(card, "ElementName") == "lan").expect("the card").clone();
    lan.set("DHCPEnabled", CimType::Boolean, false, Some(Value::Boolean(false)));
    lan.set("IPAddresses", CimType::String, true, texts(&["192.0.2.5", "2001:db8::5"]));
    lan.set("Subnets", CimType::String, true, texts(&["255.255.255.0", "64"]));
    lan.set("DefaultGateways", CimType::String, true, texts(&["192.0.2.1", "2001:db8::1"]));
    lan.set("DNSServers", CimType::String, true, texts(&["192.0.2.53"]));
    let give = |card: &Instance| -> Vec<Named> {
        let cards = RawValue::Array(vec![RawValue::Text(standin_cim::embedded::to_text(card))]);
        vec![world.computer_system(), named("NetworkSettings", cards)]
    };
    let ask = "SetFailoverNetworkAdapterSettings";
    assert_eq!(client.replication(ask, give(&lan)).await.return_value, 0);
    let kept = client.get(&lan.path.clone().expect("a path")).await;
    assert_eq!(number(&kept, "ProtocolIFType"), 4098);
    for name in ["IPAddresses", "DefaultGateways", "DNSServers", "DHCPEnabled"] {
        assert_eq!(kept.value(name), lan.value(name), "{name}");
    }
    let others = client.all(class).await;
    assert_eq!(others.iter().filter(|card| card.value("IPAddresses").is_some()).count(), 1);
    // No address and no DHCP takes them away.
    lan.set("IPAddresses", CimType::String, true, Some(Value::Array(Vec::new())));
    assert_eq!(client.replication(ask, give(&lan)).await.return_value, 0);
    let kept = client.get(&lan.path.clone().expect("a path")).await;
    assert!(kept.value("IPAddresses").is_none() && kept.value("DHCPEnabled").is_none(), "{kept:?}");
    // All of them or none: one that is wrong keeps the right one out.
    let mut wrong = lan.clone();
    lan.set("IPAddresses", CimType::String, true, texts(&["192.0.2.5"]));
    lan.set("Subnets", CimType::String, true, texts(&["24"]));
    wrong.set("IPAddresses", CimType::String, true, texts(&["192.0.2.999"]));
    let both = [&lan, &wrong].map(|card| RawValue::Instance(Box::new(card.clone())));
    let both = vec![world.computer_system(), named("NetworkSettings", RawValue::Array(both.to_vec()))];
    assert_eq!(client.replication(ask, both).await.return_value, 32773);
    let kept = client.get(&lan.path.clone().expect("a path")).await;
    assert!(kept.value("IPAddresses").is_none());
    let nothing = vec![reference("ComputerSystem", world.system())];
    assert_eq!(client.replication(ask, nothing).await.return_value, 32773);
}
