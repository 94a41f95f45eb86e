//! The audit log: every call that changes something, as one line of JSON, with who, from where, what, result.
//!
//! ```json
//! {"time":"2026-03-01T10:00:00Z","user":"alice","role":"administrator","from":"192.0.2.1:50000","proof":"ntlm",
//!  "protocol":"ws-management","call":"invoke","namespace":"root/virtualization/v2",
//!  "target":"Msvm_ReplicationService.Name=\"vmms\"","method":"InitiateFailover","arguments":{"...":"..."},
//!  "result":"answered","return_value":4096,"out":{"Job":"..."}}
//! ```
//!
//! A line is on the disk before the client has its answer. If it cannot be written, what was done stays done, the
//! line goes to the daemon's log instead (ERROR), and **from then on calls that change something are refused**
//! until a line can be written again: who can fill a disk must not be able to act unseen.
//!
//! Used by `standin serve` between the protocols and the broker.

mod file;
mod render;

pub use file::AuditLog;

use async_trait::async_trait;
use render::Line;
use standin_cim::{
    AssociationFilter, Caller, CimError, Instance, MethodAnswer, MethodCall, Named, Namespace, ObjectPath,
    Operations, QueryAnswer, Result, Schema, StatusCode,
};
use std::sync::Arc;

/// Says of a method whether it changes nothing, so that its calls need no line. The target's class and the
/// method come as the client spelled them.
pub type IsReadOnly = dyn Fn(&MethodCall) -> bool + Send + Sync;

/// Writes down what is done through it.
pub struct Audited<O> {
    inner: Arc<O>,
    log: Arc<AuditLog>,
    read_only: Box<IsReadOnly>,
}

impl<O> std::fmt::Debug for Audited<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audited").field("log", &self.log).finish_non_exhaustive()
    }
}

impl<O: Operations> Audited<O> {
    /// Wraps `inner`.
    pub fn new(
        inner: Arc<O>,
        log: Arc<AuditLog>,
        read_only: impl Fn(&MethodCall) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { inner, log, read_only: Box::new(read_only) }
    }

    /// Does a call and writes its line, also when the client went away meanwhile.
    async fn audited<T, F>(&self, mut line: Line, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = (Result<T>, Option<MethodAnswer>)> + Send + 'static,
    {
        let log = Arc::clone(&self.log);
        let task = tokio::spawn(async move {
            log.ready().await.map_err(|reason| refused(&reason))?;
            let (result, answer) = work.await;
            line.conclude(result.as_ref().err(), answer.as_ref());
            log.write(line.into_text()).await;
            result
        });
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a call of the management API ended abnormally");
            Err(CimError::new(StatusCode::Failed, "The call ended abnormally; the daemon's log says how."))
        })
    }
}

fn refused(reason: &str) -> CimError {
    CimError::new(
        StatusCode::Failed,
        format!(
            "Nothing was changed: the audit log cannot be written ({reason}). Make room or correct the path; the \
             next call tries again."
        ),
    )
}

#[async_trait]
impl<O: Operations> Operations for Audited<O> {
    fn namespaces(&self) -> Vec<Namespace> {
        self.inner.namespaces()
    }

    fn schema(&self, namespace: &Namespace) -> Result<Arc<Schema>> {
        self.inner.schema(namespace)
    }

    async fn get_instance(&self, caller: &Caller, path: &ObjectPath) -> Result<Instance> {
        self.inner.get_instance(caller, path).await
    }

    async fn enumerate(&self, caller: &Caller, namespace: &Namespace, class: &str) -> Result<Vec<Instance>> {
        self.inner.enumerate(caller, namespace, class).await
    }

    async fn query(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        language: &str,
        text: &str,
    ) -> Result<QueryAnswer> {
        self.inner.query(caller, namespace, language, text).await
    }

    async fn associators(
        &self,
        caller: &Caller,
        source: &ObjectPath,
        filter: &AssociationFilter,
    ) -> Result<Vec<Instance>> {
        self.inner.associators(caller, source, filter).await
    }

    async fn references(
        &self,
        caller: &Caller,
        source: &ObjectPath,
        filter: &AssociationFilter,
    ) -> Result<Vec<Instance>> {
        self.inner.references(caller, source, filter).await
    }

    async fn modify_instance(
        &self,
        caller: &Caller,
        path: &ObjectPath,
        changes: Vec<Named>,
    ) -> Result<Instance> {
        let line = Line::begin(caller, "modify").target(path).named("properties", &changes);
        let (inner, caller, path) = (Arc::clone(&self.inner), caller.clone(), path.clone());
        self.audited(line, async move { (inner.modify_instance(&caller, &path, changes).await, None) }).await
    }

    async fn create_instance(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        class: &str,
        properties: Vec<Named>,
    ) -> Result<ObjectPath> {
        let line = Line::begin(caller, "create").class(namespace, class).named("properties", &properties);
        let (inner, caller) = (Arc::clone(&self.inner), caller.clone());
        let (namespace, class) = (namespace.clone(), class.to_owned());
        self.audited(line, async move {
            (inner.create_instance(&caller, &namespace, &class, properties).await, None)
        })
        .await
    }

    async fn delete_instance(&self, caller: &Caller, path: &ObjectPath) -> Result<()> {
        let line = Line::begin(caller, "delete").target(path);
        let (inner, caller, path) = (Arc::clone(&self.inner), caller.clone(), path.clone());
        self.audited(line, async move { (inner.delete_instance(&caller, &path).await, None) }).await
    }

    async fn invoke(&self, caller: &Caller, call: MethodCall) -> Result<MethodAnswer> {
        if (self.read_only)(&call) {
            return self.inner.invoke(caller, call).await;
        }
        let line = Line::begin(caller, "invoke")
            .target(&call.target)
            .method(&call.method)
            .named("arguments", &call.arguments);
        let (inner, caller) = (Arc::clone(&self.inner), caller.clone());
        self.audited(line, async move {
            let result = inner.invoke(&caller, call).await;
            let answer = result.as_ref().ok().cloned();
            (result, answer)
        })
        .await
    }
}

#[cfg(test)]
mod tests;
