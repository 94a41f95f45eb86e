"""One call of the management API, without a word of explanation: HOST CA WAY VM METHOD [MORE...].

WAY is `cimxml` or `wsman`. METHOD is RequestStateChange (with the number of the state), InitiateFailover, RevertFailover,
DefineSystem (with the VM's UUID and its images), or DisableRecoveryServer, which is ModifyServiceSettings and needs no
VM. Only RequestStateChange and DefineSystem go by `wsman`. Prints {"code": RETURN VALUE, "job": STATE or null, "error":
TEXT or null} once the job has ended.
"""

import json
import os
import sys
import time
import xml.etree.ElementTree as ET

import pywbem
from pypsrp.wsman import SelectorSet, WSMan

NAMESPACE = "root/virtualization/v2"
BASE = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/"
PASSWORD = os.environ["STANDIN_PASSWORD"]
JOB_STARTED, JOB_ENDED = 4096, {7, 8, 9, 10}


def local(tag):
    return tag.rsplit("}", 1)[-1]


def cim(host, ca):
    return pywbem.WBEMConnection(f"https://{host}:5989", ("admin", PASSWORD), default_namespace=NAMESPACE, ca_certs=ca)


def service(c, kind):
    return c.EnumerateInstanceNames(f"Msvm_{kind}Service")[0]


def xml(class_name, properties):
    return pywbem.CIMInstance(class_name, properties).tocimxml().toxml()


def definition(name, uuid, images):
    """The arguments of DefineSystem, of texts."""
    system = xml("Msvm_VirtualSystemSettingData", {"ElementName": name, "VirtualSystemIdentifier": uuid})
    disks = [xml("Msvm_StorageAllocationSettingData", {"HostResource": [image]}) for image in images]
    return {"SystemSettings": system, "ResourceSettings": disks}


def over_cimxml(c, name, vm, method, more):
    if method == "RequestStateChange":
        return c.InvokeMethod(method, vm, RequestedState=pywbem.Uint16(more[0]))
    if method == "DefineSystem":
        return c.InvokeMethod(method, service(c, "VirtualSystemManagement"), **definition(name, more[0], more[1:]))
    replication = service(c, "Replication")
    if method != "DisableRecoveryServer":
        return c.InvokeMethod(method, replication, ComputerSystem=vm)
    # What it does not name stays as it is.
    settings = xml("Msvm_ReplicationServiceSettingData", {"RecoveryServerEnabled": False})
    return c.InvokeMethod("ModifyServiceSettings", replication, SettingData=settings)


def over_wsman(host, ca, target, method, arguments):
    """The return value and the InstanceID of its job."""
    wsman = WSMan(host, port=5986, ssl=True, auth="basic", username="admin", password=PASSWORD, cert_validation=ca)
    uri = BASE + target.classname
    body = ET.Element(f"{{{uri}}}{method}_INPUT")
    for name, values in arguments.items():
        for value in values if isinstance(values, list) else [values]:
            ET.SubElement(body, f"{{{uri}}}{name}").text = value
    chosen = SelectorSet()
    for name, value in target.keybindings.items():
        chosen.add_option(name, value)
    reply = wsman.invoke(f"{uri}/{method}", uri, body, selector_set=chosen)
    code = next(int(found.text) for found in reply.iter() if local(found.tag) == "ReturnValue")
    job = next((found.text for found in reply.iter() if found.get("Name") == "InstanceID"), None)
    return code, {"Job": job and pywbem.CIMInstanceName("Msvm_ConcreteJob", {"InstanceID": job}, namespace=NAMESPACE)}


def ended(c, path):
    while True:
        job = c.GetInstance(path)
        if job["JobState"] in JOB_ENDED:
            return job
        time.sleep(0.2)


def main():
    host, ca, way, name, method, *more = sys.argv[1:]
    c = cim(host, ca)
    found = c.ExecQuery("WQL", f"SELECT * FROM Msvm_ComputerSystem WHERE ElementName = '{name}' AND Name != __SERVER")
    vm = found[0].path if found else None
    if way == "cimxml":
        code, out = over_cimxml(c, name, vm, method, more)
    elif method == "DefineSystem":
        target = service(c, "VirtualSystemManagement")
        code, out = over_wsman(host, ca, target, method, definition(name, more[0], more[1:]))
    else:
        code, out = over_wsman(host, ca, vm, method, {"RequestedState": more[0]})
    job = ended(c, out["Job"]) if code == JOB_STARTED else None
    error = job["ErrorDescription"] if job else None
    print(json.dumps({"code": int(code), "job": int(job["JobState"]) if job else None, "error": error}))


main()
