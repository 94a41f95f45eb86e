//! A line of the audit log. Texts are cut, secrets are left out.

use serde_json::{Map, Value as Json, json};
use standin_cim::{
    Caller, CimError, Instance, MethodAnswer, Named, Namespace, ObjectPath, RawValue, TypedValue, Value,
    embedded,
};

/// The longest text in a line, in characters.
const MAX_TEXT: usize = 2048;
/// The most arguments, properties and elements of an array in a line each.
const MAX_ITEMS: usize = 64;
/// How deep instances within instances are shown.
const MAX_DEPTH: u8 = 4;
/// What stands for a secret.
const HIDDEN: &str = "***";

/// A line while it is made.
#[derive(Debug)]
pub(super) struct Line(Map<String, Json>);

impl Line {
    pub fn begin(caller: &Caller, call: &'static str) -> Self {
        let mut line = Map::new();
        line.insert("time".to_owned(), json!(jiff::Timestamp::now().to_string()));
        line.insert("user".to_owned(), json!(&*caller.name));
        line.insert("role".to_owned(), json!(caller.role.as_str()));
        line.insert("from".to_owned(), json!(caller.from.to_string()));
        line.insert("proof".to_owned(), json!(caller.proof));
        line.insert("protocol".to_owned(), json!(caller.protocol));
        line.insert("call".to_owned(), json!(call));
        Self(line)
    }

    fn with(mut self, name: &str, value: Json) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    pub fn target(self, path: &ObjectPath) -> Self {
        let line = match &path.namespace {
            Some(namespace) => self.with("namespace", json!(namespace.as_str())),
            None => self,
        };
        let relative = ObjectPath { host: None, namespace: None, ..path.clone() };
        line.with("target", json!(cut(&relative.to_string())))
    }

    pub fn class(self, namespace: &Namespace, class: &str) -> Self {
        self.with("namespace", json!(namespace.as_str())).with("target", json!(cut(class)))
    }

    pub fn method(self, name: &str) -> Self {
        self.with("method", json!(cut(name)))
    }

    pub fn named(self, what: &str, values: &[Named]) -> Self {
        let shown = values
            .iter()
            .take(MAX_ITEMS)
            .map(|named| (cut(&named.name), guarded(&named.name, || raw(&named.value, MAX_DEPTH))));
        self.with(what, Json::Object(shown.collect()))
    }

    /// Adds how it ended.
    pub fn conclude(&mut self, error: Option<&CimError>, answer: Option<&MethodAnswer>) {
        let line = &mut self.0;
        if let Some(error) = error {
            line.insert("result".to_owned(), json!("failed"));
            line.insert("status".to_owned(), json!(error.status.code()));
            line.insert("message".to_owned(), json!(cut(&error.message)));
            return;
        }
        let Some(answer) = answer else {
            line.insert("result".to_owned(), json!("done"));
            return;
        };
        line.insert("result".to_owned(), json!("answered"));
        line.insert("return_value".to_owned(), json!(answer.return_value));
        let given = answer.out.iter().take(MAX_ITEMS).filter_map(|(name, value)| {
            let value = value.value.as_ref()?;
            Some((name.to_string(), guarded(name, || typed(value, MAX_DEPTH))))
        });
        line.insert("out".to_owned(), Json::Object(given.collect()));
    }

    pub fn into_text(self) -> String {
        Json::Object(self.0).to_string()
    }
}

/// A value, unless its name says that it is a secret.
fn guarded(name: &str, show: impl FnOnce() -> Json) -> Json {
    let name = name.to_ascii_lowercase();
    let secret = ["password", "passwd", "secret", "credential", "token", "privatekey", "passphrase"];
    if secret.iter().any(|word| name.contains(word)) { json!(HIDDEN) } else { show() }
}

fn raw(value: &RawValue, depth: u8) -> Json {
    match value {
        RawValue::Null => Json::Null,
        RawValue::Text(value) => text(value, depth),
        RawValue::Reference(path) => json!(cut(&path.to_string())),
        RawValue::Instance(value) => instance(value, depth),
        RawValue::Array(values) => values.iter().take(MAX_ITEMS).map(|value| raw(value, depth)).collect(),
        RawValue::Typed(TypedValue { value, .. }) => {
            value.as_ref().map_or(Json::Null, |value| typed(value, depth))
        }
    }
}

fn typed(value: &Value, depth: u8) -> Json {
    match value {
        Value::Boolean(value) => json!(value),
        Value::String(value) => text(value, depth),
        Value::Instance(value) => instance(value, depth),
        Value::Reference(path) => json!(cut(&path.to_string())),
        Value::Array(values) => values
            .iter()
            .take(MAX_ITEMS)
            .map(|value| value.as_ref().map_or(Json::Null, |value| typed(value, depth)))
            .collect(),
        other => json!(cut(&other.to_text())),
    }
}

/// Text that carries an instance is shown as one, because a property of it can be a secret; what looks like one
/// and cannot be read is not shown.
fn text(value: &str, depth: u8) -> Json {
    let begin = value.trim_start_matches('\u{feff}').trim_start();
    let carries =
        begin.starts_with('<') || begin.get(..8).is_some_and(|word| word.eq_ignore_ascii_case("instance"));
    if !carries {
        return json!(cut(value));
    }
    match embedded::parse(value) {
        Ok(value) => instance(&value, depth),
        Err(_) => json!({ "unreadable_bytes": value.len() }),
    }
}

fn instance(value: &Instance, depth: u8) -> Json {
    let Some(depth) = depth.checked_sub(1) else { return json!({ "class": cut(&value.class) }) };
    let mut shown = Map::new();
    shown.insert("class".to_owned(), json!(cut(&value.class)));
    for property in value.properties.iter().take(MAX_ITEMS) {
        if let Some(value) = &property.value.value {
            shown.insert(cut(&property.name), guarded(&property.name, || typed(value, depth)));
        }
    }
    Json::Object(shown)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
