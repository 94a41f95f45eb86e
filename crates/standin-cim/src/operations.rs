//! The operations that protocols offer: one call for each of DSP0200's and DSP0226's, on behalf of a caller.

use crate::{Caller, Instance, Namespace, ObjectPath, Result, Schema, Text, TypedValue};
use async_trait::async_trait;
use std::sync::Arc;

/// A value as it came over the wire. WS-Management does not say types: the declaration of the property or
/// parameter decides how a text is read, and a value that does not fit is an error there.
#[derive(Debug, Clone, PartialEq)]
pub enum RawValue {
    /// Null: absent, `xsi:nil`, or a CIM-XML parameter without a value.
    Null,
    /// Text without a type. May carry an instance as CIM-XML or MOF where the declaration says so.
    Text(String),
    /// The path in an endpoint reference.
    Reference(ObjectPath),
    /// An instance that came as XML of its own.
    Instance(Box<Instance>),
    /// Values of one array.
    Array(Vec<RawValue>),
    /// A value whose type the wire did say (CIM-XML).
    Typed(TypedValue),
}

/// A named value of a call: an argument, or a property to change.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// The parameter or property, as the client spelled it.
    pub name: String,
    /// Its value.
    pub value: RawValue,
}

/// The call of a method.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodCall {
    /// The instance, or the class for a static method. Its namespace is set.
    pub target: ObjectPath,
    /// The method.
    pub method: String,
    /// What the client gave, in its order.
    pub arguments: Vec<Named>,
}

/// The answer of a method.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodAnswer {
    /// The return value.
    pub return_value: u32,
    /// Out parameters, in the order of the declaration; null ones are there too.
    pub out: Vec<(Text, TypedValue)>,
}

/// Which associated instances, or associations, are wanted (DSP0200 5.3.2.14 to 17). `None` matches everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AssociationFilter {
    /// Only through this association or one derived from it.
    pub association_class: Option<String>,
    /// Only instances of this class or one derived from it. For associations themselves: only of this class.
    pub result_class: Option<String>,
    /// The name by which the association refers to the source.
    pub role: Option<String>,
    /// The name by which it refers to the result.
    pub result_role: Option<String>,
}

/// What a query found.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryAnswer {
    /// The instances; with a projection they have their keys and the selected properties.
    pub instances: Vec<Instance>,
    /// The selected properties; `None` for `*`.
    pub projection: Option<Vec<String>>,
}

/// The operations on the CIM objects of this host. Every call may run beside every other. Mutating calls are not
/// cancelled by dropping the future: an implementation runs them to their end.
///
/// # Implementations
///
/// | Where | What |
/// | --- | --- |
/// | `broker::Broker` | on top of an `InstanceSource` |
/// | `standin-access`, the audit log | writes who did what around another implementation |
#[async_trait]
pub trait Operations: Send + Sync + 'static {
    /// The namespaces of this host.
    fn namespaces(&self) -> Vec<Namespace>;

    /// The classes of a namespace.
    ///
    /// # Errors
    /// `InvalidNamespace`.
    fn schema(&self, namespace: &Namespace) -> Result<Arc<Schema>>;

    /// The one instance that has these keys; a client may give a part of them, of a base class too.
    ///
    /// # Errors
    /// `NotFound`, `InvalidClass`, `InvalidParameter` (an unknown key, or more than one instance).
    async fn get_instance(&self, caller: &Caller, path: &ObjectPath) -> Result<Instance>;

    /// The instances of a class and of those derived from it.
    ///
    /// # Errors
    /// `InvalidClass`.
    async fn enumerate(&self, caller: &Caller, namespace: &Namespace, class: &str) -> Result<Vec<Instance>>;

    /// The result of a query. `language` is `WQL`, `DMTF:CQL` or `DMTF:FQL`-like `WQL` text.
    ///
    /// # Errors
    /// `QueryLanguageNotSupported`, `InvalidQuery`, `InvalidClass`, `NoSuchProperty`.
    async fn query(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        language: &str,
        text: &str,
    ) -> Result<QueryAnswer>;

    /// The instances that associations relate to `source`.
    ///
    /// # Errors
    /// As `get_instance` for the source; `InvalidClass` for classes of the filter.
    async fn associators(
        &self,
        caller: &Caller,
        source: &ObjectPath,
        filter: &AssociationFilter,
    ) -> Result<Vec<Instance>>;

    /// The associations that refer to `source`; of the filter only `result_class` and `role` count.
    ///
    /// # Errors
    /// As `associators`.
    async fn references(
        &self,
        caller: &Caller,
        source: &ObjectPath,
        filter: &AssociationFilter,
    ) -> Result<Vec<Instance>>;

    /// Changes properties of an instance; returns it as it is then.
    ///
    /// # Errors
    /// As `get_instance`; `NoSuchProperty`, `TypeMismatch`, `NotSupported`, `AccessDenied`.
    async fn modify_instance(
        &self,
        caller: &Caller,
        path: &ObjectPath,
        changes: Vec<Named>,
    ) -> Result<Instance>;

    /// Makes an instance, where a class allows that.
    ///
    /// # Errors
    /// `NotSupported`, `AccessDenied`, `AlreadyExists`, `TypeMismatch`.
    async fn create_instance(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        class: &str,
        properties: Vec<Named>,
    ) -> Result<ObjectPath>;

    /// Removes an instance, where a class allows that.
    ///
    /// # Errors
    /// As `get_instance`; `NotSupported`, `AccessDenied`.
    async fn delete_instance(&self, caller: &Caller, path: &ObjectPath) -> Result<()>;

    /// Calls a method. Refusals that the method's return codes can say are answers, not errors.
    ///
    /// # Errors
    /// As `get_instance` for the target; `MethodNotFound`, `InvalidParameter` (an unknown parameter),
    /// `AccessDenied` where the method has no code for it.
    async fn invoke(&self, caller: &Caller, call: MethodCall) -> Result<MethodAnswer>;
}
