//! What a provider answers. Everything that follows from the schema alone is the broker's.

use crate::{
    Caller, Instance, Key, MethodAnswer, MethodCall, Namespace, ObjectPath, Result, Schema, TypedValue,
};
use async_trait::async_trait;
use std::sync::Arc;

/// What the broker knows already of the instances it asks for. A source may return more than that: the broker
/// looks at every instance again. It helps a source not to make a thousand instances for one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Narrow {
    /// Only instances with these values of these keys (or other properties) are wanted.
    pub keys: Vec<Key>,
    /// Only associations that refer to this instance are wanted; its keys are complete.
    pub endpoint: Option<ObjectPath>,
}

/// Facts and deeds of the classes that a program provides.
#[async_trait]
pub trait InstanceSource: Send + Sync + 'static {
    /// The namespaces.
    fn namespaces(&self) -> Vec<Namespace>;

    /// The classes of a namespace; `None` when there is no such namespace.
    fn schema(&self, namespace: &Namespace) -> Option<Arc<Schema>>;

    /// The instances of exactly this class (not of derived ones), each with its path relative to the namespace;
    /// properties that it leaves out are null. References are relative to the namespace as well.
    ///
    /// # Errors
    /// `Failed` when the facts cannot be had.
    async fn instances(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        class: &str,
        narrow: &Narrow,
    ) -> Result<Vec<Instance>>;

    /// Changes properties of an instance that exists. The values have the types of the class and are writable.
    ///
    /// # Errors
    /// `NotSupported`, `AccessDenied`, `InvalidParameter`.
    async fn modify(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        instance: &Instance,
        changes: Vec<(String, TypedValue)>,
    ) -> Result<()>;

    /// Makes an instance of a class.
    ///
    /// # Errors
    /// `NotSupported`, `AccessDenied`, `AlreadyExists`.
    async fn create(&self, caller: &Caller, namespace: &Namespace, instance: Instance) -> Result<ObjectPath>;

    /// Removes an instance that exists.
    ///
    /// # Errors
    /// `NotSupported`, `AccessDenied`.
    async fn delete(&self, caller: &Caller, namespace: &Namespace, instance: &Instance) -> Result<()>;

    /// Calls a method of an instance that exists (`target` has all its keys), or of a class. The method is
    /// declared and every argument is a parameter of it; whether the values fit their types is for the source to
    /// say, because that has a return code (see `arguments::bind`).
    ///
    /// # Errors
    /// What no return code of the method can say.
    async fn invoke(&self, caller: &Caller, call: MethodCall) -> Result<MethodAnswer>;
}
