//! The disk that tells a guest its network settings where no agent runs in it: cloud-init's NoCloud data source, a
//! file system labelled `cidata` with `meta-data`, `user-data` and `network-config` (version 2). cloud-init looks
//! for it at every boot and takes it when the `instance-id` is another than the last one, so each failover has one
//! of its own. Facts: cloud-init's documentation of NoCloud and of network configuration version 2.
//!
//! A new instance has cloud-init do all that it does once per instance. The user data therefore switches off what
//! would change more than the network: host keys, users, host name, package sources, the size of the root.

use crate::seam::GuestNic;
use serde_json::{Map, Value, json};
use standin_durable::{Files, Mode};
use standin_model::network::AdapterSettings;
use std::io::{Cursor, Write as _};
use std::net::IpAddr;
use std::path::Path;

/// The label that cloud-init looks for, as FAT pads it.
const LABEL: [u8; 11] = *b"cidata     ";

/// Enough for the settings of every card a VM can have, and the least that is a sound FAT.
const SIZE: usize = 1 << 20;

/// What the guest is told besides: nothing else of it is to change. JSON is YAML.
const USER_DATA: &str = r##"#cloud-config
{
  "preserve_hostname": true,
  "manage_etc_hosts": false,
  "ssh_deletekeys": false,
  "ssh_genkeytypes": [],
  "users": [],
  "disable_root": false,
  "locale": false,
  "apt": { "preserve_sources_list": true },
  "growpart": { "mode": "off" },
  "resize_rootfs": false
}
"##;

/// Writes the disk's image, durably. Blocks.
///
/// # Errors
/// The system's reason.
pub fn write(image: &Path, instance: &str, cards: &[GuestNic]) -> std::io::Result<()> {
    let files = [
        ("meta-data", format!("{}\n", json!({ "instance-id": instance }))),
        ("user-data", USER_DATA.to_owned()),
        ("network-config", format!("{:#}\n", network_config(cards))),
    ];
    let mut disk = Cursor::new(vec![0; SIZE]);
    fatfs::format_volume(&mut disk, fatfs::FormatVolumeOptions::new().volume_label(LABEL))?;
    {
        let volume = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new())?;
        for (name, text) in files {
            let mut file = volume.root_dir().create_file(name)?;
            file.write_all(text.as_bytes())?;
            file.flush()?;
        }
    }
    // QEMU runs as the daemon's user, and nobody else needs to know how a guest is reached.
    Files::default().replace(image, disk.get_ref(), Mode::Owner).map_err(|error| error.source)
}

/// The cards' settings in cloud-init's network configuration, version 2.
fn network_config(cards: &[GuestNic]) -> Value {
    let ethernets: Map<String, Value> =
        cards.iter().map(|card| (card.name.clone(), ethernet(card))).collect();
    json!({ "version": 2, "ethernets": ethernets })
}

fn ethernet(card: &GuestNic) -> Value {
    let settings = &card.settings;
    let addresses: Vec<String> = settings.addresses.iter().map(ToString::to_string).collect();
    let mut entry = json!({
        "match": { "macaddress": card.mac.to_string() },
        "dhcp4": settings.dhcp4,
        "dhcp6": settings.dhcp6,
    });
    if !addresses.is_empty() {
        entry["addresses"] = json!(addresses);
    }
    if !settings.gateways.is_empty() {
        entry["routes"] = routes(settings);
    }
    if !settings.dns.is_empty() {
        entry["nameservers"] = json!({ "addresses": settings.dns });
    }
    entry
}

/// Default routes; the first gateway of a family is preferred.
fn routes(settings: &AdapterSettings) -> Value {
    let mut seen = (0, 0);
    let mut metric = |v4: bool| {
        let count = if v4 { &mut seen.0 } else { &mut seen.1 };
        *count += 100;
        *count
    };
    let route = |gateway: &IpAddr| {
        let to = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        match metric(gateway.is_ipv4()) {
            // The first one as the guest's tools set it without being told.
            100 => json!({ "to": to, "via": gateway }),
            metric => json!({ "to": to, "via": gateway, "metric": metric }),
        }
    };
    settings.gateways.iter().map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    fn card() -> GuestNic {
        GuestNic {
            name: "lan".to_owned(),
            mac: "52:54:00:12:34:56".parse().expect("an address"),
            settings: AdapterSettings {
                addresses: ["192.0.2.5/24", "2001:db8::5/64"].map(|a| a.parse().expect("valid")).into(),
                gateways: ["192.0.2.1", "fe80::1", "192.0.2.2"].map(|a| a.parse().expect("valid")).into(),
                dns: vec!["192.0.2.53".parse().expect("valid")],
                ..AdapterSettings::default()
            },
        }
    }

    #[test]
    fn the_disk_has_the_label_and_the_files_that_cloud_init_looks_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let image = dir.path().join("cidata.img");
        write(&image, "failover-1", &[card()]).expect("write");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1, "nothing else is left");
        let mode = fs::metadata(&image).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "nobody else reads how the guest is reached");
        let file = fs::File::open(&image).expect("open");
        let volume = fatfs::FileSystem::new(ReadOnly(file), fatfs::FsOptions::new()).expect("a FAT");
        assert_eq!(volume.volume_label(), "cidata");
        let read = |name: &str| {
            let mut text = String::new();
            let mut file = volume.root_dir().open_file(name).expect(name);
            file.read_to_string(&mut text).expect("read");
            text
        };
        let meta: Value = serde_json::from_str(&read("meta-data")).expect("JSON");
        assert_eq!(meta, json!({ "instance-id": "failover-1" }));
        let user = read("user-data");
        let (first, rest) = user.split_once('\n').expect("two lines");
        assert_eq!(first, "#cloud-config");
        serde_json::from_str::<Value>(rest).expect("JSON, and so YAML");
        let network: Value = serde_json::from_str(&read("network-config")).expect("JSON");
        assert_eq!(network, network_config(&[card()]));
    }

    #[test]
    fn a_card_is_matched_by_its_address_and_its_first_gateway_is_preferred() {
        let config = network_config(&[card()]);
        assert_eq!(config["version"], 2);
        let lan = &config["ethernets"]["lan"];
        assert_eq!(lan["match"]["macaddress"], "52:54:00:12:34:56");
        assert_eq!(lan["addresses"], json!(["192.0.2.5/24", "2001:db8::5/64"]));
        assert_eq!(
            lan["routes"],
            json!([
                { "to": "0.0.0.0/0", "via": "192.0.2.1" },
                { "to": "::/0", "via": "fe80::1" },
                { "to": "0.0.0.0/0", "via": "192.0.2.2", "metric": 200 },
            ])
        );
        assert_eq!(lan["nameservers"], json!({ "addresses": ["192.0.2.53"] }));
        assert_eq!(lan["dhcp4"], false);
    }

    #[test]
    fn dhcp_has_no_addresses_and_no_routes() {
        let settings = AdapterSettings { dhcp4: true, ..AdapterSettings::default() };
        let config = network_config(&[GuestNic { settings, ..card() }]);
        let wanted = json!({ "match": { "macaddress": "52:54:00:12:34:56" }, "dhcp4": true, "dhcp6": false });
        assert_eq!(config["ethernets"]["lan"], wanted);
    }

    /// fatfs wants to write; what is only read never does.
    struct ReadOnly(fs::File);

    impl std::io::Read for ReadOnly {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(into)
        }
    }

    impl std::io::Seek for ReadOnly {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }

    impl std::io::Write for ReadOnly {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::PermissionDenied.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
