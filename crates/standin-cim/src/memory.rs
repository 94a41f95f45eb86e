//! A source of instances in memory, for tests of protocols and of the broker.
//!
//! It keeps what it is given and answers truthfully from it; methods are closures. It counts the instances it
//! hands out, so that a test can see whether the broker asked for more than it needed.

use crate::{
    Caller, CimError, Instance, InstanceSource, MethodAnswer, MethodCall, Namespace, Narrow, ObjectPath,
    Result, Schema, StatusCode, TypedValue, same_name,
};
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a method does.
pub type Method = Box<dyn Fn(&Caller, &MethodCall) -> Result<MethodAnswer> + Send + Sync>;

struct Room {
    namespace: Namespace,
    schema: Arc<Schema>,
    instances: Mutex<Vec<Instance>>,
}

/// The repository.
#[derive(Default)]
pub struct Repository {
    rooms: Vec<Room>,
    methods: HashMap<String, Method>,
    handed_out: AtomicUsize,
}

impl Repository {
    /// One without namespaces.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a namespace.
    #[must_use]
    pub fn with_namespace(mut self, namespace: &str, schema: Arc<Schema>) -> Self {
        let namespace = Namespace::new(namespace);
        self.rooms.push(Room { namespace, schema, instances: Mutex::default() });
        self
    }

    /// Adds a method; `name` is `Class.Method`, with the class that declares it or one derived from it.
    #[must_use]
    pub fn with_method(
        mut self,
        name: &str,
        method: impl Fn(&Caller, &MethodCall) -> Result<MethodAnswer> + Send + Sync + 'static,
    ) -> Self {
        self.methods.insert(name.to_ascii_lowercase(), Box::new(method));
        self
    }

    /// Puts an instance into a namespace, in place of one with the same keys; makes its path from its keys when
    /// it has none.
    ///
    /// # Errors
    /// `InvalidNamespace`, `InvalidClass`, or `InvalidParameter` when a key is null.
    pub fn put(&self, namespace: &str, mut instance: Instance) -> Result<ObjectPath> {
        let room = self.room(&Namespace::new(namespace))?;
        let class = room.schema.class(&instance.class).ok_or_else(|| {
            CimError::new(StatusCode::InvalidClass, format!("{} is no class of {namespace}", instance.class))
        })?;
        let path = match instance.path.take() {
            Some(path) => path,
            None => path_of(class, &instance)?,
        };
        instance.path = Some(path.clone());
        let mut instances = lock(&room.instances);
        match instances.iter_mut().find(|other| is_at(other, &path)) {
            Some(other) => *other = instance,
            None => instances.push(instance),
        }
        Ok(path)
    }

    /// How many instances it has handed out since it was made.
    #[must_use]
    pub fn handed_out(&self) -> usize {
        self.handed_out.load(Ordering::Relaxed)
    }

    fn room(&self, namespace: &Namespace) -> Result<&Room> {
        self.rooms.iter().find(|room| room.namespace == *namespace).ok_or_else(|| {
            CimError::new(StatusCode::InvalidNamespace, format!("there is no namespace {namespace}"))
        })
    }
}

fn path_of(class: &crate::Class, instance: &Instance) -> Result<ObjectPath> {
    class.path_of(instance).map_err(|key| {
        let message = format!("an instance of {} needs a value for its key {key}", class.name);
        CimError::new(StatusCode::InvalidParameter, message)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind it is changed in one step, so that a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_at(instance: &Instance, path: &ObjectPath) -> bool {
    instance.path.as_ref().is_some_and(|other| other.same_object(path))
}

fn refers_to(instance: &Instance, endpoint: &ObjectPath) -> bool {
    instance.properties.iter().any(|property| match &property.value.value {
        Some(crate::Value::Reference(path)) => path.same_object(endpoint),
        _ => false,
    })
}

#[async_trait]
impl InstanceSource for Repository {
    fn namespaces(&self) -> Vec<Namespace> {
        self.rooms.iter().map(|room| room.namespace.clone()).collect()
    }

    fn schema(&self, namespace: &Namespace) -> Option<Arc<Schema>> {
        self.room(namespace).ok().map(|room| room.schema.clone())
    }

    async fn instances(
        &self,
        _caller: &Caller,
        namespace: &Namespace,
        class: &str,
        narrow: &Narrow,
    ) -> Result<Vec<Instance>> {
        let wanted = |instance: &&Instance| {
            same_name(&instance.class, class)
                && narrow
                    .keys
                    .iter()
                    .all(|key| instance.value(&key.name).is_some_and(|value| key.value.agrees(value)))
                && narrow.endpoint.as_ref().is_none_or(|endpoint| refers_to(instance, endpoint))
        };
        let found: Vec<_> = lock(&self.room(namespace)?.instances).iter().filter(wanted).cloned().collect();
        self.handed_out.fetch_add(found.len(), Ordering::Relaxed);
        Ok(found)
    }

    async fn modify(
        &self,
        _caller: &Caller,
        namespace: &Namespace,
        instance: &Instance,
        changes: Vec<(String, TypedValue)>,
    ) -> Result<()> {
        let path = instance.path.clone().unwrap_or_else(|| ObjectPath::new("", Vec::new()));
        let mut instances = lock(&self.room(namespace)?.instances);
        let Some(kept) = instances.iter_mut().find(|other| is_at(other, &path)) else {
            return Err(CimError::new(StatusCode::NotFound, format!("{path} is gone")));
        };
        for (name, value) in changes {
            kept.set(name, value.cim_type, value.array, value.value);
        }
        Ok(())
    }

    async fn create(
        &self,
        _caller: &Caller,
        namespace: &Namespace,
        instance: Instance,
    ) -> Result<ObjectPath> {
        let room = self.room(namespace)?;
        let class = room.schema.class(&instance.class).ok_or_else(|| {
            CimError::new(StatusCode::InvalidClass, format!("{} is no class", instance.class))
        })?;
        let path = path_of(class, &instance)?;
        if lock(&room.instances).iter().any(|other| is_at(other, &path)) {
            return Err(CimError::new(StatusCode::AlreadyExists, format!("there is {path} already")));
        }
        self.put(namespace.as_str(), instance)
    }

    async fn delete(&self, _caller: &Caller, namespace: &Namespace, instance: &Instance) -> Result<()> {
        let mut instances = lock(&self.room(namespace)?.instances);
        instances.retain(|other| !instance.path.as_ref().is_some_and(|path| is_at(other, path)));
        Ok(())
    }

    async fn invoke(&self, caller: &Caller, call: MethodCall) -> Result<MethodAnswer> {
        let namespace = call.target.namespace.clone().unwrap_or_else(|| Namespace::from_static("root"));
        let schema = self.room(&namespace)?.schema.clone();
        let mut class = schema.class(&call.target.class);
        while let Some(found) = class {
            let name = format!("{}.{}", found.name, call.method).to_ascii_lowercase();
            if let Some(method) = self.methods.get(&name) {
                return method(caller, &call);
            }
            class = found.superclass.as_deref().and_then(|base| schema.class(base));
        }
        let message = format!("nothing stands behind {}.{}", call.target.class, call.method);
        Err(CimError::new(StatusCode::MethodNotAvailable, message))
    }
}
