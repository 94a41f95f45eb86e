"""Every operation of pywbem against a server with the model: operations.py URL."""

import sys

import pywbem
from pywbem import CIMClassName, CIMDateTime, CIMError, CIMInstance, CIMInstanceName, Uint8, Uint16, Uint32

from model import NAMESPACE

URL = sys.argv[1]


def connect(user="ann"):
    return pywbem.WBEMConnection(URL, (user, "x"), default_namespace=NAMESPACE)


def thing(name, class_name="TST_Thing"):
    return CIMInstanceName(class_name, {"Id": name}, namespace=NAMESPACE)


def other(name, number, on):
    return CIMInstanceName("TST_Other", {"Id": name, "No": Uint16(number), "On": on}, namespace=NAMESPACE)


def refused(code, call):
    try:
        call()
    except CIMError as error:
        assert error.status_code == code, f"{error.status_code} {error.status_description}, not {code}"
        assert error.status_description
        return error
    raise AssertionError(f"not refused with {code}")


def reading(c):
    one = c.GetInstance(thing("thing"))
    assert one["Label"] == "a\nb" and one["Flag"] is True and one["Low"] == -7
    assert one["Large"] == 18446744073709551615 and one["Ratio"] == 1.5
    assert one["Bytes"] == [0, 255] and one["Names"] == ["x", "", "y, z"]
    assert one["When"] == CIMDateTime("20130415162843.488171+000") and one["Since"].is_interval
    assert one.properties["Inner"].value is None and one.properties["Inner"].embedded_object == "instance"
    assert len(one.properties) == 13, "every property of the class is there"
    few = c.GetInstance(thing("thing"), PropertyList=["label", "LABEL", "None"], IncludeClassOrigin=True)
    assert list(few.keys()) == ["Label"] and few.properties["Label"].class_origin == "TST_Thing"
    assert len(c.GetInstance(thing("thing"), PropertyList=[]).properties) == 0
    assert c.GetInstance(thing("special", "TST_Base")).classname == "TST_Special"
    assert len(c.EnumerateInstances("TST_Base")) == 4
    shallow = c.EnumerateInstances("TST_Base", DeepInheritance=False)
    assert all(set(i.keys()) == {"Id", "Size"} for i in shallow)
    deep = {i["Id"]: i for i in c.EnumerateInstances("TST_Base", DeepInheritance=True)}
    assert deep["special"]["Extra"] == 9 and deep["special"].path == thing("special", "TST_Special")
    names = c.EnumerateInstanceNames("TST_Other")
    assert sorted(n["Id"] for n in names) == ["one", "three", "two"] and names[0].namespace == NAMESPACE
    assert c.GetInstance(names[0])["No"] == names[0]["No"]
    odd = next(n for n in c.EnumerateInstanceNames("TST_Base") if n["Id"].startswith("plain"))
    assert odd["Id"] == "plain \\ \"quoted\" <&> \u00e9" and c.GetInstance(odd)["Id"] == odd["Id"]


def queries(c):
    found = c.ExecQuery("WQL", "SELECT * FROM TST_Thing WHERE Flag = TRUE")
    assert [i["Id"] for i in found] == ["thing"] and found[0].path.host == "testhost"
    found = c.ExecQuery("DMTF:CQL", "SELECT Label FROM TST_Thing WHERE Id = 'thing'")
    assert set(found[0].keys()) == {"Id", "Label"}
    refused(14, lambda: c.ExecQuery("XYZ", "SELECT"))
    refused(15, lambda: c.ExecQuery("WQL", "SELECT"))


def changing(c):
    one = CIMInstance("TST_Thing", {"Id": "new", "Label": "l", "Bytes": [Uint8(1)]})
    path = c.CreateInstance(one)
    assert path == thing("new")
    refused(11, lambda: c.CreateInstance(one))
    one = c.GetInstance(path)
    assert one["Bytes"] == [1] and one["Flag"] is None
    one["Label"], one["Flag"] = "two", True
    c.ModifyInstance(one)
    assert c.GetInstance(path)["Label"] == "two"
    one["Label"], one["Flag"] = "three", False
    c.ModifyInstance(one, PropertyList=["Flag"])
    again = c.GetInstance(path)
    assert again["Label"] == "two" and again["Flag"] is False
    del one["Label"]
    c.ModifyInstance(one, PropertyList=["Label"])
    assert c.GetInstance(path)["Label"] == "none", "a listed property without a value gets the default"
    c.ModifyInstance(one, PropertyList=[])
    one["Low"] = pywbem.Sint32(5)
    try:
        c.ModifyInstance(one, PropertyList=["Low"])
        raise AssertionError("a property that is not writable was written")
    except CIMError as error:
        assert error.status_code in (4, 7), error
    c.DeleteInstance(path)
    refused(6, lambda: c.GetInstance(path))
    refused(6, lambda: c.DeleteInstance(path))
    refused(5, lambda: c.CreateInstance(CIMInstance("TST_No", {"Id": "x"})))
    refused(13, lambda: c.CreateInstance(CIMInstance("TST_Thing", {"Id": "x", "Flag": "maybe"})))


def associations(c):
    found = c.Associators(thing("thing"))
    assert sorted(i["Id"] for i in found) == ["one", "two"] and found[0].path.host == "testhost"
    assert c.GetInstance(found[0].path) == c.GetInstance(found[0].path)
    assert [n["Id"] for n in c.AssociatorNames(thing("special", "TST_Special"), AssocClass="TST_SpecialLink")] == ["two"]
    two = other("two", 2, False)
    assert sorted(n["Id"] for n in c.AssociatorNames(two)) == ["one", "special", "thing", "three"]
    assert [n["Id"] for n in c.AssociatorNames(two, Role="First")] == ["three"]
    assert [n["Id"] for n in c.AssociatorNames(two, ResultRole="First")] == ["one"]
    assert sorted(n["Id"] for n in c.AssociatorNames(two, ResultClass="TST_Thing")) == ["special", "thing"]
    links = c.References(two, ResultClass="TST_Link", PropertyList=["Weight", "Parent"])
    assert sorted(i.classname for i in links) == ["TST_Link", "TST_SpecialLink"]
    assert all(set(i.keys()) == {"Weight", "Parent"} for i in links)
    assert all(c.GetInstance(i["Parent"])["Id"] in ("thing", "special") for i in links)
    assert len(c.ReferenceNames(two)) == 4
    link = next(n for n in c.ReferenceNames(thing("special", "TST_Special")))
    assert c.GetInstance(link)["Why"] == "because", "a path with references finds its instance"
    classes = c.Associators("TST_Thing")
    assert [(n.classname, k.classname, n.host) for n, k in classes] == [("TST_Other", "TST_Other", "testhost")]
    assert {n.classname for n in c.AssociatorNames("TST_Other")} == {"TST_Base", "TST_Other"}
    assert {n.classname for n in c.ReferenceNames("TST_Special")} == {"TST_Link", "TST_SpecialLink"}
    assert {n.classname for n, _ in c.References("TST_Other", Role="Second")} == {"TST_Pair"}
    refused(4, lambda: c.AssociatorNames(thing("thing"), AssocClass="TST_No"))


def classes(c):
    whole = c.GetClass("TST_Special", LocalOnly=False)
    assert whole.superclass == "TST_Thing" and "Label" in whole.properties and "Do" in whole.methods
    assert whole.properties["Label"].propagated and not whole.properties["Extra"].propagated
    local = c.GetClass("TST_Special")
    assert list(local.properties) == ["Extra"] and not local.methods
    assert local.properties["Extra"].value == 5
    bare = c.GetClass("TST_Base", IncludeQualifiers=False, IncludeClassOrigin=True, PropertyList=["Size"])
    assert not bare.qualifiers and list(bare.properties) == ["Size"]
    assert bare.properties["Size"].class_origin == "TST_Base" and bare.methods["Fail"].class_origin == "TST_Base"
    base = c.GetClass("TST_Base")
    assert base.qualifiers["Description"].value == 'The base < of "all"'
    assert base.properties["Id"].qualifiers["Key"].value is True
    assert base.properties["Size"].qualifiers["Values"].value == ["One", "Two & more"]
    do = c.GetClass("TST_Thing").methods["Do"]
    assert do.parameters["Other"].reference_class == "TST_Base" and do.parameters["Numbers"].is_array
    assert set(c.EnumerateClassNames()) == {"TST_Base", "TST_Inner", "TST_Other", "TST_Link", "TST_Pair"}
    assert c.EnumerateClassNames(ClassName="TST_Base") == ["TST_Thing"]
    assert c.EnumerateClassNames(ClassName="tst_base", DeepInheritance=True) == ["TST_Thing", "TST_Special"]
    assert len(c.EnumerateClassNames(DeepInheritance=True)) == 8
    assert {k.classname for k in c.EnumerateClasses(DeepInheritance=True, LocalOnly=False)} >= {"TST_Special"}
    origins = c.EnumerateClasses(ClassName="TST_Thing", LocalOnly=False, IncludeClassOrigin=True)[0].properties
    assert (origins["Id"].class_origin, origins["Extra"].class_origin) == ("TST_Base", "TST_Special")
    assert c.GetQualifier("key").overridable is False and c.GetQualifier("Key").scopes["PROPERTY"]
    assert len(c.EnumerateQualifiers()) == 12
    refused(6, lambda: c.GetClass("TST_No"))
    refused(5, lambda: c.EnumerateClassNames(ClassName="TST_No"))
    refused(6, lambda: c.GetQualifier("No"))
    for call in (
        lambda: c.CreateClass(base),
        lambda: c.ModifyClass(base),
        lambda: c.DeleteClass("TST_Base"),
        lambda: c.SetQualifier(c.GetQualifier("Key")),
        lambda: c.DeleteQualifier("Key"),
    ):
        refused(7, call)


def methods(c):
    inner = CIMInstance("TST_Inner", {"Text": "<x>", "Number": Uint16(3)})
    returned, out = c.InvokeMethod(
        "Do", thing("thing"), Text="a & b", Numbers=[Uint16(1), Uint16(2)], Other=thing("bare"), Inner=inner,
        When=CIMDateTime("20130415162843.488171+000"), Flag=True,
    )
    assert returned == 0
    said = out["Said"]
    for part in ("Text: string a & b", "Other: path", "TST_Thing.Id=\"bare\"", "Inner: instance TST_Inner 2",
                 "When: datetime 20130415162843.488171+000", "Flag: boolean true", "Numbers: uint16 1,2"):
        assert part in said, f"{part} is not in {said}"
    assert out["Nothing"] is None and out["Many"] == [1, None, 3]
    assert out["Where"] == thing("thing") and c.GetInstance(out["Where"])["Id"] == "thing"
    assert isinstance(out["Given"], CIMInstance) and out["Given"]["Text"] == "a < b" and out["Given"]["Number"] == 7
    assert c.InvokeMethod("Do", thing("special", "TST_Special"))[0] == 0
    assert c.InvokeMethod("Count", CIMClassName("TST_Thing", namespace=NAMESPACE)) == (4096, {"Class": "TST_Thing"})
    error = refused(2, lambda: c.InvokeMethod("Fail", thing("thing")))
    assert error.status_description == 'not for <you> & "others"'
    assert error.instances[0]["Message"] == "a detail"
    refused(17, lambda: c.InvokeMethod("Missing", thing("thing")))
    refused(6, lambda: c.InvokeMethod("Do", thing("gone")))
    refused(4, lambda: c.InvokeMethod("Do", thing("thing"), Unknown="x"))


def pulled(c):
    opened = c.OpenEnumerateInstances("TST_Base", MaxObjectCount=1, OperationTimeout=30)
    assert len(opened.instances) == 1 and not opened.eos and opened.instances[0].path.host == "testhost"
    refused(21, lambda: connect("bob").PullInstancesWithPath(opened.context, MaxObjectCount=1))
    refused(21, lambda: c.PullInstancePaths(opened.context, MaxObjectCount=1))
    more = c.PullInstancesWithPath(opened.context, MaxObjectCount=2)
    assert len(more.instances) == 2 and not more.eos
    last = c.PullInstancesWithPath(more.context, MaxObjectCount=10)
    assert len(last.instances) == 1 and last.eos and last.context is None
    refused(21, lambda: c.PullInstancesWithPath(more.context, MaxObjectCount=1))
    opened = c.OpenEnumerateInstancePaths("TST_Other")
    assert not opened.paths and not opened.eos
    assert len(c.PullInstancePaths(opened.context, MaxObjectCount=9).paths) == 3
    opened = c.OpenEnumerateInstances("TST_Base", MaxObjectCount=0)
    c.CloseEnumeration(opened.context)
    refused(21, lambda: c.CloseEnumeration(opened.context))
    two = other("two", 2, False)
    assert len(c.OpenAssociatorInstances(two, MaxObjectCount=9).instances) == 4
    assert len(c.OpenAssociatorInstancePaths(two, ResultClass="TST_Thing", MaxObjectCount=9).paths) == 2
    assert len(c.OpenReferenceInstances(two, MaxObjectCount=9).instances) == 4
    assert len(c.OpenReferenceInstancePaths(two, ResultClass="TST_Pair", MaxObjectCount=9).paths) == 2
    query = ("WQL", "SELECT Id, Low FROM TST_Thing WHERE Low < 0")
    opened = c.OpenQueryInstances(*query, MaxObjectCount=9, ReturnQueryResultClass=True)
    assert [i["Low"] for i in opened.instances] == [-7] and opened.eos
    assert set(opened.query_result_class.properties) == {"Id", "Low"}
    opened = c.OpenQueryInstances(*query)
    assert len(c.PullInstances(opened.context, MaxObjectCount=1).instances) == 1
    fql = {"FilterQueryLanguage": "DMTF:FQL", "MaxObjectCount": 9}
    assert len(c.OpenEnumerateInstances("TST_Other", FilterQuery="No > 1 AND On = FALSE", **fql).instances) == 2
    assert len(c.OpenAssociatorInstances(two, FilterQuery="Id = 'three'", **fql).instances) == 1
    assert len(c.OpenReferenceInstances(two, FilterQuery="Weight = 1", **fql).instances) == 1
    refused(15, lambda: c.OpenEnumerateInstances("TST_Other", FilterQuery="No >", **fql))
    refused(14, lambda: c.OpenEnumerateInstances("TST_Other", FilterQueryLanguage="X", FilterQuery="No > 1"))
    refused(22, lambda: c.OpenEnumerateInstances("TST_Other", OperationTimeout=99999))
    refused(26, lambda: c.OpenEnumerateInstances("TST_Other", ContinueOnError=True))
    assert len(list(c.IterEnumerateInstances("TST_Base", MaxObjectCount=1))) == 4
    assert len(list(c.IterReferenceInstances(two, MaxObjectCount=1))) == 4
    assert len(list(c.IterQueryInstances("WQL", "SELECT * FROM TST_Other", MaxObjectCount=2).generator)) == 3


def strange(c):
    refused(3, lambda: c.EnumerateInstances("TST_Base", namespace="root/no"))
    refused(5, lambda: c.EnumerateInstances("TST_No"))
    refused(4, lambda: c.GetInstance(CIMInstanceName("TST_Other", {"On": False})))
    refused(4, lambda: c.GetInstance(CIMInstanceName("TST_Base", {"Nokey": "x"})))
    assert c.GetInstance(CIMInstanceName("TST_Other", {"No": Uint32(3)}))["Id"] == "three", "a part of the keys"
    try:
        pywbem.WBEMConnection(URL, ("eve", "x"), default_namespace=NAMESPACE).EnumerateClassNames()
        raise AssertionError("a stranger was served")
    except pywbem.AuthError:
        pass


def main():
    c = connect()
    for part in (reading, queries, changing, associations, classes, methods, pulled, strange):
        part(c)
        print(part.__name__)
    print("operations done")


if __name__ == "__main__":
    main()
