//! Operations on instances (DSP0200 5.3.2.2 to 5.3.2.13).

use crate::answer::Answer;
use crate::intrinsic::{Operation, path_of};
use crate::shape::{Form, Shape};
use standin_cim::xml::write::{name, value_in};
use standin_cim::{CimError, Class, Named, Property, RawValue, Result, StatusCode, TypedValue, same_name};

impl Operation<'_> {
    pub async fn get_instance(mut self) -> Result<Answer> {
        let path = self.arguments.instance_name("InstanceName")?;
        // LocalOnly and IncludeQualifiers are deprecated for instances, and a server may ignore them: clients
        // that say LocalOnly by mistake want every property.
        self.arguments.boolean("LocalOnly", false)?;
        self.arguments.boolean("IncludeQualifiers", false)?;
        let shape = Shape {
            class_origin: self.arguments.boolean("IncludeClassOrigin", false)?,
            properties: self.arguments.properties("PropertyList")?,
            of_class: None,
        };
        self.arguments.finish()?;
        let instance = self.operations().get_instance(self.caller, &self.here(path)?).await?;
        self.write_all(vec![instance], Form::Instance, &shape).map(Answer::of)
    }

    pub async fn enumerate_instances(mut self) -> Result<Answer> {
        let (class, shape) = self.enumeration()?;
        self.arguments.boolean("LocalOnly", false)?;
        self.arguments.boolean("IncludeQualifiers", false)?;
        self.arguments.finish()?;
        let instances = self.operations().enumerate(self.caller, &self.namespace, &class).await?;
        self.write_all(instances, Form::Named, &shape).map(Answer::of)
    }

    /// What EnumerateInstances and OpenEnumerateInstances are both told.
    pub fn enumeration(&mut self) -> Result<(String, Shape)> {
        let class = self.arguments.needed_class("ClassName")?;
        let deep = self.arguments.boolean("DeepInheritance", true)?;
        let shape = Shape {
            class_origin: self.arguments.boolean("IncludeClassOrigin", false)?,
            properties: self.arguments.properties("PropertyList")?,
            of_class: if deep { None } else { Some(self.class(&class)?.clone()) },
        };
        Ok((class, shape))
    }

    /// A class that the operation needs.
    pub fn class(&self, name: &str) -> Result<&Class> {
        self.schema.class(name).ok_or_else(|| {
            let message = format!("there is no class {name} in {}", self.namespace);
            CimError::new(StatusCode::InvalidClass, message)
        })
    }

    pub async fn enumerate_instance_names(mut self) -> Result<Answer> {
        let class = self.arguments.needed_class("ClassName")?;
        self.arguments.finish()?;
        let instances = self.operations().enumerate(self.caller, &self.namespace, &class).await?;
        self.write_all(instances, Form::Name, &Shape::default()).map(Answer::of)
    }

    pub async fn create_instance(mut self) -> Result<Answer> {
        let instance = self.arguments.instance("NewInstance")?;
        self.arguments.finish()?;
        let properties = instance.properties.into_iter().map(named).collect();
        let path = self
            .operations()
            .create_instance(self.caller, &self.namespace, &instance.class, properties)
            .await?;
        let mut out = String::new();
        name(&mut out, &path, self.local());
        Ok(Answer::of(out))
    }

    pub async fn modify_instance(mut self) -> Result<Answer> {
        let instance = self.arguments.instance("ModifiedInstance")?;
        self.arguments.boolean("IncludeQualifiers", false)?;
        let list = self.arguments.properties("PropertyList")?;
        self.arguments.finish()?;
        let path = self.here(path_of(&instance)?.clone())?;
        if !same_name(&path.class, &instance.class) {
            let message = format!("the instance is of {}, and its name of {}", instance.class, path.class);
            return Err(CimError::new(StatusCode::InvalidParameter, message));
        }
        let mut changes: Vec<_> = instance.properties.into_iter().map(named).collect();
        if let Some(list) = list {
            changes.retain(|change| list.iter().any(|name| same_name(name, &change.name)));
            // A listed property without a value is set to what the class says (DSP0200 5.3.2.8).
            for missing in list {
                if !changes.iter().any(|change| same_name(&change.name, &missing)) {
                    let default =
                        self.class(&path.class)?.property(&missing).map(|declared| declared.default.clone());
                    let value = default.map_or(RawValue::Null, RawValue::Typed);
                    changes.push(Named { name: missing, value });
                }
            }
        }
        self.operations().modify_instance(self.caller, &path, changes).await?;
        Ok(Answer::nothing())
    }

    pub async fn delete_instance(mut self) -> Result<Answer> {
        let path = self.arguments.instance_name("InstanceName")?;
        self.arguments.finish()?;
        self.operations().delete_instance(self.caller, &self.here(path)?).await?;
        Ok(Answer::nothing())
    }

    /// GetProperty is deprecated; some command-line clients still ask by it.
    pub async fn get_property(mut self) -> Result<Answer> {
        let path = self.arguments.instance_name("InstanceName")?;
        let wanted = self.arguments.needed_text("PropertyName")?;
        self.arguments.finish()?;
        let instance = self.operations().get_instance(self.caller, &self.here(path)?).await?;
        let property = instance.property(&wanted).ok_or_else(|| {
            CimError::new(StatusCode::NoSuchProperty, format!("{} has no property {wanted}", instance.class))
        })?;
        let mut out = String::new();
        if let Some(value) = &property.value.value {
            value_in(&mut out, value, self.local());
        }
        Ok(Answer::of(out))
    }

    pub async fn exec_query(mut self) -> Result<Answer> {
        let language = self.arguments.needed_text("QueryLanguage")?;
        let query = self.arguments.needed_text("Query")?;
        self.arguments.finish()?;
        let found = self.operations().query(self.caller, &self.namespace, &language, &query).await?;
        self.write_all(found.instances, Form::ObjectWithPath, &Shape::default()).map(Answer::of)
    }
}

fn named(property: Property) -> Named {
    let value = match property.value {
        TypedValue { value: None, .. } => RawValue::Null,
        value => RawValue::Typed(value),
    };
    Named { name: property.name.into_owned(), value }
}
