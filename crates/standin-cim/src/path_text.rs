//! Object paths as text, in WMI's forms and in those of the WBEM URI mapping (DSP0207):
//!
//! ```text
//! Class                                   the class itself
//! Class=@                                 the only instance of a class
//! Class.Key="v",Other=3                   an instance of the request's namespace
//! root/x:Class.Key="v"                    with a namespace; \ and / both separate its parts
//! \\HOST\root\x:Class.Key="v"             with a host; also //HOST/root/x:
//! ```
//!
//! A key's text is quoted, with `\` before `"` and `\`. A key that is a reference is the quoted text of a path,
//! and reads as text: only the class knows which keys are references.

use crate::{Key, KeyValue, Keys, Namespace, ObjectPath, Text, same_name};
use std::fmt;

/// Longer texts are nobody's path; WMI's own limit is of that order.
const MAX_LENGTH: usize = 64 * 1024;
/// More keys has no class.
const MAX_KEYS: usize = 64;

impl ObjectPath {
    /// Reads a path; `None` when the text is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let text = text.trim();
        let (host, rest) = split_host(text)?;
        let (namespace, rest) = split_namespace(rest);
        if host.is_some() && namespace.is_none() {
            return None;
        }
        // Nothing is called so, and white space among them would be taken off when the path is read again.
        let spoiled = |name: &str| name.chars().any(char::is_control) || name.trim() != name;
        if host.as_deref().is_some_and(spoiled)
            || namespace.as_ref().is_some_and(|namespace| spoiled(namespace.as_str()))
        {
            return None;
        }
        let end = rest.find(['.', '=']).unwrap_or(rest.len());
        let (class, keys) = rest.split_at(end);
        if !is_name(class) {
            return None;
        }
        let keys = match keys {
            "" => Keys::None,
            "=@" => Keys::Singleton,
            keys => Keys::Named(parse_keys(keys.strip_prefix('.')?)?),
        };
        Some(Self { host, namespace, class: Text::Owned(class.to_owned()), keys })
    }

    /// Whether both paths name the same object: the same class and the same keys, and the same namespace where
    /// both say one. Hosts do not count.
    #[must_use]
    pub fn same_object(&self, other: &Self) -> bool {
        let kinds = match (&self.keys, &other.keys) {
            (Keys::None, Keys::None) | (Keys::Singleton, Keys::Singleton) => true,
            (Keys::Named(left), Keys::Named(right)) => left.len() == right.len(),
            _ => false,
        };
        kinds && self.selects(other)
    }

    /// Whether `other` is of this class and has at least these keys, and the same namespace where both say one.
    #[must_use]
    pub fn selects(&self, other: &Self) -> bool {
        let same_namespace = match (&self.namespace, &other.namespace) {
            (Some(left), Some(right)) => left == right,
            _ => true,
        };
        same_namespace
            && same_name(&self.class, &other.class)
            && self.keys.named().iter().all(|key| {
                let other = other.keys.named().iter().find(|other| same_name(&other.name, &key.name));
                other.is_some_and(|other| key.value.says_same(&other.value))
            })
    }

    /// The key of that name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&KeyValue> {
        self.keys.named().iter().find(|key| same_name(&key.name, name)).map(|key| &key.value)
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, &self.namespace) {
            (Some(host), Some(namespace)) => {
                write!(f, "\\\\{host}\\{}:", namespace.as_str().replace('/', "\\"))?;
            }
            (_, Some(namespace)) => write!(f, "{namespace}:")?,
            _ => {}
        }
        f.write_str(&self.class)?;
        match &self.keys {
            Keys::None => Ok(()),
            Keys::Singleton => f.write_str("=@"),
            Keys::Named(keys) => {
                for (at, key) in keys.iter().enumerate() {
                    write!(f, "{}{}=", if at == 0 { '.' } else { ',' }, key.name)?;
                    match &key.value {
                        KeyValue::Text(text) => quote(f, text)?,
                        KeyValue::Unsigned(value) => write!(f, "{value}")?,
                        KeyValue::Signed(value) => write!(f, "{value}")?,
                        KeyValue::Boolean(value) => f.write_str(if *value { "TRUE" } else { "FALSE" })?,
                        KeyValue::Reference(path) => quote(f, &path.to_string())?,
                    }
                }
                Ok(())
            }
        }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for part in text.split_inclusive(['"', '\\']) {
        match part.char_indices().next_back() {
            Some((at, last @ ('"' | '\\'))) => write!(f, "{}\\{last}", &part[..at])?,
            _ => f.write_str(part)?,
        }
    }
    f.write_str("\"")
}

/// The host of a path that begins with two separators, and what is behind it.
fn split_host(text: &str) -> Option<(Option<Text>, &str)> {
    let Some(rest) = text.strip_prefix("\\\\").or_else(|| text.strip_prefix("//")) else {
        return Some((None, text));
    };
    let end = rest.find(['\\', '/'])?;
    let (host, rest) = rest.split_at(end);
    let known = |c: char| c.is_alphanumeric() || "-._:[]%".contains(c);
    (!host.is_empty() && host.chars().all(known)).then(|| (Some(Text::Owned(host.to_owned())), rest))
}

/// The namespace before the colon that comes before anything of a key.
fn split_namespace(text: &str) -> (Option<Namespace>, &str) {
    match text.find([':', '.', '=', '"', '\'']) {
        Some(at) if text[at..].starts_with(':') => {
            let namespace = Namespace::new(&text[..at]);
            ((!namespace.as_str().is_empty()).then_some(namespace), &text[at + 1..])
        }
        _ => (None, text),
    }
}

/// A name of a class or key: letters, digits, underscores, not a digit first (DSP0004 Annex A),
/// and not longer than anybody's.
pub(crate) fn is_name(text: &str) -> bool {
    let letter = |c: char| c == '_' || c.is_alphabetic() || !c.is_ascii() && c.is_alphanumeric();
    text.len() <= 1024 && text.starts_with(letter) && text.chars().all(|c| letter(c) || c.is_ascii_digit())
}

fn parse_keys(mut text: &str) -> Option<Vec<Key>> {
    let mut keys = Vec::new();
    loop {
        let (name, rest) = text.split_once('=')?;
        let name = name.trim();
        let (value, rest) = parse_value(rest.trim_start())?;
        let known = keys.iter().any(|key: &Key| same_name(&key.name, name));
        if !is_name(name) || known || keys.len() == MAX_KEYS {
            return None;
        }
        keys.push(Key { name: Text::Owned(name.to_owned()), value });
        let rest = rest.trim_start();
        if rest.is_empty() {
            return Some(keys);
        }
        text = rest.strip_prefix(',')?;
    }
}

/// The value at the start of a text, and what is behind it.
fn parse_value(text: &str) -> Option<(KeyValue, &str)> {
    if let Some(quote @ ('"' | '\'')) = text.chars().next() {
        return quoted(&text[1..], quote);
    }
    let end = text.find([',', ' ', '\t', '\r', '\n']).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let value = if same_name(word, "true") {
        KeyValue::Boolean(true)
    } else if same_name(word, "false") {
        KeyValue::Boolean(false)
    } else if word.starts_with('-') {
        KeyValue::Signed(word.parse().ok()?)
    } else {
        KeyValue::Unsigned(word.parse().ok()?)
    };
    Some((value, rest))
}

fn quoted(text: &str, quote: char) -> Option<(KeyValue, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next()?.1),
            c if c == quote => {
                return Some((KeyValue::Text(Text::Owned(value)), &text[at + quote.len_utf8()..]));
            }
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_path_of_wmi_reads() {
        let text = r#"\\HOST.example.com\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="A\\B \"c\"",N=3,S=-4,B=TRUE"#;
        let path = ObjectPath::parse(text).unwrap();
        assert_eq!(path.host.as_deref(), Some("HOST.example.com"));
        assert_eq!(path.namespace, Some(Namespace::new("root/virtualization/v2")));
        assert_eq!(path.class, "Msvm_ComputerSystem");
        assert_eq!(path.key("name"), Some(&KeyValue::Text(r#"A\B "c""#.into())));
        assert_eq!(path.key("N"), Some(&KeyValue::Unsigned(3)));
        assert_eq!(path.key("S"), Some(&KeyValue::Signed(-4)));
        assert_eq!(path.key("B"), Some(&KeyValue::Boolean(true)));
        assert_eq!(path.to_string(), text);
    }

    #[test]
    fn the_other_forms_read() {
        let slashes = ObjectPath::parse(r#"//host:5988/root/x:C.K='v'"#).unwrap();
        assert_eq!(
            (slashes.host.as_deref(), slashes.key("K")),
            (Some("host:5988"), Some(&KeyValue::Text("v".into())))
        );
        assert_eq!(ObjectPath::parse("/root/x:C").unwrap().namespace, Some(Namespace::new("root/x")));
        assert_eq!(
            ObjectPath::parse(":C=@").unwrap(),
            ObjectPath { keys: Keys::Singleton, ..ObjectPath::parse("C").unwrap() }
        );
        let colon = ObjectPath::parse(r#"C.K="Microsoft:GUID\\1""#).unwrap();
        assert_eq!(
            (colon.namespace.clone(), colon.key("k")),
            (None, Some(&KeyValue::Text(r"Microsoft:GUID\1".into())))
        );
    }

    #[test]
    fn what_is_no_path_is_not_read() {
        for text in [
            "",
            ":",
            ".",
            "C.",
            "C.K",
            "C.K=",
            "C.K=\"v",
            "C.K=\"v\\",
            "C.K=v",
            "C.K=1,",
            "C.K=1,K=2",
            "C.K=1;L=2",
            "1C",
            "C D",
            "\\\\host",
            "\\\\host\\C.K=1",
            "//",
            "C=\"v\"",
            "C.K=99999999999999999999",
            "C.=1",
        ] {
            assert_eq!(ObjectPath::parse(text), None, "{text}");
        }
        let keys = (0..100).map(|at| format!("K{at}=1")).collect::<Vec<_>>().join(",");
        assert_eq!(ObjectPath::parse(&format!("C.{keys}")), None, "too many keys");
        assert_eq!(ObjectPath::parse(&"C".repeat(MAX_LENGTH + 1)), None, "too long");
    }

    #[test]
    fn the_same_object_has_the_same_keys() {
        let path = |text: &str| ObjectPath::parse(text).unwrap();
        let whole = path(r#"root/x:C.A="a",B=1"#);
        assert!(whole.same_object(&path(r#"\\h\ROOT\X:c.b="1",a="A""#)));
        assert!(!whole.same_object(&path(r#"C.A="a""#)));
        assert!(path(r#"C.A="a""#).selects(&whole));
        assert!(!path("C").same_object(&path("C=@")));
        assert!(!path("root/y:C.A=\"a\",B=1").same_object(&whole));
    }

    fn path(depth: u32) -> BoxedStrategy<ObjectPath> {
        let value = prop_oneof![
            "\\PC{0,12}".prop_map(|text| KeyValue::Text(text.into())),
            any::<u64>().prop_map(KeyValue::Unsigned),
            (i64::MIN..0).prop_map(KeyValue::Signed),
            any::<bool>().prop_map(KeyValue::Boolean),
        ];
        let value = if depth == 0 {
            value.boxed()
        } else {
            prop_oneof![value, path(depth - 1).prop_map(|path| KeyValue::Reference(Box::new(path)))].boxed()
        };
        let keys = proptest::collection::btree_map("[A-Z][a-z_0-9]{0,5}", value, 1..4).prop_map(|keys| {
            let mut named: Vec<Key> = Vec::new();
            for (name, value) in keys {
                if !named.iter().any(|key| same_name(&key.name, &name)) {
                    named.push(Key { name: name.into(), value });
                }
            }
            Keys::Named(named)
        });
        let keys = prop_oneof![Just(Keys::None), Just(Keys::Singleton), keys];
        let scope = proptest::option::of((
            proptest::option::of("[a-z][a-z.-]{0,8}"),
            "[a-z]{1,4}(/[a-z0-9]{1,4}){0,2}",
        ));
        ("[A-Z][A-Za-z0-9_]{0,9}", keys, scope)
            .prop_map(|(class, keys, scope)| ObjectPath {
                host: scope.as_ref().and_then(|(host, _)| host.clone()).map(Text::Owned),
                namespace: scope.map(|(_, namespace)| Namespace::new(&namespace)),
                class: class.into(),
                keys,
            })
            .boxed()
    }

    proptest! {
        #[test]
        fn paths_survive_their_text(path in path(2)) {
            let text = path.to_string();
            let read = ObjectPath::parse(&text).unwrap();
            prop_assert!(read.same_object(&path) && path.same_object(&read), "{text}");
            prop_assert_eq!(read.to_string(), text);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,40}", like in "[CK.=\"'\\\\:/,@ 1é]{0,20}") {
            let _read = (ObjectPath::parse(&text), ObjectPath::parse(&like));
        }
    }
}
