//! A query that was read.

use super::condition::{Condition, Name};
use super::system::is_system;
use super::{Problem, QueryError};
use crate::{AssociationFilter, Context, Instance, Key, ObjectPath, same_name};

/// What a query asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `SELECT ... FROM class WHERE ...`
    Select,
    /// `ASSOCIATORS OF {path} WHERE ...`
    Associators(Walk),
    /// `REFERENCES OF {path} WHERE ...`
    References(Walk),
}

/// The source and the filter of `ASSOCIATORS OF` and `REFERENCES OF`.
#[derive(Debug, Clone, PartialEq)]
pub struct Walk {
    /// Where the walk begins.
    pub source: ObjectPath,
    /// Which associations and results are wanted.
    pub filter: AssociationFilter,
    /// Classes are wanted, not instances.
    pub class_definitions_only: bool,
    /// Only the keys of the results are wanted.
    pub keys_only: bool,
    /// A qualifier that the class of the association must have.
    pub association_qualifier: Option<String>,
    /// A qualifier that the class of the result must have; of `REFERENCES OF` that is the association.
    pub result_qualifier: Option<String>,
}

/// A query.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    kind: Kind,
    class: String,
    class_at: usize,
    selects: Option<Vec<String>>,
    names: Vec<Name>,
    condition: Option<Condition>,
}

impl Query {
    pub(super) fn select(
        class: String,
        class_at: usize,
        selects: Option<Vec<Name>>,
        condition: Option<Condition>,
    ) -> Self {
        let property = |name: &Name| name.parts.last().cloned().unwrap_or_default();
        Self {
            kind: Kind::Select,
            class,
            class_at,
            selects: selects.as_ref().map(|names| names.iter().map(property).collect()),
            names: selects.unwrap_or_default(),
            condition,
        }
    }

    pub(super) fn walk(kind: Kind, class: String, class_at: usize) -> Self {
        Self { kind, class, class_at, selects: None, names: Vec::new(), condition: None }
    }

    /// What it asks for.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The class it selects from; of a walk, the class of its source.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.class
    }

    /// The properties it selects, as it spells them and system properties among them; `None` for `*` and for
    /// walks.
    #[must_use]
    pub fn selects(&self) -> Option<&[String]> {
        self.selects.as_deref()
    }

    /// The selected properties of the class, as the class spells them and without system properties.
    #[must_use]
    pub fn projection(&self, class: &crate::Class) -> Option<Vec<String>> {
        let properties = self.selects.as_ref()?.iter().filter_map(|name| class.property(name));
        Some(properties.map(|property| property.name.to_string()).collect())
    }

    /// Whether its class and properties exist and are compared with what they can be compared with. A query that
    /// passes does not fail later, whatever the instances are.
    ///
    /// # Errors
    /// The first name that does not exist, or comparison that has no meaning, with its place.
    pub fn check(&self, context: &Context<'_>) -> Result<(), QueryError> {
        let Some(class) = context.schema.class(&self.class) else {
            let problem = Problem::NoSuchClass { class: self.class.clone() };
            return Err(QueryError { position: self.class_at, problem });
        };
        for name in &self.names {
            // A selected name is a property of the class itself: `Class.Property` at most.
            let known = match &name.parts[..] {
                [property] => is_system(property) || class.property(property).is_some(),
                [from, property] => same_name(from, &class.name) && class.property(property).is_some(),
                _ => false,
            };
            if !known {
                let property = name.parts.join(".");
                let problem = Problem::NoSuchProperty { class: class.name.to_string(), property };
                return Err(QueryError { position: name.at, problem });
            }
        }
        self.condition.as_ref().map_or(Ok(()), |condition| condition.check(class, context))
    }

    /// Whether an instance is wanted.
    ///
    /// # Errors
    /// What [`Query::check`] would have found.
    pub fn matches(&self, instance: &Instance, context: &Context<'_>) -> Result<bool, QueryError> {
        match &self.condition {
            Some(condition) => Ok(condition.evaluate(instance, context)? == Some(true)),
            None => Ok(true),
        }
    }

    /// The values that every wanted instance has for sure, as in `WHERE Name = 'x' AND ...`. What a source may
    /// use to make fewer instances.
    #[must_use]
    pub fn certain(&self) -> Vec<Key> {
        let mut found = Vec::new();
        if let Some(condition) = &self.condition {
            condition.certain(&mut found);
        }
        found
    }
}
