//! Filters of an enumeration: queries (WQL, CQL), selectors, associations. Called by `enumeration`.

use crate::epr;
use crate::fault::{Fault, Kind};
use crate::names::dialect;
use crate::tree::{child, elements, named, text};
use roxmltree::Node;
use standin_cim::{AssociationFilter, Key, ObjectPath};

/// What an Enumerate asks for.
#[derive(Debug, PartialEq)]
pub enum Filter {
    /// Every instance of the class.
    None,
    /// The result of a query.
    Query {
        /// The name that operations have for the language.
        language: &'static str,
        /// The query.
        text: String,
    },
    /// Instances with these values of these properties.
    Selectors(Vec<Key>),
    /// Instances that associations relate to an instance, or those associations.
    Associations {
        /// The instances, not the associations.
        associated: bool,
        /// What they are related to.
        object: Box<ObjectPath>,
        /// Which of them.
        filter: AssociationFilter,
    },
}

/// Reads the filter of an `n:Enumerate`: `w:Filter` or `n:Filter`.
///
/// # Errors
/// `FilterDialectRequestedUnavailable` for other dialects, none included (that would be XPath);
/// `CannotProcessFilter` for a filter that cannot be read.
pub fn read(enumerate: Node<'_, '_>) -> Result<Filter, Fault> {
    let Some(node) = child(enumerate, "Filter") else { return Ok(Filter::None) };
    let given = node.attributes().find(|attribute| attribute.name() == "Dialect");
    let given = given.map(|dialect| dialect.value().trim()).unwrap_or_default();
    let is = |known: &str| given.eq_ignore_ascii_case(known);
    match () {
        () if is(dialect::WQL) => Ok(Filter::Query { language: "WQL", text: query(node)? }),
        () if is(dialect::CQL) => Ok(Filter::Query { language: "DMTF:CQL", text: query(node)? }),
        () if is(dialect::SELECTORS) => {
            let set = child(node, "SelectorSet").ok_or_else(|| refuse("has no w:SelectorSet in it"))?;
            Ok(Filter::Selectors(epr::selectors(set)?.keys))
        }
        () if is(dialect::ASSOCIATION) => associations(node),
        () => {
            let reason = format!(
                "the filter dialect {given:.200} is not spoken here; use {}, {}, {} or {}",
                dialect::WQL,
                dialect::CQL,
                dialect::SELECTORS,
                dialect::ASSOCIATION
            );
            Err(Fault::new(Kind::FilterDialectRequestedUnavailable, reason))
        }
    }
}

fn query(node: Node<'_, '_>) -> Result<String, Fault> {
    let text = text(node);
    match text.trim() {
        "" => Err(refuse("has no query in it")),
        query => Ok(query.to_owned()),
    }
}

fn associations(node: Node<'_, '_>) -> Result<Filter, Fault> {
    let asked = elements(node)
        .find(|child| named(*child, "AssociatedInstances") || named(*child, "AssociationInstances"));
    let asked = asked
        .ok_or_else(|| refuse("has neither wsmb:AssociatedInstances nor wsmb:AssociationInstances in it"))?;
    let object = child(asked, "Object").ok_or_else(|| refuse("has no wsmb:Object in it"))?;
    let object = epr::read(object).map_err(|fault| Fault::new(Kind::CannotProcessFilter, fault.reason))?;
    let part = |name| {
        let text = child(asked, name).map(text).unwrap_or_default();
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let filter = AssociationFilter {
        association_class: part("AssociationClassName"),
        result_class: part("ResultClassName"),
        role: part("Role"),
        result_role: part("ResultRole"),
    };
    let associated = named(asked, "AssociatedInstances");
    Ok(Filter::Associations { associated, object: Box::new(object), filter })
}

fn refuse(what: &str) -> Fault {
    Fault::new(Kind::CannotProcessFilter, format!("the filter {what}"))
}
