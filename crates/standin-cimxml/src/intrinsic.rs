//! The operations of the standard, by name.

use crate::answer::Answer;
use crate::arguments::Arguments;
use crate::server::CimXml;
use standin_cim::xml::write::{InstanceOptions, Scope};
use standin_cim::{
    Caller, CimError, Class, Instance, Named, Namespace, ObjectPath, Operations, Result, Schema, StatusCode,
};
use std::sync::Arc;

/// An operation that is being done.
pub(crate) struct Operation<'a> {
    pub server: &'a CimXml,
    pub caller: &'a Caller,
    pub namespace: Namespace,
    pub schema: Arc<Schema>,
    pub arguments: Arguments,
}

impl<'a> Operation<'a> {
    /// Does the operation called `name`.
    pub async fn run(
        server: &'a CimXml,
        caller: &'a Caller,
        namespace: Namespace,
        name: &str,
        arguments: Vec<Named>,
    ) -> Result<Answer> {
        let schema = server.operations.schema(&namespace)?;
        let arguments = Arguments::new(arguments)?;
        let operation = Self { server, caller, namespace, schema, arguments };
        // Names of operations are said in the case of the standard; another one is accepted.
        match name.to_ascii_lowercase().as_str() {
            "getinstance" => operation.get_instance().await,
            "enumerateinstances" => operation.enumerate_instances().await,
            "enumerateinstancenames" => operation.enumerate_instance_names().await,
            "createinstance" => operation.create_instance().await,
            "modifyinstance" => operation.modify_instance().await,
            "deleteinstance" => operation.delete_instance().await,
            "getproperty" => operation.get_property().await,
            "execquery" => operation.exec_query().await,
            "associators" => operation.associators(true).await,
            "associatornames" => operation.associators(false).await,
            "references" => operation.references(true).await,
            "referencenames" => operation.references(false).await,
            "getclass" => operation.get_class(),
            "enumerateclasses" => operation.enumerate_classes(true),
            "enumerateclassnames" => operation.enumerate_classes(false),
            "getqualifier" => operation.get_qualifier(),
            "enumeratequalifiers" => operation.enumerate_qualifiers(),
            "openenumerateinstances" => operation.open_enumerate(true).await,
            "openenumerateinstancepaths" => operation.open_enumerate(false).await,
            "openassociatorinstances" => operation.open_associators(true).await,
            "openassociatorinstancepaths" => operation.open_associators(false).await,
            "openreferenceinstances" => operation.open_references(true).await,
            "openreferenceinstancepaths" => operation.open_references(false).await,
            "openqueryinstances" => operation.open_query().await,
            "pullinstanceswithpath" => operation.pull(crate::enumerations::Kind::WithPath),
            "pullinstancepaths" => operation.pull(crate::enumerations::Kind::Paths),
            "pullinstances" => operation.pull(crate::enumerations::Kind::Instances),
            "closeenumeration" => operation.close(),
            _ => Err(CimError::new(
                StatusCode::NotSupported,
                format!("the operation {name} is not served here"),
            )),
        }
    }

    pub fn operations(&self) -> &'a dyn Operations {
        &*self.server.operations
    }

    /// Paths as they are within the namespace.
    pub fn local(&self) -> Scope<'_> {
        Scope { host: None, namespace: Some(&self.namespace) }
    }

    /// Paths with host and namespace.
    pub fn full(&self) -> Scope<'_> {
        Scope { host: Some(&self.server.host), namespace: Some(&self.namespace) }
    }

    /// How instances of a class are written.
    pub fn options<'s>(&'s self, class: Option<&'s Class>, class_origin: bool) -> InstanceOptions<'s> {
        InstanceOptions { class, class_origin, scope: self.local() }
    }

    /// A path of an argument, in the namespace of the operation.
    pub fn here(&self, path: ObjectPath) -> Result<ObjectPath> {
        match &path.namespace {
            Some(namespace) if *namespace != self.namespace => Err(CimError::new(
                StatusCode::InvalidParameter,
                format!("the path is in the namespace {namespace}, and the operation in {}", self.namespace),
            )),
            _ => Ok(path.within(self.namespace.clone())),
        }
    }
}

/// The path of an instance that operations gave.
///
/// # Errors
/// `Failed`: it has none, which is a fault of the provider.
pub(crate) fn path_of(instance: &Instance) -> Result<&ObjectPath> {
    instance.path.as_ref().ok_or_else(|| {
        CimError::new(StatusCode::Failed, format!("an instance of {} came without a path", instance.class))
    })
}
