//! Methods: the action is the resource URI with the method's name behind it, the Body has a `METHOD_INPUT` of any
//! namespace, or nothing at all (DSP0227 clause 10).

use crate::envelope::Message;
use crate::fault::{During, Fault, Kind};
use crate::service::{Reply, Service};
use crate::tree::elements;
use crate::{transfer, values, write};
use standin_cim::{
    Caller, CimType, Keys, MethodAnswer, MethodCall, MethodDecl, Named, Schema, TypedValue, Value, same_name,
};

/// Answers an action that is none of the others.
pub async fn invoke(
    service: &Service,
    caller: &Caller,
    reply: &Reply<'_>,
    message: &Message<'_, '_>,
) -> Result<String, Fault> {
    let method = method_name(&message.action)?;
    let resource = message.resource()?;
    let (namespace, mut target) = transfer::target(service, message, &resource)?;
    let operations = service.operations();
    let of_method = |error| Fault::from_cim(error, During::Invoke);
    let schema = operations.schema(&namespace).map_err(of_method)?;
    let declared = schema.class(&target.class).and_then(|class| class.method(method));
    if declared.is_some_and(is_static) && message.selectors.keys.is_empty() {
        target.keys = Keys::None;
    }
    let arguments = arguments(message, method, &schema)?;
    let call = MethodCall { target, method: method.to_owned(), arguments };
    let answer = operations.invoke(caller, call).await.map_err(of_method)?;

    // The method as its class spells it; elements have the resource URI of the request for a namespace.
    let method = declared.map_or(method, |declared| &declared.name);
    let mut out = reply.begin(&format!("{}Response", message.action));
    out.push_str("<p:");
    out.push_str(method);
    out.push_str("_OUTPUT");
    write::declare(&mut out, |out| out.push_str(resource.uri));
    out.push('>');
    let style = resource.style(namespace);
    for (name, value) in &answer.out {
        let nested = declared.is_some_and(|declared| is_object(declared, name));
        write::element(&mut out, name, value, &style, nested);
    }
    write_return(&mut out, &answer, |out, value| write::element(out, "ReturnValue", value, &style, false));
    out.push_str("</p:");
    out.push_str(method);
    out.push_str("_OUTPUT>");
    Ok(reply.end(out))
}

fn write_return(out: &mut String, answer: &MethodAnswer, write: impl Fn(&mut String, &TypedValue)) {
    let value = Some(Value::Uint32(answer.return_value));
    write(out, &TypedValue { cim_type: CimType::Uint32, array: false, value });
}

/// What follows the last separator of the action. Other standards' actions are not methods.
fn method_name(action: &str) -> Result<&str, Fault> {
    let foreign = ["http://schemas.xmlsoap.org/", "http://www.w3.org/"];
    let name = action.rsplit_once('/').map(|(_, name)| name).filter(|name| {
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_name && !name.is_empty() && !foreign.iter().any(|start| action.starts_with(start))
    });
    name.ok_or_else(|| {
        let reason = format!("the action {action:.200} is not done here");
        Fault::new(Kind::ActionNotSupported, reason)
    })
}

fn is_static(method: &MethodDecl) -> bool {
    method.qualifiers.iter().any(|qualifier| same_name(&qualifier.name, "Static"))
}

/// A parameter that is an object by its type goes as XML of its own, a `string` that carries one as text.
fn is_object(method: &MethodDecl, parameter: &str) -> bool {
    let declared = method.parameters.iter().find(|declared| same_name(&declared.name, parameter));
    declared.is_some_and(|declared| {
        declared.qualifiers.iter().any(|qualifier| same_name(&qualifier.name, "EmbeddedObject"))
    })
}

fn arguments(message: &Message<'_, '_>, method: &str, schema: &Schema) -> Result<Vec<Named>, Fault> {
    let Some(input) = elements(message.body).next() else { return Ok(Vec::new()) };
    let name = input.tag_name().name();
    if !name.strip_suffix("_INPUT").is_some_and(|name| same_name(name, method)) {
        let reason = format!("the s:Body has {name:.80} in it and not {method}_INPUT");
        return Err(Fault::new(Kind::SchemaValidationError, reason).wsman_code(2_150_858_791));
    }
    values::named(input, schema)
}
