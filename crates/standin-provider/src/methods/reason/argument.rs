//! What is wrong with the arguments of a method.

use crate::methods::call::cut;
use standin_cim::Namespace;
use standin_model::reason::{Reason, Text};
use standin_model::reasons;

const CARD: &str = "Pass the Msvm_FailoverNetworkAdapterSettingData of the adapter, changed.";
const DECLARED: &str = "The class definition of the service has the parameters with their types.";

reasons! {
    /// What is wrong with the arguments of a method.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Argument {
        /// A parameter that has to be there is not.
        Missing { parameter: String } => "argument_missing", InvalidParameter;
        /// The arguments do not fit the declaration of the method.
        Unfit { error: String } => "arguments_unfit", InvalidParameter;
        /// An argument has another type than the method declares.
        WrongType { error: String } => "argument_of_wrong_type", IncorrectDataType;
        /// A property that should be a number is none.
        NoNumber { name: String, class: String } => "argument_no_number", IncorrectDataType;
        /// A number does not fit the property.
        OutOfRange { name: String, number: i128 } => "argument_out_of_range", InvalidParameter;
        /// A number is none of those that the property may have.
        NotOneOf { value: u16, kind: &'static str, choices: &'static str } => "argument_not_one_of", InvalidParameter;
        /// A state is requested that cannot be requested.
        NotRequestable { state: u16 } => "state_not_requestable", InvalidParameter;
        /// The recovery point is neither a reference nor an instance of its class.
        PointType => "point_of_wrong_type", IncorrectDataType;
        /// The reference to a recovery point has no id.
        PointReference => "point_reference_without_id", InvalidParameter;
        /// The instance of a recovery point has no id.
        PointInstance => "point_instance_without_id", InvalidParameter;
        /// The settings of the VM as it is were given for a recovery point.
        NoPoint { vm: String } => "settings_are_no_point", InvalidParameter;
        /// A reference points into another namespace.
        Namespace { namespace: Namespace } => "reference_into_other_namespace", InvalidParameter;
        /// The reference to a VM has no name.
        VmReference => "vm_reference_without_name", InvalidParameter;
        /// The relationship has no id.
        Relationship => "relationship_without_id", InvalidParameter;
        /// The relationship is not one of the VM.
        OtherRelationship { vm: String, id: String } => "relationship_of_another_vm", InvalidParameter;
        /// A start time is an interval.
        StartTime => "start_time_is_interval", InvalidParameter;
        /// A time of day is no interval from midnight.
        TimeOfDay { name: String } => "time_of_day_invalid", InvalidParameter;
        /// The settings do not name the replica's host.
        NoConnectionPoint => "no_connection_point", InvalidParameter;
        /// What should name a host does not.
        Host { host: String } => "host_name_invalid", InvalidParameter;
        /// An authorization entry lacks a property.
        EntryLacks { name: String } => "entry_lacks_property", InvalidParameter;
        /// A property of an authorization entry is set to null.
        EntryNull { name: String } => "entry_property_null", InvalidParameter;
        /// A property of an authorization entry is changed that cannot be changed.
        EntryFixed { name: String } => "entry_property_fixed", InvalidParameter;
        /// An authorization entry is given that names neither itself nor hosts.
        EntryUnnamed => "entry_unnamed", InvalidParameter;
        /// The beginning of the monitoring is no point in time.
        MonitoringStart => "monitoring_start_invalid", InvalidParameter;
        /// Network settings do not name their adapter.
        CardUnnamed => "card_settings_without_id", InvalidParameter;
        /// The id of network settings is none.
        CardId { id: String } => "card_settings_id_invalid", InvalidParameter;
        /// Network settings do not say whether DHCP is enabled.
        DhcpUnsaid => "dhcp_unsaid", InvalidParameter;
        /// Network settings have no list of addresses.
        AddressesUnsaid => "addresses_unsaid", InvalidParameter;
        /// A property of network settings has another type than the class declares.
        CardType { name: String, is: &'static str } => "card_settings_of_wrong_type", IncorrectDataType;
        /// The settings of a new VM have no name.
        NoName => "vm_without_name", InvalidParameter;
        /// The name cannot be that of a VM.
        VmName { name: String, error: String } => "vm_name_invalid", InvalidParameter;
        /// The name that the VM has cannot be used for a job.
        OwnName { error: String } => "vm_name_unusable", InvalidParameter;
        /// The identifier of a new VM is no GUID.
        NoGuid => "vm_identifier_no_guid", InvalidParameter;
        /// A new VM has too many processors.
        Processors => "too_many_processors", InvalidParameter;
        /// A disk of a new VM names no image.
        DiskWithoutImage => "disk_without_image", InvalidParameter;
        /// The format of a disk's image cannot be told from its name.
        DiskFormat { file: String } => "disk_format_unknown", InvalidParameter;
        /// The name cannot be that of a disk.
        DiskName { name: String, error: String } => "disk_name_invalid", InvalidParameter;
        /// The setting data of a summary are no reference.
        SettingData => "setting_data_no_reference", InvalidParameter;
        /// None of the errors that are to be formatted has a message.
        NoErrorMessage => "errors_without_message", InvalidParameter;
    }
}

impl Reason for Argument {
    fn text(&self) -> Text {
        match self {
            Self::Missing { parameter } => Text::new(
                format!("the parameter {parameter} is missing"),
                "Pass it; the class definition has its type.",
            ),
            Self::Unfit { error } | Self::WrongType { error } => Text::new(error, DECLARED),
            Self::NoNumber { name, class } => Text::new(
                format!("{name} of {class} is no number"),
                "Use uint16, as the class definition says.",
            ),
            Self::OutOfRange { name, number } => {
                Text::new(format!("{name} of {number} is out of range"), "Use 0 to 65535.")
            }
            Self::NotOneOf { value, kind, choices } => {
                Text::new(format!("{value} is no {kind}"), format!("Use {choices}."))
            }
            Self::NotRequestable { state } => {
                Text::new(format!("{state} cannot be requested"), "Use 1, 3, 7 or 9.")
            }
            Self::PointType => Text::new(
                "SnapshotSettingData is neither a reference nor an instance of Msvm_VirtualSystemSettingData",
                "Pass the recovery point's path, its instance, or null for the latest one.",
            ),
            Self::PointReference => Text::new(
                "the reference to a recovery point has no InstanceID",
                "Pass the path that an enumeration gave.",
            ),
            Self::PointInstance => Text::new(
                "the recovery point's instance has no InstanceID",
                "Pass it as an enumeration gave it.",
            ),
            Self::NoPoint { vm } => Text::new(
                format!("these are the settings of VM {vm} as it is, not a recovery point"),
                "Pass one of the instances that Msvm_SnapshotOfVirtualSystem relates to the VM.",
            ),
            Self::Namespace { namespace } => Text::new(
                format!("a reference points into the namespace {namespace}"),
                "Pass references into root/virtualization/v2.",
            ),
            Self::VmReference => Text::new(
                "the reference to a VM has no Name",
                "Pass the path that an enumeration of Msvm_ComputerSystem gave.",
            ),
            Self::Relationship => {
                Text::new("the relationship has no InstanceID", "Pass it as an enumeration gave it.")
            }
            Self::OtherRelationship { vm, id } => Text::new(
                format!("{} is not a relationship of VM {vm}", cut(id)),
                "Pass the relationship that Msvm_SystemReplicationRelationship relates to the VM, or none.",
            ),
            Self::StartTime => {
                Text::new("StartTime is an interval", "Pass a point in time, or null for now.")
            }
            Self::TimeOfDay { name } => Text::new(
                format!("{name} is no time of day"),
                "Pass an interval from midnight: 00000000183000.000000:000 is 18:30.",
            ),
            Self::NoConnectionPoint => Text::new(
                "the settings name no RecoveryConnectionPoint",
                "Set RecoveryConnectionPoint to the replica's host name or address.",
            ),
            Self::Host { host } => {
                Text::new(format!("{} is no host", cut(host)), "Pass a host name or an address.")
            }
            Self::EntryLacks { name } => Text::new(
                format!("the entry has no {name}"),
                "Set AllowedPrimaryHostSystem and ReplicaStorageLocation.",
            ),
            Self::EntryNull { name } => {
                Text::new(format!("{name} cannot be null"), "Give all three properties a text.")
            }
            Self::EntryFixed { name } => {
                Text::new(format!("{name} cannot be changed"), "Change the three writable ones.")
            }
            Self::EntryUnnamed => Text::new(
                "the entry has neither an InstanceID that is known nor an AllowedPrimaryHostSystem",
                "Pass it as an enumeration of Msvm_ReplicationAuthorizationSettingData gave it.",
            ),
            Self::MonitoringStart => {
                Text::new("MonitoringStartTime is no point in time", "Pass a date and a time.")
            }
            Self::CardUnnamed => {
                Text::new("network settings without an InstanceID say nothing of the adapter", CARD)
            }
            Self::CardId { id } => {
                Text::new(format!("{} is no InstanceID of failover network settings", cut(id)), CARD)
            }
            Self::DhcpUnsaid => Text::new(
                "the network settings do not say whether DHCP is enabled",
                "Give DHCPEnabled and IPAddresses on every instance.",
            ),
            Self::AddressesUnsaid => Text::new(
                "the network settings have no IPAddresses",
                "Give DHCPEnabled and IPAddresses on every instance; an empty list is one.",
            ),
            Self::CardType { name, is } => Text::new(
                format!("{name} is {is}"),
                "Use the type that the class Msvm_FailoverNetworkAdapterSettingData has for it.",
            ),
            Self::NoName => {
                Text::new("the settings have no ElementName", "Set ElementName to the VM's name.")
            }
            Self::VmName { name, error } => {
                Text::new(format!("{} cannot be a VM's name: {error}", cut(name)), "Choose another name.")
            }
            Self::OwnName { error } => {
                Text::new(format!("the VM's name cannot be used: {error}"), "Rename the VM.")
            }
            Self::NoGuid => Text::new("VirtualSystemIdentifier is no GUID", "Leave it null, or pass a GUID."),
            Self::Processors => Text::new("too many processors", "Use 1 to 512."),
            Self::DiskWithoutImage => {
                Text::new("a disk has no HostResource", "Set HostResource to the path of its image.")
            }
            Self::DiskFormat { file } => Text::new(
                format!("the format of {} cannot be told from its name", cut(file)),
                "Use a name that ends in .qcow2, .raw or .img, or `standin vm define FILE`.",
            ),
            Self::DiskName { name, error } => {
                Text::new(format!("{} cannot be a disk's name: {error}", cut(name)), "Choose another.")
            }
            Self::SettingData => {
                Text::new("SettingData is no reference", "Pass paths of Msvm_VirtualSystemSettingData.")
            }
            Self::NoErrorMessage => {
                Text::new("none of the errors has a Message", "Pass Msvm_Error instances.")
            }
        }
    }
}
