"""The repository of the tests, in pywbem_mock and as CIM-XML.

As a program it prints every qualifier declaration, class and instance, for a server that is to have the same.
"""

import pywbem
import pywbem_mock

NAMESPACE = "root/test"

MOF = r"""
Qualifier Abstract : boolean = false, Scope(class, association), Flavor(EnableOverride, Restricted);
Qualifier Association : boolean = false, Scope(association), Flavor(DisableOverride, ToSubclass);
Qualifier Description : string = null, Scope(any), Flavor(EnableOverride, ToSubclass, Translatable);
Qualifier EmbeddedInstance : string = null, Scope(property, method, parameter), Flavor(EnableOverride, ToSubclass);
Qualifier In : boolean = true, Scope(parameter), Flavor(DisableOverride, ToSubclass);
Qualifier Out : boolean = false, Scope(parameter), Flavor(DisableOverride, ToSubclass);
Qualifier Key : boolean = false, Scope(property, reference), Flavor(DisableOverride, ToSubclass);
Qualifier MaxLen : uint32 = null, Scope(property), Flavor(EnableOverride, ToSubclass);
Qualifier Static : boolean = false, Scope(property, method), Flavor(DisableOverride, ToSubclass);
Qualifier ValueMap : string[], Scope(property, method, parameter), Flavor(EnableOverride, ToSubclass);
Qualifier Values : string[], Scope(property, method, parameter), Flavor(EnableOverride, ToSubclass, Translatable);
Qualifier Write : boolean = false, Scope(property), Flavor(EnableOverride, ToSubclass);

[Description ("The base < of \"all\"")]
class TST_Base {
    [Key, MaxLen (64)] string Id;
    [ValueMap {"1", "2"}, Values {"One", "Two & more"}] uint32 Size;
    [Static] uint32 Count([In (false), Out] string Class);
    uint32 Fail();
};

class TST_Inner { string Text; uint16 Number; };

class TST_Thing : TST_Base {
    [Write] string Label = "none";
    [Write] boolean Flag;
    [Write] datetime When;
    datetime Since;
    [Write] uint8 Bytes[];
    [Write] string Names[];
    real64 Ratio;
    sint32 Low;
    uint64 Large;
    char16 Letter;
    [EmbeddedInstance ("TST_Inner")] string Inner;
    uint32 Do([In] string Text, [In] uint16 Numbers[], [In] TST_Base REF Other,
        [In, EmbeddedInstance ("TST_Inner")] string Inner, [In] datetime When, [In] boolean Flag,
        [In (false), Out] string Said, [In (false), Out] uint32 Nothing, [In (false), Out] uint16 Many[],
        [In (false), Out] TST_Base REF Where, [In (false), Out, EmbeddedInstance ("TST_Inner")] string Given);
};

class TST_Special : TST_Thing { uint64 Extra = 5; };

class TST_Other { [Key] string Id; [Key] uint16 No; [Key] boolean On; string Note; };

[Association]
class TST_Link { [Key] TST_Base REF Parent; [Key] TST_Other REF Child; [Write] uint32 Weight; };

[Association]
class TST_SpecialLink : TST_Link { string Why; };

[Association]
class TST_Pair { [Key] TST_Other REF First; [Key] TST_Other REF Second; };

instance of TST_Base { Id = "plain \\ \"quoted\" <&> \u00e9"; Size = 1; };
instance of TST_Thing as $Thing { Id = "thing"; Size = 2; Label = "a\nb"; Flag = true;
    When = "20130415162843.488171+000"; Since = "00000001020304.000005:000"; Bytes = {0, 255};
    Names = {"x", "", "y, z"}; Ratio = 1.5; Low = -7; Large = 18446744073709551615; };
instance of TST_Thing { Id = "bare"; };
instance of TST_Special as $Special { Id = "special"; Extra = 9; };
instance of TST_Other as $One { Id = "one"; No = 1; On = true; Note = "first"; };
instance of TST_Other as $Two { Id = "two"; No = 2; On = false; };
instance of TST_Other as $Three { Id = "three"; No = 3; On = false; };
instance of TST_Link { Parent = $Thing; Child = $One; Weight = 3; };
instance of TST_Link { Parent = $Thing; Child = $Two; };
instance of TST_SpecialLink { Parent = $Special; Child = $Two; Weight = 1; Why = "because"; };
instance of TST_Pair { First = $One; Second = $Two; };
instance of TST_Pair { First = $Two; Second = $Three; };
"""


def connection():
    """A connection to a mocked server with the model."""
    mock = pywbem_mock.FakedWBEMConnection(default_namespace=NAMESPACE)
    mock.compile_mof_string(MOF.replace("\\u00e9", "\u00e9"), namespace=NAMESPACE)
    return mock


def names_of(mock):
    """The names of the classes, each after its base."""
    return mock.EnumerateClassNames(DeepInheritance=True)


def main():
    mock = connection()
    out = ["<MODEL>"]
    out += [declared.tocimxmlstr() for declared in mock.EnumerateQualifiers()]
    classes = [
        mock.GetClass(name, LocalOnly=False, IncludeQualifiers=True, IncludeClassOrigin=True)
        for name in names_of(mock)
    ]
    known = set()
    while classes:
        ready = [c for c in classes if c.superclass is None or c.superclass in known]
        known.update(c.classname for c in ready)
        out += [c.tocimxmlstr() for c in ready]
        classes = [c for c in classes if c.classname not in known]
    for name in names_of(mock):
        for instance in mock.EnumerateInstances(name):
            if instance.classname == name:
                path = instance.path.copy()
                path.namespace = None
                out.append(
                    "<VALUE.NAMEDINSTANCE>" + path.tocimxmlstr() + instance.tocimxmlstr(ignore_path=True)
                    + "</VALUE.NAMEDINSTANCE>"
                )
    out.append("</MODEL>")
    print("\n".join(out))


if __name__ == "__main__":
    main()
