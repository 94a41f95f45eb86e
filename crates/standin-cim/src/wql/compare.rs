//! How two values compare, whatever their types: a client writes everything as text or as a number.

use crate::{CimType, Datetime, Namespace, ObjectPath, Value};
use std::cmp::Ordering;

/// An operator between two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// Whether it holds for values that stand in that order.
    pub(super) fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::Unequal => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }

    /// The same with its sides changed.
    pub(super) fn mirrored(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            same => same,
        }
    }

    fn is_order(self) -> bool {
        !matches!(self, Self::Equal | Self::Unequal)
    }
}

/// Compares two scalars; `None` when they cannot be compared so.
pub(super) fn compare(left: &Value, comparison: Comparison, right: &Value) -> Option<bool> {
    if let (Value::Reference(path), other) | (other, Value::Reference(path)) = (left, right) {
        if comparison.is_order() {
            return None;
        }
        return Some(same_path(path, other)? == (comparison == Comparison::Equal));
    }
    ordering(left, right).map(|ordering| comparison.holds(ordering))
}

fn same_path(path: &ObjectPath, other: &Value) -> Option<bool> {
    match other {
        Value::Reference(other) => Some(path.same_object(other)),
        Value::String(text) => Some(path.same_object(&path_of(text)?)),
        _ => None,
    }
}

/// The path that a text says.
pub(super) fn path_of(text: &str) -> Option<ObjectPath> {
    ObjectPath::parse(text)
}

fn ordering(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => Some(folded(left).cmp(&folded(right))),
        (Value::Boolean(left), right) => Some(left.cmp(&boolean(right)?)),
        (left, Value::Boolean(right)) => Some(boolean(left)?.cmp(right)),
        (Value::Datetime(left), Value::Datetime(right)) => instants(left, right),
        (Value::Datetime(left), Value::String(right)) => instants(left, &datetime(right)?),
        (Value::String(left), Value::Datetime(right)) => instants(&datetime(left)?, right),
        (left, right) => match (integer(left), integer(right)) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => real(left)?.partial_cmp(&real(right)?),
        },
    }
}

fn folded(text: &str) -> String {
    text.to_lowercase()
}

fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Boolean(value) => Some(*value),
        Value::String(text) if text.eq_ignore_ascii_case("true") || text == "1" => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") || text == "0" => Some(false),
        other => match integer(other)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
    }
}

fn integer(value: &Value) -> Option<i128> {
    Some(match value {
        Value::Uint8(value) => (*value).into(),
        Value::Uint16(value) | Value::Char16(value) => (*value).into(),
        Value::Uint32(value) => (*value).into(),
        Value::Uint64(value) => (*value).into(),
        Value::Sint8(value) => (*value).into(),
        Value::Sint16(value) => (*value).into(),
        Value::Sint32(value) => (*value).into(),
        Value::Sint64(value) => (*value).into(),
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    })
}

#[expect(clippy::cast_precision_loss, reason = "an integer beside a real is compared as a real")]
fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Real32(value) => Some((*value).into()),
        Value::Real64(value) => Some(*value),
        Value::String(text) => text.trim().parse().ok().filter(|value: &f64| value.is_finite()),
        other => integer(other).map(|value| value as f64),
    }
}

fn datetime(text: &str) -> Option<Datetime> {
    Datetime::parse_cim(text).or_else(|| Datetime::parse_xsd(text))
}

fn instants(left: &Datetime, right: &Datetime) -> Option<Ordering> {
    match (left, right) {
        (Datetime::Instant { at: left, .. }, Datetime::Instant { at: right, .. }) => Some(left.cmp(right)),
        (Datetime::Interval { microseconds: left }, Datetime::Interval { microseconds: right }) => {
            Some(left.cmp(right))
        }
        _ => None,
    }
}

/// Whether any value of a type could be compared so with `other`.
pub(super) fn comparable(cim_type: CimType, comparison: Comparison, other: &Value) -> bool {
    let samples: Vec<Value> = match cim_type {
        CimType::Boolean => vec![Value::Boolean(false)],
        CimType::String => {
            return !matches!(other, Value::Instance(_) | Value::Array(_));
        }
        CimType::Datetime => {
            vec![Datetime::utc(jiff::Timestamp::UNIX_EPOCH).into(), Datetime::seconds(0).into()]
        }
        CimType::Reference => vec![ObjectPath::new("X", Vec::new()).into()],
        CimType::Real32 | CimType::Real64 => vec![Value::Real64(0.0)],
        _ => vec![Value::Sint64(0)],
    };
    samples.iter().any(|sample| compare(sample, comparison, other).is_some())
}

/// `root\x` and `root/x` are one namespace.
pub(super) fn same_namespace(left: &str, right: &str) -> bool {
    Namespace::new(left) == Namespace::new(right)
}
