//! Operations on classes and qualifiers that only read (DSP0200 5.3.2.1, .9, .10, .20, .23).

use crate::answer::Answer;
use crate::intrinsic::Operation;
use standin_cim::xml::write::attribute;
use standin_cim::xml::write_class::{ClassOptions, class, qualifier_declaration};
use standin_cim::{CimError, Class, Result, StatusCode, same_name};

impl Operation<'_> {
    pub fn get_class(mut self) -> Result<Answer> {
        let name = self.arguments.needed_class("ClassName")?;
        let (local_only, qualifiers, class_origin) = self.class_options()?;
        let properties = self.arguments.properties("PropertyList")?;
        self.arguments.finish()?;
        let found = self.schema.class(&name).ok_or_else(|| {
            CimError::new(StatusCode::NotFound, format!("there is no class {name} in {}", self.namespace))
        })?;
        let declarations = &self.server.qualifiers;
        let properties = properties.as_deref();
        let options = ClassOptions { local_only, qualifiers, class_origin, properties, declarations };
        let mut out = String::new();
        class(&mut out, found, &options);
        Ok(Answer::of(out))
    }

    /// LocalOnly, IncludeQualifiers, IncludeClassOrigin.
    fn class_options(&mut self) -> Result<(bool, bool, bool)> {
        Ok((
            self.arguments.boolean("LocalOnly", true)?,
            self.arguments.boolean("IncludeQualifiers", true)?,
            self.arguments.boolean("IncludeClassOrigin", false)?,
        ))
    }

    /// `whole`: classes; otherwise their names.
    pub fn enumerate_classes(mut self, whole: bool) -> Result<Answer> {
        let base = self.arguments.class("ClassName")?;
        let deep = self.arguments.boolean("DeepInheritance", false)?;
        let (local_only, qualifiers, class_origin) =
            if whole { self.class_options()? } else { (true, true, false) };
        self.arguments.finish()?;
        if let Some(base) = &base {
            self.class(base)?;
        }
        let declarations = &self.server.qualifiers;
        let options = ClassOptions { local_only, qualifiers, class_origin, properties: None, declarations };
        let mut out = String::new();
        for found in self.schema.classes().iter().filter(|class| self.is_below(class, base.as_deref(), deep))
        {
            if whole {
                class(&mut out, found, &options);
            } else {
                out.push_str("<CLASSNAME");
                attribute(&mut out, "NAME", &found.name);
                out.push_str("/>");
            }
        }
        Ok(Answer::of(out))
    }

    /// Whether a class is derived from `base`: directly, or by any way when `deep`. Without a base, whether it is
    /// derived from none, or any class.
    fn is_below(&self, class: &Class, base: Option<&str>, deep: bool) -> bool {
        match (base, &class.superclass) {
            (None, superclass) => deep || superclass.is_none(),
            (Some(_), None) => false,
            (Some(base), Some(superclass)) if deep => self.schema.is_a(superclass, base),
            (Some(base), Some(superclass)) => same_name(superclass, base),
        }
    }

    pub fn get_qualifier(mut self) -> Result<Answer> {
        let name = self.arguments.needed_text("QualifierName")?;
        self.arguments.finish()?;
        let declared = self.server.qualifiers.iter().find(|declared| same_name(&declared.name, &name));
        let declared = declared.ok_or_else(|| {
            CimError::new(StatusCode::NotFound, format!("there is no qualifier {name} in {}", self.namespace))
        })?;
        let mut out = String::new();
        qualifier_declaration(&mut out, declared);
        Ok(Answer::of(out))
    }

    pub fn enumerate_qualifiers(self) -> Result<Answer> {
        self.arguments.finish()?;
        let mut out = String::new();
        for declared in self.server.qualifiers.iter() {
            qualifier_declaration(&mut out, declared);
        }
        Ok(Answer::of(out))
    }
}
