//! Associations, in either direction, over every association class of the schema that can reach the source.

use super::read::has;
use super::{Broker, find_class};
use crate::wql::Walk;
use crate::{
    AssociationFilter, Caller, CimError, Class, Instance, InstanceSource, KeyValue, Namespace, Narrow,
    ObjectPath, PropertyDecl, Result, Schema, StatusCode, Value, same_name,
};
use std::collections::{HashMap, HashSet};

/// From so many ends of one class on, the whole class is asked for once instead of each of them alone.
const MANY: usize = 16;

impl<S: InstanceSource> Broker<S> {
    /// The associations that refer to a source.
    pub(super) async fn referring(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        schema: &Schema,
        source: &ObjectPath,
        filter: &AssociationFilter,
    ) -> Result<Vec<Instance>> {
        let filter = AssociationFilter {
            association_class: filter.result_class.clone(),
            role: filter.role.clone(),
            ..AssociationFilter::default()
        };
        check(schema, namespace, &filter)?;
        let source = self.endpoint(caller, namespace, schema, source).await?;
        let links = self.links(caller, namespace, schema, &source, &filter).await?;
        Ok(links.into_iter().map(|(_, link)| link).collect())
    }

    /// The instances at the other ends of the associations of a source.
    pub(super) async fn associated(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        schema: &Schema,
        source: &ObjectPath,
        filter: &AssociationFilter,
    ) -> Result<Vec<Instance>> {
        self.reached(caller, namespace, schema, source, filter, |_| true).await
    }

    /// The same for `ASSOCIATORS OF`, which may ask for qualifiers of the classes besides.
    pub(super) async fn walk_of(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        schema: &Schema,
        source: &ObjectPath,
        walk: &Walk,
    ) -> Result<Vec<Instance>> {
        let by = |class: &Class| match &walk.association_qualifier {
            Some(qualifier) => has(class, qualifier),
            None => true,
        };
        let mut found = self.reached(caller, namespace, schema, source, &walk.filter, by).await?;
        if let Some(qualifier) = &walk.result_qualifier {
            found.retain(|instance| schema.class(&instance.class).is_some_and(|class| has(class, qualifier)));
        }
        Ok(found)
    }

    async fn reached(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        schema: &Schema,
        source: &ObjectPath,
        filter: &AssociationFilter,
        by: impl Fn(&Class) -> bool + Send,
    ) -> Result<Vec<Instance>> {
        check(schema, namespace, filter)?;
        let source = self.endpoint(caller, namespace, schema, source).await?;
        let mut links = self.links(caller, namespace, schema, &source, filter).await?;
        links.retain(|(class, _)| by(class));
        let mut known = HashSet::new();
        let mut ends: Vec<(String, &ObjectPath)> = Vec::new();
        for (class, link) in &links {
            for end in other_ends(schema, class, link, &source, filter) {
                let identity = identity(end);
                if known.insert(identity.clone()) {
                    ends.push((identity, end));
                }
            }
        }
        let mut found = self.fetch(caller, namespace, schema, &ends).await?;
        found.retain(|instance| is_result(schema, &instance.class, filter));
        Ok(found)
    }

    /// The instances at these paths; many of one class are asked for at once.
    async fn fetch(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        schema: &Schema,
        ends: &[(String, &ObjectPath)],
    ) -> Result<Vec<Instance>> {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for (_, end) in ends {
            *counts.entry(end.class.to_ascii_lowercase()).or_default() += 1;
        }
        let mut at_once: HashMap<String, Instance> = HashMap::new();
        for class in
            counts.iter().filter(|(_, count)| **count >= MANY).filter_map(|(name, _)| schema.class(name))
        {
            for instance in self.exactly(caller, namespace, class, &Narrow::default()).await? {
                if let Some(path) = &instance.path {
                    at_once.insert(identity(path), instance);
                }
            }
        }
        let mut found = Vec::with_capacity(ends.len());
        for (identity, end) in ends {
            if let Some(instance) = at_once.remove(identity) {
                found.push(instance);
                continue;
            }
            match self.one(caller, namespace, schema, end).await {
                Ok(instance) => found.push(instance),
                // It went away between the two questions; the association will be gone as well.
                Err(error) if error.status == StatusCode::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The path of the source with its own class and all its keys, as associations refer to it.
    async fn endpoint(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        schema: &Schema,
        source: &ObjectPath,
    ) -> Result<ObjectPath> {
        let instance = self.one(caller, namespace, schema, source).await?;
        let mut path = instance.path.ok_or_else(|| {
            let message = format!("the instance of {} that was found has no path", instance.class);
            CimError::new(StatusCode::Failed, message)
        })?;
        path.namespace = None;
        Ok(path)
    }

    /// The associations that refer to the source in the role that is asked for, with their classes.
    async fn links<'s>(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        schema: &'s Schema,
        source: &ObjectPath,
        filter: &AssociationFilter,
    ) -> Result<Vec<(&'s Class, Instance)>> {
        let narrow = Narrow { keys: Vec::new(), endpoint: Some(source.clone()) };
        let mut found = Vec::new();
        for class in schema.classes().iter().filter(|class| class.association && !class.is_abstract) {
            let wanted = filter.association_class.as_ref().is_none_or(|base| schema.is_a(&class.name, base));
            if !wanted || !roles(schema, class, source, filter).any(|_| true) {
                continue;
            }
            // The class itself and no other: each has its turn here.
            for link in self.exactly(caller, namespace, class, &narrow).await? {
                let refers = roles(schema, class, source, filter).any(|role| refers(&link, role, source));
                if refers {
                    found.push((class, link));
                }
            }
        }
        Ok(found)
    }
}

/// Whether the classes of a filter exist.
fn check(schema: &Schema, namespace: &Namespace, filter: &AssociationFilter) -> Result<()> {
    for class in [&filter.association_class, &filter.result_class].into_iter().flatten() {
        find_class(schema, namespace, class)?;
    }
    Ok(())
}

/// The references of an association that may refer to the source.
fn roles<'s>(
    schema: &'s Schema,
    class: &'s Class,
    source: &'s ObjectPath,
    filter: &'s AssociationFilter,
) -> impl Iterator<Item = &'s PropertyDecl> {
    class.properties.iter().filter(move |property| {
        let role = filter.role.as_ref().is_none_or(|role| same_name(role, &property.name));
        role && property.reference_class.as_ref().is_some_and(|end| schema.is_a(&source.class, end))
    })
}

fn refers(link: &Instance, role: &PropertyDecl, source: &ObjectPath) -> bool {
    matches!(link.value(&role.name), Some(Value::Reference(path)) if path.same_object(source))
}

/// What an association refers to besides the source, in the role that is asked for.
fn other_ends<'l>(
    schema: &'l Schema,
    class: &'l Class,
    link: &'l Instance,
    source: &'l ObjectPath,
    filter: &'l AssociationFilter,
) -> impl Iterator<Item = &'l ObjectPath> {
    let wanted = |property: &PropertyDecl| {
        filter.result_role.as_ref().is_none_or(|role| same_name(role, &property.name))
    };
    class.properties.iter().filter(move |property| wanted(property)).filter_map(move |property| {
        let Some(Value::Reference(end)) = link.value(&property.name) else { return None };
        // The source is an end of its own only where the association relates it to itself.
        let by_another = roles(schema, class, source, filter)
            .any(|role| role.name != property.name && refers(link, role, source));
        by_another.then_some(&**end)
    })
}

/// The same text for paths of the same object, whatever the order of their keys and their case.
fn identity(path: &ObjectPath) -> String {
    let mut keys: Vec<String> = path
        .keys
        .named()
        .iter()
        .map(|key| {
            let value = match &key.value {
                KeyValue::Reference(path) => identity(path),
                other => other.to_text(),
            };
            format!("{}={value:?}", key.name).to_ascii_lowercase()
        })
        .collect();
    keys.sort_unstable();
    format!("{}.{}", path.class.to_ascii_lowercase(), keys.join(","))
}

fn is_result(schema: &Schema, class: &str, filter: &AssociationFilter) -> bool {
    filter.result_class.as_ref().is_none_or(|wanted| schema.is_a(class, wanted))
}
