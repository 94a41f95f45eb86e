//! Which properties of an instance are wanted, and how instances are written.

use crate::intrinsic::{Operation, path_of};
use standin_cim::xml::write::{instance_with, name, path};
use standin_cim::{Class, Instance, Result, same_name};

/// Which properties are wanted.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    /// These; `None` means all. Names that a class does not have are ignored (DSP0200 5.3.2.2).
    pub properties: Option<Vec<String>>,
    /// Only those that this class has (`DeepInheritance` is false).
    pub of_class: Option<Class>,
    /// Each says the class that declares it.
    pub class_origin: bool,
}

impl Shape {
    /// Leaves out what is not wanted.
    pub fn apply(&self, instance: &mut Instance) {
        if self.properties.is_none() && self.of_class.is_none() {
            return;
        }
        instance.properties.retain(|property| {
            let listed = |list: &Vec<String>| list.iter().any(|name| same_name(name, &property.name));
            self.properties.as_ref().is_none_or(listed)
                && self.of_class.as_ref().is_none_or(|class| class.property(&property.name).is_some())
        });
    }
}

/// The elements that an instance is returned in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `INSTANCE`.
    Instance,
    /// `INSTANCENAME`.
    Name,
    /// `VALUE.NAMEDINSTANCE`.
    Named,
    /// `VALUE.OBJECTWITHPATH`.
    ObjectWithPath,
    /// `OBJECTPATH`.
    ObjectPath,
    /// `VALUE.INSTANCEWITHPATH`.
    InstanceWithPath,
    /// `INSTANCEPATH`.
    InstancePath,
}

impl Operation<'_> {
    /// One instance in its form.
    pub fn write(&self, out: &mut String, mut instance: Instance, form: Form, shape: &Shape) -> Result<()> {
        let wrapper = match form {
            Form::Instance | Form::Name | Form::InstancePath => "",
            Form::Named => "VALUE.NAMEDINSTANCE",
            Form::ObjectWithPath => "VALUE.OBJECTWITHPATH",
            Form::ObjectPath => "OBJECTPATH",
            Form::InstanceWithPath => "VALUE.INSTANCEWITHPATH",
        };
        tag(out, "<", wrapper);
        match form {
            Form::Instance => {}
            Form::Name | Form::Named => name(out, path_of(&instance)?, self.local()),
            _ => path(out, path_of(&instance)?, self.full()),
        }
        if !matches!(form, Form::Name | Form::ObjectPath | Form::InstancePath) {
            shape.apply(&mut instance);
            instance_with(
                out,
                &instance,
                &self.options(self.schema.class(&instance.class), shape.class_origin),
            );
        }
        tag(out, "</", wrapper);
        Ok(())
    }

    /// All instances in their form.
    pub fn write_all(&self, instances: Vec<Instance>, form: Form, shape: &Shape) -> Result<String> {
        let mut out = String::with_capacity(instances.len() * 512);
        for instance in instances {
            self.write(&mut out, instance, form, shape)?;
        }
        Ok(out)
    }
}

fn tag(out: &mut String, begin: &str, element: &str) {
    if !element.is_empty() {
        out.push_str(begin);
        out.push_str(element);
        out.push('>');
    }
}
