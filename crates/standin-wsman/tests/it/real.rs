//! The real clients over HTTP: pypsrp, pywinrm, python-dracclient, wsl. What is missing is said and fails the test:
//! `scripts/setup` installs it.

use crate::listener::{PASSWORD, USER, serve};
use crate::model::{V2, VM, WMI, World};
use std::path::{Path, PathBuf};
use std::process::Output;

fn python() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/python");
    let python = std::env::var_os("STANDIN_PYTHON").map_or(own, PathBuf::from);
    assert!(
        python.exists(),
        "{} is missing: run scripts/setup, or name a Python by STANDIN_PYTHON",
        python.display()
    );
    python
}

/// Runs a script with `host`, `port`, `user`, `password`, `wmi`, `vm` as variables.
async fn run(world: &World, script: &str) {
    let port = serve(world).await;
    let prelude = format!(
        "host = '127.0.0.1'; port = {port}; user = {USER:?}; password = {PASSWORD:?}\n\
         wmi = {WMI:?}; vm = {VM:?}; v2 = {V2:?}\n"
    );
    let output =
        tokio::process::Command::new(python()).arg("-c").arg(prelude + script).output().await.unwrap();
    check(&output);
}

fn check(output: &Output) {
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pypsrp_gets_enumerates_pulls_invokes_and_reads_faults() {
    let world = World::new(7);
    run(
        &world,
        r#"
import xml.etree.ElementTree as ET
from pypsrp.wsman import WSMan, SelectorSet, NAMESPACES
from pypsrp.exceptions import WSManFaultError
n = dict(NAMESPACES, p=wmi + '/Msvm_ComputerSystem', r=wmi + '/Msvm_ReplicationService')
client = WSMan(host, port=port, username=user, password=password, ssl=False, auth='basic', encryption='never')
keys = SelectorSet(); keys.add_option('Name', vm)
got = client.get(wmi + '/Msvm_ComputerSystem', selector_set=keys)
assert got.find('p:Msvm_ComputerSystem/p:ElementName', n).text == 'vm <0> & "friends"'
assert got.find('p:Msvm_ComputerSystem/p:InstallDate/cim:Datetime', n).text == '2013-04-15T16:28:43.488171Z'

ask = ET.Element('{%s}Enumerate' % n['wsen'])
ET.SubElement(ask, '{%s}OptimizeEnumeration' % n['wsman'])
ET.SubElement(ask, '{%s}MaxElements' % n['wsman']).text = '3'
wql = ET.SubElement(ask, '{%s}Filter' % n['wsman'], Dialect='http://schemas.microsoft.com/wbem/wsman/1/WQL')
wql.text = 'SELECT * FROM Msvm_ComputerSystem WHERE Small < 0'
reply = client.enumerate(wmi + '/*', ask)
seen = reply.findall('wsen:EnumerateResponse/wsman:Items/p:Msvm_ComputerSystem', n)
context = reply.find('wsen:EnumerateResponse/wsen:EnumerationContext', n).text
while context:
    ask = ET.Element('{%s}Pull' % n['wsen'])
    ET.SubElement(ask, '{%s}EnumerationContext' % n['wsen']).text = context
    ET.SubElement(ask, '{%s}MaxElements' % n['wsen']).text = '3'
    reply = client.pull(wmi + '/*', ask).find('wsen:PullResponse', n)
    seen += reply.findall('wsen:Items/p:Msvm_ComputerSystem', n)
    context = None if reply.find('wsen:EndOfSequence', n) is not None else reply.find('wsen:EnumerationContext', n).text
assert len(seen) == 7, len(seen)

call = ET.Element('{%s}InitiateFailover_INPUT' % n['r'])
system = ET.SubElement(call, '{%s}ComputerSystem' % n['r'])
ET.SubElement(system, '{%s}Address' % n['wsa']).text = 'http://x'
parameters = ET.SubElement(system, '{%s}ReferenceParameters' % n['wsa'])
ET.SubElement(parameters, '{%s}ResourceURI' % n['wsman']).text = wmi + '/Msvm_ComputerSystem'
chosen = ET.SubElement(parameters, '{%s}SelectorSet' % n['wsman'])
ET.SubElement(chosen, '{%s}Selector' % n['wsman'], Name='Name').text = vm
service = SelectorSet(); service.add_option('Name', 'replication')
uri = wmi + '/Msvm_ReplicationService'
out = client.invoke(uri + '/InitiateFailover', uri, call, selector_set=service).find('s:Body/r:InitiateFailover_OUTPUT', n)
assert out.find('r:ReturnValue', n).text == '4096'
job = out.find("r:Job/wsa:ReferenceParameters/wsman:SelectorSet/wsman:Selector[@Name='InstanceID']", n)
assert job.text == 'job-1'

wrong = SelectorSet(); wrong.add_option('Name', 'none')
try:
    client.get(wmi + '/Msvm_ComputerSystem', selector_set=wrong)
    raise SystemExit('no fault')
except WSManFaultError as fault:
    assert fault.code == 2150858752 and 'WBEM_E_NOT_FOUND' in fault.reason, fault
"#,
    )
    .await;
    assert_eq!(world.calls.lock().unwrap().len(), 1);
    assert_eq!(world.service.contexts().size(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pywinrm_sends_any_message_and_reads_the_numbers_of_faults() {
    run(
        &World::new(2),
        r#"
from winrm.protocol import Protocol
from winrm.exceptions import WSManFaultError
client = Protocol('http://%s:%d/wsman' % (host, port), transport='plaintext', username=user, password=password)
def message(uri, query):
    return f'''<?xml version="1.0" encoding="utf-8"?>
<env:Envelope xmlns:env="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"
 xmlns:n="http://schemas.xmlsoap.org/ws/2004/09/enumeration" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
 xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"><env:Header>
<a:To>http://windows-host:5985/wsman</a:To><a:ReplyTo><a:Address mustUnderstand="true">http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>
<w:MaxEnvelopeSize mustUnderstand="true">153600</w:MaxEnvelopeSize><a:MessageID>uuid:4</a:MessageID>
<w:Locale mustUnderstand="false" xml:lang="en-US"/><p:DataLocale mustUnderstand="false" xml:lang="en-US"/>
<w:OperationTimeout>PT20S</w:OperationTimeout><w:ResourceURI mustUnderstand="true">{uri}</w:ResourceURI>
<a:Action mustUnderstand="true">http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate</a:Action></env:Header>
<env:Body><n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>32000</w:MaxElements>
<w:Filter Dialect="http://schemas.microsoft.com/wbem/wsman/1/WQL">{query}</w:Filter></n:Enumerate></env:Body></env:Envelope>'''
reply = client.send_message(message(wmi + '/*', 'select * from Msvm_ComputerSystem'))
reply = reply if isinstance(reply, str) else reply.decode()
assert reply.count('xsi:type="p:Msvm_ComputerSystem_Type"') == 2, reply
try:
    client.send_message(message(wmi.replace('/v2', '') + '/*', 'select * from Msvm_ComputerSystem'))
    raise SystemExit('no fault')
except WSManFaultError as fault:
    assert fault.wmierror_code == 2150858778 and fault.wsman_fault_code == 2150858778, fault
    assert fault.fault_subcode == 'a:DestinationUnreachable' and fault.code == 500, fault
"#,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dracclient_enumerates_with_both_query_languages_and_invokes() {
    let world = World::new(7);
    run(
        &world,
        r#"
from dracclient.wsman import Client
client = Client(host, user, password, port=port, protocol='http')
uri = wmi + '/Msvm_ComputerSystem'
def names(reply):
    return [e.text for e in reply.iter('{%s}Name' % uri)]
assert len(names(client.enumerate(uri, max_elems=2))) == 7
for dialect in ('cql', 'wql'):
    found = client.enumerate(wmi + '/*', filter_query="select * from Msvm_ComputerSystem where Name = '%s'" % vm, filter_dialect=dialect)
    assert names(found) == [vm], dialect
plain = client.enumerate(uri, optimization=False, auto_pull=False)
context = plain.find('.//{http://schemas.xmlsoap.org/ws/2004/09/enumeration}EnumerationContext').text
assert len(names(client.pull(uri, context, max_elems=100))) == 7
service = wmi + '/Msvm_ReplicationService'
reply = client.invoke(service, 'InitiateFailover', {'Name': 'replication'}, {'Tags': ['a', 'b'], 'SnapshotSettingData': '<INSTANCE CLASSNAME="X"/>'})
assert reply.find('.//{%s}ReturnValue' % service).text == '4096'
"#,
    )
    .await;
    let call = world.calls.lock().unwrap().pop().unwrap();
    assert_eq!(call.arguments.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wsl_identifies_gets_and_enumerates() {
    for program in ["/usr/bin/wslid", "/usr/bin/uuidgen", "/usr/bin/xmllint", "/usr/bin/curl"] {
        assert!(Path::new(program).exists(), "{program} is missing: run scripts/setup");
    }
    let world = World::new(3);
    let port = serve(&world).await;
    let folder = std::env::temp_dir().join(format!("standin-wsl-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let run = async |program: &str, arguments: &[&str]| {
        let output = tokio::process::Command::new(program)
            .args(arguments)
            .current_dir(&folder)
            .env("HOME", &folder)
            .env("WSENDPOINT", format!("127.0.0.1:{port}"))
            .env("WSUSER", USER)
            .env("WSPASS", PASSWORD)
            .env("WSNOSSL", "true")
            .env("WSENUMOPTIMIZE", "true")
            .env("WSENUMMAXELEM", "2")
            .output()
            .await
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let uri = format!("{WMI}/Msvm_ComputerSystem");
    let identity = run("/usr/bin/wslid", &["check"]).await;
    assert!(identity.contains("<wsmid:ProductVendor>standin</wsmid:ProductVendor>"), "{identity}");
    let got = run("/usr/bin/wslget", &[&uri, &format!("Name={VM}")]).await;
    assert!(got.contains(&format!("<p:Name>{VM}</p:Name>")), "{got}");
    let all = run("/usr/bin/wslenum", &[&uri]).await;
    assert_eq!(all.matches("<p:Name>").count(), 3, "{all}");
    let references = run("/usr/bin/wslenum", &[&uri, "-mode", "epr"]).await;
    assert_eq!(references.matches("<a:EndpointReference>").count(), 3, "{references}");
    std::fs::remove_dir_all(&folder).unwrap();
}
