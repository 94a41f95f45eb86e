//! A query of a client: it is read or refused, and what was read gives an answer for an instance, or an error that
//! the check of the query gave before.

#![no_main]

use libfuzzer_sys::fuzz_target;
use standin_cim::{Context, Instance, Namespace, ObjectPath, TypedValue, Value, schema, wql};

fuzz_target!(|text: &str| {
    let Ok(query) = wql::parse(text) else { return };
    let schema = schema::virtualization();
    let namespace = Namespace::from_static(schema::VIRTUALIZATION_NAMESPACE);
    let context = Context { schema: &schema, namespace: &namespace, host: "kvm1" };
    let checked = query.check(&context);
    let Some(class) = schema.class(query.class()) else { return };
    let mut instance = Instance::new(class.name.clone());
    instance.path = Some(ObjectPath::new(class.name.clone(), Vec::new()));
    for property in &class.properties {
        let TypedValue { cim_type, array, .. } = property.default;
        let value = Value::parse(cim_type, "7")
            .map(|one| if array { Value::Array(vec![Some(one), None]) } else { one });
        instance.set(property.name.clone(), cim_type, array, value);
    }
    let matched = query.matches(&instance, &context);
    assert!(checked.is_err() || matched.is_ok(), "the check let pass: {matched:?}");
    let _ = query.certain();
});
