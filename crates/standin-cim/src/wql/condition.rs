//! Conditions, and whether an instance fulfils them.

use super::compare::{Comparison, comparable, compare, same_namespace};
use super::like::Pattern;
use super::system::{is_system, system};
use super::{Problem, QueryError};
use crate::{CimType, Class, Context, Instance, Key, KeyValue, PropertyDecl, Value, same_name};
use std::borrow::Cow;

/// A condition. Each answers true, false, or nothing where a null decides.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Compare { left: Operand, comparison: Comparison, right: Operand, every: bool, at: usize },
    Like { operand: Operand, pattern: Pattern },
    IsNull(Operand),
    IsA { operand: Operand, class: String, at: usize },
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Property(Name),
    Literal(Value),
}

/// A property, maybe one within an embedded instance, maybe one element of an array.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Name {
    pub(super) parts: Vec<String>,
    pub(super) element: Option<usize>,
    pub(super) at: usize,
}

impl Condition {
    /// The answer for an instance; `None` is neither true nor false.
    pub(super) fn evaluate(
        &self,
        instance: &Instance,
        context: &Context<'_>,
    ) -> Result<Option<bool>, QueryError> {
        match self {
            Self::All(conditions) => several(conditions, instance, context, false),
            Self::Any(conditions) => several(conditions, instance, context, true),
            Self::Not(condition) => Ok(condition.evaluate(instance, context)?.map(|answer| !answer)),
            Self::IsNull(operand) => Ok(Some(operand.value(instance, context)?.is_none())),
            Self::Like { operand, pattern } => Ok(operand
                .value(instance, context)?
                .map(|value| elements(&value).any(|element| pattern.fits(&text_of(element))))),
            Self::IsA { operand, class, .. } => is_a(operand, class, instance, context),
            Self::Compare { left, comparison, right, every, .. } => {
                let (Some(left_value), Some(right_value)) =
                    (left.value(instance, context)?, right.value(instance, context)?)
                else {
                    return Ok(None);
                };
                let equality = matches!(comparison, Comparison::Equal | Comparison::Unequal);
                if equality && (left.is_namespace() || right.is_namespace()) {
                    let same = same_namespace(&text_of(&left_value), &text_of(&right_value));
                    return Ok(Some(same == (*comparison == Comparison::Equal)));
                }
                // What the check lets pass and still does not compare is so because of what a text says: it is
                // not equal, and it has no order.
                Ok(compare_elements(&left_value, *comparison, &right_value, *every).or(match comparison {
                    Comparison::Equal => Some(false),
                    Comparison::Unequal => Some(true),
                    _ => None,
                }))
            }
        }
    }

    /// Whether the names are those of the class and the values can be compared with them.
    pub(super) fn check(&self, class: &Class, context: &Context<'_>) -> Result<(), QueryError> {
        match self {
            Self::All(conditions) | Self::Any(conditions) => {
                conditions.iter().try_for_each(|condition| condition.check(class, context))
            }
            Self::Not(condition) => condition.check(class, context),
            Self::IsNull(operand) | Self::Like { operand, .. } => operand.check(class, context).map(drop),
            Self::IsA { operand, class: base, at } => {
                if !operand.names_a_class(class, context) {
                    operand.check(class, context)?;
                }
                match context.schema.class(base) {
                    Some(_) => Ok(()),
                    None => Err(QueryError {
                        position: *at,
                        problem: Problem::NoSuchClass { class: base.clone() },
                    }),
                }
            }
            Self::Compare { left, comparison, right, at, .. } => {
                let (left_type, right_type) = (left.check(class, context)?, right.check(class, context)?);
                let fits = match (left, left_type, right, right_type) {
                    (_, Some(cim_type), Operand::Literal(value), _) => {
                        comparable(cim_type, *comparison, value)
                    }
                    (Operand::Literal(value), _, _, Some(cim_type)) => {
                        comparable(cim_type, comparison.mirrored(), value)
                    }
                    _ => true,
                };
                let with = if let Operand::Literal(_) = right { right } else { left };
                match (fits, left_type.or(right_type)) {
                    (false, Some(cim_type)) => Err(QueryError {
                        position: *at,
                        problem: Problem::Incomparable {
                            property: if with == right { left.describe() } else { right.describe() },
                            cim_type: cim_type.as_str().to_owned(),
                            with: with.describe(),
                        },
                    }),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Adds the values that every instance that fulfils this has.
    pub(super) fn certain(&self, found: &mut Vec<Key>) {
        match self {
            Self::All(conditions) => conditions.iter().for_each(|condition| condition.certain(found)),
            Self::Compare {
                left: Operand::Property(name),
                comparison: Comparison::Equal,
                right: Operand::Literal(value),
                ..
            }
            | Self::Compare {
                left: Operand::Literal(value),
                comparison: Comparison::Equal,
                right: Operand::Property(name),
                ..
            } => {
                // Text that is not ASCII compares without case here and with it where keys are compared.
                if let ([property], None, Some(key)) = (&name.parts[..], name.element, KeyValue::of(value)) {
                    if !property.starts_with("__")
                        && !matches!(value, Value::String(text) if !text.is_ascii())
                    {
                        found.push(Key { name: property.clone().into(), value: key });
                    }
                }
            }
            _ => {}
        }
    }
}

/// `AND` ends at the first false one, `OR` at the first true one; a null in between leaves it open.
fn several(
    conditions: &[Condition],
    instance: &Instance,
    context: &Context<'_>,
    decides: bool,
) -> Result<Option<bool>, QueryError> {
    let mut answer = Some(!decides);
    for condition in conditions {
        match condition.evaluate(instance, context)? {
            Some(one) if one == decides => return Ok(Some(decides)),
            Some(_) => {}
            None => answer = None,
        }
    }
    Ok(answer)
}

/// An array fulfils a comparison when one element does (`every`: when all do); it is unequal when none is equal.
fn compare_elements(left: &Value, comparison: Comparison, right: &Value, every: bool) -> Option<bool> {
    if !matches!((left, right), (Value::Array(_), _) | (_, Value::Array(_))) {
        return compare(left, comparison, right);
    }
    let negated = comparison == Comparison::Unequal && !every;
    let comparison = if negated { Comparison::Equal } else { comparison };
    let mut answers = Vec::new();
    for left in elements(left) {
        for right in elements(right) {
            answers.push(compare(left, comparison, right)?);
        }
    }
    let answer = if every { answers.iter().all(|one| *one) } else { answers.iter().any(|one| *one) };
    Some(answer != negated)
}

/// The elements of an array that are not null; a scalar is its only element.
fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    let (many, one) = match value {
        Value::Array(elements) => (Some(elements), None),
        scalar => (None, Some(scalar)),
    };
    many.into_iter().flatten().flatten().chain(one)
}

fn text_of(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_text()),
    }
}

fn is_a(
    operand: &Operand,
    base: &str,
    instance: &Instance,
    context: &Context<'_>,
) -> Result<Option<bool>, QueryError> {
    let class: Cow<'_, str> = match operand {
        Operand::Property(name) if name.means_the_class(instance, context) => Cow::Borrowed(&*instance.class),
        operand => match operand.value(instance, context)?.as_deref() {
            Some(Value::Instance(instance)) => Cow::Owned(instance.class.to_string()),
            Some(Value::Reference(path)) => Cow::Owned(path.class.to_string()),
            Some(Value::String(class)) => Cow::Owned(class.clone()),
            // Nothing else has a class.
            _ => return Ok(None),
        },
    };
    Ok(Some(context.schema.is_a(&class, base)))
}

impl Operand {
    fn describe(&self) -> String {
        match self {
            Self::Property(name) => name.parts.join("."),
            Self::Literal(value) => text_of(value).chars().take(60).collect(),
        }
    }

    /// Whether it is the name of a class in the place of a property, as CQL writes `Class ISA Base`.
    fn names_a_class(&self, class: &Class, context: &Context<'_>) -> bool {
        match self {
            Self::Property(Name { parts, .. }) => match &parts[..] {
                [part] => class.property(part).is_none() && context.schema.class(part).is_some(),
                _ => false,
            },
            Self::Literal(_) => false,
        }
    }

    fn is_namespace(&self) -> bool {
        matches!(self, Self::Property(name) if name.is("__NAMESPACE"))
    }

    fn value<'a>(
        &'a self,
        instance: &'a Instance,
        context: &Context<'_>,
    ) -> Result<Option<Cow<'a, Value>>, QueryError> {
        match self {
            Self::Literal(value) => Ok(Some(Cow::Borrowed(value))),
            Self::Property(name) => name.value(instance, context),
        }
    }

    /// The type of the property; `None` for literals and for what only the instance knows.
    fn check(&self, class: &Class, context: &Context<'_>) -> Result<Option<CimType>, QueryError> {
        match self {
            Self::Literal(_) => Ok(None),
            Self::Property(name) => Ok(name.declared(class, context)?.map(|found| found.default.cim_type)),
        }
    }
}

impl Name {
    fn is(&self, name: &str) -> bool {
        matches!(&self.parts[..], [part] if same_name(part, name))
    }

    fn means_the_class(&self, instance: &Instance, context: &Context<'_>) -> bool {
        match &self.parts[..] {
            [part] => {
                same_name(part, "__CLASS")
                    || same_name(part, "__THIS")
                    || (instance.property(part).is_none() && context.schema.class(part).is_some())
            }
            _ => false,
        }
    }

    /// The declaration; nothing for system properties and inside instances of an unknown class.
    pub(super) fn declared<'a>(
        &self,
        class: &'a Class,
        context: &Context<'a>,
    ) -> Result<Option<&'a PropertyDecl>, QueryError> {
        let mut class = class;
        let mut parts = &self.parts[..];
        // CQL writes the class before its properties.
        if let [first, _, ..] = parts {
            if class.property(first).is_none() && same_name(first, &class.name) {
                parts = &parts[1..];
            }
        }
        loop {
            let Some((first, rest)) = parts.split_first() else { return Ok(None) };
            if is_system(first) {
                return Ok(None);
            }
            let Some(found) = class.property(first) else {
                return Err(self.missing(&class.name, first));
            };
            if rest.is_empty() {
                return Ok(Some(found));
            }
            match found.embedded_class.as_deref().and_then(|inner| context.schema.class(inner)) {
                Some(inner) => class = inner,
                None => return Ok(None),
            }
            parts = rest;
        }
    }

    fn missing(&self, class: &str, property: &str) -> QueryError {
        QueryError {
            position: self.at,
            problem: Problem::NoSuchProperty { class: class.to_owned(), property: property.to_owned() },
        }
    }

    fn value<'a>(
        &self,
        instance: &'a Instance,
        context: &Context<'_>,
    ) -> Result<Option<Cow<'a, Value>>, QueryError> {
        let mut instance = instance;
        let mut embedded = false;
        let mut parts = &self.parts[..];
        if let [first, _, ..] = parts {
            if instance.property(first).is_none() && context.schema.is_a(&instance.class, first) {
                parts = &parts[1..];
            }
        }
        while let Some((first, rest)) = parts.split_first() {
            if is_system(first) {
                return Ok(system(first, instance, context).map(Cow::Owned));
            }
            let Some(property) = instance.property(first) else {
                // A source leaves nulls out, and what is carried may be of any class.
                if embedded {
                    return Ok(None);
                }
                let class = context.schema.class(&instance.class);
                return match class.and_then(|class| class.property(first)) {
                    Some(_) => Ok(None),
                    None => Err(self.missing(&instance.class, first)),
                };
            };
            match (&property.value.value, rest) {
                (Some(Value::Instance(inner)), [_, ..]) => (instance, embedded) = (&**inner, true),
                (None, _) | (_, [_, ..]) => return Ok(None),
                (Some(value), []) => return Ok(self.one(value)),
            }
            parts = rest;
        }
        Ok(None)
    }

    fn one<'a>(&self, value: &'a Value) -> Option<Cow<'a, Value>> {
        match (self.element, value) {
            (None, value) => Some(Cow::Borrowed(value)),
            (Some(at), Value::Array(elements)) => elements.get(at)?.as_ref().map(Cow::Borrowed),
            (Some(_), _) => None,
        }
    }
}
