//! The properties that every instance has, whatever its class declares: `__CLASS`, `__PATH`, `__SERVER` and their
//! like.

use crate::{Context, Instance, ObjectPath, Value, same_name};

/// Whether a name is one that every instance has, whatever its class declares.
pub(super) fn is_system(name: &str) -> bool {
    const SYSTEM: [&str; 11] = [
        "__CLASS",
        "__SUPERCLASS",
        "__DYNASTY",
        "__SERVER",
        "__NAMESPACE",
        "__PATH",
        "__RELPATH",
        "__GENUS",
        "__DERIVATION",
        "__PROPERTY_COUNT",
        "__THIS",
    ];
    SYSTEM.iter().any(|system| same_name(system, name))
}

/// Its value; `None` is null.
pub(super) fn system(name: &str, instance: &Instance, context: &Context<'_>) -> Option<Value> {
    let bases = || {
        let first = context.schema.class(&instance.class).and_then(|class| class.superclass.clone());
        std::iter::successors(first, |base| context.schema.class(base)?.superclass.clone())
    };
    let path = |full: bool| -> Option<Value> {
        let mut path: ObjectPath = instance.path.clone()?;
        path.namespace = full.then(|| context.namespace.clone());
        path.host = full.then(|| context.host.to_owned().into());
        Some(path.into())
    };
    match name.to_ascii_uppercase().as_str() {
        "__CLASS" | "__THIS" => Some(instance.class.to_string().into()),
        "__SUPERCLASS" => bases().next().map(|base| base.to_string().into()),
        "__DYNASTY" => Some(bases().last().unwrap_or_else(|| instance.class.clone()).to_string().into()),
        "__DERIVATION" => Some(bases().map(|base| base.to_string()).collect::<Vec<_>>().into()),
        "__SERVER" => Some(context.host.into()),
        "__NAMESPACE" => Some(context.namespace.as_str().into()),
        "__PATH" => path(true),
        "__RELPATH" => path(false),
        "__GENUS" => Some(Value::Sint32(2)),
        "__PROPERTY_COUNT" => Some(Value::Uint64(instance.properties.len() as u64)),
        _ => None,
    }
}
