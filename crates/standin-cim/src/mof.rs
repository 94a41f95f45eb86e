//! A schema as MOF (DSP0004, annex A), as other tools compile it.
//!
//! A class prints what it declares itself; what it inherits follows from its base. Classes stand behind those they
//! name, as far as that is possible, because compilers look them up as they go.

use crate::{
    CimType, Class, MethodDecl, ParameterDecl, PropertyDecl, Qualifier, QualifierDecl, Schema, TypedValue,
    Value, same_name, schema,
};
use std::fmt::Write;

/// Lines are broken before this column where they can be.
const WIDTH: usize = 110;

/// The qualifier declarations that a schema needs, and its classes.
#[must_use]
pub fn print(schema: &Schema) -> String {
    let mut out = String::from("// Printed by standin.\n\n");
    for declared in schema::qualifiers().iter().filter(|declared| is_used(schema, &declared.name)) {
        declaration(&mut out, declared);
    }
    for class in ordered(schema) {
        out.push('\n');
        print_class(&mut out, class);
    }
    out
}

fn is_used(schema: &Schema, name: &str) -> bool {
    let has = |qualifiers: &[Qualifier]| qualifiers.iter().any(|found| same_name(&found.name, name));
    schema.classes().iter().any(|class| {
        has(&class.qualifiers)
            || class.properties.iter().any(|property| has(&property.qualifiers))
            || class.methods.iter().any(|method| {
                has(&method.qualifiers)
                    || method.parameters.iter().any(|parameter| has(&parameter.qualifiers))
            })
    })
}

/// The classes, each behind its base and, where no circle forbids it, behind those it refers to or carries.
fn ordered(schema: &Schema) -> Vec<&Class> {
    let mut found = Vec::new();
    let mut begun = std::collections::HashSet::new();
    // A stack of its own instead of recursion; a class is taken up once and put down after what it names.
    let mut stack: Vec<(&Class, bool)> = schema.classes().iter().rev().map(|class| (class, false)).collect();
    while let Some((class, named)) = stack.pop() {
        if named {
            found.push(class);
        } else if begun.insert(&*class.name) {
            stack.push((class, true));
            let mut names = named_by(class);
            // The base goes on top: it comes first, whatever circles there are.
            names.extend(class.superclass.as_deref());
            stack.extend(names.into_iter().filter_map(|name| schema.class(name)).map(|class| (class, false)));
        }
    }
    found
}

fn named_by(class: &Class) -> Vec<&str> {
    let properties =
        class.properties.iter().flat_map(|property| [&property.reference_class, &property.embedded_class]);
    let parameters = class.methods.iter().flat_map(|method| &method.parameters);
    let parameters = parameters.flat_map(|parameter| [&parameter.reference_class, &parameter.embedded_class]);
    properties.chain(parameters).flatten().map(|name| &**name).collect()
}

fn declaration(out: &mut String, declared: &QualifierDecl) {
    let array = if declared.default.array { "[]" } else { "" };
    let default = match &declared.default.value {
        Some(_) => format!(" = {}", value(&declared.default)),
        None => String::new(),
    };
    let scopes: Vec<_> = declared.scopes.iter().map(|scope| scope.as_str()).collect();
    let mut flavors = vec![
        if declared.overridable { "EnableOverride" } else { "DisableOverride" },
        if declared.to_subclass { "ToSubclass" } else { "Restricted" },
    ];
    if declared.translatable {
        flavors.push("Translatable");
    }
    let line = format!(
        "Qualifier {} : {}{array}{default},\n    Scope({}),\n    Flavor({});\n",
        declared.name,
        declared.default.cim_type.as_str(),
        scopes.join(", "),
        flavors.join(", ")
    );
    out.push_str(&line);
}

fn print_class(out: &mut String, class: &Class) {
    qualifiers(out, "", &class.qualifiers);
    let base = class.superclass.as_ref().map(|base| format!(" : {base}")).unwrap_or_default();
    let _ = writeln!(out, "class {}{base} {{", class.name);
    for property in class.properties.iter().filter(|property| property.origin == class.name) {
        print_property(out, property);
    }
    for method in class.methods.iter().filter(|method| method.origin == class.name) {
        print_method(out, method);
    }
    out.push_str("};\n");
}

fn print_property(out: &mut String, property: &PropertyDecl) {
    qualifiers(out, "    ", &property.qualifiers);
    let kind = type_name(property.default.cim_type, property.reference_class.as_deref());
    let array = if property.default.array { "[]" } else { "" };
    let default = match &property.default.value {
        Some(_) => format!(" = {}", value(&property.default)),
        None => String::new(),
    };
    let _ = writeln!(out, "    {kind} {}{array}{default};", property.name);
}

fn print_method(out: &mut String, method: &MethodDecl) {
    qualifiers(out, "    ", &method.qualifiers);
    let _ = write!(out, "    {} {}(", method.returns.as_str(), method.name);
    for (at, parameter) in method.parameters.iter().enumerate() {
        out.push_str(if at == 0 { "\n" } else { ",\n" });
        print_parameter(out, parameter);
    }
    out.push_str(");\n");
}

fn print_parameter(out: &mut String, parameter: &ParameterDecl) {
    qualifiers(out, "        ", &parameter.qualifiers);
    let kind = type_name(parameter.cim_type, parameter.reference_class.as_deref());
    let array = if parameter.array { "[]" } else { "" };
    let _ = write!(out, "        {kind} {}{array}", parameter.name);
}

fn type_name(cim_type: CimType, reference: Option<&str>) -> String {
    match reference {
        Some(class) => format!("{class} REF"),
        None => cim_type.as_str().to_owned(),
    }
}

/// `[Key, MaxLen(256)]` on lines of its own.
fn qualifiers(out: &mut String, indent: &str, qualifiers: &[Qualifier]) {
    if qualifiers.is_empty() {
        return;
    }
    let mut line = format!("{indent}[");
    for (at, found) in qualifiers.iter().enumerate() {
        let text = match (&found.value.value, found.value.array) {
            (Some(Value::Boolean(true)), _) => found.name.to_string(),
            (_, true) => format!("{} {}", found.name, value(&found.value)),
            (_, false) => format!("{}({})", found.name, value(&found.value)),
        };
        let text = if at + 1 == qualifiers.len() { text + "]" } else { text + "," };
        if at > 0 && line.len() + text.len() + 1 > WIDTH {
            let _ = writeln!(out, "{line}");
            line = format!("{indent}    {text}");
        } else if at == 0 {
            line.push_str(&text);
        } else {
            let _ = write!(line, " {text}");
        }
    }
    let _ = writeln!(out, "{line}");
}

fn value(typed: &TypedValue) -> String {
    match &typed.value {
        None => "NULL".to_owned(),
        Some(Value::Array(elements)) => {
            let elements = elements.iter().map(|element| element.as_ref().map_or("NULL".to_owned(), scalar));
            format!("{{{}}}", elements.collect::<Vec<_>>().join(", "))
        }
        Some(value) => scalar(value),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(_) | Value::Datetime(_) | Value::Reference(_) | Value::Instance(_) => {
            format!("\"{}\"", escaped(&value.to_text()))
        }
        Value::Char16(_) => format!("'{}'", escaped(&value.to_text())),
        other => other.to_text(),
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\\' | '\'' => {
                out.push('\\');
                out.push(letter);
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other => out.push(other),
        }
    }
    out
}
