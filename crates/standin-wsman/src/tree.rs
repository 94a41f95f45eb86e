//! Small helpers over the parsed tree. Names of elements compare by their local part, with case: clients bind any
//! prefix, or a default namespace, or the wrong one.

use crate::names;
use roxmltree::Node;
use std::borrow::Cow;

/// Whether a node is an element of that local name.
#[must_use]
pub fn named(node: Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().name() == name
}

/// The first child element of that local name.
#[must_use]
pub fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| named(*child, name))
}

/// All child elements.
pub fn elements<'a, 'i>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(Node::is_element)
}

/// The text of an element: all of its text and CDATA children, verbatim.
#[must_use]
pub fn text<'a>(node: Node<'a, '_>) -> Cow<'a, str> {
    let mut texts = node.children().filter(Node::is_text).filter_map(|child| child.text());
    let first = texts.next().unwrap_or_default();
    match texts.next() {
        None => Cow::Borrowed(first),
        Some(second) => Cow::Owned([first, second].into_iter().chain(texts).collect()),
    }
}

/// The text of an element without white space at its ends.
#[must_use]
pub fn trimmed(node: Node<'_, '_>) -> String {
    text(node).trim().to_owned()
}

/// Whether `xsi:nil` says that the element is null. Some clients bind `xsi` to XML Schema itself.
#[must_use]
pub fn is_nil(node: Node<'_, '_>) -> bool {
    node.attributes().any(|attribute| {
        attribute.name() == "nil"
            && matches!(attribute.namespace(), Some(names::XSI | names::XSD))
            && matches!(attribute.value().trim(), "true" | "1" | "TRUE" | "True")
    })
}

/// The class in `xsi:type="p:CLASS_Type"`.
#[must_use]
pub fn typed_class<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    let kind = node.attributes().find(|attribute| {
        attribute.name() == "type" && matches!(attribute.namespace(), Some(names::XSI | names::XSD))
    })?;
    let name = kind.value().trim();
    let name = name.rsplit_once(':').map_or(name, |(_, name)| name);
    name.strip_suffix("_Type")
}
