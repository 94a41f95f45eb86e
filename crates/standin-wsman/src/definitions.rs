//! Definitions of classes: a Get of `http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*` is answered with a bare
//! CIM-XML `<CLASS>` in the Body (MS-WSMV, "cim-xml"). Without it the CIM cmdlets take every value for text. An
//! Enumerate of the same address gives all classes of the namespace.

use crate::contexts::Items;
use crate::envelope::Message;
use crate::fault::{During, Fault, Kind};
use crate::names::action;
use crate::resource::Resource;
use crate::service::{Reply, Service};
use standin_cim::xml::write_class::{self, ClassOptions};
use standin_cim::{CimError, Class, KeyValue, Schema, StatusCode, same_name};
use std::sync::Arc;

/// Answers a Get.
pub fn get(
    service: &Service,
    reply: &Reply<'_>,
    message: &Message<'_, '_>,
    resource: &Resource<'_>,
) -> Result<String, Fault> {
    let name = class_name(message, resource)
        .ok_or_else(|| Fault::new(Kind::InvalidSelectors, "name the class in the selector ClassName"))?;
    let schema = schema(service, message, resource)?;
    let class = schema.class(name).ok_or_else(|| {
        let message = format!("there is no class {name:.80} in {}", service.namespace(resource, message));
        Fault::from_cim(CimError::new(StatusCode::InvalidClass, message), During::Transfer)
    })?;
    let mut out = reply.begin(&format!("{}Response", action::GET));
    write(&mut out, class);
    Ok(reply.end(out))
}

/// Every class, or the one that the selector names and those derived from it.
pub fn all(service: &Service, message: &Message<'_, '_>, resource: &Resource<'_>) -> Result<Items, Fault> {
    let schema = schema(service, message, resource)?;
    let base = class_name(message, resource);
    let mut items = Items::default();
    for class in schema.classes() {
        if base.is_none_or(|base| schema.is_a(&class.name, base)) {
            let mut item = String::new();
            write(&mut item, class);
            items.push(item);
        }
    }
    Ok(items)
}

fn write(out: &mut String, class: &Class) {
    let options =
        ClassOptions { local_only: false, qualifiers: true, class_origin: true, ..ClassOptions::default() };
    write_class::class(out, class, &options);
}

fn schema(
    service: &Service,
    message: &Message<'_, '_>,
    resource: &Resource<'_>,
) -> Result<Arc<Schema>, Fault> {
    let namespace = service.namespace(resource, message);
    service.operations().schema(&namespace).map_err(|error| Fault::from_cim(error, During::Transfer))
}

fn class_name<'m>(message: &'m Message<'_, '_>, resource: &Resource<'m>) -> Option<&'m str> {
    let selected = message.selectors.keys.iter().find(|key| same_name(&key.name, "ClassName"));
    match selected.map(|key| &key.value) {
        Some(KeyValue::Text(name)) if name != "*" => Some(name),
        _ => resource.class,
    }
}
