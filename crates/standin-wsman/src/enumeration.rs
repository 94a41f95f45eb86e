//! WS-Enumeration: Enumerate, Pull, Release, in both forms (DSP0226 clause 8):
//!
//! ```text
//! plain      Enumerate ─► n:EnumerationContext            Pull ─► n:Items ... n:EndOfSequence
//! optimised  Enumerate ─► w:Items and either w:EndOfSequence or a context to Pull from
//! ```
//!
//! The operation is done at Enumerate; Pull only takes from its result. `MaxTime` is checked and met: there is
//! nothing to wait for. `PolymorphismMode` is ignored: instances of derived classes come as what they are.

use crate::contexts::{Items, Page};
use crate::envelope::{self, Message};
use crate::fault::{During, Fault, Kind};
use crate::filter::{self, Filter};
use crate::resource::{Family, Resource, Style};
use crate::service::{Reply, Service};
use crate::tree::{child, elements, named, text};
use crate::{definitions, write};
use roxmltree::Node;
use standin_cim::{Caller, CimError, Instance, Key, Namespace, ObjectPath, StatusCode};
use std::time::Duration;

/// What the envelope around a page of items needs, at most.
const AROUND: usize = 2048;

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Object,
    Reference,
    ObjectAndReference,
}

/// Answers an Enumerate.
pub async fn enumerate(
    service: &Service,
    caller: &Caller,
    reply: &Reply<'_>,
    message: &Message<'_, '_>,
) -> Result<String, Fault> {
    let request = wanted(message, "Enumerate")?;
    let optimised = child(request, "OptimizeEnumeration").is_some();
    let page = page(request, message, reply)?;
    let lifetime = child(request, "Expires").map(lifetime).transpose()?;
    let resource = message.resource()?;
    let mut items = if resource.family == Family::Classes {
        definitions::all(service, message, &resource)?
    } else {
        let mode = mode(request)?;
        let namespace = service.namespace(&resource, message);
        let (namespace, found) = find(service, caller, &resource, namespace, filter::read(request)?).await?;
        render(found, mode, &resource.style(namespace))?
    };
    let mut out = reply.begin("http://schemas.xmlsoap.org/ws/2004/09/enumeration/EnumerateResponse");
    out.push_str("<n:EnumerateResponse>");
    if optimised {
        let mut first = String::new();
        items.take(&page, &mut first)?;
        let over = items.is_empty();
        open_context(service, caller, items, lifetime, over, &mut out)?;
        out.push_str("<w:Items>");
        out.push_str(&first);
        out.push_str("</w:Items>");
        if over {
            out.push_str("<w:EndOfSequence/>");
        }
    } else {
        open_context(service, caller, items, lifetime, false, &mut out)?;
    }
    out.push_str("</n:EnumerateResponse>");
    Ok(reply.end(out))
}

/// Writes the context; an empty one when nothing is left.
fn open_context(
    service: &Service,
    caller: &Caller,
    items: Items,
    lifetime: Option<Duration>,
    over: bool,
    out: &mut String,
) -> Result<(), Fault> {
    if over {
        out.push_str("<n:EnumerationContext/>");
        return Ok(());
    }
    let id = service.contexts().open(&caller.name, items, lifetime)?;
    write_context(out, &format!("uuid:{id}"));
    Ok(())
}

fn write_context(out: &mut String, id: &str) {
    out.push_str("<n:EnumerationContext>");
    write::escape(out, id);
    out.push_str("</n:EnumerationContext>");
}

/// Answers a Pull. Its resource URI does not matter: the context knows what it is of.
pub fn pull(
    service: &Service,
    caller: &Caller,
    reply: &Reply<'_>,
    message: &Message<'_, '_>,
) -> Result<String, Fault> {
    let request = wanted(message, "Pull")?;
    let page = page(request, message, reply)?;
    let id = context_id(request)?;
    let mut items = String::new();
    let over = service.contexts().pull(&caller.name, &id, &page, &mut items)?;
    let mut out = reply.begin("http://schemas.xmlsoap.org/ws/2004/09/enumeration/PullResponse");
    out.push_str("<n:PullResponse>");
    if !over {
        write_context(&mut out, &id);
    }
    out.push_str("<n:Items>");
    out.push_str(&items);
    out.push_str("</n:Items>");
    if over {
        out.push_str("<n:EndOfSequence/>");
    }
    out.push_str("</n:PullResponse>");
    Ok(reply.end(out))
}

/// Answers a Release.
pub fn release(
    service: &Service,
    caller: &Caller,
    reply: &Reply<'_>,
    message: &Message<'_, '_>,
) -> Result<String, Fault> {
    let id = context_id(wanted(message, "Release")?)?;
    service.contexts().release(&caller.name, &id)?;
    let out = reply.begin("http://schemas.xmlsoap.org/ws/2004/09/enumeration/ReleaseResponse");
    Ok(reply.end(out))
}

/// The child of the Body.
fn wanted<'a, 'i>(message: &Message<'a, 'i>, name: &str) -> Result<Node<'a, 'i>, Fault> {
    elements(message.body).next().filter(|node| named(*node, name)).ok_or_else(|| {
        let reason = format!("the s:Body of this action must have an n:{name} in it");
        Fault::new(Kind::SchemaValidationError, reason).wsman_code(2_150_858_791)
    })
}

fn context_id(request: Node<'_, '_>) -> Result<String, Fault> {
    let id = child(request, "EnumerationContext").map(text).unwrap_or_default();
    match id.trim() {
        "" => Err(Fault::new(Kind::InvalidEnumerationContext, "the message has no n:EnumerationContext")),
        id => Ok(id.chars().take(64).collect()),
    }
}

/// How much a reply takes. Without `MaxElements` that is one item (WS-Enumeration), which one client counts on.
fn page(request: Node<'_, '_>, message: &Message<'_, '_>, reply: &Reply<'_>) -> Result<Page, Fault> {
    if let Some(time) = child(request, "MaxTime") {
        envelope::duration(time)?;
    }
    let soft = message.max_envelope.is_none();
    let envelope = message.max_envelope.unwrap_or(reply.default_envelope);
    Ok(Page {
        elements: positive(request, "MaxElements")?.unwrap_or(1),
        characters: positive(request, "MaxCharacters")?,
        bytes: reply.encoding.budget(envelope).saturating_sub(AROUND),
        soft,
    })
}

fn positive(request: Node<'_, '_>, name: &str) -> Result<Option<usize>, Fault> {
    let Some(node) = child(request, name) else { return Ok(None) };
    let text = text(node);
    match text.trim().parse::<u64>() {
        Ok(value) if value > 0 => Ok(Some(usize::try_from(value).unwrap_or(usize::MAX))),
        _ => {
            let reason = format!("{name} is no number from 1 on: {:.40}", text.trim());
            Err(Fault::new(Kind::InvalidParameter, reason))
        }
    }
}

fn lifetime(node: Node<'_, '_>) -> Result<Duration, Fault> {
    let lasts = envelope::duration(node).map_err(|fault| {
        Fault::new(Kind::InvalidExpirationTime, format!("{}; give a duration", fault.reason))
    })?;
    if lasts.is_zero() {
        return Err(Fault::new(Kind::InvalidExpirationTime, "n:Expires is over before it begins"));
    }
    Ok(lasts)
}

fn mode(request: Node<'_, '_>) -> Result<Mode, Fault> {
    let given = child(request, "EnumerationMode").map(text).unwrap_or_default();
    match given.trim() {
        "" | "EnumerateObject" => Ok(Mode::Object),
        "EnumerateEPR" => Ok(Mode::Reference),
        "EnumerateObjectAndEPR" => Ok(Mode::ObjectAndReference),
        other => {
            let reason = format!(
                "w:EnumerationMode is {other:.40}; use EnumerateObject, EnumerateEPR or EnumerateObjectAndEPR"
            );
            Err(Fault::new(Kind::UnsupportedFeature, reason).detail("EnumerationMode"))
        }
    }
}

/// Does the operation; returns the namespace that the result is of.
async fn find(
    service: &Service,
    caller: &Caller,
    resource: &Resource<'_>,
    namespace: Namespace,
    filter: Filter,
) -> Result<(Namespace, Vec<Instance>), Fault> {
    let operations = service.operations();
    let of_filter = |error| Fault::from_cim(error, During::Filter);
    let found = match filter {
        Filter::Query { language, text } => {
            let answer = operations.query(caller, &namespace, language, &text).await;
            answer.map_err(of_filter)?.instances
        }
        Filter::Associations { associated, object, filter } => {
            let object = ObjectPath {
                namespace: Some(object.namespace.clone().unwrap_or_else(|| namespace.clone())),
                ..*object
            };
            let found = if associated {
                operations.associators(caller, &object, &filter).await
            } else {
                operations.references(caller, &object, &filter).await
            };
            let found = found.map_err(of_filter)?;
            return Ok((object.namespace.unwrap_or(namespace), found));
        }
        Filter::None | Filter::Selectors(_) => {
            let class = resource.class.ok_or_else(filter_required)?;
            let found = operations.enumerate(caller, &namespace, class).await;
            let found = found.map_err(|error| Fault::from_cim(error, During::Transfer))?;
            match filter {
                Filter::Selectors(keys) => select(service, &namespace, class, found, &keys)?,
                _ => found,
            }
        }
    };
    Ok((namespace, found))
}

/// The instances whose properties have these values.
fn select(
    service: &Service,
    namespace: &Namespace,
    class: &str,
    mut found: Vec<Instance>,
    keys: &[Key],
) -> Result<Vec<Instance>, Fault> {
    let of_filter = |error| Fault::from_cim(error, During::Filter);
    let schema = service.operations().schema(namespace).map_err(of_filter)?;
    let declared = schema.class(class);
    if let Some(key) =
        keys.iter().find(|key| declared.is_none_or(|class| class.property(&key.name).is_none()))
    {
        let message = format!("{class} has no property {:.80} to select by", key.name);
        return Err(of_filter(CimError::new(StatusCode::NoSuchProperty, message)));
    }
    found.retain(|instance| {
        keys.iter().all(|key| instance.value(&key.name).is_some_and(|value| key.value.agrees(value)))
    });
    Ok(found)
}

fn filter_required() -> Fault {
    let reason = "a resource URI with * instead of a class needs a w:Filter";
    Fault::new(Kind::UnsupportedFeature, reason).detail("FilteringRequired").wsman_code(2_150_858_831)
}

fn render(found: Vec<Instance>, mode: Mode, style: &Style) -> Result<Items, Fault> {
    let mut items = Items::default();
    let mut length = 512;
    for instance in found {
        // Instances of one result are much alike: the first one's size spares the others their growing.
        let mut item = String::with_capacity(length + length / 8);
        match mode {
            Mode::Object => write::instance(&mut item, &instance, style),
            Mode::Reference => reference(&mut item, &instance, style)?,
            Mode::ObjectAndReference => {
                item.push_str("<w:Item>");
                write::instance(&mut item, &instance, style);
                reference(&mut item, &instance, style)?;
                item.push_str("</w:Item>");
            }
        }
        length = item.len();
        items.push(item);
    }
    Ok(items)
}

fn reference(out: &mut String, instance: &Instance, style: &Style) -> Result<(), Fault> {
    let Some(path) = &instance.path else {
        let reason =
            format!("an instance of {} has no path, so that no reference to it can be given", instance.class);
        return Err(Fault::new(Kind::InternalError, reason));
    };
    write::object_reference(out, path, style);
    Ok(())
}
