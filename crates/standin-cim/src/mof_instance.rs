//! Instances in MOF (DSP0004 Annex A): `instance of X { Name = "value"; ... };`.
//!
//! MOF does not say types, and a reader without the schema can only tell them from how a value is written: text,
//! a whole number (`Sint64`, or `Uint64` where it needs that), a real, a boolean, an instance. Whoever knows the
//! declaration makes the right type of it (`arguments::bind`).

use crate::embedded::EmbeddedError;
use crate::xml::error::shorten;
use crate::{CimType, Instance, Text, Value, path_text::is_name, same_name};

/// How many instances and arrays may lie within each other.
const MAX_DEPTH: usize = crate::xml::read::EMBEDDED_DEPTH;
/// The most text that is read.
const MAX_LENGTH: usize = 1 << 20;

/// Reads one instance. Qualifiers, comments, an alias and a second instance behind it are not taken for a value:
/// comments are skipped, the others refused.
///
/// # Errors
/// The text is no instance in MOF, or beyond the limits.
pub fn parse(text: &str) -> Result<Instance, EmbeddedError> {
    if text.len() > MAX_LENGTH {
        return Err(EmbeddedError(format!("the MOF is longer than {MAX_LENGTH} bytes")));
    }
    let mut reader = Reader { text, at: 0 };
    let instance = reader.instance(MAX_DEPTH)?;
    reader.skip()?;
    if reader.take(";") {
        reader.skip()?;
    }
    if reader.at < text.len() {
        return Err(reader.wrong("the end of the text"));
    }
    Ok(instance)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn wrong(&self, wanted: &str) -> EmbeddedError {
        EmbeddedError(format!(
            "in MOF {wanted} is needed at character {}, and {:?} is there",
            self.text[..self.at].chars().count() + 1,
            shorten(self.rest())
        ))
    }

    /// Skips white space and comments.
    fn skip(&mut self) -> Result<(), EmbeddedError> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with("//") {
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if trimmed.starts_with("/*") {
                self.at += trimmed.find("*/").ok_or_else(|| self.wrong("the end of a comment"))? + 2;
            } else {
                return Ok(());
            }
        }
    }

    /// Takes a sign if it is next.
    fn take(&mut self, sign: &str) -> bool {
        let found = self.rest().starts_with(sign);
        if found {
            self.at += sign.len();
        }
        found
    }

    fn need(&mut self, sign: &str) -> Result<(), EmbeddedError> {
        self.skip()?;
        if self.take(sign) { Ok(()) } else { Err(self.wrong(sign)) }
    }

    /// The word that is next; empty when there is none.
    fn word(&mut self) -> Result<&'a str, EmbeddedError> {
        self.skip()?;
        let rest = self.rest();
        let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
        self.at += end;
        Ok(&rest[..end])
    }

    fn name(&mut self, what: &str) -> Result<&'a str, EmbeddedError> {
        self.skip()?;
        let before = self.at;
        let word = self.word()?;
        if is_name(word) {
            return Ok(word);
        }
        self.at = before;
        Err(self.wrong(what))
    }

    fn keyword(&mut self, keyword: &str) -> Result<(), EmbeddedError> {
        self.skip()?;
        let before = self.at;
        if same_name(self.word()?, keyword) {
            return Ok(());
        }
        self.at = before;
        Err(self.wrong(keyword))
    }

    /// `instance of X { ... }`; the semicolon behind it is the caller's.
    fn instance(&mut self, depth: usize) -> Result<Instance, EmbeddedError> {
        let depth = depth.checked_sub(1).ok_or_else(|| self.wrong("less nesting"))?;
        self.keyword("instance")?;
        self.keyword("of")?;
        let mut instance = Instance::new(self.name("the name of a class")?.to_owned());
        self.need("{")?;
        loop {
            self.skip()?;
            if self.take("}") {
                return Ok(instance);
            }
            let name = self.name("a property or }")?;
            if instance.property(name).is_some() {
                return Err(EmbeddedError(format!("in MOF the property {name} is there twice")));
            }
            self.need("=")?;
            let value = self.value(depth)?;
            self.need(";")?;
            if !name.starts_with("__") {
                let array = matches!(value, Some(Value::Array(_)));
                let cim_type = value.as_ref().and_then(Value::cim_type).unwrap_or(CimType::String);
                instance.set(Text::Owned(name.to_owned()), cim_type, array, value);
            }
        }
    }

    /// A value, an array, an instance, or NULL.
    fn value(&mut self, depth: usize) -> Result<Option<Value>, EmbeddedError> {
        self.skip()?;
        let rest = self.rest();
        if rest.starts_with('{') {
            return self.array(depth).map(Some);
        }
        if rest.starts_with(['"', '\'']) {
            return self.texts().map(Some);
        }
        if rest.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
            return self.number().map(Some);
        }
        let before = self.at;
        let word = self.word()?;
        if same_name(word, "null") {
            return Ok(None);
        }
        if same_name(word, "true") || same_name(word, "false") {
            return Ok(Some(Value::Boolean(same_name(word, "true"))));
        }
        self.at = before;
        if same_name(word, "instance") {
            return self.instance(depth).map(|instance| Some(Value::Instance(Box::new(instance))));
        }
        Err(self.wrong("a value"))
    }

    fn array(&mut self, depth: usize) -> Result<Value, EmbeddedError> {
        let depth = depth.checked_sub(1).ok_or_else(|| self.wrong("less nesting"))?;
        self.need("{")?;
        let mut values = Vec::new();
        self.skip()?;
        if self.take("}") {
            return Ok(Value::Array(values));
        }
        loop {
            self.skip()?;
            if self.rest().starts_with('{') {
                return Err(self.wrong("a value that is no array"));
            }
            values.push(self.value(depth)?);
            self.skip()?;
            if self.take("}") {
                return of_one_type(values)
                    .map(Value::Array)
                    .ok_or_else(|| self.wrong("an array of one type before it"));
            }
            self.need(",")?;
        }
    }

    /// One text, or several that follow each other and are one.
    fn texts(&mut self) -> Result<Value, EmbeddedError> {
        if self.take("'") {
            let text = self.quoted('\'')?;
            return Value::parse(CimType::Char16, &text).ok_or_else(|| self.wrong("one character in ''"));
        }
        let mut all = String::new();
        while self.take("\"") {
            all.push_str(&self.quoted('"')?);
            self.skip()?;
        }
        Ok(Value::String(all))
    }

    /// The text up to a quote, its escapes resolved.
    fn quoted(&mut self, quote: char) -> Result<String, EmbeddedError> {
        let mut text = String::new();
        loop {
            let c = self.rest().chars().next().ok_or_else(|| self.wrong("the end of a text"))?;
            self.at += c.len_utf8();
            match c {
                '\\' => text.push(self.escape()?),
                c if c == quote => return Ok(text),
                c => text.push(c),
            }
        }
    }

    /// What stands behind a backslash (DSP0004 Annex A: `stringChar`).
    fn escape(&mut self) -> Result<char, EmbeddedError> {
        let c = self.rest().chars().next().ok_or_else(|| self.wrong("an escape"))?;
        self.at += c.len_utf8();
        Ok(match c {
            'b' => '\u{8}',
            't' => '\t',
            'n' => '\n',
            'f' => '\u{c}',
            'r' => '\r',
            'x' | 'X' => {
                let rest = self.rest();
                let length = rest.bytes().take(4).take_while(u8::is_ascii_hexdigit).count();
                let code = u32::from_str_radix(&rest[..length], 16).ok().and_then(char::from_u32);
                self.at += length;
                code.ok_or_else(|| self.wrong("hexadecimal digits"))?
            }
            other => other,
        })
    }

    /// A whole number (decimal, `0x1f`, `101b`), or a real.
    fn number(&mut self) -> Result<Value, EmbeddedError> {
        let rest = self.rest();
        let end = rest
            .char_indices()
            .find(|(at, c)| {
                let sign = (*c == '+' || *c == '-') && (*at == 0 || rest[..*at].ends_with(['e', 'E']));
                !(c.is_ascii_alphanumeric() || *c == '.' || sign)
            })
            .map_or(rest.len(), |(at, _)| at);
        let word = &rest[..end];
        let value = whole(word).or_else(|| match word.contains('.') {
            true => word.parse().ok().map(Value::Real64),
            false => None,
        });
        let value = value.ok_or_else(|| self.wrong("a number"))?;
        self.at += end;
        Ok(value)
    }
}

/// Numbers are guesses of a type: in one array they are of the widest that is there.
fn of_one_type(mut values: Vec<Option<Value>>) -> Option<Vec<Option<Value>>> {
    let has = |values: &[Option<Value>], wanted: CimType| {
        values.iter().flatten().any(|value| value.cim_type() == Some(wanted))
    };
    for wider in [CimType::Uint64, CimType::Real64] {
        if has(&values, wider) && has(&values, CimType::Sint64) {
            for value in values.iter_mut().flatten() {
                *value = Value::parse(wider, &value.to_text())?;
            }
        }
    }
    let first = values.iter().flatten().find_map(Value::cim_type);
    values.iter().flatten().all(|value| value.cim_type() == first).then_some(values)
}

fn whole(word: &str) -> Option<Value> {
    let (sign, digits) = match word.as_bytes().first()? {
        b'-' => ("-", &word[1..]),
        b'+' => ("", &word[1..]),
        _ => ("", word),
    };
    if let Some(binary) = digits.strip_suffix(['b', 'B']) {
        if !binary.is_empty() && binary.bytes().all(|byte| matches!(byte, b'0' | b'1')) {
            return i64::from_str_radix(&format!("{sign}{binary}"), 2).ok().map(Value::Sint64);
        }
    }
    Value::parse(CimType::Sint64, word).or_else(|| Value::parse(CimType::Uint64, word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_instance_as_wmi_prints_it_reads() {
        let text = r#"
// as GetText_ gives it
instance of Msvm_ReplicationSettingData
{
	AuthenticationType = 1;
	CompressionEnabled = TRUE;
	IncludedDisks = {"\\\\HOST\\root:A.B=\"1\"", "two" " and more"};
	Ratio = 1.5e1; /* a real */ Mask = 101b; Low = -0x10;
	Nothing = NULL;
	Inner = instance of Msvm_Error { Message = "a\nb\x0021"; };
	__PATH = "x";
};
"#;
        let instance = parse(text).unwrap();
        assert_eq!(instance.class, "Msvm_ReplicationSettingData");
        assert_eq!(instance.value("AuthenticationType"), Some(&Value::Sint64(1)));
        assert_eq!(instance.value("CompressionEnabled"), Some(&Value::Boolean(true)));
        assert_eq!(
            instance.value("IncludedDisks"),
            Some(&vec![r#"\\HOST\root:A.B="1""#, "two and more"].into())
        );
        assert_eq!(instance.value("Ratio"), Some(&Value::Real64(15.0)));
        assert_eq!(instance.value("Mask"), Some(&Value::Sint64(5)));
        assert_eq!(instance.value("Low"), Some(&Value::Sint64(-16)));
        assert_eq!(instance.value("Nothing"), None);
        let Some(Value::Instance(inner)) = instance.value("Inner") else { panic!("no instance") };
        assert_eq!(inner.value("Message"), Some(&Value::String("a\nb!".into())));
        assert!(instance.property("__PATH").is_none());
    }

    #[test]
    fn numbers_of_an_array_are_of_one_type() {
        let array =
            |text: &str| parse(&format!("instance of X {{ A = {text}; }}")).unwrap().value("A").cloned();
        assert_eq!(
            array("{1, NULL, 18446744073709551615}"),
            Some(Value::Array(vec![Some(Value::Uint64(1)), None, Some(Value::Uint64(u64::MAX)),]))
        );
        assert_eq!(array("{1, 1.5}"), Some(vec![1.0, 1.5].into()));
    }

    #[test]
    fn what_is_no_instance_is_refused_with_its_place() {
        for text in [
            "",
            "instance",
            "instance of",
            "instance of X",
            "instance of X {",
            "instance of X { A }",
            "instance of X { A = }",
            "instance of X { A = 1 }",
            "instance of X { A = 1; A = 2; }",
            "class X {};",
            "instance of X { A = {1, {2}}; };",
            "instance of X { A = \"x; };",
            "instance of X {}; instance of Y {};",
            "instance of X { A = 12z; };",
            "instance of X { /* ",
            "instance of X { A = '12'; }",
            "instance of 1X {}",
            "instance of X { A = {1, \"a\"}; }",
            "instance of X { A = \"\\xD800\"; }",
            "instance of X { A = $B; };",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let error = parse("instance of X { A = ; }").unwrap_err().to_string();
        assert!(error.contains("character 21"), "{error}");
    }

    #[test]
    fn endless_nesting_is_refused() {
        let text = "instance of X { A = ".repeat(20_000);
        assert!(parse(&text).unwrap_err().to_string().contains("less nesting"));
        assert!(parse(&format!("instance of X {{ A = {}", "{".repeat(20_000))).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(instance of X |[{}=;,\"'\\\\xA1.b/*+ \\-é]){0,30}") {
            let _read = parse(&text);
        }

        #[test]
        fn numbers_and_texts_survive(number: i64, large: u64, text in "[ -~é\n]{0,20}") {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            let mof = format!("instance of X {{ N = {number}; L = {large}; T = \"{quoted}\"; }};");
            let instance = parse(&mof).unwrap();
            prop_assert_eq!(instance.value("N").cloned(), Some(Value::Sint64(number)));
            prop_assert_eq!(instance.value("L").unwrap().to_text(), large.to_string());
            prop_assert_eq!(instance.value("T").cloned(), Some(Value::String(text)));
        }
    }
}
