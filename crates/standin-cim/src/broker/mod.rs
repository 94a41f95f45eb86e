//! Between protocols and providers: everything that follows from the schema alone.
//!
//! A source answers one question, "the instances of exactly this class"; the broker makes of it inheritance,
//! subsets of keys, associations in either direction, queries with projection, and typed values for what is
//! changed. Invariants:
//!
//! - An instance that leaves the broker has every property of its class in the order and spelling of the class
//!   (or of the projection), null where the source gave none: a default of the class is no fact about an instance.
//!   Its path has the namespace and no host.
//! - A source is never believed where a client asked for less: what [`Narrow`] says is looked at again.
//! - A change that was begun is carried to its end even if the client is gone: it runs in a task of its own.
//! - No schema is copied, and a read with complete keys asks the source for these alone.

mod change;
mod read;
mod walk;

use crate::{
    AssociationFilter, Caller, CimError, Class, Context, Instance, InstanceSource, MethodAnswer, MethodCall,
    Named, Namespace, ObjectPath, Operations, QueryAnswer, Result, Role, Schema, StatusCode,
};
use async_trait::async_trait;
use std::sync::Arc;

/// The operations on what a source has.
pub struct Broker<S> {
    source: Arc<S>,
    host: Arc<str>,
}

impl<S: InstanceSource> Broker<S> {
    /// A broker for a source, on the host with the kernel's name.
    #[must_use]
    pub fn new(source: S) -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = if name.trim().is_empty() { "localhost" } else { name.trim() };
        Self { source: Arc::new(source), host: name.into() }
    }

    /// The same on a host of that name: what `__SERVER` says and what paths may name.
    #[must_use]
    pub fn with_host(mut self, name: &str) -> Self {
        self.host = name.into();
        self
    }

    /// The source.
    #[must_use]
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The name of the host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    fn find_schema(&self, namespace: &Namespace) -> Result<Arc<Schema>> {
        self.source.schema(namespace).ok_or_else(|| {
            let shown: String = namespace.as_str().chars().take(100).collect();
            let known: Vec<_> = self.source.namespaces().iter().map(ToString::to_string).collect();
            let message = format!("there is no namespace {shown}; there are {}", known.join(", "));
            CimError::new(StatusCode::InvalidNamespace, message)
        })
    }

    /// The namespace of a path and its classes.
    fn place(&self, path: &ObjectPath) -> Result<(Namespace, Arc<Schema>)> {
        if let Some(host) = &path.host {
            if !crate::context::is_this_host(host, &self.host) {
                let message = format!("the path names the host {host}, and this is {}", self.host);
                return Err(CimError::new(StatusCode::InvalidNamespace, message));
            }
        }
        let Some(namespace) = &path.namespace else {
            let message = format!("the path {path} has no namespace");
            return Err(CimError::new(StatusCode::InvalidNamespace, message));
        };
        Ok((namespace.clone(), self.find_schema(namespace)?))
    }

    fn context<'a>(&'a self, namespace: &'a Namespace, schema: &'a Schema) -> Context<'a> {
        Context { schema, namespace, host: &self.host }
    }
}

/// The class of that name.
fn find_class<'a>(schema: &'a Schema, namespace: &Namespace, name: &str) -> Result<&'a Class> {
    schema.class(name).ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        CimError::new(StatusCode::InvalidClass, format!("there is no class {shown} in {namespace}"))
    })
}

fn need(caller: &Caller, role: Role, what: &str) -> Result<()> {
    if caller.may(role) {
        return Ok(());
    }
    let message = format!(
        "{what} needs the role {}, and {} has the role {}",
        role.as_str(),
        caller.name,
        caller.role.as_str()
    );
    Err(CimError::new(StatusCode::AccessDenied, message))
}

#[async_trait]
impl<S: InstanceSource> Operations for Broker<S> {
    fn namespaces(&self) -> Vec<Namespace> {
        self.source.namespaces()
    }

    fn schema(&self, namespace: &Namespace) -> Result<Arc<Schema>> {
        self.find_schema(namespace)
    }

    async fn get_instance(&self, caller: &Caller, path: &ObjectPath) -> Result<Instance> {
        need(caller, Role::Viewer, "reading")?;
        let (namespace, schema) = self.place(path)?;
        self.one(caller, &namespace, &schema, path).await
    }

    async fn enumerate(&self, caller: &Caller, namespace: &Namespace, class: &str) -> Result<Vec<Instance>> {
        need(caller, Role::Viewer, "reading")?;
        let schema = self.find_schema(namespace)?;
        find_class(&schema, namespace, class)?;
        self.family(caller, namespace, &schema, class, &crate::Narrow::default()).await
    }

    async fn query(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        language: &str,
        text: &str,
    ) -> Result<QueryAnswer> {
        need(caller, Role::Viewer, "reading")?;
        let schema = self.find_schema(namespace)?;
        self.answer(caller, namespace, &schema, language, text).await
    }

    async fn associators(
        &self,
        caller: &Caller,
        source: &ObjectPath,
        filter: &AssociationFilter,
    ) -> Result<Vec<Instance>> {
        need(caller, Role::Viewer, "reading")?;
        let (namespace, schema) = self.place(source)?;
        self.associated(caller, &namespace, &schema, source, filter).await
    }

    async fn references(
        &self,
        caller: &Caller,
        source: &ObjectPath,
        filter: &AssociationFilter,
    ) -> Result<Vec<Instance>> {
        need(caller, Role::Viewer, "reading")?;
        let (namespace, schema) = self.place(source)?;
        self.referring(caller, &namespace, &schema, source, filter).await
    }

    async fn modify_instance(
        &self,
        caller: &Caller,
        path: &ObjectPath,
        changes: Vec<Named>,
    ) -> Result<Instance> {
        need(caller, Role::Administrator, "changing an instance")?;
        self.modify(caller, path, changes).await
    }

    async fn create_instance(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        class: &str,
        properties: Vec<Named>,
    ) -> Result<ObjectPath> {
        need(caller, Role::Administrator, "making an instance")?;
        self.create(caller, namespace, class, properties).await
    }

    async fn delete_instance(&self, caller: &Caller, path: &ObjectPath) -> Result<()> {
        need(caller, Role::Administrator, "removing an instance")?;
        self.delete(caller, path).await
    }

    async fn invoke(&self, caller: &Caller, call: MethodCall) -> Result<MethodAnswer> {
        self.call(caller, call).await
    }
}
