//! Reading: one instance by its keys, the instances of a class and those derived from it, queries.

use super::{Broker, find_class};
use crate::wql::{self, Kind, Query, Walk};
use crate::{
    Caller, CimError, CimType, Class, Instance, InstanceSource, Key, Keys, Namespace, Narrow, ObjectPath,
    Property, QueryAnswer, Result, Schema, StatusCode, TypedValue, Value, same_name,
};
use std::collections::HashSet;

/// The names by which clients call what [`wql`] reads.
const LANGUAGES: [&str; 6] = ["WQL", "CQL", "DMTF:CQL", "FQL", "DMTF:FQL", "CIM:CQL"];

impl<S: InstanceSource> Broker<S> {
    /// The only instance that a path names.
    pub(super) async fn one(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        schema: &Schema,
        path: &ObjectPath,
    ) -> Result<Instance> {
        let class = find_class(schema, namespace, &path.class)?;
        let keys = keys_of(class, schema, path)?;
        let narrow = Narrow { keys: keys.to_vec(), endpoint: None };
        let mut found = self.family(caller, namespace, schema, &class.name, &narrow).await?;
        match (found.pop(), found.len()) {
            (Some(instance), 0) => Ok(instance),
            (Some(_), more) => {
                let message = format!(
                    "{} instances of {} have these keys; name more keys than {}",
                    more + 1,
                    class.name,
                    path
                );
                Err(CimError::new(StatusCode::InvalidParameter, message))
            }
            (None, _) => {
                let shown: String = path.to_string().chars().take(400).collect();
                Err(CimError::new(StatusCode::NotFound, format!("there is no instance {shown} here")))
            }
        }
    }

    /// The instances of a class and of those derived from it that fit `narrow`, complete.
    pub(super) async fn family(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        schema: &Schema,
        class: &str,
        narrow: &Narrow,
    ) -> Result<Vec<Instance>> {
        let mut found = Vec::new();
        for class in schema.family(class).filter(|class| !class.is_abstract) {
            found.extend(self.exactly(caller, namespace, class, narrow).await?);
        }
        Ok(found)
    }

    /// The instances of a class, and not of those derived from it, that fit `narrow`, complete.
    pub(super) async fn exactly(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        class: &Class,
        narrow: &Narrow,
    ) -> Result<Vec<Instance>> {
        let mut found = if same_name(&class.name, "__Namespace") {
            below(namespace, &self.source.namespaces(), class)
        } else {
            self.source.instances(caller, namespace, &class.name, narrow).await?
        };
        found.retain(|instance| fits(instance, narrow));
        Ok(found.into_iter().map(|instance| complete(instance, class, namespace)).collect())
    }

    /// The answer to a query.
    pub(super) async fn answer(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        schema: &Schema,
        language: &str,
        text: &str,
    ) -> Result<QueryAnswer> {
        if !LANGUAGES.iter().any(|known| same_name(known, language.trim())) {
            let shown: String = language.chars().take(100).collect();
            let message = format!("queries in {shown} cannot be read; write them in WQL");
            return Err(CimError::new(StatusCode::QueryLanguageNotSupported, message));
        }
        let query = wql::parse(text).map_err(refuse)?;
        match query.kind() {
            Kind::Select => self.select(caller, namespace, schema, &query).await,
            Kind::Associators(walk) | Kind::References(walk) => {
                let source = self.source_of(namespace, walk)?;
                let instances = if let Kind::Associators(_) = query.kind() {
                    self.walk_of(caller, namespace, schema, &source, walk).await?
                } else {
                    let found = self.referring(caller, namespace, schema, &source, &walk.filter).await?;
                    qualified(schema, found, walk)
                };
                Ok(QueryAnswer { projection: None, instances: shaped(schema, instances, walk) })
            }
        }
    }

    /// The path that a walk begins with, in the namespace of the query.
    fn source_of(&self, namespace: &Namespace, walk: &Walk) -> Result<ObjectPath> {
        let mut source = walk.source.clone();
        source.namespace.get_or_insert_with(|| namespace.clone());
        self.place(&source)?;
        if source.namespace.as_ref() != Some(namespace) {
            let message = format!("{source} is in another namespace than the query, {namespace}");
            return Err(CimError::new(StatusCode::InvalidQuery, message));
        }
        Ok(source)
    }

    async fn select(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        schema: &Schema,
        query: &Query,
    ) -> Result<QueryAnswer> {
        let context = self.context(namespace, schema);
        query.check(&context).map_err(refuse)?;
        let class = find_class(schema, namespace, query.class())?;
        let narrow = Narrow { keys: certain(query, class), endpoint: None };
        let mut instances = self.family(caller, namespace, schema, &class.name, &narrow).await?;
        let mut failed = None;
        instances.retain(|instance| match query.matches(instance, &context) {
            Ok(wanted) => wanted,
            Err(error) => {
                failed.get_or_insert(error);
                false
            }
        });
        if let Some(error) = failed {
            return Err(refuse(error));
        }
        let projection = query.projection(class);
        if let Some(selected) = &projection {
            let wanted = |class: &Class, name: &str| {
                selected.iter().any(|selected| same_name(selected, name))
                    || class.property(name).is_some_and(|property| property.key)
            };
            keep(schema, &mut instances, wanted);
        }
        Ok(QueryAnswer { instances, projection })
    }
}

/// The next namespaces below one, as WMI's clients look for them. Where one on the way is not there, the name has
/// several parts: put behind the one that was asked, it is the name of a namespace that is there.
fn below(namespace: &Namespace, all: &[Namespace], class: &Class) -> Vec<Instance> {
    let begin = format!("{namespace}/").to_ascii_lowercase();
    let mut names: Vec<&str> = Vec::new();
    for other in all {
        let inside = other.as_str().to_ascii_lowercase().starts_with(&begin);
        let Some(rest) = other.as_str().get(begin.len()..).filter(|_| inside) else { continue };
        let between = |name: &str| {
            let name = format!("{begin}{name}");
            all.iter().any(|one| same_name(one.as_str(), &name))
        };
        let nearer = rest.match_indices('/').any(|(at, _)| rest.get(..at).is_some_and(between));
        if !nearer && !names.iter().any(|known| same_name(known, rest)) {
            names.push(rest);
        }
    }
    let instance = |name: &str| {
        let mut instance = Instance::new(class.name.clone());
        instance.path = Some(ObjectPath::new(class.name.clone(), vec![Key::text("Name", name.to_owned())]));
        instance.set("Name", CimType::String, false, Some(name.into()));
        instance
    };
    names.into_iter().map(instance).collect()
}

/// The keys of a path, each of which must be a property of the class: of the class itself or, for a client that
/// names an instance by a base that has no keys yet, of a derived one.
fn keys_of<'p>(class: &Class, schema: &Schema, path: &'p ObjectPath) -> Result<&'p [Key]> {
    let keys = match &path.keys {
        Keys::Named(keys) => keys.as_slice(),
        Keys::Singleton => &[],
        Keys::None => {
            let message = format!("{path} is a class, and an instance is wanted: name its keys");
            return Err(CimError::new(StatusCode::InvalidParameter, message));
        }
    };
    for key in keys {
        let known = |class: &Class| class.property(&key.name).is_some_and(|property| property.key);
        if !known(class) && !schema.family(&class.name).any(known) {
            let shown: String = key.name.chars().take(100).collect();
            let names: Vec<_> = class.keys().map(|key| key.name.to_string()).collect();
            let message = format!("{shown} is no key of {}; its keys are {}", class.name, names.join(", "));
            return Err(CimError::new(StatusCode::InvalidParameter, message));
        }
    }
    Ok(keys)
}

/// Whether an instance is what was asked for, whatever its source made of the question.
fn fits(instance: &Instance, narrow: &Narrow) -> bool {
    let keys = narrow.keys.iter().all(|key| match instance.value(&key.name) {
        Some(value) => key.value.agrees(value),
        None => false,
    });
    keys && narrow.endpoint.as_ref().is_none_or(|endpoint| {
        instance.properties.iter().any(|property| match &property.value.value {
            Some(Value::Reference(path)) => path.same_object(endpoint),
            _ => false,
        })
    })
}

/// The instance with every property of its class, in the order of the class.
fn complete(instance: Instance, class: &Class, namespace: &Namespace) -> Instance {
    let Instance { path, mut properties, .. } = instance;
    let path = path.map(|mut path| {
        path.host = None;
        path.namespace.get_or_insert_with(|| namespace.clone());
        path
    });
    let mut ordered = Vec::with_capacity(class.properties.len());
    // Sources give properties in the order of the class or nearly so: the search mostly ends at once.
    let mut next = 0;
    for declared in &class.properties {
        let ahead = (next..properties.len()).chain(0..next.min(properties.len()));
        let place = { ahead }.find(|at| same_name(&properties[*at].name, &declared.name));
        let value = match place {
            Some(at) => {
                next = at + 1;
                properties[at].value.value.take()
            }
            None => None,
        };
        let typed = TypedValue { cim_type: declared.default.cim_type, array: declared.default.array, value };
        ordered.push(Property { name: declared.name.clone(), value: typed });
    }
    Instance { class: class.name.clone(), path, properties: ordered }
}

/// What a source may look up: the values of the query that are keys or at least properties of the class.
fn certain(query: &Query, class: &Class) -> Vec<Key> {
    let known = |mut key: Key| {
        let property = class.property(&key.name)?;
        // An array is equal to a value when one of its elements is; a source need not know that.
        key.name = property.name.clone();
        (!property.default.array && property.reference_class.is_none()).then_some(key)
    };
    query.certain().into_iter().filter_map(known).collect()
}

/// Leaves the wanted properties.
pub(super) fn keep(schema: &Schema, instances: &mut [Instance], wanted: impl Fn(&Class, &str) -> bool) {
    for instance in instances {
        if let Some(class) = schema.class(&instance.class) {
            instance.properties.retain(|property| wanted(class, &property.name));
        }
    }
}

/// Those whose class has the qualifier that the walk asks for.
fn qualified(schema: &Schema, mut instances: Vec<Instance>, walk: &Walk) -> Vec<Instance> {
    if let Some(qualifier) = &walk.result_qualifier {
        instances.retain(|instance| schema.class(&instance.class).is_some_and(|class| has(class, qualifier)));
    }
    instances
}

pub(super) fn has(class: &Class, qualifier: &str) -> bool {
    class
        .qualifiers
        .iter()
        .any(|found| same_name(&found.name, qualifier) && found.value.value != Some(Value::Boolean(false)))
}

/// `KeysOnly` leaves the keys; `ClassDefsOnly` leaves one instance of each class without values, which stands for
/// its class.
fn shaped(schema: &Schema, mut instances: Vec<Instance>, walk: &Walk) -> Vec<Instance> {
    if walk.keys_only {
        keep(schema, &mut instances, |class, name| class.property(name).is_some_and(|found| found.key));
    }
    if walk.class_definitions_only {
        let mut seen = HashSet::new();
        instances.retain(|instance| seen.insert(instance.class.to_string()));
        for instance in &mut instances {
            let namespace = instance.path.as_ref().and_then(|path| path.namespace.clone());
            let class = instance.class.clone();
            instance.path = Some(ObjectPath { host: None, namespace, class, keys: Keys::None });
            instance.properties.clear();
        }
    }
    instances
}

fn refuse(error: wql::QueryError) -> CimError {
    CimError::new(error.status(), error.to_string())
}
