//! What each client can ask for, against a real daemon.

use super::{add_user_with, authority, client, peopled, python_with_clients, user_certificate, well};
use crate::rig::{Rig, text};
use standin_testbed::daemon::Daemon;
use std::process::{Command, Stdio};

/// For clients that take a password on their command line and do not quote it.
const PLAIN: &str = "plain7";
const WMI: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2";

fn with_a_plain_user() -> Rig {
    let rig = peopled();
    add_user_with(&rig.a, "plain", PLAIN, &["--role", "administrator"]);
    rig
}

#[test]
fn pywbem_does_every_operation_it_has() {
    let said = well(&client(&peopled(), "pywbem_operations.py", &[]));
    assert!(said.ends_with("operations done\n"), "{said}");
}

#[test]
fn pywinrm_and_dracclient_send_every_message_however_they_come_in() {
    let rig = peopled();
    let files = user_certificate(&rig, "carol", "administrator");
    let said = well(&client(&rig, "wsman_messages.py", &[text(&files[0]), text(&files[1])]));
    assert!(said.ends_with("messages done\n"), "{said}");
    // The log-ins that failed among them are in the daemon's log: who, from where, how; never the password.
    let log = rig.a.log();
    for (user, proof) in [("admin", "basic"), ("admin", "ntlm"), ("looker", "ntlm")] {
        let failed = |line: &&str| {
            line.contains("a log-in failed")
                && line.contains("from=127.")
                && line.contains(user)
                && line.contains(proof)
        };
        assert!(log.lines().any(|line| failed(&line)), "{user} by {proof}: {log}");
    }
    assert!(!log.contains(super::PASSWORD), "a password in the log");
}

fn wbemcli(daemon: &Daemon, arguments: &[&str]) -> String {
    let mut command = Command::new("wbemcli");
    command.arg("-cacert").arg(authority(daemon)).args(arguments).stdin(Stdio::null());
    let ran = command.output().expect("wbemcli does not run: scripts/setup installs it");
    format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr))
}

#[test]
fn wbemcli_does_what_it_has_commands_for() {
    let rig = with_a_plain_user();
    let vm = rig.a.json(&["status", "web-1"]).unwrap();
    let id = vm.get(0).unwrap_or(&vm)["id"].as_str().unwrap().to_ascii_uppercase();
    let space = format!("https://plain:{PLAIN}@{}:5989/root/virtualization/v2", rig.a.listen().ip());
    let keys = format!("Msvm_ComputerSystem.CreationClassName=\"Msvm_ComputerSystem\",Name=\"{id}\"");
    let (class, vm) = (format!("{space}:Msvm_ComputerSystem"), format!("{space}:{keys}"));
    let names = wbemcli(&rig.a, &["ein", &format!("{space}:Msvm_ReplicationService")]);
    let service = names.trim().split_once(':').and_then(|(_, rest)| rest.split_once(':')).unwrap().1;
    let service = format!("{space}:{service}");
    let settings = format!("Msvm_ReplicationSettingData.InstanceID=\"Microsoft:{id}\\\\HVR\"");
    // Not all that is associated with a VM at once: wbemcli 1.6.3 does not know the EmbeddedObject that DSP0201 has on
    // a PROPERTY.ARRAY, and the disks of the settings are one.
    let commands: [(&[&str], &str); 14] = [
        (&["ein", &class], &keys),
        (&["ei", &class], "ElementName=\"db-1\""),
        (&["ecn", &space], "Msvm_ReplicationRelationship"),
        (&["ec", &space], "Msvm_ReplicationRelationship"),
        (&["gc", &class], "ReplicationState="),
        (&["gi", &vm], "ElementName=\"web-1\""),
        (&["ain", &vm], &settings),
        (&["ai", &service], "Msvm_ReplicationServiceSettingData"),
        (&["ai", "-ac", "Msvm_SystemReplicationRelationship", &vm], "ReplicationState=3"),
        (&["rin", &vm], "Msvm_SettingsDefineState.ManagedElement="),
        (&["ri", &vm], "Msvm_SystemReplicationRelationship.Antecedent="),
        (&["cm", &service, "StartService"], "StartService: 0"),
        (&["mi", &vm, "ElementName=\"x\""], "CIM_ERR_NOT_SUPPORTED"),
        (&["ci", &vm, &format!("Name=\"{id}\"")], "CIM_ERR_NOT_SUPPORTED"),
    ];
    for (arguments, wanted) in commands {
        let said = wbemcli(&rig.a, arguments);
        assert!(said.contains(wanted), "{arguments:?}: {wanted} is not in {said}");
        assert!(!said.contains("Parse Exception"), "{arguments:?}: {said}");
    }
    // A null out parameter, in whatever form, ends wbemcli 1.6.3 in a segmentation fault, after the call: the audit log
    // says that it was made and refused.
    wbemcli(&rig.a, &["cm", &service, "InitiateFailover"]);
    let audit = std::fs::read_to_string(rig.a.dir().join("data/audit.log")).unwrap();
    assert!(audit.lines().any(|line| line.contains("InitiateFailover") && line.contains("32773")), "{audit}");
}

#[test]
fn wsl_identifies_gets_enumerates_and_invokes() {
    let rig = with_a_plain_user();
    let endpoint = format!("{}:5986", rig.a.listen().ip());
    let folder = rig.path("wsl");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(authority(&rig.a), folder.join(format!("{endpoint}.crt"))).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&folder).stdin(Stdio::null()).env("HOME", &folder);
        command.env("WSENDPOINT", &endpoint).env("WSUSER", "plain").env("WSPASS", PLAIN);
        command.env("WSENUMOPTIMIZE", "true").env("WSENUMMAXELEM", "2").env_remove("CURL_CA_BUNDLE");
        let ran = command.output().expect("wsl does not run: scripts/setup installs it");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    let system = format!("{WMI}/Msvm_ComputerSystem");
    let identity = run("wslid", &["check"]);
    assert!(identity.contains("<wsmid:ProductVendor>standin<"), "{identity}");
    let got = run("wslget", &[&system, "Name=host-a"]);
    assert!(got.contains("<p:ElementName>host-a<"), "{got}");
    let all = run("wslenum", &[&system]);
    assert_eq!(all.matches("<p:Name>").count(), 3, "{all}");
    let references = run("wslenum", &[&system, "-mode", "epr"]);
    assert_eq!(references.matches("<a:EndpointReference>").count(), 3, "{references}");
    // It cuts the selectors out of an enumerated reference, line by line, and puts them into the call.
    let called = run("wslinvoke", &[&format!("{WMI}/Msvm_ReplicationService"), "StartService"]);
    assert!(called.contains("<p:ReturnValue>0<"), "{called}");
    let statistics = ["GetReplicationStatistics", "ComputerSystem=FILE:vm.xml"];
    std::fs::write(folder.join("vm.xml"), one_reference(&references)).unwrap();
    let service = format!("{WMI}/Msvm_ReplicationService");
    let called = run("wslinvoke", &[&service[..], statistics[0], statistics[1]]);
    assert!(called.contains("<p:ReturnValue>"), "{called}");
}

/// The first reference of an enumeration as wsl prints it.
fn one_reference(all: &str) -> &str {
    let begin = all.find("<a:EndpointReference>").unwrap();
    let end = "</a:EndpointReference>";
    &all[begin..all.find(end).unwrap() + end.len()]
}

/// What people type, whether or not they have a client: curl's own NTLM and Negotiate.
#[test]
fn curl_comes_in_by_password_and_by_certificate_and_not_without() {
    let rig = with_a_plain_user();
    let [certificate, key] = user_certificate(&rig, "carol", "viewer");
    add_user_with(&rig.a, "sealed", PLAIN, &["--ntlm"]);
    let url = format!("https://{}:5986/wsman", rig.a.listen().ip());
    let curl = |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "30", "--cacert"]);
        command.arg(authority(&rig.a)).args(arguments).args(["--data", "x", &url]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    // Who is let in gets a fault for what is no message.
    assert_eq!(curl(&["--user", &format!("plain:{PLAIN}")]), "500");
    assert_eq!(curl(&["--ntlm", "--user", &format!("sealed:{PLAIN}")]), "500");
    assert_eq!(curl(&["--cert", text(&certificate), "--key", text(&key)]), "500");
    assert_eq!(curl(&[]), "401");
    assert_eq!(curl(&["--user", "plain:wrong"]), "401");
    assert_eq!(curl(&["--ntlm", "--user", &format!("plain:{PLAIN}")]), "401", "no hash for NTLM was kept");
}

/// The schema as MOF goes through another implementation's compiler.
#[test]
fn the_printed_schema_is_compiled_by_pywbem() {
    let rig = Rig::new();
    let mof = rig.path("schema.mof");
    std::fs::write(&mof, rig.a.run(&["cim", "mof"]).unwrap()).unwrap();
    let mut command = python_with_clients();
    let compiler = super::python().with_file_name("mof_compiler");
    command.arg(compiler).args(["--dry-run", "-s", "https://unused", "-n", "root/virtualization/v2"]);
    let said = well(&command.arg(&mof).output().unwrap());
    assert!(!said.to_lowercase().contains("error"), "{said}");
}
