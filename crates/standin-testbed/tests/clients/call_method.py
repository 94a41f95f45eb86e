"""One call of the management API, without a word of explanation: HOST CA WAY VM METHOD [NUMBER].

WAY is `cimxml` or `wsman`. METHOD is RequestStateChange (with the NUMBER of the state), InitiateFailover, RevertFailover,
or DisableRecoveryServer, which is ModifyServiceSettings and needs no VM. Prints {"code": RETURN VALUE, "job": STATE or
null, "error": TEXT or null} once the job has ended.
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


def over_cimxml(c, vm, method, number):
    if method == "RequestStateChange":
        return c.InvokeMethod(method, vm, RequestedState=pywbem.Uint16(number))
    service = c.EnumerateInstanceNames("Msvm_ReplicationService")[0]
    if method != "DisableRecoveryServer":
        return c.InvokeMethod(method, service, ComputerSystem=vm)
    # What it does not name stays as it is.
    settings = pywbem.CIMInstance("Msvm_ReplicationServiceSettingData", {"RecoveryServerEnabled": False})
    return c.InvokeMethod("ModifyServiceSettings", service, SettingData=settings.tocimxml().toxml())


def over_wsman(host, ca, vm, method, number):
    """Only RequestStateChange. The return value and the InstanceID of its job."""
    wsman = WSMan(host, port=5986, ssl=True, auth="basic", username="admin", password=PASSWORD, cert_validation=ca)
    uri = BASE + "Msvm_ComputerSystem"
    body = ET.fromstring(f'<p:{method}_INPUT xmlns:p="{uri}"><p:RequestedState>{number}</p:RequestedState></p:{method}_INPUT>')
    chosen = SelectorSet()
    for name in ("CreationClassName", "Name"):
        chosen.add_option(name, vm[name])
    reply = wsman.invoke(f"{uri}/{method}", uri, body, selector_set=chosen)
    code = next(int(found.text) for found in reply.iter() if local(found.tag) == "ReturnValue")
    job = next((found.text for found in reply.iter() if found.get("Name") == "InstanceID"), None)
    return code, {"Job": pywbem.CIMInstanceName("Msvm_ConcreteJob", {"InstanceID": job}, namespace=NAMESPACE)}


def ended(c, path):
    while True:
        job = c.GetInstance(path)
        if job["JobState"] in JOB_ENDED:
            return job
        time.sleep(0.2)


def main():
    host, ca, way, name, method, *number = sys.argv[1:]
    c = cim(host, ca)
    found = c.ExecQuery("WQL", f"SELECT * FROM Msvm_ComputerSystem WHERE ElementName = '{name}' AND Name != __SERVER")
    vm = found[0].path if found else None
    state = int(number[0]) if number else None
    code, out = over_wsman(host, ca, vm, method, state) if way == "wsman" else over_cimxml(c, vm, method, state)
    job = ended(c, out["Job"]) if code == JOB_STARTED else None
    error = job["ErrorDescription"] if job else None
    print(json.dumps({"code": int(code), "job": int(job["JobState"]) if job else None, "error": error}))


main()
