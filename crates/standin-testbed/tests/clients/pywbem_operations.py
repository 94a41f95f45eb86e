"""Every operation that pywbem has, against the daemons: PRIMARY REPLICA CA. The primary has the VMs web-1, which is
replicated, and db-1, which is not."""

import os
import sys

import pywbem
from pywbem import CIMClass, CIMClassName, CIMError, CIMInstance, CIMInstanceName, Uint16

NAMESPACE = "root/virtualization/v2"
PRIMARY, REPLICA, CA = sys.argv[1:4]
PASSWORD = os.environ["STANDIN_PASSWORD"]


def connect(user="admin", namespace=NAMESPACE, host=PRIMARY):
    return pywbem.WBEMConnection(f"https://{host}:5989", (user, PASSWORD), default_namespace=namespace, ca_certs=CA)


def refused(code, call):
    try:
        call()
    except CIMError as error:
        assert error.status_code == code, f"{error.status_code} {error.status_description}, not {code}"
        assert error.status_description
        return error
    raise AssertionError(f"not refused with {code}")


def vm(c, name="web-1"):
    return c.ExecQuery("WQL", f"SELECT * FROM Msvm_ComputerSystem WHERE ElementName = '{name}'")[0].path


def service(c):
    return c.EnumerateInstanceNames("Msvm_ReplicationService")[0]


def found_again(c, one):
    """Some properties change from call to call; which there are, of which types, does not."""
    again = c.GetInstance(one.path)
    said = [{(n, p.type, p.is_array) for n, p in i.properties.items()} for i in (one, again)]
    # Some operations name the host in a path and others leave it out.
    again.path.host = one.path.host
    return again.classname == one.classname and again.path == one.path and said[0] == said[1]


def reading(c):
    systems = c.EnumerateInstances("Msvm_ComputerSystem")
    assert {"web-1", "db-1"} < {i["ElementName"] for i in systems}, systems
    for one in systems:
        assert found_again(c, one), one.path
    declared = c.GetClass("Msvm_ComputerSystem", LocalOnly=False).properties
    assert set(systems[0].keys()) == set(declared), "every property of the class is there"
    for name, kind in ((n, p.type) for n, p in declared.items()):
        assert all(i.properties[name].type == kind for i in systems), name
    few = c.GetInstance(vm(c), PropertyList=["elementname", "NoSuch"], IncludeClassOrigin=True)
    assert list(few.keys()) == ["ElementName"] and few.properties["ElementName"].class_origin
    base = {i.path["Name"] for i in c.EnumerateInstances("CIM_ComputerSystem")}
    assert base == {i["Name"] for i in systems}, "a base class has the instances of those derived from it"
    shallow = c.EnumerateInstances("CIM_ManagedElement", DeepInheritance=False)
    assert all(set(i.keys()) <= {"InstanceID", "Caption", "Description", "ElementName", "Generation"} for i in shallow)
    names = c.EnumerateInstanceNames("Msvm_ReplicationRelationship")
    assert sorted(c.GetInstance(name)["ReplicationState"] for name in names) == [0, 3], "of every VM, as there"
    half = CIMInstanceName("Msvm_ComputerSystem", {"Name": vm(c)["Name"]}, namespace=NAMESPACE)
    assert c.GetInstance(half)["ElementName"] == "web-1", "a part of the keys"


def queries(c):
    text = "SELECT Name, ElementName FROM Msvm_ComputerSystem WHERE ElementName LIKE '%-1' AND NOT (Name = __SERVER)"
    found = c.ExecQuery("WQL", text)
    assert {i["ElementName"] for i in found} == {"web-1", "db-1"}
    assert set(found[0].keys()) == {"CreationClassName", "Name", "ElementName"}
    path = vm(c)
    keys = f"Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{path['Name']}'"
    settings = c.ExecQuery("WQL", f"ASSOCIATORS OF {{{keys}}} WHERE ResultClass = Msvm_ReplicationSettingData")
    assert [i.classname for i in settings] == ["Msvm_ReplicationSettingData"]
    links = c.ExecQuery("WQL", f"REFERENCES OF {{{keys}}} WHERE ResultClass = Msvm_SettingsDefineState")
    assert {i.classname for i in links} == {"Msvm_SettingsDefineState"}
    refused(14, lambda: c.ExecQuery("XYZ", text))
    refused(15, lambda: c.ExecQuery("WQL", "SELECT * FROM"))
    refused(15, lambda: c.ExecQuery("WQL", "SELECT * FROM Msvm_ComputerSystem WHERE Name ="))
    refused(5, lambda: c.ExecQuery("WQL", "SELECT * FROM Msvm_No"))


def associations(c):
    path = vm(c)
    found = c.Associators(path)
    assert {"Msvm_ReplicationRelationship", "Msvm_VirtualSystemSettingData"} <= {i.classname for i in found}
    for one in found:
        assert found_again(c, one), one.path
    assert {n.to_wbem_uri() for n in c.AssociatorNames(path)} == {i.path.to_wbem_uri() for i in found}
    links = c.References(path)
    assert len(links) >= 2 and all(path["Name"] in str(i.path) for i in links)
    for link in c.ReferenceNames(path):
        assert c.GetInstance(link)
    state = c.AssociatorNames(path, AssocClass="Msvm_SettingsDefineState", Role="ManagedElement", ResultRole="SettingData")
    assert {n.classname for n in state} == {"Msvm_VirtualSystemSettingData", "Msvm_ReplicationSettingData"}
    assert not c.AssociatorNames(path, AssocClass="Msvm_SettingsDefineState", Role="SettingData")
    related = c.Associators("Msvm_ComputerSystem", AssocClass="Msvm_SystemReplicationRelationship")
    assert any(name.classname == "Msvm_ReplicationRelationship" for name, _ in related), related
    assert any(n.classname == "Msvm_SettingsDefineState" for n in c.ReferenceNames("Msvm_ComputerSystem"))
    assert c.References("Msvm_ComputerSystem", ResultClass="Msvm_SettingsDefineState")
    assert c.AssociatorNames("Msvm_ComputerSystem")
    refused(4, lambda: c.AssociatorNames(path, AssocClass="Msvm_No"))
    gone = CIMInstanceName(path.classname, {**path.keybindings, "Name": "gone"}, namespace=NAMESPACE)
    refused(6, lambda: c.Associators(gone))


def classes(c):
    whole = c.GetClass("Msvm_ReplicationService", LocalOnly=False)
    assert whole.superclass and "InitiateFailover" in whole.methods
    failover = whole.methods["InitiateFailover"]
    assert failover.parameters["ComputerSystem"].reference_class == "CIM_ComputerSystem"
    assert failover.parameters["Job"].qualifiers["Out"].value is True
    assert "32773" in failover.qualifiers["ValueMap"].value
    names = c.EnumerateClassNames(DeepInheritance=True)
    assert {"CIM_ManagedElement", "Msvm_ConcreteJob"} <= set(names) and len(names) == len(set(names))
    assert "Msvm_ComputerSystem" in c.EnumerateClassNames(ClassName="CIM_ComputerSystem", DeepInheritance=True)
    every = c.EnumerateClasses(DeepInheritance=True, LocalOnly=False, IncludeClassOrigin=True)
    assert {k.classname for k in every} == set(names)
    assert all(p.class_origin for k in every for p in k.properties.values())
    for one in every:
        assert c.GetClass(one.classname, LocalOnly=False, IncludeClassOrigin=True) == one, one.classname
    bare = c.GetClass("Msvm_ConcreteJob", IncludeQualifiers=False, PropertyList=["JobState"], LocalOnly=False)
    assert list(bare.properties) == ["JobState"] and not bare.qualifiers
    assert c.GetQualifier("Key").overridable is False and len(c.EnumerateQualifiers()) > 5
    refused(6, lambda: c.GetClass("Msvm_No"))
    refused(5, lambda: c.EnumerateClassNames(ClassName="Msvm_No"))
    refused(5, lambda: c.EnumerateClasses(ClassName="Msvm_No"))
    refused(6, lambda: c.GetQualifier("No"))
    one = CIMClass("Msvm_New", superclass="CIM_ManagedElement")
    key = c.GetQualifier("Key")
    for call in (
        lambda: c.CreateClass(one),
        lambda: c.ModifyClass(one),
        lambda: c.DeleteClass("Msvm_ConcreteJob"),
        lambda: c.SetQualifier(key),
        lambda: c.DeleteQualifier("Key"),
    ):
        refused(7, call)


def changing(c):
    one = c.GetInstance(vm(c))
    one["ElementName"] = "renamed"
    # What is to be changed goes through the methods of services, here as there.
    refused(7, lambda: c.ModifyInstance(one, PropertyList=["ElementName"]))
    refused(7, lambda: c.CreateInstance(CIMInstance("Msvm_ConcreteJob", {"InstanceID": "x"})))
    refused(7, lambda: c.DeleteInstance(vm(c)))
    refused(5, lambda: c.CreateInstance(CIMInstance("Msvm_No", {"InstanceID": "x"})))
    gone = CIMInstanceName("Msvm_ConcreteJob", {"InstanceID": "gone"}, namespace=NAMESPACE)
    refused(6, lambda: c.DeleteInstance(gone))
    assert c.GetInstance(vm(c))["ElementName"] == "web-1"


def methods(c):
    there = service(c)
    code, out = c.InvokeMethod("GetReplicationStatisticsEx", there, ComputerSystem=vm(c))
    assert code == 0 and isinstance(out["ReplicationStatistics"], list), (code, out)
    assert c.InvokeMethod("ResetReplicationStatistics", there, ComputerSystem=vm(c))[0] == 0
    # What a method can say by its return value it says so, with an error to read.
    assert c.InvokeMethod("InitiateFailover", there)[0] == 32773
    assert c.InvokeMethod("InitiateFailover", there, ComputerSystem=vm(c, "db-1"))[0] == 32775
    assert c.InvokeMethod("InitiateFailover", there, ComputerSystem="text")[0] == 32773
    elsewhere = vm(c)
    elsewhere.namespace = "root/cimv2"
    assert c.InvokeMethod("InitiateFailover", there, ComputerSystem=elsewhere)[0] == 32773
    assert c.InvokeMethod("StartReplication", there, ComputerSystem=vm(c), InitialReplicationType=[Uint16(1)])[0] == 32776
    refused(17, lambda: c.InvokeMethod("NoSuch", there))
    refused(4, lambda: c.InvokeMethod("InitiateFailover", there, Unknown="x"))
    refused(6, lambda: c.InvokeMethod("InitiateFailover", CIMInstanceName(
        there.classname, {**there.keybindings, "Name": "other"}, namespace=NAMESPACE)))
    job = c.EnumerateInstanceNames("Msvm_ConcreteJob")[0]
    assert c.InvokeMethod("GetErrorEx", job)[0] == 0
    looker = connect("looker")
    assert looker.GetInstance(vm(c))["ElementName"] == "web-1"
    try:
        code = looker.InvokeMethod("RemoveReplicationRelationship", there, ComputerSystem=vm(c))[0]
        assert code == 32769, code
    except CIMError as error:
        assert error.status_code == 2, error


def pulled(c):
    path = vm(c)
    base = len(c.EnumerateInstances("CIM_ManagedElement"))
    opened = c.OpenEnumerateInstances("CIM_ManagedElement", MaxObjectCount=1, OperationTimeout=30)
    assert len(opened.instances) == 1 and not opened.eos
    refused(21, lambda: connect("looker").PullInstancesWithPath(opened.context, MaxObjectCount=1))
    refused(21, lambda: c.PullInstancePaths(opened.context, MaxObjectCount=1))
    more = c.PullInstancesWithPath(opened.context, MaxObjectCount=2)
    assert len(more.instances) == 2 and not more.eos
    rest = c.PullInstancesWithPath(more.context, MaxObjectCount=1000)
    assert rest.eos and 3 + len(rest.instances) == base, (base, len(rest.instances))
    refused(21, lambda: c.PullInstancesWithPath(more.context, MaxObjectCount=1))
    opened = c.OpenEnumerateInstancePaths("Msvm_ComputerSystem")
    assert len(c.PullInstancePaths(opened.context, MaxObjectCount=9).paths) == 3
    opened = c.OpenEnumerateInstances("Msvm_ComputerSystem", MaxObjectCount=0)
    c.CloseEnumeration(opened.context)
    refused(21, lambda: c.CloseEnumeration(opened.context))
    opened = c.OpenQueryInstances("WQL", "SELECT * FROM Msvm_ComputerSystem", MaxObjectCount=1)
    assert len(c.PullInstances(opened.context, MaxObjectCount=9).instances) == 2
    opens = (c.OpenAssociatorInstances, c.OpenReferenceInstances)
    assert all(len(call(path, MaxObjectCount=100).instances) > 1 for call in opens)
    opens = (c.OpenAssociatorInstancePaths, c.OpenReferenceInstancePaths)
    assert all(len(call(path, MaxObjectCount=100).paths) > 1 for call in opens)
    refused(15, lambda: c.OpenEnumerateInstances(
        "Msvm_ComputerSystem", FilterQueryLanguage="DMTF:FQL", FilterQuery="Name >", MaxObjectCount=1))
    iterated = (
        c.IterEnumerateInstances("Msvm_ComputerSystem", MaxObjectCount=1),
        c.IterEnumerateInstancePaths("Msvm_ComputerSystem", MaxObjectCount=1),
        c.IterQueryInstances("WQL", "SELECT * FROM Msvm_ComputerSystem", MaxObjectCount=1).generator,
    )
    assert [len(list(one)) for one in iterated] == [3, 3, 3]
    pairs = (
        (c.IterAssociatorInstances, c.Associators),
        (c.IterAssociatorInstancePaths, c.AssociatorNames),
        (c.IterReferenceInstances, c.References),
        (c.IterReferenceInstancePaths, c.ReferenceNames),
    )
    for iterate, at_once in pairs:
        assert len(list(iterate(path, MaxObjectCount=1))) == len(at_once(path)), iterate


def strange(c):
    refused(3, lambda: c.EnumerateInstances("Msvm_ComputerSystem", namespace="root/no"))
    refused(5, lambda: c.EnumerateInstances("Msvm_No"))
    refused(6, lambda: c.GetInstance(CIMInstanceName("Msvm_ComputerSystem", {"Name": "gone"}, namespace=NAMESPACE)))
    refused(4, lambda: c.GetInstance(CIMInstanceName("Msvm_ComputerSystem", {"NoKey": "x"}, namespace=NAMESPACE)))
    for user in ("nobody", "looker"):
        try:
            stranger = pywbem.WBEMConnection(f"https://{PRIMARY}:5989", (user, "wrong"), ca_certs=CA)
            stranger.EnumerateClassNames(namespace=NAMESPACE)
            raise AssertionError(f"{user} was let in")
        except pywbem.AuthError:
            pass


def discovery(c):
    server = pywbem.WBEMServer(connect(namespace="interop"))
    spaces = {name.lower() for name in server.namespaces}
    assert {"root/virtualization/v2", "root/cimv2"} <= spaces and server.interop_ns.lower().endswith("interop"), spaces
    assert server.brand == "standin" and server.profiles
    cimv2 = connect(namespace="root/cimv2")
    assert cimv2.EnumerateInstances("Win32_ComputerSystem")[0]["Name"]


def main():
    c = connect()
    for part in (reading, queries, associations, classes, changing, methods, pulled, strange, discovery):
        part(c)
        print(part.__name__)
    print("operations done")


main()
