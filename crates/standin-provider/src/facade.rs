//! What clients ask for before they come to the point: the host as `root/cimv2` shows it, and the discovery of
//! namespaces and profiles in `interop`.

use crate::make::Make;
use crate::world::Site;
use standin_cim::{Instance, Key, Namespace, ObjectPath};

/// `Win32_ComputerSystem`: the host's name.
pub fn computer_system(site: &Site) -> Instance {
    let short = site.host.split('.').next().unwrap_or(&site.host);
    let domain = site.host.split_once('.').map(|(_, domain)| domain);
    Make::new("Win32_ComputerSystem", vec![Key::text("Name", site.host.clone())])
        .with("CreationClassName", "Win32_ComputerSystem")
        .with("Caption", site.host.as_str())
        .with("DNSHostName", short)
        .maybe("Domain", domain)
        .maybe("NumberOfLogicalProcessors", processors())
        .maybe("TotalPhysicalMemory", memory())
        .done()
}

fn processors() -> Option<u32> {
    std::thread::available_parallelism().ok().and_then(|count| u32::try_from(count.get()).ok())
}

/// Bytes of memory, as the kernel tells it.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// `Win32_ComputerSystemProduct`: the host's identity.
pub fn product(site: &Site) -> Instance {
    let id = site.machine_id.clone().unwrap_or_default();
    let keys = vec![
        Key::text("IdentifyingNumber", id.clone()),
        Key::text("Name", "standin"),
        Key::text("Version", site.version),
    ];
    Make::new("Win32_ComputerSystemProduct", keys)
        .maybe("UUID", site.machine_id.clone())
        .with("Caption", "standin")
        .done()
}

/// `Win32_OperatingSystem`: name and version of the system.
pub fn operating_system(site: &Site) -> Instance {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    let name = std::fs::read_to_string("/etc/os-release").ok().and_then(|text| pretty_name(&text));
    let name = name.unwrap_or_else(|| "Linux".to_owned());
    Make::new("Win32_OperatingSystem", vec![Key::text("Name", name.clone())])
        .with("Caption", name)
        .with("CSName", site.host.as_str())
        .maybe("Version", release.map(|text| text.trim().to_owned()))
        .time("LastBootUpTime", site.booted_at)
        .time("LocalDateTime", Some(jiff::Timestamp::now()))
        .done()
}

fn pretty_name(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

const MANAGER: &str = "standin:cimom";

fn manager_keys(site: &Site) -> Vec<Key> {
    vec![
        Key::text("SystemCreationClassName", "CIM_ComputerSystem"),
        Key::text("SystemName", site.host.clone()),
        Key::text("CreationClassName", "CIM_ObjectManager"),
        Key::text("Name", MANAGER),
    ]
}

/// `CIM_ObjectManager`: this daemon.
pub fn object_manager(site: &Site) -> Instance {
    Make::new("CIM_ObjectManager", manager_keys(site))
        .with("ElementName", "standin")
        .with("Description", format!("standin {}", site.version))
        .with("GatherStatisticalData", false)
        .with("Started", true)
        .with("EnabledState", 2_u16)
        .done()
}

/// `CIM_Namespace`, one of each.
pub fn namespace(site: &Site, namespace: &Namespace) -> Instance {
    let mut keys = vec![
        Key::text("ObjectManagerCreationClassName", "CIM_ObjectManager"),
        Key::text("ObjectManagerName", MANAGER),
        Key::text("SystemCreationClassName", "CIM_ComputerSystem"),
        Key::text("SystemName", site.host.clone()),
    ];
    keys.push(Key::text("CreationClassName", "CIM_Namespace"));
    keys.push(Key::text("Name", namespace.as_str().to_owned()));
    Make::new("CIM_Namespace", keys).with("ElementName", namespace.as_str()).done()
}

const PROFILE: &str = "standin:profile:replication";

/// `CIM_RegisteredProfile`: there is one, of the project's own: what this host does is replication.
pub fn profile() -> Instance {
    Make::new("CIM_RegisteredProfile", vec![Key::text("InstanceID", PROFILE)])
        .with("ElementName", "Replication")
        .with("RegisteredOrganization", 1_u16)
        .with("OtherRegisteredOrganization", "standin")
        .with("RegisteredName", "Replication")
        .with("RegisteredVersion", "2.0.0")
        .done()
}

/// `CIM_ElementConformsToProfile`: the replication service conforms to it.
pub fn conforms(service: ObjectPath) -> Instance {
    let standard = ObjectPath::new("CIM_RegisteredProfile", vec![Key::text("InstanceID", PROFILE)]);
    let service = service.within(Namespace::from_static("root/virtualization/v2"));
    let keys =
        vec![Key::reference("ConformantStandard", standard), Key::reference("ManagedElement", service)];
    Make::new("CIM_ElementConformsToProfile", keys).done()
}
