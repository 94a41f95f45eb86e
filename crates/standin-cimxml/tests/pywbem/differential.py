"""The same operations on a server with the model and on pywbem_mock: differential.py URL.

What is compared is what an application sees: values with their types, keys, errors' codes. Null properties do not
count, because one side leaves them out and the other does not; neither does the order of what has none.
"""

import sys

import pywbem
from pywbem import CIMClass, CIMClassName, CIMError, CIMInstance, CIMInstanceName, Uint16

from model import NAMESPACE, connection


def plain(value):
    """A value without what may differ."""
    if isinstance(value, CIMInstanceName):
        keys = sorted((name.lower(), repr(plain(key))) for name, key in value.keybindings.items())
        return ("path", value.classname.lower(), tuple(keys))
    if isinstance(value, CIMClassName):
        return ("class name", value.classname)
    if isinstance(value, CIMInstance):
        properties = [
            (name, p.type, bool(p.is_array), repr(plain(p.value)))
            for name, p in value.properties.items() if p.value is not None
        ]
        return ("instance", value.classname, repr(plain(value.path)), tuple(sorted(properties)))
    if isinstance(value, CIMClass):
        return (
            "class", value.classname, value.superclass, qualifiers(value),
            tuple(sorted(
                (name, p.type, bool(p.is_array), p.reference_class, bool(p.propagated), repr(p.value), qualifiers(p),
                 p.class_origin)
                for name, p in value.properties.items()
            )),
            tuple(sorted(
                (name, m.return_type, bool(m.propagated), qualifiers(m), m.class_origin, tuple(
                    (n, p.type, bool(p.is_array), p.reference_class, qualifiers(p)) for n, p in m.parameters.items()
                ))
                for name, m in value.methods.items()
            )),
        )
    if isinstance(value, pywbem.CIMQualifierDeclaration):
        scopes = sorted(name for name, on in value.scopes.items() if on)
        if "ANY" in scopes:
            scopes = sorted(["CLASS", "ASSOCIATION", "INDICATION", "PROPERTY", "REFERENCE", "METHOD", "PARAMETER"])
        flavours = [value.overridable is not False, value.tosubclass is not False, bool(value.translatable)]
        return ("qualifier", value.name, value.type, bool(value.is_array), repr(value.value), flavours, scopes)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        said = value._asdict()
        return ("page", plain(list(said.get("instances") or said.get("paths") or [])), said["eos"])
    if isinstance(value, tuple) and isinstance(value[1], CIMClass):
        # What associations between classes answer: pywbem_mock leaves out what a class inherits.
        own = value[1].copy()
        own.properties = {name: p for name, p in own.properties.items() if not p.propagated}
        own.methods = {name: m for name, m in own.methods.items() if not m.propagated}
        return (plain(value[0]), plain(own))
    if isinstance(value, tuple):
        return tuple(plain(part) for part in value)
    if isinstance(value, list):
        return sorted((plain(part) for part in value), key=repr)
    if isinstance(value, int) and not isinstance(value, bool):
        # A number in a key does not say which integer it is.
        return ("integer", int(value))
    return (type(value).__name__, repr(value))


def qualifiers(value):
    return tuple(sorted((name, q.type, repr(q.value)) for name, q in value.qualifiers.items()))


def thing(name, class_name="TST_Thing"):
    return CIMInstanceName(class_name, {"Id": name}, namespace=NAMESPACE)


def other(name, number, on):
    return CIMInstanceName("TST_Other", {"Id": name, "No": Uint16(number), "On": on}, namespace=NAMESPACE)


def cases():
    """Names of operations with their arguments."""
    one, two = other("one", 1, True), other("two", 2, False)
    instances = [thing("thing"), thing("bare"), thing("special", "TST_Special"), one, two]
    for path in [*instances, thing("gone"), other("one", 9, True)]:
        for properties in (None, [], ["Label", "Id", "Nothing"], ["id"]):
            yield "GetInstance", (path,), {"PropertyList": properties}
    for name in ("TST_Base", "TST_Thing", "tst_special", "TST_Other", "TST_Link", "TST_SpecialLink", "TST_Inner", "TST_No"):
        yield "EnumerateInstanceNames", (name,), {}
        yield "OpenEnumerateInstancePaths", (name,), {"MaxObjectCount": 100}
        for deep in (None, True, False):
            yield "EnumerateInstances", (name,), {"DeepInheritance": deep}
            yield "EnumerateInstances", (name,), {"DeepInheritance": deep, "PropertyList": ["Id", "Extra"]}
            yield "OpenEnumerateInstances", (name,), {"DeepInheritance": deep, "MaxObjectCount": 100}
            yield "EnumerateClassNames", (), {"ClassName": name, "DeepInheritance": deep}
            yield "EnumerateClasses", (), {"ClassName": name, "DeepInheritance": deep}
        for local in (True, False):
            for with_qualifiers in (True, False):
                for origin in (True, False):
                    said = {"LocalOnly": local, "IncludeQualifiers": with_qualifiers, "IncludeClassOrigin": origin}
                    yield "GetClass", (name,), said
                    if not origin:
                        # With it, pywbem_mock leaves the origins out.
                        yield "EnumerateClasses", (), {"ClassName": name, **said}
            yield "GetClass", (name,), {"LocalOnly": local, "PropertyList": ["Id", "Extra"]}
    for deep in (None, True, False):
        yield "EnumerateClassNames", (), {"DeepInheritance": deep}
        yield "EnumerateClasses", (), {"DeepInheritance": deep, "LocalOnly": False}
    for path in instances:
        for role in (None, "Parent", "Child", "First", "Second", "parent", "No"):
            for result in (None, "TST_Link", "TST_SpecialLink", "TST_Pair"):
                said = {"Role": role, "ResultClass": result}
                yield "References", (path,), said
                yield "ReferenceNames", (path,), said
            yield "OpenReferenceInstances", (path,), {"Role": role, "MaxObjectCount": 100}
            yield "OpenReferenceInstancePaths", (path,), {"Role": role, "MaxObjectCount": 100}
        for association in (None, "TST_Link", "TST_SpecialLink", "TST_Pair"):
            for result in (None, "TST_Base", "TST_Thing", "TST_Special", "TST_Other"):
                for result_role in (None, "Parent", "Child", "Second"):
                    said = {"AssocClass": association, "ResultClass": result, "ResultRole": result_role}
                    yield "Associators", (path,), said
                    yield "AssociatorNames", (path,), said
                yield "OpenAssociatorInstances", (path,), {
                    "AssocClass": association, "ResultClass": result, "MaxObjectCount": 100}
                yield "OpenAssociatorInstancePaths", (path,), {
                    "AssocClass": association, "ResultClass": result, "MaxObjectCount": 100}
    for name in ("TST_Base", "TST_Other"):
        for said in ({}, {"Role": "Parent"}, {"Role": "Second"}, {"ResultClass": "TST_Link"}):
            yield "References", (name,), {"IncludeQualifiers": True, **said}
            yield "ReferenceNames", (name,), said
        for said in ({}, {"AssocClass": "TST_Link"}, {"ResultRole": "Child"}, {"ResultClass": "TST_Base"}):
            yield "Associators", (name,), {"IncludeQualifiers": True, **said}
            yield "AssociatorNames", (name,), said
    for path in (thing("thing"), "TST_Base"):
        yield "Associators", (path,), {"AssocClass": "TST_No"}
        yield "References", (path,), {"ResultClass": "TST_No"}
    yield "EnumerateQualifiers", (), {}
    for name in ("Key", "association", "Description", "Values", "No"):
        yield "GetQualifier", (name,), {}
    yield "EnumerateInstances", ("TST_Base",), {"namespace": "root/no"}
    new = CIMInstance("TST_Thing", {"Id": "new", "Label": "l", "Names": ["a", "b"]})
    yield "CreateInstance", (new,), {"namespace": NAMESPACE}
    yield "CreateInstance", (new,), {"namespace": NAMESPACE}
    yield "GetInstance", (thing("new"),), {"PropertyList": ["Id", "Label", "Names"]}
    changed = CIMInstance("TST_Thing", {"Label": "changed", "Flag": True}, path=thing("new"))
    yield "ModifyInstance", (changed,), {"PropertyList": ["Flag"]}
    yield "GetInstance", (thing("new"),), {"PropertyList": ["Label", "Flag"]}
    yield "ModifyInstance", (changed,), {}
    yield "GetInstance", (thing("new"),), {"PropertyList": ["Label", "Flag"]}
    yield "DeleteInstance", (thing("new"),), {}
    yield "DeleteInstance", (thing("new"),), {}
    yield "GetInstance", (thing("new"),), {}


def answer(server, operation, arguments, said):
    copies = [argument.copy() if hasattr(argument, "copy") else argument for argument in arguments]
    try:
        return plain(getattr(server, operation)(*copies, **said))
    except CIMError as error:
        return ("error", error.status_code)


def main():
    ours = pywbem.WBEMConnection(sys.argv[1], ("ann", "x"), default_namespace=NAMESPACE)
    mock = connection()
    count, errors, differences = 0, 0, 0
    for operation, arguments, said in cases():
        left, right = answer(ours, operation, arguments, said), answer(mock, operation, arguments, said)
        count += 1
        errors += left[:1] == ("error",)
        if left != right:
            differences += 1
            if differences <= 12:
                print(f"{operation} {[str(a) for a in arguments]} {said}\n  ours {left}\n  mock {right}")
    if differences:
        sys.exit(f"{differences} of {count} answers differ")
    print(f"all {count} answers are the same, {errors} of them errors")


if __name__ == "__main__":
    main()
