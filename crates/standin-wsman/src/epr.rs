//! Reading endpoint references: the paths of instances in WS-Addressing's form.
//!
//! ```text
//! a:Address                         ignored: an instance is here or nowhere
//! a:ReferenceParameters             also a:ReferenceProperties
//!   w:ResourceURI                   the class, and the namespace in the family of WMI
//!   w:SelectorSet / w:Selector      the keys; __cimnamespace is the namespace of the other family
//! ```

use crate::fault::{Fault, Kind};
use crate::resource::Resource;
use crate::tree::{child, named, text, trimmed};
use roxmltree::Node;
use standin_cim::{Key, KeyValue, Keys, Namespace, ObjectPath, Text, same_name};
use std::borrow::Cow;

/// References within references; the deepest real one is an association's end that is an association.
const DEPTH: usize = 4;

/// The selectors of a request or of a reference.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Selectors {
    /// `__cimnamespace`.
    pub namespace: Option<Namespace>,
    /// All others, in their order.
    pub keys: Vec<Key>,
}

/// Whether an element holds a reference: an endpoint reference's children, or a whole one.
#[must_use]
pub fn is_reference(node: Node<'_, '_>) -> bool {
    node.children().any(|child| {
        child.is_element()
            && matches!(
                child.tag_name().name(),
                "ReferenceParameters" | "ReferenceProperties" | "EndpointReference"
            )
    })
}

/// Reads the reference that an element holds. Without a namespace of its own the path has none.
///
/// # Errors
/// `InvalidParameter` when a part is missing or is none.
pub fn read(node: Node<'_, '_>) -> Result<ObjectPath, Fault> {
    read_within(node, DEPTH)
}

fn read_within(node: Node<'_, '_>, depth: usize) -> Result<ObjectPath, Fault> {
    let node = child(node, "EndpointReference").unwrap_or(node);
    let parameters = child(node, "ReferenceParameters").or_else(|| child(node, "ReferenceProperties"));
    let uri = parameters
        .and_then(|parameters| child(parameters, "ResourceURI"))
        .or_else(|| child(node, "ResourceURI"))
        .ok_or_else(|| refuse(node, "has no w:ResourceURI in its a:ReferenceParameters"))?;
    let uri = text(uri);
    let resource = Resource::parse(uri.trim()).filter(|resource| resource.class.is_some());
    let Some((resource, class)) = resource.and_then(|resource| Some((resource.clone(), resource.class?)))
    else {
        return Err(refuse(node, &format!("has a w:ResourceURI that names no class: {:.200}", uri.trim())));
    };
    let set = parameters
        .and_then(|parameters| child(parameters, "SelectorSet"))
        .or_else(|| child(node, "SelectorSet"));
    let selectors = set.map(|set| selectors_within(set, depth)).transpose()?.unwrap_or_default();
    Ok(ObjectPath {
        host: None,
        namespace: resource.namespace.or(selectors.namespace),
        class: Cow::Owned(class.to_owned()),
        keys: Keys::Named(selectors.keys),
    })
}

/// Reads a `w:SelectorSet`.
///
/// # Errors
/// `InvalidSelectors` when a selector has no name or comes twice, `InvalidParameter` for a reference that is none.
pub fn selectors(set: Node<'_, '_>) -> Result<Selectors, Fault> {
    selectors_within(set, DEPTH)
}

fn selectors_within(set: Node<'_, '_>, depth: usize) -> Result<Selectors, Fault> {
    let mut read = Selectors::default();
    for selector in set.children().filter(|child| named(*child, "Selector")) {
        let name = selector.attributes().find(|attribute| attribute.name() == "Name");
        let name = name.map(|name| name.value().trim()).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| {
            Fault::new(Kind::InvalidSelectors, "a w:Selector has no attribute Name").detail("InvalidValue")
        })?;
        let value = if is_reference(selector) {
            let deeper = depth.checked_sub(1).ok_or_else(|| refuse(selector, "is nested too deep"))?;
            KeyValue::Reference(Box::new(read_within(selector, deeper)?))
        } else {
            KeyValue::Text(Text::Owned(trimmed(selector)))
        };
        match value {
            KeyValue::Text(text) if same_name(name, "__cimnamespace") => {
                read.namespace = Some(Namespace::new(&text));
            }
            value => add(&mut read.keys, name, value)?,
        }
    }
    Ok(read)
}

fn add(keys: &mut Vec<Key>, name: &str, value: KeyValue) -> Result<(), Fault> {
    if keys.iter().any(|key| same_name(&key.name, name)) {
        let reason = format!("the selector {name:.80} is given more than once");
        return Err(Fault::new(Kind::InvalidSelectors, reason).detail("DuplicateSelectors"));
    }
    keys.push(Key { name: Text::Owned(name.to_owned()), value });
    Ok(())
}

fn refuse(node: Node<'_, '_>, what: &str) -> Fault {
    let name = node.tag_name().name();
    Fault::new(Kind::InvalidParameter, format!("the endpoint reference in {name:.80} {what}"))
}
