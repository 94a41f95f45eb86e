//! Writing values, paths and instances.
//!
//! A path is written with what it has; a [`Scope`] supplies the namespace and host it lacks. What XML cannot carry
//! (control characters) becomes the replacement character.

use crate::{CimType, Class, Instance, Key, KeyValue, Keys, Namespace, ObjectPath, TypedValue, Value};

/// Where relative paths are relative to. With nothing known they are written as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope<'a> {
    /// The host, for full paths.
    pub host: Option<&'a str>,
    /// The namespace.
    pub namespace: Option<&'a Namespace>,
}

/// Appends text, escaped for an element. Line ends and tabs stay as they are: some clients do not know references
/// to characters by number.
pub fn escape(out: &mut String, text: &str) {
    escape_with(out, text, |c| match c {
        '\n' | '\t' => None,
        c => replacement(c),
    });
}

/// What stands for a character in an attribute.
fn replacement(c: char) -> Option<&'static str> {
    Some(match c {
        '<' => "&lt;",
        '>' => "&gt;",
        '&' => "&amp;",
        '"' => "&quot;",
        // A parser makes a line feed of a bare return, and spaces of all three in an attribute.
        '\r' => "&#13;",
        '\n' => "&#10;",
        '\t' => "&#9;",
        '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => "\u{fffd}",
        _ => return None,
    })
}

fn escape_with(out: &mut String, text: &str, replacement: impl Fn(char) -> Option<&'static str>) {
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        if let Some(replacement) = replacement(c) {
            out.push_str(&text[plain..at]);
            out.push_str(replacement);
            plain = at + c.len_utf8();
        }
    }
    out.push_str(&text[plain..]);
}

/// Appends ` name="text"`.
pub fn attribute(out: &mut String, name: &str, text: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("=\"");
    escape_with(out, text, replacement);
    out.push('"');
}

/// `VALUE`, `VALUE.ARRAY`, `VALUE.REFERENCE` or `VALUE.REFARRAY`.
pub fn value(out: &mut String, value: &Value) {
    value_in(out, value, Scope::default());
}

/// As [`value`], with paths made complete by `scope`.
pub fn value_in(out: &mut String, value: &Value, scope: Scope<'_>) {
    match value {
        Value::Array(values) => {
            let references = values.iter().flatten().any(|value| matches!(value, Value::Reference(_)));
            let element = if references { "VALUE.REFARRAY" } else { "VALUE.ARRAY" };
            open(out, element);
            for value in values {
                match value {
                    Some(value) => value_in(out, value, scope),
                    None => out.push_str("<VALUE.NULL/>"),
                }
            }
            close(out, element);
        }
        Value::Reference(path) => {
            open(out, "VALUE.REFERENCE");
            self::path(out, path, scope);
            close(out, "VALUE.REFERENCE");
        }
        value => {
            open(out, "VALUE");
            escape(out, &value.to_text());
            close(out, "VALUE");
        }
    }
}

/// `INSTANCENAME`, or `CLASSNAME` for the path of a class.
pub fn name(out: &mut String, path: &ObjectPath, scope: Scope<'_>) {
    if path.keys == Keys::None {
        out.push_str("<CLASSNAME");
        attribute(out, "NAME", &path.class);
        out.push_str("/>");
        return;
    }
    out.push_str("<INSTANCENAME");
    attribute(out, "CLASSNAME", &path.class);
    let keys = path.keys.named();
    if keys.is_empty() {
        out.push_str("/>");
        return;
    }
    out.push('>');
    for key in keys {
        key_binding(out, key, scope);
    }
    close(out, "INSTANCENAME");
}

fn key_binding(out: &mut String, key: &Key, scope: Scope<'_>) {
    out.push_str("<KEYBINDING");
    attribute(out, "NAME", &key.name);
    out.push('>');
    let kind = match &key.value {
        KeyValue::Text(_) => "string",
        KeyValue::Unsigned(_) | KeyValue::Signed(_) => "numeric",
        KeyValue::Boolean(_) => "boolean",
        KeyValue::Reference(path) => {
            open(out, "VALUE.REFERENCE");
            self::path(out, path, Scope { host: None, ..scope });
            close(out, "VALUE.REFERENCE");
            close(out, "KEYBINDING");
            return;
        }
    };
    out.push_str("<KEYVALUE");
    attribute(out, "VALUETYPE", kind);
    out.push('>');
    match &key.value {
        KeyValue::Text(text) => escape(out, text),
        other => out.push_str(&other.to_text()),
    }
    out.push_str("</KEYVALUE></KEYBINDING>");
}

/// The most complete element that is possible: `INSTANCEPATH` with host and namespace, `LOCALINSTANCEPATH` with a
/// namespace, `INSTANCENAME`; or their likes of a class.
pub fn path(out: &mut String, path: &ObjectPath, scope: Scope<'_>) {
    let space = path.namespace.as_ref().or(scope.namespace);
    let host = path.host.as_deref().or(scope.host);
    let class = path.keys == Keys::None;
    match (host, space) {
        (Some(host), Some(space)) => {
            let element = if class { "CLASSPATH" } else { "INSTANCEPATH" };
            open(out, element);
            out.push_str("<NAMESPACEPATH><HOST>");
            escape(out, host);
            out.push_str("</HOST>");
            namespace(out, space);
            out.push_str("</NAMESPACEPATH>");
            name(out, path, scope);
            close(out, element);
        }
        (None, Some(space)) => {
            let element = if class { "LOCALCLASSPATH" } else { "LOCALINSTANCEPATH" };
            open(out, element);
            namespace(out, space);
            name(out, path, scope);
            close(out, element);
        }
        (_, None) => name(out, path, scope),
    }
}

/// `LOCALNAMESPACEPATH`.
pub fn namespace(out: &mut String, namespace: &Namespace) {
    open(out, "LOCALNAMESPACEPATH");
    for part in namespace.as_str().split('/') {
        out.push_str("<NAMESPACE");
        attribute(out, "NAME", part);
        out.push_str("/>");
    }
    close(out, "LOCALNAMESPACEPATH");
}

/// How an instance is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct InstanceOptions<'a> {
    /// The class of the instance: it says which texts carry instances, and the origin of properties.
    pub class: Option<&'a Class>,
    /// Each property says the class that declares it.
    pub class_origin: bool,
    /// Where the references in it are relative to.
    pub scope: Scope<'a>,
}

/// `INSTANCE` with what it has.
pub fn instance(out: &mut String, instance: &Instance) {
    instance_with(out, instance, &InstanceOptions::default());
}

/// `INSTANCE`.
pub fn instance_with(out: &mut String, instance: &Instance, options: &InstanceOptions<'_>) {
    out.push_str("<INSTANCE");
    attribute(out, "CLASSNAME", &instance.class);
    out.push('>');
    for property in &instance.properties {
        let declared = options.class.and_then(|class| class.property(&property.name));
        let marks = Marks {
            embedded: declared.and_then(|declared| declared.embedded_class.as_deref()),
            reference_class: declared.and_then(|declared| declared.reference_class.as_deref()),
            origin: declared.filter(|_| options.class_origin).map(|declared| (&*declared.origin, false)),
        };
        self::property(out, &property.name, &property.value, &marks, options.scope);
    }
    close(out, "INSTANCE");
}

/// What a declaration adds to a property.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks<'a> {
    /// The class of the instance that a text carries.
    pub embedded: Option<&'a str>,
    pub reference_class: Option<&'a str>,
    /// The class that declares it, and whether it is inherited.
    pub origin: Option<(&'a str, bool)>,
}

/// The start tag of a property without its end (`>` or `/>`), and the name of the element.
pub(super) fn property_start(
    out: &mut String,
    name: &str,
    typed: &TypedValue,
    marks: &Marks<'_>,
) -> &'static str {
    let element = match (typed.cim_type, typed.array) {
        (CimType::Reference, false) => "PROPERTY.REFERENCE",
        (_, true) => "PROPERTY.ARRAY",
        (_, false) => "PROPERTY",
    };
    out.push('<');
    out.push_str(element);
    attribute(out, "NAME", name);
    if typed.cim_type != CimType::Reference {
        attribute(out, "TYPE", typed.cim_type.as_str());
    } else if typed.array {
        attribute(out, "TYPE", "string");
    } else if let Some(class) = marks.reference_class {
        attribute(out, "REFERENCECLASS", class);
    }
    if typed.cim_type == CimType::String {
        // There is nothing to mark in a null array, and sblim's client knows the mark on single values only.
        if !(typed.array && typed.value.is_none()) {
            embedded_mark(out, typed.value.as_ref(), marks.embedded);
        }
    }
    if let Some((origin, inherited)) = marks.origin {
        attribute(out, "CLASSORIGIN", origin);
        if inherited {
            attribute(out, "PROPAGATED", "true");
        }
    }
    element
}

fn property(out: &mut String, name: &str, typed: &TypedValue, marks: &Marks<'_>, scope: Scope<'_>) {
    let element = property_start(out, name, typed, marks);
    // Null is an element with nothing in it; sblim's client does not understand one without an end tag.
    out.push('>');
    if let Some(value) = &typed.value {
        property_text(out, typed, value, scope);
    }
    close(out, element);
}

/// The value of a property. DSP0201 has no properties of several references: their paths are written as texts.
pub(super) fn property_text(out: &mut String, typed: &TypedValue, value: &Value, scope: Scope<'_>) {
    match value {
        Value::Array(values) if typed.cim_type == CimType::Reference => {
            let text = |value: &Option<Value>| value.as_ref().map(|value| Value::String(value.to_text()));
            value_in(out, &Value::Array(values.iter().map(text).collect()), scope);
        }
        value => value_in(out, value, scope),
    }
}

/// `EmbeddedObject`, where a value is an instance or the declaration says that it would be. A text that is none is
/// not marked: a reader would fail on it.
pub fn embedded_mark(out: &mut String, value: Option<&Value>, declared: Option<&str>) {
    let is_instance = |value: &Value| matches!(value, Value::Instance(_));
    let marked = match value {
        None => declared.is_some(),
        Some(Value::Array(values)) => {
            values.iter().flatten().all(is_instance)
                && (declared.is_some() || values.iter().any(Option::is_some))
        }
        Some(value) => is_instance(value),
    };
    if marked {
        attribute(out, "EmbeddedObject", if declared == Some("") { "object" } else { "instance" });
    }
}

pub(super) fn open(out: &mut String, element: &str) {
    out.push('<');
    out.push_str(element);
    out.push('>');
}

pub(super) fn close(out: &mut String, element: &str) {
    out.push_str("</");
    out.push_str(element);
    out.push('>');
}
