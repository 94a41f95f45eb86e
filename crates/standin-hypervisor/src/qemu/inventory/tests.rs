use super::*;

fn device(qdev: &str, device: &str, node: &str) -> Value {
    value!({ "qdev": qdev, "device": device, "inserted": { "node-name": node } })
}

#[test]
fn an_adopted_disk_is_named_by_what_survives_a_restart() {
    let name = |device: &Value| disk_name(device, 3);
    assert_eq!(name(&device("/machine/peripheral/virtio-disk0/virtio-backend", "", "#b1")), "virtio-disk0");
    assert_eq!(name(&device("ide0-0-0", "drive-ide0", "#b1")), "ide0-0-0");
    assert_eq!(
        name(&device("/machine/peripheral-anon/device[1]/virtio-backend", "virtio0", "#b1")),
        "virtio0"
    );
    assert_eq!(
        name(&device("/machine/peripheral-anon/device[1]", "", "libvirt-1-format")),
        "libvirt-1-format"
    );
    assert_eq!(name(&device("/machine/peripheral-anon/device[1]", "", "#block123")), "disk3");
}

#[test]
fn drives_that_are_no_disks_are_left_out() {
    assert!(is_disk(&device("/machine/peripheral/a/virtio-backend", "", "n")));
    assert!(!is_disk(&device("/machine/system.flash0", "pflash0", "n")));
    let mut cd = device("/machine/peripheral/cd", "", "n");
    cd["removable"] = value!(true);
    assert!(!is_disk(&cd));
}

#[test]
fn the_image_is_found_below_filters() {
    let graph = value!({
        "nodes": [{ "id": 1, "name": "cbw" }, { "id": 2, "name": "thr" }, { "id": 3, "name": "img" },
                  { "id": 4, "name": "scratch" }],
        "edges": [{ "parent": 1, "child": 4, "name": "target" }, { "parent": 1, "child": 2, "name": "file" },
                  { "parent": 2, "child": 3, "name": "file" }],
    });
    let nodes = [
        value!({ "node-name": "cbw", "drv": "copy-before-write" }),
        value!({ "node-name": "thr", "drv": "throttle" }),
        value!({ "node-name": "img", "drv": "qcow2" }),
    ];
    assert_eq!(below_filters(&graph, &nodes, "cbw".into()), "img");
    assert_eq!(below_filters(&graph, &nodes, "img".into()), "img");
}

#[test]
fn a_path_behind_options_is_found() {
    assert_eq!(image_path("/a/b"), PathBuf::from("/a/b"));
    let shown = r#"json:{"driver": "qcow2", "file": {"driver": "file", "filename": "/c"}}"#;
    assert_eq!(image_path(shown), PathBuf::from("/c"));
    assert_eq!(image_path("json:{broken"), PathBuf::from("json:{broken"));
}

#[test]
fn a_disk_that_cannot_be_tracked_says_why() {
    let name = DiskName::new("a").expect("a name");
    let mut node = value!({ "node-name": "n", "drv": "vmdk", "image": { "virtual-size": 1024 } });
    assert!(problem(&live_disk(name.clone(), &node, &[])).expect("vmdk").contains("vmdk"));
    node["drv"] = value!("raw");
    assert_eq!(problem(&live_disk(name.clone(), &node, &[])), None);
    node["ro"] = value!(true);
    assert!(problem(&live_disk(name, &node, &[])).expect("read-only").contains("read-only"));
}

#[test]
fn only_a_raw_file_behind_the_page_cache_is_read_past_qemu() {
    let node = |name: &str, driver: &str, file: &str, direct: bool| value!({ "node-name": name, "drv": driver, "file": file, "cache": { "direct": direct } });
    let plain = |nodes: &[Value]| plain_file(&nodes[0], nodes);
    let file = node("f", "file", "/a", false);
    assert!(plain(&[node("n", "raw", "/a", false), file.clone()]));
    assert!(!plain(&[node("n", "raw", "/a", false), node("f", "file", "/a", true)]), "O_DIRECT below");
    assert!(!plain(&[node("n", "raw", "/a", true), file.clone()]), "O_DIRECT");
    assert!(!plain(&[node("n", "qcow2", "/a", false), file.clone()]), "another format");
    assert!(!plain(&[node("n", "raw", "/a", false), node("f", "host_device", "/a", false)]), "a device");
    let hidden = r#"json:{"driver": "raw", "offset": 512, "file": {"driver": "file", "filename": "/a"}}"#;
    assert!(!plain(&[node("n", "raw", hidden, false), file]), "an offset");
    assert!(
        !plain(&[value!({ "node-name": "n", "drv": "raw", "file": "/a" })]),
        "nothing is known of its cache"
    );
}
