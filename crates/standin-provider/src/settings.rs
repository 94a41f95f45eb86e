//! What a VM consists of: `Msvm_VirtualSystemSettingData` of the VM as it is and of its recovery points, its disks and
//! its network cards.

use crate::ids;
use crate::make::Make;
use crate::world::{self, Machine};
use standin_cim::{Instance, Key, ObjectPath};
use standin_engine::Engine;
use standin_model::network::{AdapterView, CimSettings, NetworkView};
use standin_store::Point;

/// `VirtualSystemType` of a VM that exists.
const REALIZED: &str = "Microsoft:Hyper-V:System:Realized";
/// `ResourceSubType` of a disk's image.
const DISK_SUBTYPE: &str = "Microsoft:Hyper-V:Virtual Hard Disk";
/// `ResourceType` 31 is "Logical Disk", 10 "Ethernet Adapter" (DSP1041).
const RESOURCE_DISK: u16 = 31;
const RESOURCE_ETHERNET: u16 = 10;

/// The path of a VM's settings.
pub fn realized_path(machine: &Machine) -> ObjectPath {
    ids::instance_path("Msvm_VirtualSystemSettingData", ids::microsoft(machine.id, ""))
}

/// The path of a recovery point's settings.
pub fn point_path(point: &Point) -> ObjectPath {
    ids::instance_path("Msvm_VirtualSystemSettingData", ids::microsoft(point.id, ""))
}

/// A VM's settings as they are.
pub fn realized(machine: &Machine) -> Instance {
    let definition = machine.info.as_ref().map(|info| &info.definition);
    Make::new("Msvm_VirtualSystemSettingData", vec![Key::text("InstanceID", ids::microsoft(machine.id, ""))])
        .with("Caption", "Virtual Machine Settings")
        .with("Description", "Active settings for the virtual machine")
        .with("ElementName", machine.name.as_str())
        .with("VirtualSystemIdentifier", ids::guid(machine.id))
        .with("VirtualSystemType", REALIZED)
        .with("ConfigurationID", ids::guid(machine.id))
        .maybe("VirtualSystemSubType", definition.map(|found| subtype(found.firmware.is_some())))
        .maybe(
            "GuestStateFile",
            definition
                .and_then(|found| found.firmware.as_ref()?.vars.as_ref())
                .map(|path| path.display().to_string()),
        )
        .time("CreationTime", created_at(machine))
        .with("IsSaved", false)
        .done()
}

/// When the VM came to be here: known of replicas, which replication made.
pub fn created_at(machine: &Machine) -> Option<jiff::Timestamp> {
    machine.relationship.as_ref().filter(|_| machine.is_replica()).and_then(|found| found.created_at)
}

/// Generation 1 boots by BIOS, generation 2 by UEFI.
fn subtype(uefi: bool) -> &'static str {
    if uefi { "Microsoft:Hyper-V:SubType:2" } else { "Microsoft:Hyper-V:SubType:1" }
}

/// A recovery point.
pub fn point(machine: &Machine, point: &Point, parent: Option<&Point>) -> Instance {
    let name = format!("{} - {} - {}", machine.name, point.kind, point.created_at);
    Make::new("Msvm_VirtualSystemSettingData", vec![Key::text("InstanceID", ids::microsoft(point.id, ""))])
        .with("Caption", "Virtual Machine Settings")
        .with("Description", "Snapshot settings for the virtual machine")
        .with("ElementName", name)
        .with("VirtualSystemIdentifier", ids::guid(machine.id))
        .with("VirtualSystemType", point.kind.virtual_system_type())
        .with("ConfigurationID", ids::guid(point.id))
        .time("CreationTime", Some(point.created_at))
        .maybe("Parent", parent.map(|parent| point_path(parent).to_string()))
        .with("IsSaved", false)
        .done()
}

/// A disk, whether or not it replicates.
pub struct Disk {
    /// Its name in the VM.
    pub name: String,
    /// Its image here; a replica's disks are layers, not one image.
    pub path: Option<String>,
    /// Bytes.
    pub size: u64,
    /// The guest may write.
    pub writable: bool,
}

/// The disks of a VM.
pub fn disks(machine: &Machine) -> Vec<Disk> {
    if let Some(info) = &machine.info {
        if !machine.is_replica() {
            return info
                .disks
                .iter()
                .map(|disk| Disk {
                    name: disk.name.to_string(),
                    path: Some(disk.path.display().to_string()),
                    size: disk.size,
                    writable: !disk.read_only,
                })
                .collect();
        }
    }
    let shapes = machine.relationship.iter().flat_map(|found| &found.disks);
    shapes
        .map(|disk| Disk { name: disk.name.to_string(), path: None, size: disk.size, writable: true })
        .collect()
}

/// The path of a disk of a VM or of a recovery point.
pub fn disk_path(owner: &str, disk: &Disk) -> ObjectPath {
    ids::instance_path("Msvm_StorageAllocationSettingData", format!("{owner}\\Disk\\{}", disk.name))
}

/// A disk of the VM or recovery point whose instance id is `owner`.
pub fn disk(owner: &str, disk: &Disk) -> Instance {
    let id = format!("{owner}\\Disk\\{}", disk.name);
    Make::new("Msvm_StorageAllocationSettingData", vec![Key::text("InstanceID", id)])
        .with("Caption", "Hard Disk Image")
        .with("Description", "A disk of the virtual machine")
        .with("ElementName", disk.name.as_str())
        .with("ResourceType", RESOURCE_DISK)
        .with("ResourceSubType", DISK_SUBTYPE)
        .with("ConsumerVisibility", 3_u16)
        .texts("HostResource", disk.path.clone())
        .with("AllocationUnits", "byte")
        .with("VirtualQuantity", disk.size)
        .with("VirtualQuantityUnits", "byte")
        .with("VirtualResourceBlockSize", 1_u64)
        .with("Access", if disk.writable { 3_u16 } else { 1_u16 })
        .done()
}

/// The network cards of a VM, as it was seen last: no question to the hypervisor.
pub async fn adapters(engine: &Engine, machine: &Machine) -> Vec<AdapterView> {
    // A VM without one is no error to somebody who lists cards.
    engine.network_as_seen(machine.id).await.map_or_else(|_| Vec::new(), |view: NetworkView| view.adapters)
}

/// The path of a card's settings.
pub fn adapter_path(machine: &Machine, adapter: &AdapterView) -> ObjectPath {
    ids::instance_path("Msvm_SyntheticEthernetPortSettingData", adapter_id(machine, adapter, ""))
}

/// The path of a card's failover settings.
pub fn failover_path(machine: &Machine, adapter: &AdapterView) -> ObjectPath {
    ids::instance_path(
        "Msvm_FailoverNetworkAdapterSettingData",
        adapter_id(machine, adapter, "\\FailoverNetwork"),
    )
}

fn adapter_id(machine: &Machine, adapter: &AdapterView, rest: &str) -> String {
    format!("{}\\{}{rest}", ids::microsoft(machine.id, ""), ids::guid(adapter.id))
}

/// The MAC address as WMI writes it: no separators.
fn plain_mac(adapter: &AdapterView) -> Option<String> {
    adapter.mac.map(|mac| mac.to_string().replace(':', "").to_ascii_uppercase())
}

/// The keys of a card.
pub fn port_keys(machine: &Machine, adapter: &AdapterView) -> Vec<Key> {
    vec![
        Key::text("SystemCreationClassName", "Msvm_ComputerSystem"),
        Key::text("SystemName", ids::guid(machine.id)),
        Key::text("CreationClassName", "Msvm_SyntheticEthernetPort"),
        Key::text("DeviceID", ids::microsoft(adapter.id, "")),
    ]
}

/// A card.
pub fn port(machine: &Machine, adapter: &AdapterView) -> Instance {
    Make::new("Msvm_SyntheticEthernetPort", port_keys(machine, adapter))
        .with("Caption", "Ethernet Port")
        .with("ElementName", adapter.name.as_str())
        .with("Name", adapter.name.as_str())
        .with("LinkTechnology", 2_u16)
        .with("EnabledState", crate::system::enabled_state(machine.power()))
        .maybe("PermanentAddress", plain_mac(adapter))
        .texts("NetworkAddresses", plain_mac(adapter))
        .done()
}

/// A card's settings.
pub fn port_settings(machine: &Machine, adapter: &AdapterView) -> Instance {
    let id = adapter_id(machine, adapter, "");
    Make::new("Msvm_SyntheticEthernetPortSettingData", vec![Key::text("InstanceID", id)])
        .with("Caption", "Ethernet Port Settings")
        .with("ElementName", adapter.name.as_str())
        .with("ResourceType", RESOURCE_ETHERNET)
        .with("ResourceSubType", "Microsoft:Hyper-V:Synthetic Ethernet Port")
        .with("VirtualQuantity", 1_u64)
        .with("VirtualQuantityUnits", "count")
        .maybe("Address", plain_mac(adapter))
        .with("StaticMacAddress", adapter.mac.is_some())
        .texts("Connection", adapter.network.clone())
        .done()
}

/// What a card gets at a failover. A card that nobody gave settings has an instance too: clients read it, edit it and
/// give it back.
pub fn failover_settings(machine: &Machine, adapter: &AdapterView) -> Instance {
    let id = adapter_id(machine, adapter, "\\FailoverNetwork");
    let make = Make::new("Msvm_FailoverNetworkAdapterSettingData", vec![Key::text("InstanceID", id)])
        .with("Caption", "Failover Network Adapter Settings")
        .with("ElementName", adapter.name.as_str());
    let Some(settings) = &adapter.settings else { return make.done() };
    let cim = CimSettings::from(settings);
    make.with("ProtocolIFType", cim.protocol.code())
        .with("DHCPEnabled", cim.dhcp_enabled)
        .texts("IPAddresses", cim.ip_addresses)
        .texts("Subnets", cim.subnets)
        .texts("DefaultGateways", cim.default_gateways)
        .texts("DNSServers", cim.dns_servers)
        .done()
}

/// The recovery points of a VM as instances, oldest first, each with the one before as its parent.
pub fn points(engine: &Engine, machine: &Machine) -> Vec<Instance> {
    let points = world::points(engine, machine);
    let parents = std::iter::once(None).chain(points.iter().map(Some));
    points.iter().zip(parents).map(|(one, parent)| point(machine, one, parent)).collect()
}
