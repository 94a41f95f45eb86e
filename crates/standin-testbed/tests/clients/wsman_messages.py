"""Raw messages of WS-Management by pywinrm's client, and python-dracclient's: PRIMARY REPLICA CA CERT KEY. The primary
has the VMs web-1, which is replicated, and db-1, which is not."""

import os
import sys
import uuid
import warnings
import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape

warnings.simplefilter("ignore")  # dracclient checks no certificate, and says so at each call

import dracclient.wsman
from winrm.exceptions import InvalidCredentialsError, WSManFaultError
from winrm.protocol import Protocol

PRIMARY, REPLICA, CA, CERT, KEY = sys.argv[1:6]
USER, PASSWORD = "admin", os.environ["STANDIN_PASSWORD"]
NS = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "n": "http://schemas.xmlsoap.org/ws/2004/09/enumeration",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "i": "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd",
}
TRANSFER, ENUMERATION = "http://schemas.xmlsoap.org/ws/2004/09/transfer", NS["n"]
WMI = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/"
CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
WQL = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
XSI = "http://www.w3.org/2001/XMLSchema-instance"


def message(uri, action, body="", selectors=()):
    spaces = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NS.items())
    chosen = "".join(f'<w:Selector Name="{name}">{escape(value)}</w:Selector>' for name, value in selectors)
    return (
        f"<s:Envelope {spaces}><s:Header><a:To>http://x/wsman</a:To><a:ReplyTo><a:Address>{NS['a']}/role/anonymous"
        f'</a:Address></a:ReplyTo><w:ResourceURI s:mustUnderstand="true">{uri}</w:ResourceURI>'
        f'<a:Action s:mustUnderstand="true">{action}</a:Action><a:MessageID>uuid:{uuid.uuid4()}</a:MessageID>'
        f'<w:OperationTimeout>PT60.000S</w:OperationTimeout><w:SelectorSet>{chosen}</w:SelectorSet></s:Header>'
        f"<s:Body>{body}</s:Body></s:Envelope>"
    )


def body(reply):
    return ET.fromstring(reply).find("s:Body", NS)


def values(element):
    tag = lambda child: child.tag.rsplit("}", 1)[-1]
    return {tag(child): child.text for child in element if child.get(f"{{{XSI}}}nil") != "true"}


class Pywinrm:
    def __init__(self, **how):
        self.client = Protocol(**how)

    def send(self, *parts, **more):
        return body(self.client.send_message(message(*parts, **more)))

    def refused(self, subcode, *parts, **more):
        try:
            self.send(*parts, **more)
        except WSManFaultError as fault:
            assert fault.fault_subcode == subcode and fault.code == 500, (subcode, fault.fault_subcode, str(fault))
            return fault
        raise AssertionError(f"not refused with {subcode}")

    def query(self, text, most=None, base=WMI):
        optimized = f"<w:OptimizeEnumeration/><w:MaxElements>{most}</w:MaxElements>" if most else ""
        ask = f'<n:Enumerate>{optimized}<w:Filter Dialect="{WQL}">{escape(text)}</w:Filter></n:Enumerate>'
        reply = self.send(base + "*", ENUMERATION + "/Enumerate", ask)
        found = list(reply.find(".//w:Items", NS) if most else [])
        while reply.find(".//w:EndOfSequence", NS) is None and reply.find(".//n:EndOfSequence", NS) is None:
            context = reply.find(".//n:EnumerationContext", NS).text
            pull = f"<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext>"
            pull += f"<n:MaxElements>{most or 50}</n:MaxElements></n:Pull>"
            reply = self.send(base + "*", ENUMERATION + "/Pull", pull)
            found += reply.find(".//n:Items", NS)
        return [values(item) for item in found]


def whole(client):
    """Every action, whichever way the client comes in."""
    identity = body(client.client.send_message(
        f'<s:Envelope xmlns:s="{NS["s"]}" xmlns:i="{NS["i"]}"><s:Header/><s:Body><i:Identify/></s:Body></s:Envelope>'
    ))
    assert identity.find(".//i:ProductVendor", NS).text and identity.find(".//i:ProtocolVersion", NS).text
    systems = client.query("SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER")
    assert {one["ElementName"] for one in systems} == {"web-1", "db-1"}
    assert client.query("SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER", most=1) is not None
    vm = next(one for one in systems if one["ElementName"] == "web-1")
    name = [("Name", vm["Name"])]
    got = client.send(WMI + "Msvm_ComputerSystem", TRANSFER + "/Get", selectors=name)
    assert values(got[0])["ElementName"] == "web-1" and values(got[0])["ReplicationState"] == "3"
    # The other family of addresses, with the namespace among the selectors.
    named = [*name, ("__cimnamespace", "root/virtualization/v2")]
    got = client.send(CIM + "Msvm_ComputerSystem", TRANSFER + "/Get", selectors=named)
    assert got[0].tag == f"{{{CIM}Msvm_ComputerSystem}}Msvm_ComputerSystem", got[0].tag

    ask = "<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>1</w:MaxElements><w:EnumerationMode>EnumerateEPR"
    reply = client.send(WMI + "Msvm_ComputerSystem", ENUMERATION + "/Enumerate", ask + "</w:EnumerationMode></n:Enumerate>")
    assert reply.find(".//w:Items/a:EndpointReference/a:ReferenceParameters/w:SelectorSet/w:Selector", NS) is not None
    context = reply.find(".//n:EnumerationContext", NS).text
    release = f"<n:Release><n:EnumerationContext>{context}</n:EnumerationContext></n:Release>"
    assert len(client.send(WMI + "*", ENUMERATION + "/Release", release)) == 0
    gone = client.refused("n:InvalidEnumerationContext", WMI + "*", ENUMERATION + "/Release", release)
    assert gone.fault_code.endswith("Receiver") or gone.fault_code.endswith("Sender")

    service = client.query("SELECT * FROM Msvm_ReplicationService")[0]
    keys = [(key, service[key]) for key in ("SystemCreationClassName", "SystemName", "CreationClassName", "Name")]
    uri = WMI + "Msvm_ReplicationService"

    def invoke(method, inner=""):
        call = f'<p:{method}_INPUT xmlns:p="{uri}">{inner}</p:{method}_INPUT>'
        reply = client.send(uri, f"{uri}/{method}", call, selectors=keys)
        return values(reply.find(f"p:{method}_OUTPUT", {"p": uri}))["ReturnValue"]

    system = f"<a:Address/><a:ReferenceParameters><w:ResourceURI>{WMI}Msvm_ComputerSystem</w:ResourceURI>"
    system += f'<w:SelectorSet><w:Selector Name="Name">{vm["Name"]}</w:Selector></w:SelectorSet></a:ReferenceParameters>'
    system = f"<p:ComputerSystem>{system}</p:ComputerSystem>"
    assert invoke("GetReplicationStatisticsEx", system) == "0"
    assert invoke("InitiateFailover") == "32773"
    assert invoke("InitiateFailover", system) == "32775"
    client.refused("a:DestinationUnreachable", WMI + "Msvm_No", TRANSFER + "/Get", selectors=name)
    client.refused("a:DestinationUnreachable", WMI + "Msvm_ComputerSystem", TRANSFER + "/Get", selectors=[("Name", "x")])
    client.refused("w:InvalidSelectors", WMI + "Msvm_ComputerSystem", TRANSFER + "/Get", selectors=[("NoKey", "x")])
    client.refused("a:ActionNotSupported", uri, f"{uri}/NoSuchMethod", selectors=keys)


def refused_entry(**how):
    try:
        Pywinrm(**how).query("SELECT * FROM Msvm_ComputerSystem")
    except InvalidCredentialsError:
        return
    raise AssertionError(f"{how} was let in")


def pywinrm():
    https = {"endpoint": f"https://{PRIMARY}:5986/wsman", "ca_trust_path": CA}
    http = {"endpoint": f"http://{PRIMARY}:5985/wsman"}
    secret = {"username": USER, "password": PASSWORD}
    ways = {
        "basic": Pywinrm(transport="basic", **https, **secret),
        "ntlm": Pywinrm(transport="ntlm", message_encryption="always", **http, **secret),
        "ntlm and TLS": Pywinrm(transport="ntlm", **https, **secret),
        "certificate": Pywinrm(transport="certificate", cert_pem=CERT, cert_key_pem=KEY, **https),
    }
    for way, client in ways.items():
        whole(client)
        print("pywinrm:", way)
    # A password in the clear and an unsealed message are not taken, and a wrong password nowhere.
    refused_entry(transport="plaintext", **http, **secret)
    refused_entry(transport="basic", username=USER, password="wrong", **https)
    refused_entry(transport="ntlm", username=USER, password="wrong", **http)
    refused_entry(transport="ntlm", username="looker", password=PASSWORD, **http)


def dracclient_():
    client = dracclient.wsman.Client(PRIMARY, USER, PASSWORD, port=5986, protocol="https")
    uri = WMI + "Msvm_ComputerSystem"

    def names(reply):
        return sorted(one.text for one in reply.iter(f"{{{uri}}}ElementName"))

    everything = names(client.enumerate(uri, max_elems=1))
    assert {"web-1", "db-1"} < set(everything) and len(everything) == 3, everything
    for dialect in ("cql", "wql"):
        text = "select * from Msvm_ComputerSystem where ElementName = 'web-1'"
        found = client.enumerate(WMI + "*", filter_query=text, filter_dialect=dialect)
        assert names(found) == ["web-1"], dialect
    plain = client.enumerate(uri, optimization=False, auto_pull=False)
    context = plain.find(f".//{{{ENUMERATION}}}EnumerationContext").text
    assert names(client.pull(uri, context, max_elems=100)) == everything
    service = WMI + "Msvm_ReplicationService"
    reply = client.invoke(service, "StartService", {"CreationClassName": "Msvm_ReplicationService"}, {})
    assert reply.find(f".//{{{service}}}ReturnValue").text == "0"
    print("dracclient")


pywinrm()
dracclient_()
print("messages done")
