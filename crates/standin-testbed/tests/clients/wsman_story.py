"""The whole story over WS-Management with pypsrp's client: PRIMARY REPLICA CA WAY, where WAY is one of

    basic        Basic over HTTPS
    negotiate    NTLM over plain HTTP, messages sealed
    certificate  a client certificate over HTTPS; CERT and KEY follow
"""

import os
import sys
import time
import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape

from pypsrp.wsman import SelectorSet, WSMan

BASE = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/"
WQL = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
ENUMERATION = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
ADDRESSING = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
WSMAN = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
USER, PASSWORD = "admin", os.environ["STANDIN_PASSWORD"]


def local(tag):
    return tag.rsplit("}", 1)[-1]


def connect(host, ca, way, more):
    if way == "negotiate":
        return WSMan(host, port=5985, ssl=False, auth="negotiate", username=USER, password=PASSWORD, encryption="always")
    options = {"port": 5986, "ssl": True, "cert_validation": ca}
    if way == "certificate":
        return WSMan(host, auth="certificate", certificate_pem=more[0], certificate_key_pem=more[1], **options)
    return WSMan(host, auth="basic", username=USER, password=PASSWORD, **options)


def properties(instance):
    """Name to text of an instance; an array keeps its last element."""
    return {local(child.tag): child.text for child in instance if child.get(f"{{{XSI}}}nil") != "true"}


def query(wsman, text):
    """Enumerate with a WQL filter, pulled to the end."""
    body = ET.Element(f"{{{ENUMERATION}}}Enumerate")
    ET.SubElement(body, f"{{{WSMAN}}}Filter", Dialect=WQL).text = text
    reply = wsman.enumerate(BASE + "*", body)
    found = []
    while True:
        items = next((child for child in reply.iter() if local(child.tag) == "Items"), None)
        found.extend(items if items is not None else [])
        if any(local(child.tag) == "EndOfSequence" for child in reply.iter()):
            return [properties(item) for item in found]
        context = next(child for child in reply.iter() if local(child.tag) == "EnumerationContext").text
        pull = ET.Element(f"{{{ENUMERATION}}}Pull")
        ET.SubElement(pull, f"{{{ENUMERATION}}}EnumerationContext").text = context
        reply = wsman.pull(BASE + "*", pull)


def reference(class_name, keys):
    selectors = "".join(f'<w:Selector Name="{name}">{escape(value)}</w:Selector>' for name, value in keys.items())
    return (
        f'<a:Address xmlns:a="{ADDRESSING}">http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>'
        f'<a:ReferenceParameters xmlns:a="{ADDRESSING}" xmlns:w="{WSMAN}"><w:ResourceURI>{BASE}{class_name}</w:ResourceURI>'
        f"<w:SelectorSet>{selectors}</w:SelectorSet></a:ReferenceParameters>"
    )


def selectors(keys):
    result = SelectorSet()
    for name, value in keys.items():
        result.add_option(name, value)
    return result


def call(wsman, class_name, keys, method, arguments=()):
    """Calls a method, follows its job and returns the reply's elements by name."""
    uri = BASE + class_name
    inner = "".join(f"<p:{name}>{value}</p:{name}>" for name, value in arguments)
    body = ET.fromstring(f'<p:{method}_INPUT xmlns:p="{uri}">{inner}</p:{method}_INPUT>')
    reply = wsman.invoke(f"{uri}/{method}", uri, body, selector_set=selectors(keys))
    output = reply if local(reply.tag) == f"{method}_OUTPUT" else next(
        child for child in reply.iter() if local(child.tag) == f"{method}_OUTPUT"
    )
    code = int(next(child for child in output if local(child.tag) == "ReturnValue").text)
    if code == 4096:
        job = next(child for child in output.iter() if child.get("Name") == "InstanceID").text
        wait(wsman, method, job)
    elif code != 0:
        sys.exit(f"{method} was refused with {code}")
    return output


def wait(wsman, method, job):
    while True:
        reply = wsman.get(BASE + "Msvm_ConcreteJob", selector_set=selectors({"InstanceID": job}))
        found = reply if local(reply.tag) == "Msvm_ConcreteJob" else next(
            child for child in reply.iter() if local(child.tag) == "Msvm_ConcreteJob"
        )
        job_now = properties(found)
        if job_now["JobState"] in ("7", "8", "9", "10"):
            if job_now["JobState"] != "7":
                sys.exit(f"{method} failed: {job_now['ErrorDescription']}")
            return
        time.sleep(0.3)


def service(wsman):
    found = query(wsman, "SELECT * FROM Msvm_ReplicationService")[0]
    return {name: found[name] for name in ("SystemCreationClassName", "SystemName", "CreationClassName", "Name")}


def vm_of(wsman, name):
    found = query(wsman, f'SELECT * FROM Msvm_ComputerSystem WHERE ElementName = "{name}" AND Name != __SERVER')
    if not found:
        sys.exit(f"there is no VM {name}")
    return found[0]


def vm_keys(vm):
    return {"CreationClassName": "Msvm_ComputerSystem", "Name": vm["Name"]}


def points(wsman, vm):
    text = (
        f"ASSOCIATORS OF {{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{vm['Name']}'}} "
        "WHERE AssocClass = Msvm_SnapshotOfVirtualSystem ResultClass = Msvm_VirtualSystemSettingData"
    )
    return query(wsman, text)


def until(what, condition, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(1)
    sys.exit(f"{what} did not come about")


def settings_text(vm, host):
    def prop(name, kind, value):
        return f'<PROPERTY NAME="{name}" TYPE="{kind}"><VALUE>{escape(value)}</VALUE></PROPERTY>'

    return escape(
        '<INSTANCE CLASSNAME="Msvm_ReplicationSettingData">'
        + prop("InstanceID", "string", f"Microsoft:{vm['Name']}\\HVR")
        + prop("RecoveryConnectionPoint", "string", host)
        + prop("RecoveryServerPortNumber", "uint16", "28444")
        + prop("AuthenticationType", "uint16", "2")
        + prop("ReplicationInterval", "uint16", "2")
        + prop("RecoveryHistory", "uint16", "24")
        + "</INSTANCE>"
    )


def main():
    primary_host, replica_host, ca, way, name, *more = sys.argv[1:]
    primary, replica = (connect(host, ca, way, more) for host in (primary_host, replica_host))
    vm = vm_of(primary, name)
    system = ("ComputerSystem", reference("Msvm_ComputerSystem", vm_keys(vm)))
    here = service(primary)
    settings = ("ReplicationSettingData", settings_text(vm, replica_host))
    call(primary, "Msvm_ReplicationService", here, "CreateReplicationRelationship", [system, settings])
    call(primary, "Msvm_ReplicationService", here, "StartReplication", [system, ("InitialReplicationType", "1")])
    until("replicating", lambda: vm_of(primary, name)["ReplicationState"] == "3")
    found = until("three points", lambda: (lambda all: all if len(all) >= 3 else None)(points(replica, vm)))
    print(len(found), "recovery points")
    there = service(replica)
    chosen = reference("Msvm_VirtualSystemSettingData", {"InstanceID": found[-2]["InstanceID"]})
    call(replica, "Msvm_ReplicationService", there, "InitiateFailover", [system, ("SnapshotSettingData", chosen)])
    start = lambda: call(replica, "Msvm_ComputerSystem", vm_keys(vm), "RequestStateChange", [("RequestedState", "2")])
    start()
    until("running", lambda: vm_of(replica, name)["EnabledState"] == "2")
    call(replica, "Msvm_ReplicationService", there, "RevertFailover", [system])
    call(replica, "Msvm_ReplicationService", there, "InitiateFailover", [system])
    call(replica, "Msvm_ReplicationService", there, "CommitFailover", [system])
    start()
    state = vm_of(replica, name)
    if state["ReplicationState"] != "6":
        sys.exit(f"the VM is in state {state['ReplicationState']}")
    print("the story is told")


main()
