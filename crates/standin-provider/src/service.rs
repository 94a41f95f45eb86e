//! The services of the host and what belongs to the replication service: its settings and its authorization entries.

use crate::ids;
use crate::make::Make;
use crate::world::Site;
use standin_cim::{Datetime, Instance, Key, ObjectPath};
use standin_model::{AllowedAuthentication, AuthorizationEntry, ServiceSettings};

/// A service: class, name, caption.
#[derive(Clone, Copy)]
pub struct Service {
    /// Its class.
    pub class: &'static str,
    /// Its `Name`.
    pub name: &'static str,
    caption: &'static str,
}

/// `Msvm_ReplicationService`.
pub const REPLICATION: Service =
    Service { class: "Msvm_ReplicationService", name: "replicasvc", caption: "Hyper-V Replica Service" };
/// `Msvm_VirtualSystemManagementService`.
pub const MANAGEMENT: Service = Service {
    class: "Msvm_VirtualSystemManagementService",
    name: "vmms",
    caption: "Hyper-V Virtual System Management Service",
};
/// `Msvm_VirtualSystemSnapshotService`.
pub const SNAPSHOT: Service = Service {
    class: "Msvm_VirtualSystemSnapshotService",
    name: "vssnapsvc",
    caption: "Hyper-V Virtual System Snapshot Service",
};

/// The path of a service.
pub fn path(site: &Site, service: Service) -> ObjectPath {
    ObjectPath::new(service.class, keys(site, service))
}

fn keys(site: &Site, service: Service) -> Vec<Key> {
    vec![
        Key::text("SystemCreationClassName", "Msvm_ComputerSystem"),
        Key::text("SystemName", site.host.clone()),
        Key::text("CreationClassName", service.class),
        Key::text("Name", service.name),
    ]
}

/// A service. It runs for as long as the daemon answers.
pub fn service(site: &Site, service: Service) -> Instance {
    Make::new(service.class, keys(site, service))
        .with("Caption", service.caption)
        .with("Description", service.caption)
        .with("ElementName", service.caption)
        .numbers("OperationalStatus", &[2])
        .texts("StatusDescriptions", ["The service is running normally".to_owned()])
        .with("Status", "OK")
        .with("HealthState", 5_u16)
        .with("EnabledState", 2_u16)
        .with("RequestedState", 12_u16)
        .time("TimeOfLastStateChange", Some(site.started_at))
        .with("Started", true)
        .done()
}

/// The path of the settings of the replication service.
pub fn settings_path(site: &Site) -> ObjectPath {
    ids::instance_path("Msvm_ReplicationServiceSettingData", settings_id(site))
}

fn settings_id(site: &Site) -> String {
    format!("Microsoft:{}\\HVR", site.host)
}

/// The settings of the replication service. There is one port, of mutual TLS: `HttpPort` is null.
pub fn settings(site: &Site, settings: &ServiceSettings, thumbprint: Option<String>) -> Instance {
    Make::new("Msvm_ReplicationServiceSettingData", vec![Key::text("InstanceID", settings_id(site))])
        .with("Caption", "Replication Service Settings")
        .with("Description", "Virtual Machine Replication Service Settings Data")
        .with("ElementName", "Replication Service Settings")
        .with("RecoveryServerEnabled", settings.recovery_server_enabled)
        .with("AllowedAuthenticationType", settings.authentication.code())
        .maybe("CertificateThumbPrint", thumbprint)
        .with("HttpsPort", settings.https_port)
        .with("MonitoringStartTime", Datetime::utc(settings.monitoring.start))
        .with("MonitoringInterval", settings.monitoring.length_s)
        .done()
}

/// `AllowedAuthenticationType` as the model has it.
pub fn authentication(code: u16) -> Option<AllowedAuthentication> {
    AllowedAuthentication::from_code(code)
}

/// The path of an authorization entry.
pub fn entry_path(entry: &AuthorizationEntry) -> ObjectPath {
    ids::instance_path("Msvm_ReplicationAuthorizationSettingData", ids::microsoft(entry.id, ""))
}

/// An authorization entry.
pub fn entry(entry: &AuthorizationEntry) -> Instance {
    let id = ids::microsoft(entry.id, "");
    Make::new("Msvm_ReplicationAuthorizationSettingData", vec![Key::text("InstanceID", id)])
        .with("Caption", "Replication Authorization Settings")
        .with("ElementName", entry.allowed_primary.as_str())
        .with("AllowedPrimaryHostSystem", entry.allowed_primary.as_str())
        .with("TrustGroup", entry.trust_group.as_str())
        .with("ReplicaStorageLocation", entry.storage_location.display().to_string())
        .done()
}
