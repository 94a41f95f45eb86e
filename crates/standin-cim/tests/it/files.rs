//! What the build says of a schema file that is wrong.

use crate::{check, emit, parser};
use std::path::Path;

fn read(name: &str, text: &str) -> Result<parser::File, String> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.mof"));
    std::fs::write(&file, text).unwrap();
    parser::file(&file)
}

const QUALIFIERS: &str = r#"
    Qualifier Key : boolean = false, Scope(property, reference), Flavor(DisableOverride, ToSubclass);
    Qualifier Association : boolean = false, Scope(association), Flavor(DisableOverride, ToSubclass);
    Qualifier Override : string, Scope(property), Flavor(EnableOverride, Restricted);
    Qualifier EmbeddedInstance : string, Scope(property), Flavor(EnableOverride, ToSubclass);
    Qualifier ValueMap : string[], Scope(property), Flavor(EnableOverride, ToSubclass);
    Qualifier Values : string[], Scope(property), Flavor(EnableOverride, ToSubclass);
"#;

/// The problem with these classes.
fn problem(name: &str, classes: &str) -> String {
    let checked = || {
        let qualifiers = read(&format!("{name}-qualifiers"), QUALIFIERS)?.qualifiers;
        let classes = check::closed(Vec::new(), read(name, classes)?.classes)?;
        check::namespace(&qualifiers, &classes)
    };
    checked().err().unwrap_or_default()
}

#[test]
fn what_is_wrong_with_a_class_is_named_with_its_place() {
    for (at, (classes, said)) in [
        ("class A { string X; };", ""),
        ("class A : B { };", "there is no class B"),
        ("class A { text X; };", "there is no type text"),
        ("class A { string X; };\nclass A { };", "schema/wrong3.mof:2: A is there twice"),
        ("class A { string X; string x; };", "x is there twice"),
        ("class A { [Keen] string X; };", "the qualifier Keen in line 1 is not declared"),
        ("class A { [Key(7)] string X; };", "a value of another type"),
        ("class A { [EmbeddedInstance(\"B\")] string X; };", "there is no class B"),
        ("class A { [EmbeddedInstance(\"A\")] uint8 X; };", "cannot carry an instance of A"),
        ("class A { A REF X; };", "X in line 1 cannot be a reference"),
        ("[Association] class A { A REF X[]; };", "X in line 1 cannot be a reference"),
        ("[Association] class A { B REF X; };", "there is no class B"),
        ("class A { uint8 X = \"seven\"; };", "its default has another type"),
        ("class A { uint8 X[] = 7; };", "its default has another type"),
        (
            "class A { [ValueMap{\"1\", \"2\"}, Values{\"One\"}] uint8 X; };",
            "ValueMap has 2 elements, Values has 1",
        ),
        ("class A { [Override(\"X\")] string X; };", "X in line 1 overrides nothing"),
        ("class A { string X; };\nclass B : A { string X; };", "is inherited and does not say Override"),
        ("class A { string X; };\nclass B : A { [Override(\"X\")] uint8 X; };", "of another type"),
        ("class A { uint32 M(); };\nclass B : A { uint32 M(); };", "Override is wrong or missing"),
        ("class A { string X };", "schema/wrong19.mof:1: expected ';'"),
        ("class A {\n string X = \"y\n\"; };", "schema/wrong20.mof:2: a text does not end"),
        ("class A { string X; }; instance of A { };", "expected class"),
    ]
    .into_iter()
    .enumerate()
    {
        let found = problem(&format!("wrong{at}"), classes);
        assert!(found.contains(said) && found.is_empty() == said.is_empty(), "{classes}: {found}");
    }
}

#[test]
fn a_namespace_takes_of_other_files_what_it_needs_and_no_more() {
    let others =
        "class C : B { }; class B : A { uint32 M([EmbeddedInstance(\"E\")] string X); }; class A { };
        class E { }; class F : E { };";
    let others = read("others", others).unwrap().classes;
    let own = read("own", r#"class D : B { string X = "a" "b\"c"; };"#);
    let closed = check::closed(others, own.unwrap().classes).unwrap();
    let names: Vec<_> = closed.iter().map(|class| &*class.name).collect();
    assert_eq!(names, ["A", "B", "E", "D"], "a base before what is derived from it");
    let table = emit::classes("TABLE", &closed);
    assert!(table.contains(r#"name: "D", superclass: "B""#), "{table}");
    assert!(table.contains(r#"Literal::Text("ab\"c")"#), "{table}");
    let declared = emit::qualifiers(&read("declared", QUALIFIERS).unwrap().qualifiers);
    assert!(declared.contains(r#"name: "Values", cim_type: "string", array: true"#), "{declared}");
}
