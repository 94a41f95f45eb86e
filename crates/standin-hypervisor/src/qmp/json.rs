//! Lenient access to QEMU's answers: a field that a version does not have is empty, not an error. Whoever
//! needs a field to be there checks for it.

use serde_json::Value;

/// The text of a field, or nothing.
#[must_use]
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The number of a field, or 0.
#[must_use]
pub fn number(value: &Value, field: &str) -> u64 {
    value.get(field).and_then(Value::as_u64).unwrap_or_default()
}

/// Whether a field is there and true.
#[must_use]
pub fn flag(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool).unwrap_or_default()
}

/// The members of a list, none if it is not one.
#[must_use]
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The members of a list in a field.
#[must_use]
pub fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).map(items).unwrap_or_default()
}
