//! Associators and references, of instances and of classes (DSP0200 5.3.2.14 to 5.3.2.17).

use crate::answer::Answer;
use crate::intrinsic::Operation;
use crate::shape::{Form, Shape};
use standin_cim::xml::write::path;
use standin_cim::xml::write_class::{ClassOptions, class_with_path};
use standin_cim::{
    AssociationFilter, CimError, Class, Keys, ObjectPath, PropertyDecl, Result, StatusCode, Text, same_name,
};

/// What is walked from, and how.
pub(crate) struct Walk {
    pub source: ObjectPath,
    pub filter: AssociationFilter,
    pub shape: Shape,
    qualifiers: bool,
}

impl Operation<'_> {
    /// `objects`: whole instances or classes; otherwise their paths.
    pub async fn associators(mut self, objects: bool) -> Result<Answer> {
        let walk = self.walk("ObjectName", true, objects)?;
        self.arguments.finish()?;
        if walk.source.keys == Keys::None {
            return self.classes(&self.associated(&walk.source.class, &walk.filter)?, &walk, objects);
        }
        let found = self
            .operations()
            .associators(self.caller, &walk.source, &walk.filter)
            .await
            .map_err(of_filter)?;
        let form = if objects { Form::ObjectWithPath } else { Form::ObjectPath };
        self.write_all(found, form, &walk.shape).map(Answer::of)
    }

    /// `objects`: whole associations; otherwise their paths.
    pub async fn references(mut self, objects: bool) -> Result<Answer> {
        let walk = self.walk("ObjectName", false, objects)?;
        self.arguments.finish()?;
        if walk.source.keys == Keys::None {
            let found =
                self.referring(&walk.source.class, walk.filter.result_class.as_deref(), &walk.filter)?;
            let found: Vec<_> = found.into_iter().map(|(class, _)| class.name.clone()).collect();
            return self.classes(&found, &walk, objects);
        }
        let found =
            self.operations().references(self.caller, &walk.source, &walk.filter).await.map_err(of_filter)?;
        let form = if objects { Form::ObjectWithPath } else { Form::ObjectPath };
        self.write_all(found, form, &walk.shape).map(Answer::of)
    }

    /// The arguments of a walk: from `source`, to what associations relate it to or to the associations.
    pub fn walk(&mut self, source: &str, to_associated: bool, objects: bool) -> Result<Walk> {
        let source = self.arguments.object(source)?;
        let mut filter = AssociationFilter {
            result_class: self.arguments.class("ResultClass")?,
            role: self.role("Role")?,
            ..AssociationFilter::default()
        };
        if to_associated {
            filter.association_class = self.arguments.class("AssocClass")?;
            filter.result_role = self.role("ResultRole")?;
        }
        let mut shape = Shape::default();
        let mut qualifiers = false;
        if objects {
            qualifiers = self.arguments.boolean("IncludeQualifiers", false)?;
            shape.class_origin = self.arguments.boolean("IncludeClassOrigin", false)?;
            shape.properties = self.arguments.properties("PropertyList")?;
        }
        Ok(Walk { source: self.here(source)?, filter, shape, qualifiers })
    }

    /// A role; an empty one is none.
    fn role(&mut self, name: &str) -> Result<Option<String>> {
        Ok(self.arguments.text(name)?.filter(|role| !role.is_empty()))
    }

    /// The associations between classes that refer to a class, each with the references that do.
    fn referring<'s>(
        &'s self,
        source: &str,
        association: Option<&str>,
        filter: &AssociationFilter,
    ) -> Result<Vec<(&'s Class, Vec<&'s PropertyDecl>)>> {
        for class in [Some(source), association].into_iter().flatten() {
            self.class(class).map_err(of_filter)?;
        }
        let fits = |property: &&PropertyDecl| {
            property.reference_class.as_deref().is_some_and(|class| self.schema.is_a(source, class))
                && filter.role.as_deref().is_none_or(|role| same_name(role, &property.name))
        };
        let associations = self.schema.classes().iter().filter(|class| {
            class.association && association.is_none_or(|wanted| self.schema.is_a(&class.name, wanted))
        });
        let found =
            associations.map(|class| (class, class.properties.iter().filter(fits).collect::<Vec<_>>()));
        Ok(found.filter(|(_, references)| !references.is_empty()).collect())
    }

    /// The classes that associations relate a class to.
    fn associated(&self, source: &str, filter: &AssociationFilter) -> Result<Vec<Text>> {
        if let Some(wanted) = &filter.result_class {
            self.class(wanted).map_err(of_filter)?;
        }
        let mut found: Vec<Text> = Vec::new();
        for (association, references) in
            self.referring(source, filter.association_class.as_deref(), filter)?
        {
            for property in &association.properties {
                // A reference to the source is no result, unless another one refers to it as well.
                let other = references.iter().any(|reference| !same_name(&reference.name, &property.name));
                let Some(class) = property.reference_class.as_ref().filter(|_| other) else { continue };
                let wanted =
                    filter.result_class.as_deref().is_none_or(|wanted| self.schema.is_a(class, wanted))
                        && filter.result_role.as_deref().is_none_or(|role| same_name(role, &property.name));
                if wanted && !found.iter().any(|other| same_name(other, class)) {
                    found.push(class.clone());
                }
            }
        }
        Ok(found)
    }

    fn classes(&self, names: &[Text], walk: &Walk, objects: bool) -> Result<Answer> {
        let options = ClassOptions {
            qualifiers: walk.qualifiers,
            class_origin: walk.shape.class_origin,
            properties: walk.shape.properties.as_deref(),
            declarations: &self.server.qualifiers,
            local_only: false,
        };
        let mut out = String::new();
        for name in names {
            if objects {
                class_with_path(&mut out, self.class(name)?, self.full(), &options);
            } else {
                out.push_str("<OBJECTPATH>");
                let class = ObjectPath { host: None, namespace: None, class: name.clone(), keys: Keys::None };
                path(&mut out, &class, self.full());
                out.push_str("</OBJECTPATH>");
            }
        }
        Ok(Answer::of(out))
    }
}

/// A class of the filter that is not there is a wrong parameter for these operations.
pub(crate) fn of_filter(mut error: CimError) -> CimError {
    if error.status == StatusCode::InvalidClass {
        error.status = StatusCode::InvalidParameter;
    }
    error
}
