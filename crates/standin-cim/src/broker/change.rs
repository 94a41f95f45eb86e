//! Changing: properties of instances, new and removed instances, methods. Each runs in a task of its own, so that
//! a client that hangs up does not leave half of it.

use super::{Broker, find_class};
use crate::arguments::{ConvertError, convert};
use crate::{
    Caller, CimError, Class, Instance, InstanceSource, Keys, MethodAnswer, MethodCall, MethodDecl, Named,
    Namespace, ObjectPath, Property, Result, Schema, StatusCode, TypedValue, same_name,
};
use std::future::Future;

impl<S: InstanceSource> Broker<S> {
    pub(super) async fn modify(
        &self,
        caller: &Caller,
        path: &ObjectPath,
        changes: Vec<Named>,
    ) -> Result<Instance> {
        let (namespace, schema) = self.place(path)?;
        let instance = self.one(caller, &namespace, &schema, path).await?;
        let class = find_class(&schema, &namespace, &instance.class)?;
        let changes = self.typed(&namespace, &schema, class, changes)?;
        let changes = changes_of(class, &instance, changes)?;
        let found = instance.path.clone().unwrap_or_else(|| path.clone());
        if !changes.is_empty() {
            let (source, caller, namespace) = (self.source.clone(), caller.clone(), namespace.clone());
            to_the_end(async move { source.modify(&caller, &namespace, &instance, changes).await }).await?;
        }
        self.one(caller, &namespace, &schema, &found).await
    }

    pub(super) async fn create(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        class: &str,
        properties: Vec<Named>,
    ) -> Result<ObjectPath> {
        let schema = self.find_schema(namespace)?;
        let class = find_class(&schema, namespace, class)?;
        if class.is_abstract {
            let message = format!("{} is abstract: it has no instances of its own", class.name);
            return Err(CimError::new(StatusCode::NotSupported, message));
        }
        let given = self.typed(namespace, &schema, class, properties)?;
        let mut instance = Instance::new(class.name.clone());
        for declared in &class.properties {
            let value =
                given.iter().find(|(name, _)| *name == *declared.name).map(|(_, value)| value.clone());
            // A new instance is what defaults are for.
            let value = value.unwrap_or_else(|| declared.default.clone());
            instance.properties.push(Property { name: declared.name.clone(), value });
        }
        let (source, caller) = (self.source.clone(), caller.clone());
        let within = namespace.clone();
        let mut path = to_the_end(async move { source.create(&caller, &within, instance).await }).await?;
        path.namespace.get_or_insert_with(|| namespace.clone());
        Ok(path)
    }

    pub(super) async fn delete(&self, caller: &Caller, path: &ObjectPath) -> Result<()> {
        let (namespace, schema) = self.place(path)?;
        let instance = self.one(caller, &namespace, &schema, path).await?;
        let (source, caller) = (self.source.clone(), caller.clone());
        to_the_end(async move { source.delete(&caller, &namespace, &instance).await }).await
    }

    pub(super) async fn call(&self, caller: &Caller, mut call: MethodCall) -> Result<MethodAnswer> {
        let (namespace, schema) = self.place(&call.target)?;
        let class = find_class(&schema, &namespace, &call.target.class)?;
        let target = match call.target.keys {
            Keys::None => ObjectPath { class: class.name.clone(), ..call.target.clone() },
            _ => {
                let found = self.one(caller, &namespace, &schema, &call.target).await?;
                found.path.unwrap_or_else(|| call.target.clone())
            }
        };
        // The instance may be of a derived class, which may have the method where its base does not.
        let class = find_class(&schema, &namespace, &target.class)?;
        let method = find_method(class, &call.method)?;
        if target.keys == Keys::None && !is_static(method) {
            let message = format!("{}.{} is a method of instances: name one", class.name, method.name);
            return Err(CimError::new(StatusCode::InvalidParameter, message));
        }
        check_names(class, method, &call.arguments)?;
        call.method = method.name.to_string();
        call.target = target.within(namespace);
        call.target.host = None;
        let mut out: Vec<_> =
            method.parameters.iter().filter(|parameter| parameter.output).cloned().collect();
        let (source, caller) = (self.source.clone(), caller.clone());
        let mut answer = to_the_end(async move { source.invoke(&caller, call).await }).await?;
        // Every out-parameter in the order of the declaration, null where the source said nothing.
        answer.out = out
            .drain(..)
            .map(|parameter| {
                let given = answer.out.iter().position(|(name, _)| same_name(name, &parameter.name));
                let value = given.and_then(|at| answer.out.swap_remove(at).1.value);
                let (cim_type, array) = (parameter.cim_type, parameter.array);
                (parameter.name, TypedValue { cim_type, array, value })
            })
            .collect();
        Ok(answer)
    }

    /// What a client gave, with the types and the spelling of the class.
    fn typed(
        &self,
        namespace: &Namespace,
        schema: &Schema,
        class: &Class,
        given: Vec<Named>,
    ) -> Result<Vec<(String, TypedValue)>> {
        let context = self.context(namespace, schema);
        let mut typed: Vec<(String, TypedValue)> = Vec::with_capacity(given.len());
        for Named { name, value } in given.into_iter().filter(|given| !given.name.starts_with("__")) {
            let Some(property) = class.property(&name) else {
                let shown: String = name.chars().take(100).collect();
                let message = format!("{} has no property {shown}", class.name);
                return Err(CimError::new(StatusCode::NoSuchProperty, message));
            };
            if typed.iter().any(|(known, _)| *known == *property.name) {
                let message = format!("{}.{} is given twice", class.name, property.name);
                return Err(CimError::new(StatusCode::InvalidParameter, message));
            }
            let value = convert(&context, property.into(), value).map_err(|error| {
                let message = format!("{}.{}: {error}", class.name, property.name);
                let status = match error {
                    ConvertError::WrongType(_) => StatusCode::TypeMismatch,
                    ConvertError::Malformed(_) => StatusCode::InvalidParameter,
                };
                CimError::new(status, message)
            })?;
            typed.push((property.name.to_string(), value));
        }
        Ok(typed)
    }
}

/// The properties whose values differ, all of which must be writable: a client may send an instance back whole.
fn changes_of(
    class: &Class,
    instance: &Instance,
    given: Vec<(String, TypedValue)>,
) -> Result<Vec<(String, TypedValue)>> {
    let mut changes = Vec::new();
    for (name, value) in given {
        if instance.property(&name).is_some_and(|property| says_same(&property.value, &value)) {
            continue;
        }
        if !class.property(&name).is_some_and(|property| property.writable) {
            let message = format!("{}.{name} cannot be changed by writing it", class.name);
            return Err(CimError::new(StatusCode::NotSupported, message));
        }
        changes.push((name, value));
    }
    Ok(changes)
}

fn says_same(left: &TypedValue, right: &TypedValue) -> bool {
    match (&left.value, &right.value) {
        (Some(crate::Value::Reference(left)), Some(crate::Value::Reference(right))) => {
            left.same_object(right)
        }
        (Some(crate::Value::Datetime(left)), Some(crate::Value::Datetime(right))) => {
            left.to_cim() == right.to_cim() || left == right
        }
        (left, right) => left == right,
    }
}

fn find_method<'c>(class: &'c Class, name: &str) -> Result<&'c MethodDecl> {
    class.method(name).ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        CimError::new(StatusCode::MethodNotFound, format!("{} has no method {shown}", class.name))
    })
}

fn is_static(method: &MethodDecl) -> bool {
    method.qualifiers.iter().any(|found| {
        same_name(&found.name, "Static") && found.value.value == Some(crate::Value::Boolean(true))
    })
}

/// Every argument must be a parameter that the caller gives. Some clients send out-parameters back as null.
fn check_names(class: &Class, method: &MethodDecl, arguments: &[Named]) -> Result<()> {
    for argument in arguments {
        let known = method.parameters.iter().any(|parameter| same_name(&parameter.name, &argument.name));
        if !known {
            let shown: String = argument.name.chars().take(100).collect();
            let message = format!("{}.{} has no parameter {shown}", class.name, method.name);
            return Err(CimError::new(StatusCode::InvalidParameter, message));
        }
    }
    Ok(())
}

/// Runs a change to its end even if nobody waits for it any more.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(change).await.unwrap_or_else(|error| {
        let message = format!("the change stopped in its middle: {error}; look at the daemon's log");
        Err(CimError::new(StatusCode::Failed, message))
    })
}
