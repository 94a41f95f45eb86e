//! Well-formed XML within limits.
//!
//! `roxmltree` reads without recursion and knows no entities unless there is a document type, but its time grows
//! with the square of attributes and of namespace declarations in scope, and a tree costs memory. So the text is
//! looked over first, in one pass without an allocation: what is beyond a limit is refused before a tree is made.

use super::error::XmlError;
use roxmltree::{Document, ParsingOptions};

/// How much of everything a document may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of text.
    pub bytes: usize,
    /// Elements inside each other. Recursive readers need this to be small.
    pub depth: usize,
    /// Elements, texts, comments and attributes together.
    pub nodes: usize,
    /// Attributes of one element.
    pub attributes: usize,
    /// Namespace declarations on an element and those around it.
    pub namespaces: usize,
}

impl Limits {
    /// A request of a management protocol.
    pub const REQUEST: Self =
        Self { bytes: 8 << 20, depth: 96, nodes: 200_000, attributes: 64, namespaces: 64 };
    /// An instance inside a text.
    pub const EMBEDDED: Self =
        Self { bytes: 1 << 20, depth: 32, nodes: 20_000, attributes: 32, namespaces: 32 };
}

/// The tree of a text.
///
/// # Errors
/// [`XmlError::Limit`], [`XmlError::Doctype`], [`XmlError::Malformed`].
pub fn parse<'a>(text: &'a str, limits: &Limits) -> Result<Document<'a>, XmlError> {
    survey(text, limits)?;
    let nodes_limit = u32::try_from(limits.nodes).unwrap_or(u32::MAX);
    let options = ParsingOptions { nodes_limit, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).map_err(|error| match error {
        roxmltree::Error::NodesLimitReached => XmlError::Limit { what: "nodes", limit: limits.nodes },
        roxmltree::Error::DtdDetected => XmlError::Doctype,
        error => XmlError::Malformed(super::error::shorten(&error.to_string())),
    })
}

/// Counts what a tree would have. Text that is not well-formed may be counted wrongly: it is refused later.
fn survey(text: &str, limits: &Limits) -> Result<(), XmlError> {
    if text.len() > limits.bytes {
        return Err(XmlError::Limit { what: "bytes", limit: limits.bytes });
    }
    let mut nodes = 0_usize;
    let mut scopes: Vec<usize> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        // One for the element, one for the text before or behind it.
        nodes += 2;
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = behind(comment, "-->");
        } else if let Some(data) = rest.strip_prefix("![CDATA[") {
            rest = behind(data, "]]>");
        } else if rest.starts_with('!') {
            return Err(XmlError::Doctype);
        } else if rest.starts_with('?') {
            rest = behind(rest, "?>");
        } else if rest.starts_with('/') {
            scopes.pop();
            rest = behind(rest, ">");
        } else {
            let tag = Tag::of(rest);
            nodes += tag.attributes;
            let namespaces = scopes.last().copied().unwrap_or_default() + tag.namespaces;
            check("attributes in one element", tag.attributes, limits.attributes)?;
            check("namespaces in scope", namespaces, limits.namespaces)?;
            if !tag.empty {
                scopes.push(namespaces);
                check("nested elements", scopes.len(), limits.depth)?;
            }
            rest = &rest[tag.length..];
        }
        check("nodes", nodes, limits.nodes)?;
    }
    Ok(())
}

fn check(what: &'static str, count: usize, limit: usize) -> Result<(), XmlError> {
    if count > limit { Err(XmlError::Limit { what, limit }) } else { Ok(()) }
}

fn behind<'a>(text: &'a str, end: &str) -> &'a str {
    text.split_once(end).map_or("", |(_, rest)| rest)
}

/// What a start tag has.
struct Tag {
    length: usize,
    attributes: usize,
    namespaces: usize,
    empty: bool,
}

impl Tag {
    /// The tag whose name begins here.
    fn of(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut tag = Self { length: bytes.len(), attributes: 0, namespaces: 0, empty: false };
        let mut word = 0;
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'>' => {
                    tag.empty = at > 0 && bytes[at - 1] == b'/';
                    tag.length = at + 1;
                    break;
                }
                quote @ (b'"' | b'\'') => {
                    let Some(end) = text[at + 1..].find(char::from(*quote)) else { break };
                    at += end + 1;
                    word = at + 1;
                }
                b'=' => {
                    tag.attributes += 1;
                    tag.namespaces += usize::from(bytes[word..at].starts_with(b"xmlns"));
                }
                b' ' | b'\t' | b'\r' | b'\n'
                    if bytes.get(at + 1).is_some_and(|next| !b" \t\r\n=".contains(next)) =>
                {
                    word = at + 1;
                }
                _ => {}
            }
            at += 1;
        }
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn limit(text: &str) -> Option<&'static str> {
        match parse(text, &Limits::REQUEST) {
            Err(XmlError::Limit { what, .. }) => Some(what),
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        }
    }

    #[test]
    fn a_million_nested_elements_are_refused_at_once() {
        let text = "<a>".repeat(1_000_000);
        let begin = Instant::now();
        assert_eq!(limit(&text), Some("nested elements"));
        assert!(begin.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn a_million_siblings_are_refused_at_once() {
        let text = format!("<r>{}</r>", "<a/>".repeat(1_000_000));
        let begin = Instant::now();
        assert_eq!(limit(&text), Some("nodes"));
        assert!(begin.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn each_limit_is_kept() {
        let attributes = |count: usize| (0..count).map(|at| format!(" a{at} = '>'")).collect::<String>();
        assert_eq!(limit(&format!("<r{}/>", attributes(64))), None);
        assert_eq!(limit(&format!("<r{}/>", attributes(65))), Some("attributes in one element"));
        let spaces =
            |count: usize| (0..count).map(|at| format!("<r\n xmlns:a{at} ='u'>")).collect::<String>();
        assert_eq!(limit(&format!("{}{}", spaces(60), "</r>".repeat(60))), None);
        assert_eq!(limit(&spaces(65)), Some("namespaces in scope"));
        let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        assert_eq!(limit(&nested(96)), None);
        assert_eq!(limit(&nested(97)), Some("nested elements"));
        assert_eq!(limit(&format!("<a>{}</a>", "x".repeat(8 << 20))), Some("bytes"));
    }

    #[test]
    fn a_document_type_is_refused() {
        let bomb = r#"<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><a>&c;</a>"#;
        assert_eq!(parse(bomb, &Limits::REQUEST).err(), Some(XmlError::Doctype));
        let late = r#"<?xml version="1.0"?><!-- a --><!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>"#;
        assert_eq!(parse(late, &Limits::REQUEST).err(), Some(XmlError::Doctype));
        assert!(matches!(parse("<a>&x;</a>", &Limits::REQUEST), Err(XmlError::Malformed(_))));
    }

    #[test]
    fn what_only_looks_like_markup_does_not_count() {
        let text = format!(
            "<a><![CDATA[{}]]><!-- {} --><b c='<!DOCTYPE'/></a>",
            "<x>".repeat(200),
            "<y>".repeat(200)
        );
        // An attribute may not have a `<`, which the reader says.
        assert!(matches!(parse(&text, &Limits::REQUEST), Err(XmlError::Malformed(_))));
        assert_eq!(limit(&text.replace("<!DOCTYPE", "-")), None);
    }

    proptest! {
        #[test]
        fn any_text_is_surveyed_without_a_panic(text in "[<>/!?a='\"\\[\\]CDAT\u{e9} -]{0,60}") {
            let _read = parse(&text, &Limits::REQUEST);
        }

        #[test]
        fn what_is_well_formed_is_counted_right(depth in 1_usize..200, empty in "(<b c='1' d = \"2>\"/>){0,5}") {
            let text = format!("{}{empty}{}", "<a>".repeat(depth), "</a>".repeat(depth));
            prop_assert_eq!(limit(&text).is_some(), depth > Limits::REQUEST.depth);
        }
    }
}
