"""examples/powershell/Invoke-FailoverStory.ps1 without PowerShell: PRIMARY REPLICA CA SCRIPT VM, or PRIMARY REPLICA CA
SCRIPT alone for the checks that need no VM.

1. The script is parsed, and every class, property, method, argument and type that it names is looked up in the class
   definitions that the daemon gives on the wire, as the cmdlets do it.
2. What the script's cmdlets ask for is asked here in the same order, in the form in which the Windows client (MI) sends
   it: DMTF's addresses with __cimnamespace, its headers, NTLM with sealed messages over plain HTTP.
3. What was asked is compared with what the script asks for, so that the two cannot drift apart.
"""

import os
import re
import sys
import time
import uuid
import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

from winrm.protocol import Protocol

from powershell_script import Script, Wrong, expect

PRIMARY, REPLICA, CA, SCRIPT = sys.argv[1:5]
SPACE = "root/virtualization/v2"
CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
CLASSES = "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*"
ANYTHING = "http://schemas.dmtf.org/wbem/wscim/1/*"
WQL = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
ASSOCIATION = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding/associationFilter"
NS = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "n": "http://schemas.xmlsoap.org/ws/2004/09/enumeration",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "p": "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd",
    "b": "http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd",
    "cim": "http://schemas.dmtf.org/wbem/wscim/1/common",
    "xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "i": "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd",
}
TRANSFER, ENUMERATION = "http://schemas.xmlsoap.org/ws/2004/09/transfer", NS["n"]
SPACES = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NS.items() if prefix not in ("i", "xsi"))


def local(tag):
    return tag.rsplit("}", 1)[-1]


def epr(class_name, keys):
    chosen = "".join(f"<w:Selector Name={quoteattr(name)}>{escape(value)}</w:Selector>" for name, value in keys.items())
    return (
        f"<a:Address>{NS['a']}/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>{CIM}{class_name}"
        f'</w:ResourceURI><w:SelectorSet><w:Selector Name="__cimnamespace">{SPACE}</w:Selector>{chosen}</w:SelectorSet>'
        "</a:ReferenceParameters>"
    )


class Definition:
    """A class as the daemon defines it: properties, keys, and the parameters of methods, each with its type."""

    def __init__(self, element):
        self.element = element
        fields = [child for child in element if child.tag.startswith("PROPERTY")]
        self.types = {one.get("NAME"): one.get("TYPE", "reference") for one in fields}
        self.arrays = {one.get("NAME") for one in fields if one.tag == "PROPERTY.ARRAY"}
        self.keys = [one.get("NAME") for one in fields if self.marked(one, "key")]
        self.methods = {method.get("NAME"): self.parameters(method) for method in element.iter("METHOD")}

    @staticmethod
    def marked(element, name):
        return any(q.get("NAME").lower() == name and (q.findtext("VALUE") or "").lower() == "true" for q in element.iter("QUALIFIER"))

    @staticmethod
    def parameters(method):
        found = [child for child in method if child.tag.startswith("PARAMETER")]
        return {one.get("NAME"): "reference" if "REFERENCE" in one.tag else one.get("TYPE") for one in found}


class Instance:
    def __init__(self, session, element):
        self.class_name = local(element.tag)
        self.definition = session.definition(self.class_name)
        self.values = {}
        for child in element:
            name = local(child.tag)
            expect(name in self.definition.types, f"{self.class_name} has a {name} that its definition does not have")
            if child.get(f"{{{NS['xsi']}}}nil") != "true":
                inner = next(iter(child), None)
                self.values.setdefault(name, []).append((child.text if inner is None else inner.text) or "")

    def __getitem__(self, name):
        return self.values[name][0] if name in self.values else None

    def keys(self):
        return {name: self[name] for name in self.definition.keys}

    def reference(self):
        return epr(self.class_name, self.keys())

    def serialized(self):
        """As MI's serializer for CIM-XML writes an instance."""
        def one(name, kind):
            tag, values = "PROPERTY.ARRAY" if name in self.definition.arrays else "PROPERTY", self.values.get(name)
            inner = "".join(f"<VALUE>{escape(cim_time(value) if kind == 'datetime' else value)}</VALUE>" for value in values or [])
            inner = f"<VALUE.ARRAY>{inner}</VALUE.ARRAY>" if tag == "PROPERTY.ARRAY" and values else inner
            return f'<{tag} NAME="{name}" TYPE="{kind}" MODIFIED="TRUE">{inner}</{tag}>'
        inner = "".join(one(name, kind) for name, kind in self.definition.types.items())
        return f'<INSTANCE CLASSNAME="{self.class_name}">{inner}</INSTANCE>'


def cim_time(text):
    """Date, time or interval in the form of CIM."""
    interval = re.fullmatch(r"P(?:(\d+)D)?T?(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.(\d+))?S)?", text)
    if interval:
        days, hours, minutes, seconds, fraction = (part or "0" for part in interval.groups())
        return f"{int(days):08}{int(hours):02}{int(minutes):02}{int(seconds):02}.{fraction:0<6}:000"
    date, clock, fraction = re.fullmatch(r"([\d-]+)T([\d:]+)(?:\.(\d+))?Z", text).groups()
    return f"{date}{clock}".replace("-", "").replace(":", "") + f".{fraction or '':0<6}+000"


class Session:
    """A CIM session, which begins with an Identify."""

    def __init__(self, host):
        where = f"http://{host}:5985/wsman"
        secret = {"username": "admin", "password": os.environ["STANDIN_PASSWORD"]}
        self.where, self.number, self.id, self.known = where, 0, uuid.uuid4(), {}
        self.client = Protocol(where, transport="ntlm", message_encryption="always", **secret)
        hello = f'<s:Envelope xmlns:s="{NS["s"]}" xmlns:i="{NS["i"]}"><s:Header/><s:Body><i:Identify/></s:Body></s:Envelope>'
        reply = ET.fromstring(self.client.send_message(hello))
        expect(reply.find(".//i:ProtocolVersion", NS) is not None, "no Identify")

    def send(self, uri, action, body, selectors):
        self.number += 1
        chosen = {"__cimnamespace": SPACE, **selectors}
        chosen = "".join(f"<w:Selector Name={quoteattr(name)}>{escape(value)}</w:Selector>" for name, value in chosen.items())
        message = (
            f'<s:Envelope {SPACES}><s:Header><a:To>{self.where}</a:To><w:ResourceURI s:mustUnderstand="true">{uri}'
            f'</w:ResourceURI><a:ReplyTo><a:Address s:mustUnderstand="true">{NS["a"]}/role/anonymous</a:Address></a:ReplyTo>'
            f'<a:Action s:mustUnderstand="true">{action}</a:Action><w:MaxEnvelopeSize s:mustUnderstand="true">512000'
            f'</w:MaxEnvelopeSize><a:MessageID>uuid:{uuid.uuid4()}</a:MessageID><w:Locale xml:lang="en-US" '
            's:mustUnderstand="false"/><p:DataLocale xml:lang="en-US" s:mustUnderstand="false"/><p:SessionId '
            f's:mustUnderstand="false">uuid:{self.id}</p:SessionId><p:OperationID s:mustUnderstand="false">uuid:{uuid.uuid4()}'
            f'</p:OperationID><p:SequenceId s:mustUnderstand="false">1</p:SequenceId><w:OptionSet xmlns:xsi="{NS["xsi"]}" '
            f's:mustUnderstand="true"/><w:SelectorSet>{chosen}</w:SelectorSet><w:OperationTimeout>PT60.000S'
            f"</w:OperationTimeout></s:Header><s:Body>{body}</s:Body></s:Envelope>"
        )
        return ET.fromstring(self.client.send_message(message)).find("s:Body", NS)

    def definition(self, class_name):
        if class_name not in self.known:
            reply = self.send(CLASSES, f"{TRANSFER}/Get", "", {"ClassName": class_name})
            expect(len(reply) == 1 and reply[0].tag == "CLASS", f"no bare CLASS of {class_name}")
            self.known[class_name] = Definition(reply[0])
        return self.known[class_name]

    def enumerate(self, uri, inner=""):
        body = f"<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>32000</w:MaxElements>{inner}</n:Enumerate>"
        reply, found = self.send(uri, f"{ENUMERATION}/Enumerate", body, {}), []
        while True:
            items = next((one for one in reply.iter() if local(one.tag) == "Items"), None)
            found.extend(Instance(self, one) for one in (items if items is not None else []))
            if any(local(one.tag) == "EndOfSequence" for one in reply.iter()):
                return found
            context = reply.find(".//n:EnumerationContext", NS).text
            body = f"<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext><n:MaxElements>32000</n:MaxElements></n:Pull>"
            reply = self.send(uri, f"{ENUMERATION}/Pull", body, {})


class Teller:
    """Asks what the script asks, and remembers that it did."""

    def __init__(self, script):
        self.script, self.asked, self.by_name = script, [], {}
        self.primary, self.replica = self.open(PRIMARY), self.open(REPLICA)

    def open(self, host):
        self.asked.append(("session",))
        return Session(host)

    def query(self, session, class_name, condition):
        self.asked.append(("query", class_name, tuple(re.findall(r"(\w+) !?= ", condition))))
        text = escape(f"SELECT * FROM {class_name} WHERE {condition}")
        return session.enumerate(CIM + "*", f'<w:Filter Dialect="{WQL}">{text}</w:Filter>')

    def machine(self, session):
        return self.query(session, "Msvm_ComputerSystem", f"ElementName = '{sys.argv[5]}' AND Name != __SERVER")[0]

    def service(self, session):
        self.asked.append(("instances", "Msvm_ReplicationService"))
        return session.enumerate(CIM + "Msvm_ReplicationService")[0]

    def associated(self, session, machine, association, result):
        self.asked.append(("associated", association, result))
        named = f"<b:AssociationClassName>{association}</b:AssociationClassName>" if association else ""
        inner = f"<b:Object>{machine.reference()}</b:Object>{named}<b:ResultClassName>{result}</b:ResultClassName>"
        inner = f'<w:Filter Dialect="{ASSOCIATION}"><b:AssociatedInstances>{inner}</b:AssociatedInstances></w:Filter>'
        # Both forms of the address occur.
        return session.enumerate(ANYTHING if association else CIM + "*", inner)

    def invoke(self, session, target, method, **arguments):
        declared = target.definition.methods[method]
        casts = {"reference": "ref"}
        self.asked.append(("invoke", method, tuple(sorted((name, casts.get(declared[name], declared[name])) for name in arguments))))
        uri = CIM + target.class_name
        inner = "".join(
            f"<p:{name}>{value.reference() if isinstance(value, Instance) else escape(value)}</p:{name}>"
            for name, value in arguments.items()
        )
        body = f'<p:{method}_INPUT xmlns:p="{uri}" xmlns:cim="{NS["cim"]}">{inner}</p:{method}_INPUT>'
        reply = session.send(uri, f"{uri}/{method}", body, target.keys())[0]
        expect(reply.tag == f"{{{uri}}}{method}_OUTPUT", f"answer {reply.tag}")
        code = reply.find(f"{{{uri}}}ReturnValue").text
        expect(code in ("0", "4096"), f"{method} was refused with {code}")
        # The script has the branch, whether or not this call has a job.
        self.asked.append(("get",))
        if code == "4096":
            self.wait(session, method, reply.find(f"{{{uri}}}Job"))

    def wait(self, session, method, job):
        uri = job.find("a:ReferenceParameters/w:ResourceURI", NS).text
        keys = {one.get("Name"): one.text for one in job.iter(f"{{{NS['w']}}}Selector") if one.get("Name") != "__cimnamespace"}
        while True:
            now = Instance(session, session.send(uri, f"{TRANSFER}/Get", "", keys)[0])
            if now["JobState"] in ("7", "8", "9", "10"):
                expect(now["JobState"] == "7", f"{method} failed with {now['ErrorCode']}: {now['ErrorDescription']}")
                return
            time.sleep(0.5)

    def until(self, what, seconds, condition):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            result = condition()
            if result:
                return result
            time.sleep(1)
        raise Wrong(f"{what} did not come about")

    def fail_over(self, point=None):
        session = self.replica
        arguments = {"ComputerSystem": self.machine(session), **({"SnapshotSettingData": point} if point else {})}
        self.invoke(session, self.service(session), "InitiateFailover", **arguments)
        expect(self.machine(session)["ReplicationState"] == "5", "not recovered")

    def recovery_points(self):
        found = self.associated(
            self.replica, self.machine(self.replica), "Msvm_SnapshotOfVirtualSystem", "Msvm_VirtualSystemSettingData"
        )
        found = [one for one in found if one["VirtualSystemType"].startswith("Microsoft:Hyper-V:Snapshot:Replica:")]
        return sorted(found, key=lambda one: one["CreationTime"], reverse=True)

    def tell(self):
        here, there = self.primary, self.replica
        machine = self.machine(here)
        settings = self.associated(here, machine, None, "Msvm_ReplicationSettingData")[0]
        changed = {"RecoveryConnectionPoint": REPLICA, "RecoveryHostSystem": REPLICA, "RecoveryServerPortNumber": "28444"}
        for name, value in {**changed, "ReplicationInterval": "2", "RecoveryHistory": "24"}.items():
            settings.values[name] = [value]
        service = self.service(here)
        embedded = settings.serialized()
        self.invoke(here, service, "CreateReplicationRelationship", ComputerSystem=machine, ReplicationSettingData=embedded)
        self.invoke(here, service, "StartReplication", ComputerSystem=machine, InitialReplicationType="1")
        self.until("replicating", 120, lambda: self.machine(here)["ReplicationState"] == "3")
        points = self.until("three points", 600, lambda: (lambda all: all if len(all) >= 3 else None)(self.recovery_points()))
        print(len(points), "recovery points")
        self.fail_over(points[1])
        machine = self.machine(there)
        self.invoke(there, machine, "RequestStateChange", RequestedState="2")
        self.until("running", 60, lambda: self.machine(there)["EnabledState"] == "2")
        service = self.service(there)
        self.invoke(there, service, "RevertFailover", ComputerSystem=self.machine(there))
        self.fail_over()
        self.invoke(there, service, "CommitFailover", ComputerSystem=self.machine(there))
        machine = self.machine(there)
        expect(machine["ReplicationState"] == "6", "not committed")
        self.invoke(there, machine, "RequestStateChange", RequestedState="2")
        self.same_as_the_script()

    def same_as_the_script(self):
        """The same methods with the same arguments in the same order, and between them the same questions."""
        def parts(steps):
            calls, reads = [], [set()]
            for step in steps:
                if step[0] == "invoke":
                    calls.append(step)
                    reads.append(set())
                else:
                    reads[-1].add(step)
            return calls, reads

        (calls, reads), (own_calls, own_reads) = parts(self.script.steps), parts(self.asked)
        expect([call[1] for call in calls] == [call[1] for call in own_calls], f"methods: {calls} and {own_calls}")
        for call, own in zip(calls, own_calls):
            needed = {one for one in call[2] if not one[0].endswith("?")}
            possible = {(name.rstrip("?"), cast) for name, cast in call[2]}
            expect(needed <= set(own[2]) <= possible, f"arguments: {call} and {own}")
        for call, read, own in zip([("begin", "")] + calls, reads, own_reads):
            expect(read == own, f"after {call[1]}: {read} and {own}")


def check(source, session):
    """Looks up whatever the script names; raises Wrong for what is not there."""
    script = Script(source)
    for step in script.steps:
        if step[0] == "query":
            missing = set(step[2]) - set(session.definition(step[1]).types)
            expect(not missing, f"{step[1]} has no {missing}")
        elif step[0] == "invoke":
            owner = session.definition("Msvm_ComputerSystem" if step[1] == "RequestStateChange" else "Msvm_ReplicationService")
            expect(step[1] in owner.methods, f"there is no method {step[1]}")
            for name, cast in step[2]:
                kind = owner.methods[step[1]].get(name.rstrip("?"))
                expect(kind == {"ref": "reference"}.get(cast, cast), f"{step[1]}: {name} is {kind}, the script passes {cast}")
        elif step[0] in ("instances", "associated"):
            for class_name in filter(None, step[1:]):
                session.definition(class_name)
    for class_name, name in set(script.members()):
        if class_name == "()":
            outs = {"ReturnValue", *session.definition("Msvm_ReplicationService").methods["InitiateFailover"]}
            expect(name in outs, f"methods do not give a {name}")
        elif class_name:
            expect(name in session.definition(class_name).types, f"{class_name} has no {name}")
    return script


def check_the_check(source, session):
    """What would be wrong is found."""
    for old, new in (
        ("function Get-Machine(", "function Get-Machine(("),
        ("@{ RequestedState", "@ RequestedState"),
        ("root/virtualization/v2", "root/virtualization"),
        ("FROM Msvm_ComputerSystem", "FROM Msvm_Computer"),
        ("Msvm_SnapshotOfVirtualSystem", "Msvm_SnapshotOfSystem"),
        ("RevertFailover @{", "RevertsFailover @{"),
        ("[uint16]$running", "[uint32]$running"),
        ("SnapshotSettingData = ", "Snapshot = "),
        ("$settings.RecoveryHistory", "$settings.History"),
        (".EnabledState", ".State"),
        ("-ResultClassName", "-ResultClasses"),
        ("New-CimSessionOption -Protocol Wsman", "New-CimSessionOption"),
    ):
        expect(old in source, f"the script has no {old}")
        try:
            check(source.replace(old, new), session)
        except Exception as error:  # the daemon's fault for an unknown class is one of winrm's
            expect(isinstance(error, Wrong) or "WSManFault" in type(error).__name__, f"{new}: {error!r}")
        else:
            raise Wrong(f"nobody sees that {old} became {new}")


with open(SCRIPT, encoding="utf-8") as file:
    SOURCE = file.read()
if len(sys.argv) > 5:
    Teller(check(SOURCE, Session(PRIMARY))).tell()
    print("the story is told")
else:
    check(SOURCE, Session(PRIMARY))
    check_the_check(SOURCE, Session(PRIMARY))
    print("the script is checked")
