//! What is printed as MOF compiles with pywbem's own compiler, and says the same there.

use standin_cim::{Schema, mof, schema};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The python with pywbem: `STANDIN_PYTHON`, or the one that `scripts/setup` installs.
fn python() -> PathBuf {
    let set_up = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/python");
    let python = std::env::var_os("STANDIN_PYTHON").map_or_else(set_up, PathBuf::from);
    let ready = Command::new(&python).args(["-c", "import pywbem, pywbem_mock"]).output();
    assert!(
        ready.is_ok_and(|ready| ready.status.success()),
        "{} has no pywbem: run scripts/setup, or name a python that has it in STANDIN_PYTHON",
        python.display()
    );
    python
}

/// Compiles a file and prints a line for every class, property, parameter and method, as pywbem sees them.
const COMPILE: &str = r"
import sys, pywbem, pywbem_mock
c = pywbem_mock.FakedWBEMConnection(default_namespace='root/x')
c.compile_mof_file(sys.argv[1], namespace='root/x')
def line(kind, *parts): print(kind, *[str(p) for p in parts])
for k in c.EnumerateClasses(DeepInheritance=True, LocalOnly=False, IncludeQualifiers=True, IncludeClassOrigin=True):
    line('class', k.classname, k.superclass or '-', 'Association' in k.qualifiers, 'Abstract' in k.qualifiers)
    for p in k.properties.values():
        e = p.qualifiers.get('EmbeddedInstance')
        line('property', k.classname, p.name, p.type, p.is_array, p.reference_class or '-', e.value if e else '-',
             'Key' in p.qualifiers, len(p.qualifiers['Values'].value) if 'Values' in p.qualifiers else 0)
    for m in k.methods.values():
        line('method', k.classname, m.name, m.return_type, len(m.parameters))
        for p in m.parameters.values():
            out = p.qualifiers.get('Out')
            line('parameter', k.classname, m.name, p.name, p.type, p.is_array, p.reference_class or '-',
                 bool(out and out.value))
";

fn compiled(name: &str, schema: &Schema) -> Vec<String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("{name}.mof"));
    std::fs::write(&file, mof::print(schema)).unwrap();
    let ran = Command::new(python()).args(["-c", COMPILE]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "pywbem does not compile {}: {said}", file.display());
    let mut lines: Vec<_> = String::from_utf8(ran.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn python_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// The same lines, from the schema.
fn expected(schema: &Schema) -> Vec<String> {
    let mut lines = Vec::new();
    let or_dash =
        |text: &Option<standin_cim::Text>| text.as_ref().map_or("-".to_owned(), ToString::to_string);
    for class in schema.classes() {
        let name = &class.name;
        let (association, is_abstract) = (python_bool(class.association), python_bool(class.is_abstract));
        lines.push(format!("class {name} {} {association} {is_abstract}", or_dash(&class.superclass)));
        for one in &class.properties {
            let values = one.qualifiers.iter().find(|found| found.name == "Values");
            let values = values.and_then(|found| match &found.value.value {
                Some(standin_cim::Value::Array(elements)) => Some(elements.len()),
                _ => None,
            });
            lines.push(format!(
                "property {name} {} {} {} {} {} {} {}",
                one.name,
                one.default.cim_type.as_str(),
                python_bool(one.default.array),
                or_dash(&one.reference_class),
                or_dash(&one.embedded_class),
                python_bool(one.key),
                values.unwrap_or(0)
            ));
        }
        for method in &class.methods {
            let (returns, count) = (method.returns.as_str(), method.parameters.len());
            lines.push(format!("method {name} {} {returns} {count}", method.name));
            for one in &method.parameters {
                lines.push(format!(
                    "parameter {name} {} {} {} {} {} {}",
                    method.name,
                    one.name,
                    one.cim_type.as_str(),
                    python_bool(one.array),
                    or_dash(&one.reference_class),
                    python_bool(one.output)
                ));
            }
        }
    }
    lines.sort();
    lines
}

fn compare(name: &str, schema: &Schema) {
    let (expected, compiled) = (expected(schema), compiled(name, schema));
    for line in &expected {
        assert!(compiled.contains(line), "pywbem does not see: {line}");
    }
    for line in &compiled {
        assert!(expected.contains(line), "only pywbem sees: {line}");
    }
}

#[test]
fn pywbem_sees_the_classes_of_virtualization() {
    compare("virtualization", &schema::virtualization());
}

#[test]
fn pywbem_sees_the_classes_of_interop_and_cimv2() {
    compare("interop", &schema::interop());
    compare("cimv2", &schema::cimv2());
}
