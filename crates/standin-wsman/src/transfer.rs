//! WS-Transfer: Get, Put, Create, Delete of instances.

use crate::envelope::Message;
use crate::fault::{During, Fault, Kind};
use crate::names::action;
use crate::resource::{Family, Resource};
use crate::service::{Reply, Service};
use crate::tree::elements;
use crate::{definitions, values, write};
use roxmltree::Node;
use standin_cim::{
    Caller, Instance, Keys, Named, Namespace, ObjectPath, Schema, Text, Value, embedded, same_name,
};

/// Answers a Get.
pub async fn get(
    service: &Service,
    caller: &Caller,
    reply: &Reply<'_>,
    message: &Message<'_, '_>,
) -> Result<String, Fault> {
    let resource = message.resource()?;
    if resource.family == Family::Classes {
        return definitions::get(service, reply, message, &resource);
    }
    let (namespace, path) = target(service, message, &resource)?;
    let found = service.operations().get_instance(caller, &path).await.map_err(of_transfer)?;
    Ok(answer(reply, &format!("{}Response", action::GET), &found, &resource, namespace))
}

/// Answers a Put. A client sends back what it got with its changes in it, so that only what differs is a change;
/// what it left out stays as it is.
pub async fn put(
    service: &Service,
    caller: &Caller,
    reply: &Reply<'_>,
    message: &Message<'_, '_>,
) -> Result<String, Fault> {
    let resource = message.resource()?;
    let (namespace, path) = target(service, message, &resource)?;
    let operations = service.operations();
    let given = representation(message)?;
    let schema = operations.schema(&namespace).map_err(of_transfer)?;
    let current = operations.get_instance(caller, &path).await.map_err(of_transfer)?;
    let changes = changes(values::named(given, &schema)?, &current, &schema, &namespace);
    let updated = if changes.is_empty() {
        current
    } else {
        operations.modify_instance(caller, &path, changes).await.map_err(of_change)?
    };
    Ok(answer(reply, &format!("{}Response", action::PUT), &updated, &resource, namespace))
}

/// Answers a Create with the reference to what was made.
pub async fn create(
    service: &Service,
    caller: &Caller,
    reply: &Reply<'_>,
    message: &Message<'_, '_>,
) -> Result<String, Fault> {
    let resource = message.resource()?;
    let namespace = service.namespace(&resource, message);
    let class = class(&resource)?;
    let operations = service.operations();
    let schema = operations.schema(&namespace).map_err(of_transfer)?;
    let properties = values::named(representation(message)?, &schema)?;
    let made = operations.create_instance(caller, &namespace, class, properties).await;
    let made = made.map_err(of_change)?;
    let mut out = reply.begin(&format!("{}Response", action::CREATE));
    out.push_str("<x:ResourceCreated>");
    write::reference(&mut out, &made, &resource.style(namespace));
    out.push_str("</x:ResourceCreated>");
    Ok(reply.end(out))
}

/// Answers a Delete.
pub async fn delete(
    service: &Service,
    caller: &Caller,
    reply: &Reply<'_>,
    message: &Message<'_, '_>,
) -> Result<String, Fault> {
    let resource = message.resource()?;
    let (_, path) = target(service, message, &resource)?;
    service.operations().delete_instance(caller, &path).await.map_err(of_transfer)?;
    Ok(reply.end(reply.begin(&format!("{}Response", action::DELETE))))
}

/// The instance that a request is about, by its resource URI and selectors.
///
/// # Errors
/// `DestinationUnreachable` for a resource URI without a class.
pub fn target(
    service: &Service,
    message: &Message<'_, '_>,
    resource: &Resource<'_>,
) -> Result<(Namespace, ObjectPath), Fault> {
    let namespace = service.namespace(resource, message);
    let class = class(resource)?;
    let path = ObjectPath {
        host: None,
        namespace: Some(namespace.clone()),
        class: Text::Owned(class.to_owned()),
        keys: Keys::Named(message.selectors.keys.clone()),
    };
    Ok((namespace, path))
}

fn class<'a>(resource: &Resource<'a>) -> Result<&'a str, Fault> {
    resource.class.filter(|_| resource.family != Family::Classes).ok_or_else(|| {
        Fault::new(Kind::DestinationUnreachable, "the resource URI must name a class for this action")
            .detail("InvalidResourceURI")
    })
}

fn answer(
    reply: &Reply<'_>,
    action: &str,
    instance: &Instance,
    resource: &Resource<'_>,
    namespace: Namespace,
) -> String {
    let mut out = reply.begin(action);
    write::instance(&mut out, instance, &resource.style(namespace));
    reply.end(out)
}

/// What a Put or Create sends: the first child of the Body.
fn representation<'a, 'i>(message: &Message<'a, 'i>) -> Result<Node<'a, 'i>, Fault> {
    elements(message.body).next().ok_or_else(|| {
        let reason = "the s:Body must have the instance in it";
        Fault::new(Kind::InvalidRepresentation, reason).detail("MissingValues")
    })
}

/// What differs from the instance as it is. What its class does not have is left in: the operation refuses it.
fn changes(given: Vec<Named>, current: &Instance, schema: &Schema, here: &Namespace) -> Vec<Named> {
    let declared = schema.class(&current.class);
    given
        .into_iter()
        .filter_map(|Named { name, value }| {
            let Some(property) = declared.and_then(|class| class.property(&name)) else {
                return Some(Named { name, value });
            };
            let value = values::as_declared(value, property.default.array);
            let wanted = values::typed(value.clone(), property.default.cim_type).value;
            let same = says_same(wanted.as_ref(), current.value(&name), here);
            (!same).then_some(Named { name, value })
        })
        .collect()
}

fn says_same(wanted: Option<&Value>, current: Option<&Value>, here: &Namespace) -> bool {
    match (wanted, current) {
        (Some(Value::Reference(wanted)), Some(Value::Reference(current))) => {
            let elsewhere =
                |path: &ObjectPath| path.namespace.as_ref().is_some_and(|namespace| namespace != here);
            !elsewhere(wanted) && !elsewhere(current) && wanted.same_object(current)
        }
        // An empty array cannot be told from null in XML.
        (None, Some(Value::Array(values))) => values.is_empty(),
        (Some(Value::Array(wanted)), Some(Value::Array(current))) => {
            let same = |(wanted, current): (&Option<Value>, &Option<Value>)| {
                says_same(wanted.as_ref(), current.as_ref(), here)
            };
            wanted.len() == current.len() && wanted.iter().zip(current).all(same)
        }
        // What was sent as an instance comes back as its text.
        (Some(Value::String(wanted)), Some(Value::Instance(current))) => {
            embedded::parse(wanted).is_ok_and(|wanted| same_instance(&wanted, current))
        }
        (Some(Value::Instance(wanted)), Some(Value::Instance(current))) => same_instance(wanted, current),
        (wanted, current) => wanted == current,
    }
}

fn same_instance(wanted: &Instance, current: &Instance) -> bool {
    let covers = |left: &Instance, right: &Instance| {
        left.properties.iter().all(|property| property.value.value.as_ref() == right.value(&property.name))
    };
    same_name(&wanted.class, &current.class) && covers(wanted, current) && covers(current, wanted)
}

fn of_transfer(error: standin_cim::CimError) -> Fault {
    Fault::from_cim(error, During::Transfer)
}

fn of_change(error: standin_cim::CimError) -> Fault {
    Fault::from_cim(error, During::Invoke)
}
