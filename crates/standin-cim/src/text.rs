//! How values and keys are said as text: in a CIM-XML `VALUE`, a WS-Management element, a key binding.
//!
//! A text is read by the type it is meant for; keys compare by what they say, because WS-Management carries each
//! as text.

use crate::{CimType, Datetime, Key, KeyValue, Keys, ObjectPath, Value, embedded, same_name};

impl CimType {
    /// The type of that name, without case, as `uint16`. `ref` is the name of a reference in MOF.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        const ALL: [CimType; 15] = [
            CimType::Boolean,
            CimType::Uint8,
            CimType::Uint16,
            CimType::Uint32,
            CimType::Uint64,
            CimType::Sint8,
            CimType::Sint16,
            CimType::Sint32,
            CimType::Sint64,
            CimType::Real32,
            CimType::Real64,
            CimType::Char16,
            CimType::String,
            CimType::Datetime,
            CimType::Reference,
        ];
        if same_name(name, "ref") {
            return Some(Self::Reference);
        }
        ALL.into_iter().find(|cim_type| same_name(cim_type.as_str(), name))
    }
}

impl Value {
    /// The type of the value, or of the first element that is not null; `None` when there is none.
    #[must_use]
    pub fn cim_type(&self) -> Option<CimType> {
        Some(match self {
            Self::Boolean(_) => CimType::Boolean,
            Self::Uint8(_) => CimType::Uint8,
            Self::Uint16(_) => CimType::Uint16,
            Self::Uint32(_) => CimType::Uint32,
            Self::Uint64(_) => CimType::Uint64,
            Self::Sint8(_) => CimType::Sint8,
            Self::Sint16(_) => CimType::Sint16,
            Self::Sint32(_) => CimType::Sint32,
            Self::Sint64(_) => CimType::Sint64,
            Self::Real32(_) => CimType::Real32,
            Self::Real64(_) => CimType::Real64,
            Self::Char16(_) => CimType::Char16,
            Self::String(_) | Self::Instance(_) => CimType::String,
            Self::Datetime(_) => CimType::Datetime,
            Self::Reference(_) => CimType::Reference,
            Self::Array(values) => return values.iter().flatten().find_map(Self::cim_type),
        })
    }

    /// What the value says: `true`, decimal digits, the 25 characters of a datetime, a path, the CIM-XML of an
    /// instance. The elements of an array are separated by commas.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Boolean(value) => value.to_string(),
            Self::Uint8(value) => value.to_string(),
            Self::Uint16(value) => value.to_string(),
            Self::Uint32(value) => value.to_string(),
            Self::Uint64(value) => value.to_string(),
            Self::Sint8(value) => value.to_string(),
            Self::Sint16(value) => value.to_string(),
            Self::Sint32(value) => value.to_string(),
            Self::Sint64(value) => value.to_string(),
            Self::Real32(value) => real(format!("{value:?}")),
            Self::Real64(value) => real(format!("{value:?}")),
            Self::Char16(unit) => String::from_utf16_lossy(&[*unit]),
            Self::String(text) => text.clone(),
            Self::Datetime(datetime) => datetime.to_cim(),
            Self::Reference(path) => path.to_string(),
            Self::Instance(instance) => embedded::to_text(instance),
            Self::Array(values) => {
                let texts = values.iter().map(|value| value.as_ref().map(Self::to_text).unwrap_or_default());
                texts.collect::<Vec<_>>().join(",")
            }
        }
    }

    /// The value of a type that a text says; `None` when it does not say one. White space around anything but
    /// `string` and `char16` does not count; integers may be hexadecimal (`0x1F`); a datetime may have either
    /// form.
    #[must_use]
    pub fn parse(cim_type: CimType, text: &str) -> Option<Self> {
        match cim_type {
            CimType::String => return Some(Self::String(text.to_owned())),
            CimType::Char16 => {
                let mut units = text.encode_utf16();
                return match (units.next(), units.next()) {
                    (Some(unit), None) => Some(Self::Char16(unit)),
                    _ => None,
                };
            }
            _ => {}
        }
        let text = text.trim();
        Some(match cim_type {
            CimType::Boolean => Self::Boolean(boolean(text)?),
            CimType::Uint8 => Self::Uint8(integer(text)?.try_into().ok()?),
            CimType::Uint16 => Self::Uint16(integer(text)?.try_into().ok()?),
            CimType::Uint32 => Self::Uint32(integer(text)?.try_into().ok()?),
            CimType::Uint64 => Self::Uint64(integer(text)?.try_into().ok()?),
            CimType::Sint8 => Self::Sint8(integer(text)?.try_into().ok()?),
            CimType::Sint16 => Self::Sint16(integer(text)?.try_into().ok()?),
            CimType::Sint32 => Self::Sint32(integer(text)?.try_into().ok()?),
            CimType::Sint64 => Self::Sint64(integer(text)?.try_into().ok()?),
            CimType::Real32 => Self::Real32(text.parse().ok()?),
            CimType::Real64 => Self::Real64(text.parse().ok()?),
            CimType::Datetime => {
                Self::Datetime(Datetime::parse_cim(text).or_else(|| Datetime::parse_xsd(text))?)
            }
            CimType::Reference => Self::Reference(Box::new(ObjectPath::parse(text)?)),
            CimType::String | CimType::Char16 => return None,
        })
    }
}

/// `true` and `false` without case, `1` and `0`.
fn boolean(text: &str) -> Option<bool> {
    if text == "1" || same_name(text, "true") {
        Some(true)
    } else if text == "0" || same_name(text, "false") {
        Some(false)
    } else {
        None
    }
}

/// A decimal or hexadecimal integer with an optional sign.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        _ => (10, digits),
    };
    if !digits.starts_with(|first: char| first.is_digit(radix)) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

/// DSP0201 wants a point in a real that has an exponent, and its own spelling of what is no number.
fn real(text: String) -> String {
    match text.split_once('e') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0e{exponent}"),
        _ => match text.as_str() {
            "inf" => "INF".to_owned(),
            "-inf" => "-INF".to_owned(),
            _ => text,
        },
    }
}

impl KeyValue {
    /// The key that a property's value is; `None` for a value that cannot be a key (a real, an array, an
    /// instance). A datetime or a character becomes its text.
    #[must_use]
    pub fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Boolean(value) => Self::Boolean(*value),
            Value::Uint8(value) => Self::Unsigned((*value).into()),
            Value::Uint16(value) => Self::Unsigned((*value).into()),
            Value::Uint32(value) => Self::Unsigned((*value).into()),
            Value::Uint64(value) => Self::Unsigned(*value),
            Value::Sint8(value) => Self::Signed((*value).into()),
            Value::Sint16(value) => Self::Signed((*value).into()),
            Value::Sint32(value) => Self::Signed((*value).into()),
            Value::Sint64(value) => Self::Signed(*value),
            Value::Reference(path) => Self::Reference(path.clone()),
            Value::String(text) => Self::Text(text.clone().into()),
            Value::Char16(_) | Value::Datetime(_) => Self::Text(value.to_text().into()),
            Value::Real32(_) | Value::Real64(_) | Value::Instance(_) | Value::Array(_) => return None,
        })
    }

    /// What the key says.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.to_string(),
            Self::Unsigned(value) => value.to_string(),
            Self::Signed(value) => value.to_string(),
            Self::Boolean(value) => value.to_string(),
            Self::Reference(path) => path.to_string(),
        }
    }

    /// Whether the key says what `value` is, whatever its type: text without case (as WMI compares keys), `1` for
    /// true, `007` for 7. A reference agrees with one to the same class in the same namespace (if both name
    /// one) that has at least its keys.
    #[must_use]
    pub fn agrees(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(text), Value::String(value)) => same_name(text, value),
            (Self::Reference(path), Value::Reference(value)) => path.selects(value),
            (Self::Unsigned(key), Value::Uint32(value)) => *key == u64::from(*value),
            (Self::Unsigned(key), Value::Uint64(value)) => key == value,
            (Self::Reference(_), _) => false,
            (_, Value::Array(_) | Value::Instance(_)) => false,
            (Self::Text(text), Value::Reference(value)) => {
                ObjectPath::parse(text).is_some_and(|path| path.selects(value))
            }
            _ => {
                let text = self.to_text();
                match value.cim_type().and_then(|cim_type| Value::parse(cim_type, &text)) {
                    Some(Value::String(text)) => same_name(&text, &value.to_text()),
                    Some(Value::Datetime(read)) => {
                        matches!(value, Value::Datetime(value) if same_time(read, *value))
                    }
                    Some(read) => read == *value,
                    None => false,
                }
            }
        }
    }

    /// Whether two keys say the same.
    #[must_use]
    pub fn says_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(left), Self::Text(right)) => same_name(left, right),
            (Self::Unsigned(left), _) => other.agrees(&Value::Uint64(*left)),
            (Self::Signed(left), _) => other.agrees(&Value::Sint64(*left)),
            (Self::Boolean(left), _) => other.agrees(&Value::Boolean(*left)),
            (Self::Reference(left), Self::Reference(right)) => left.same_object(right),
            (Self::Reference(path), Self::Text(text)) | (Self::Text(text), Self::Reference(path)) => {
                ObjectPath::parse(text).is_some_and(|read| read.same_object(path))
            }
            (Self::Text(_), _) => other.says_same(self),
            (Self::Reference(_), _) => false,
        }
    }
}

/// Instants are the same in any zone.
fn same_time(left: Datetime, right: Datetime) -> bool {
    match (left, right) {
        (Datetime::Instant { at: left, .. }, Datetime::Instant { at: right, .. }) => left == right,
        _ => left == right,
    }
}

impl Keys {
    /// The keys by name; none for a class and for the only instance of one.
    #[must_use]
    pub fn named(&self) -> &[Key] {
        match self {
            Self::Named(keys) => keys,
            Self::None | Self::Singleton => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn types_are_known_by_name() {
        assert_eq!(CimType::parse("uint16"), Some(CimType::Uint16));
        assert_eq!(CimType::parse("DateTime"), Some(CimType::Datetime));
        assert_eq!(CimType::parse("ref"), Some(CimType::Reference));
        assert_eq!(CimType::parse("uint128"), None);
    }

    #[test]
    fn texts_are_read_by_type() {
        assert_eq!(Value::parse(CimType::Boolean, " TRUE "), Some(Value::Boolean(true)));
        assert_eq!(Value::parse(CimType::Boolean, "0"), Some(Value::Boolean(false)));
        assert_eq!(Value::parse(CimType::Boolean, "yes"), None);
        assert_eq!(Value::parse(CimType::Uint16, "0x1F"), Some(Value::Uint16(31)));
        assert_eq!(Value::parse(CimType::Uint16, "65536"), None);
        assert_eq!(Value::parse(CimType::Uint16, "-1"), None);
        assert_eq!(Value::parse(CimType::Sint8, "-128"), Some(Value::Sint8(-128)));
        for text in ["", "+", "-", "0x", "--1", "+-1", "0x-1", "1.0", "1 2"] {
            assert_eq!(Value::parse(CimType::Sint64, text), None, "{text}");
        }
        assert_eq!(Value::parse(CimType::Char16, "\u{e9}"), Some(Value::Char16(0xe9)));
        assert_eq!(Value::parse(CimType::Char16, "\u{1f600}"), None);
        assert_eq!(Value::parse(CimType::String, " a "), Some(Value::String(" a ".into())));
    }

    #[test]
    fn reals_have_a_point() {
        assert_eq!(Value::Real64(1e300).to_text(), "1.0e300");
        assert_eq!(Value::Real32(0.1).to_text(), "0.1");
        assert_eq!(Value::Real64(2.0).to_text(), "2.0");
        assert_eq!(Value::Real64(f64::NEG_INFINITY).to_text(), "-INF");
        assert_eq!(Value::parse(CimType::Real64, "-INF"), Some(Value::Real64(f64::NEG_INFINITY)));
    }

    #[test]
    fn keys_agree_by_what_they_say() {
        let text = |text: &str| KeyValue::Text(text.to_owned().into());
        assert!(text("TRUE").agrees(&Value::Boolean(true)));
        assert!(text("1").agrees(&Value::Boolean(true)));
        assert!(text("7").agrees(&Value::Uint8(7)));
        assert!(KeyValue::Unsigned(7).agrees(&Value::String("7".into())));
        assert!(KeyValue::Unsigned(7).agrees(&Value::Sint16(7)));
        assert!(!KeyValue::Signed(-7).agrees(&Value::Uint16(7)));
        assert!(text("abc").agrees(&Value::String("ABC".into())));
        assert!(!text("abc").agrees(&Value::String("abd".into())));
        assert!(!text("abc").agrees(&Value::Array(vec![Some(Value::String("abc".into()))])));
        let noon = Datetime::parse_cim("20130415120000.000000+000").unwrap();
        assert!(text("20130415140000.000000+120").agrees(&Value::Datetime(noon)));
        let path = ObjectPath::parse("root/x:C.A=\"1\",B=2").unwrap();
        let value = Value::Reference(Box::new(path.clone()));
        assert!(text("c.b=\"2\"").agrees(&value), "a part of the keys, in another spelling");
        assert!(!text("C.A=\"2\"").agrees(&value));
        assert!(!text("root/y:C.A=\"1\"").agrees(&value));
        assert!(KeyValue::Reference(Box::new(path)).agrees(&value));
    }

    #[test]
    fn keys_say_the_same_in_either_order() {
        let text = |text: &str| KeyValue::Text(text.to_owned().into());
        let reference = KeyValue::Reference(Box::new(ObjectPath::parse("C.A=1").unwrap()));
        let same = [
            (text("a"), text("A")),
            (text("1"), KeyValue::Unsigned(1)),
            (text("c.a=1"), reference.clone()),
            (KeyValue::Signed(1), KeyValue::Unsigned(1)),
            (text("true"), KeyValue::Boolean(true)),
        ];
        for (left, right) in same {
            assert!(left.says_same(&right) && right.says_same(&left), "{left:?} {right:?}");
        }
        for (left, right) in [(text("a"), reference), (KeyValue::Signed(-1), KeyValue::Unsigned(1))] {
            assert!(!left.says_same(&right) && !right.says_same(&left), "{left:?} {right:?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_survive_their_text(value: u64, signed: i64, real: f64, single: f32) {
            prop_assert_eq!(Value::parse(CimType::Uint64, &value.to_string()), Some(Value::Uint64(value)));
            prop_assert_eq!(Value::parse(CimType::Sint64, &signed.to_string()), Some(Value::Sint64(signed)));
            prop_assert_eq!(Value::parse(CimType::Real64, &Value::Real64(real).to_text()), Some(Value::Real64(real)));
            prop_assert_eq!(Value::parse(CimType::Real32, &Value::Real32(single).to_text()), Some(Value::Real32(single)));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,30}") {
            for cim_type in [CimType::Boolean, CimType::Sint64, CimType::Real32, CimType::Char16, CimType::Reference] {
                let _read = Value::parse(cim_type, &text);
            }
        }
    }
}
