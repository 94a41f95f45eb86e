//! Writing classes and declarations of qualifiers.

use super::write::{Marks, Scope, attribute, close, open, property_start, property_text, value};
use crate::qualifier::{QualifierDecl, QualifierScope};
use crate::{CimType, Class, MethodDecl, ParameterDecl, PropertyDecl, Qualifier, same_name};

/// How a class is written (GetClass, DSP0200 5.3.2.1).
#[derive(Debug, Clone, Copy)]
pub struct ClassOptions<'a> {
    /// Only what the class declares itself.
    pub local_only: bool,
    /// With qualifiers.
    pub qualifiers: bool,
    /// Each property and method says the class that declares it.
    pub class_origin: bool,
    /// Only these properties; `None` means all.
    pub properties: Option<&'a [String]>,
    /// What is known of qualifiers: it decides the flavours written with each.
    pub declarations: &'a [QualifierDecl],
}

impl Default for ClassOptions<'_> {
    fn default() -> Self {
        Self { local_only: false, qualifiers: true, class_origin: false, properties: None, declarations: &[] }
    }
}

/// `CLASS`.
pub fn class(out: &mut String, class: &Class, options: &ClassOptions<'_>) {
    out.push_str("<CLASS");
    attribute(out, "NAME", &class.name);
    if let Some(superclass) = &class.superclass {
        attribute(out, "SUPERCLASS", superclass);
    }
    out.push('>');
    qualifiers(out, &class.qualifiers, options);
    for property in &class.properties {
        let asked =
            options.properties.is_none_or(|asked| asked.iter().any(|name| same_name(name, &property.name)));
        if asked && (!options.local_only || same_name(&property.origin, &class.name)) {
            self::property(out, class, property, options);
        }
    }
    for method in &class.methods {
        if !options.local_only || same_name(&method.origin, &class.name) {
            self::method(out, class, method, options);
        }
    }
    close(out, "CLASS");
}

fn property(out: &mut String, class: &Class, property: &PropertyDecl, options: &ClassOptions<'_>) {
    let inherited = !same_name(&property.origin, &class.name);
    let marks = Marks {
        embedded: property.embedded_class.as_deref(),
        reference_class: property.reference_class.as_deref(),
        origin: options.class_origin.then_some((&*property.origin, inherited)),
    };
    let element = property_start(out, &property.name, &property.default, &marks);
    if inherited && !options.class_origin {
        attribute(out, "PROPAGATED", "true");
    }
    out.push('>');
    qualifiers(out, &property.qualifiers, options);
    if let Some(default) = &property.default.value {
        property_text(out, &property.default, default, Scope::default());
    }
    close(out, element);
}

fn method(out: &mut String, class: &Class, method: &MethodDecl, options: &ClassOptions<'_>) {
    out.push_str("<METHOD");
    attribute(out, "NAME", &method.name);
    attribute(out, "TYPE", method.returns.as_str());
    if options.class_origin {
        attribute(out, "CLASSORIGIN", &method.origin);
    }
    if !same_name(&method.origin, &class.name) {
        attribute(out, "PROPAGATED", "true");
    }
    out.push('>');
    qualifiers(out, &method.qualifiers, options);
    for parameter in &method.parameters {
        self::parameter(out, parameter, options);
    }
    close(out, "METHOD");
}

fn parameter(out: &mut String, parameter: &ParameterDecl, options: &ClassOptions<'_>) {
    let element = match (parameter.cim_type == CimType::Reference, parameter.array) {
        (true, true) => "PARAMETER.REFARRAY",
        (true, false) => "PARAMETER.REFERENCE",
        (false, true) => "PARAMETER.ARRAY",
        (false, false) => "PARAMETER",
    };
    out.push('<');
    out.push_str(element);
    attribute(out, "NAME", &parameter.name);
    if parameter.cim_type != CimType::Reference {
        attribute(out, "TYPE", parameter.cim_type.as_str());
    } else if let Some(class) = &parameter.reference_class {
        attribute(out, "REFERENCECLASS", class);
    }
    out.push('>');
    qualifiers(out, &parameter.qualifiers, options);
    close(out, element);
}

fn qualifiers(out: &mut String, qualifiers: &[Qualifier], options: &ClassOptions<'_>) {
    if options.qualifiers {
        for qualifier in qualifiers {
            let declared =
                options.declarations.iter().find(|declared| same_name(&declared.name, &qualifier.name));
            self::qualifier(out, qualifier, declared);
        }
    }
}

fn qualifier(out: &mut String, qualifier: &Qualifier, declared: Option<&QualifierDecl>) {
    out.push_str("<QUALIFIER");
    attribute(out, "NAME", &qualifier.name);
    attribute(out, "TYPE", qualifier.value.cim_type.as_str());
    if let Some(declared) = declared {
        flavours(out, declared);
    }
    out.push('>');
    if let Some(said) = &qualifier.value.value {
        value(out, said);
    }
    close(out, "QUALIFIER");
}

/// Those that differ from the defaults of DSP0201.
fn flavours(out: &mut String, declared: &QualifierDecl) {
    for (name, is, default) in [
        ("OVERRIDABLE", declared.overridable, true),
        ("TOSUBCLASS", declared.to_subclass, true),
        ("TRANSLATABLE", declared.translatable, false),
    ] {
        if is != default {
            attribute(out, name, if is { "true" } else { "false" });
        }
    }
}

/// `QUALIFIER.DECLARATION`.
pub fn qualifier_declaration(out: &mut String, declared: &QualifierDecl) {
    out.push_str("<QUALIFIER.DECLARATION");
    attribute(out, "NAME", &declared.name);
    attribute(out, "TYPE", declared.default.cim_type.as_str());
    attribute(out, "ISARRAY", if declared.default.array { "true" } else { "false" });
    flavours(out, declared);
    out.push('>');
    out.push_str("<SCOPE");
    let any = declared.scopes.contains(&QualifierScope::Any);
    for scope in [
        QualifierScope::Class,
        QualifierScope::Association,
        QualifierScope::Reference,
        QualifierScope::Property,
        QualifierScope::Method,
        QualifierScope::Parameter,
        QualifierScope::Indication,
    ] {
        if any || declared.scopes.contains(&scope) {
            attribute(out, &scope.as_str().to_ascii_uppercase(), "true");
        }
    }
    out.push_str("/>");
    if let Some(default) = &declared.default.value {
        value(out, default);
    }
    close(out, "QUALIFIER.DECLARATION");
}

/// `VALUE.OBJECTWITHPATH` of a class: what associations between classes answer.
pub fn class_with_path(out: &mut String, class: &Class, scope: Scope<'_>, options: &ClassOptions<'_>) {
    open(out, "VALUE.OBJECTWITHPATH");
    let path =
        crate::ObjectPath { host: None, namespace: None, class: class.name.clone(), keys: crate::Keys::None };
    super::write::path(out, &path, scope);
    self::class(out, class, options);
    close(out, "VALUE.OBJECTWITHPATH");
}
