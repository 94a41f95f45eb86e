//! Writing replies: text, values, instances, endpoint references and the envelope around them, all into one
//! `String`. The prefixes are fixed (`s a n w x` on the Envelope, `p` on what carries properties): some clients'
//! XPath takes them for granted.

use crate::names;
use crate::resource::{Family, Style};
use standin_cim::{Datetime, Instance, Key, KeyValue, Keys, ObjectPath, TypedValue, Value, embedded};

/// Prefixes of an instance and of those nested in it. One that is nested deeper is written as text.
const PREFIXES: [&str; 4] = ["p", "p1", "p2", "p3"];

/// Writes character data or an attribute's value. Characters that XML cannot carry become U+FFFD.
pub fn escape(out: &mut String, text: &str) {
    let mut plain = 0;
    for (at, character) in text.char_indices() {
        let instead = match character {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '"' => "&quot;",
            '\r' => "&#13;",
            '\t' | '\n' => continue,
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => "\u{fffd}",
            _ => continue,
        };
        out.push_str(text.get(plain..at).unwrap_or_default());
        out.push_str(instead);
        plain = at + character.len_utf8();
    }
    out.push_str(text.get(plain..).unwrap_or_default());
}

/// Writes a number without the machinery of `format!`.
pub fn number(out: &mut String, mut value: u64) {
    let mut digits = [0_u8; 20];
    let mut from = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or_default();
        from -= 1;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.push_str(std::str::from_utf8(digits.get(from..).unwrap_or_default()).unwrap_or_default());
}

fn signed(out: &mut String, value: i64) {
    if value < 0 {
        out.push('-');
    }
    number(out, value.unsigned_abs());
}

fn real(out: &mut String, value: f64, text: &dyn std::fmt::Display) {
    use std::fmt::Write as _;
    match () {
        () if value.is_nan() => out.push_str("NaN"),
        () if value.is_infinite() => out.push_str(if value > 0.0 { "INF" } else { "-INF" }),
        // Writing into a String does not fail.
        () => drop(write!(out, "{text}")),
    }
}

/// Begins a reply. Follow with the children of the Body and [`end`].
pub fn begin(out: &mut String, action: &str, relates_to: Option<&str>) {
    out.push_str(concat!(
        "<s:Envelope xml:lang=\"en-US\" xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\"",
        " xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\"",
        " xmlns:n=\"http://schemas.xmlsoap.org/ws/2004/09/enumeration\"",
        " xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\"",
        " xmlns:x=\"http://schemas.xmlsoap.org/ws/2004/09/transfer\"><s:Header><a:Action>",
    ));
    escape(out, action);
    out.push_str("</a:Action><a:MessageID>uuid:");
    let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
    out.push_str(uuid::Uuid::new_v4().hyphenated().encode_upper(&mut id));
    out.push_str("</a:MessageID><a:To>");
    out.push_str(names::ANONYMOUS);
    out.push_str("</a:To>");
    if let Some(id) = relates_to {
        out.push_str("<a:RelatesTo>");
        escape(out, id);
        out.push_str("</a:RelatesTo>");
    }
    out.push_str("</s:Header><s:Body>");
}

/// Ends a reply.
pub fn end(out: &mut String) {
    out.push_str("</s:Body></s:Envelope>");
}

/// Writes the declarations that properties need: `p` for the class, `cim` for date and time, `xsi` for nulls.
pub fn declare(out: &mut String, class_uri: impl FnOnce(&mut String)) {
    out.push_str(concat!(
        " xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"",
        " xmlns:cim=\"http://schemas.dmtf.org/wbem/wscim/1/common\" xmlns:p=\"",
    ));
    class_uri(out);
    out.push('"');
}

/// Writes an instance as `<p:CLASS xsi:type="p:CLASS_Type">` with every property it has.
pub fn instance(out: &mut String, instance: &Instance, style: &Style) {
    out.push_str("<p:");
    out.push_str(&instance.class);
    declare(out, |out| class_uri(out, instance, style));
    out.push_str(" xsi:type=\"p:");
    out.push_str(&instance.class);
    out.push_str("_Type\" xml:lang=\"en-US\">");
    for property in &instance.properties {
        Writer { style, nested: false, depth: 0 }.element(out, &property.name, &property.value);
    }
    out.push_str("</p:");
    out.push_str(&instance.class);
    out.push('>');
}

/// The class's URI within the namespace that the instance is in.
fn class_uri(out: &mut String, instance: &Instance, style: &Style) {
    let namespace = instance.path.as_ref().and_then(|path| path.namespace.as_ref());
    style.write_uri(out, namespace.unwrap_or(&style.namespace), &instance.class);
}

/// Writes a property or parameter. `nested` says how an embedded instance is written: as XML of its own, or as
/// CIM-XML in text, as a `string` carries it.
pub fn element(out: &mut String, name: &str, value: &TypedValue, style: &Style, nested: bool) {
    Writer { style, nested, depth: 0 }.element(out, name, value);
}

/// Writes a full `a:EndpointReference` that stands for an object in a result. Its parts say their namespaces once more:
/// there are clients that cut them out as text and put them into their next request.
pub fn object_reference(out: &mut String, path: &ObjectPath, style: &Style) {
    out.push_str("<a:EndpointReference>");
    parts(out, path, style, true);
    out.push_str("</a:EndpointReference>");
}

/// Writes a full `a:EndpointReference` within a selector.
fn endpoint_reference(out: &mut String, path: &ObjectPath, style: &Style) {
    out.push_str("<a:EndpointReference>");
    reference(out, path, style);
    out.push_str("</a:EndpointReference>");
}

/// Writes what is within an endpoint reference: what a reference in a property is.
pub fn reference(out: &mut String, path: &ObjectPath, style: &Style) {
    parts(out, path, style, false);
}

fn parts(out: &mut String, path: &ObjectPath, style: &Style, standalone: bool) {
    let namespace = path.namespace.as_ref().unwrap_or(&style.namespace);
    let open = |out: &mut String, element: &str, uri: &str| {
        out.push('<');
        out.push_str(element);
        if standalone {
            let prefix = element.split(':').next().unwrap_or_default();
            out.push_str(" xmlns:");
            out.push_str(prefix);
            out.push_str("=\"");
            out.push_str(uri);
            out.push('"');
        }
        out.push('>');
    };
    open(out, "a:Address", names::ADDRESSING);
    out.push_str(names::ANONYMOUS);
    out.push_str("</a:Address>");
    open(out, "a:ReferenceParameters", names::ADDRESSING);
    open(out, "w:ResourceURI", names::WSMAN);
    style.write_uri(out, namespace, &path.class);
    out.push_str("</w:ResourceURI>");
    open(out, "w:SelectorSet", names::WSMAN);
    if style.family != Family::Wmi {
        out.push_str("<w:Selector Name=\"__cimnamespace\">");
        escape(out, namespace.as_str());
        out.push_str("</w:Selector>");
    }
    if let Keys::Named(keys) = &path.keys {
        keys.iter().for_each(|key| selector(out, key, style));
    }
    out.push_str("</w:SelectorSet></a:ReferenceParameters>");
}

fn selector(out: &mut String, key: &Key, style: &Style) {
    out.push_str("<w:Selector Name=\"");
    escape(out, &key.name);
    out.push_str("\">");
    match &key.value {
        KeyValue::Text(text) => escape(out, text),
        KeyValue::Unsigned(value) => number(out, *value),
        KeyValue::Signed(value) => signed(out, *value),
        KeyValue::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
        KeyValue::Reference(path) => endpoint_reference(out, path, style),
    }
    out.push_str("</w:Selector>");
}

/// Writes values with the prefix of the instance that they are in.
struct Writer<'a> {
    style: &'a Style,
    nested: bool,
    depth: usize,
}

impl Writer<'_> {
    fn prefix(&self) -> &'static str {
        PREFIXES.get(self.depth).copied().unwrap_or("p")
    }

    fn element(&self, out: &mut String, name: &str, value: &TypedValue) {
        match &value.value {
            None => self.null(out, name),
            // XML has no way to say that an array is empty; null is what clients take for it.
            Some(Value::Array(values)) if values.is_empty() => self.null(out, name),
            Some(Value::Array(values)) => {
                for value in values {
                    match value {
                        None => self.null(out, name),
                        Some(value) => self.scalar(out, name, value),
                    }
                }
            }
            Some(value) => self.scalar(out, name, value),
        }
    }

    fn null(&self, out: &mut String, name: &str) {
        self.open(out, name);
        out.push_str(" xsi:nil=\"true\"/>");
    }

    fn open(&self, out: &mut String, name: &str) {
        out.push('<');
        out.push_str(self.prefix());
        out.push(':');
        out.push_str(name);
    }

    fn scalar(&self, out: &mut String, name: &str, value: &Value) {
        self.open(out, name);
        match value {
            Value::Instance(instance) if self.nested && self.depth + 1 < PREFIXES.len() => {
                self.nested(out, instance);
            }
            _ => {
                out.push('>');
                self.text(out, value);
            }
        }
        out.push_str("</");
        out.push_str(self.prefix());
        out.push(':');
        out.push_str(name);
        out.push('>');
    }

    fn text(&self, out: &mut String, value: &Value) {
        match value {
            Value::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Uint8(value) => number(out, u64::from(*value)),
            Value::Uint16(value) => number(out, u64::from(*value)),
            Value::Uint32(value) => number(out, u64::from(*value)),
            Value::Uint64(value) => number(out, *value),
            Value::Sint8(value) => signed(out, i64::from(*value)),
            Value::Sint16(value) => signed(out, i64::from(*value)),
            Value::Sint32(value) => signed(out, i64::from(*value)),
            Value::Sint64(value) => signed(out, *value),
            Value::Real32(value) => real(out, f64::from(*value), value),
            Value::Real64(value) => real(out, *value, value),
            Value::Char16(unit) => {
                let character = char::from_u32(u32::from(*unit)).unwrap_or(char::REPLACEMENT_CHARACTER);
                escape(out, character.encode_utf8(&mut [0; 4]));
            }
            Value::String(text) => escape(out, text),
            Value::Datetime(at) => datetime(out, at),
            Value::Reference(path) => reference(out, path, self.style),
            Value::Instance(instance) => escape(out, &embedded::to_text(instance)),
            // Arrays have no arrays in them.
            Value::Array(_) => {}
        }
    }

    /// The rest of a start tag, and the properties of the instance, in the namespace of its own class.
    fn nested(&self, out: &mut String, instance: &Instance) {
        let inner = Writer { style: self.style, nested: true, depth: self.depth + 1 };
        out.push_str(" xmlns:");
        out.push_str(inner.prefix());
        out.push_str("=\"");
        class_uri(out, instance, self.style);
        out.push_str("\" xsi:type=\"");
        out.push_str(inner.prefix());
        out.push(':');
        out.push_str(&instance.class);
        out.push_str("_Type\">");
        for property in &instance.properties {
            inner.element(out, &property.name, &property.value);
        }
    }
}

fn datetime(out: &mut String, at: &Datetime) {
    let name = match at {
        Datetime::Instant { .. } => "cim:Datetime>",
        Datetime::Interval { .. } => "cim:Interval>",
    };
    out.push('<');
    out.push_str(name);
    out.push_str(&at.to_xsd());
    out.push_str("</");
    out.push_str(name);
}
