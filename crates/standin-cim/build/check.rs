//! What must hold for the classes of a namespace.

use crate::parser::{Class, Element, Literal, Qualifier, QualifierDeclaration};

const TYPES: [&str; 14] = [
    "boolean", "uint8", "uint16", "uint32", "uint64", "sint8", "sint16", "sint32", "sint64", "real32",
    "real64", "char16", "string", "datetime",
];

fn same(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
}

fn find<'a>(classes: &'a [Class], name: &str) -> Option<&'a Class> {
    classes.iter().find(|class| same(&class.name, name))
}

/// The own classes and, of the others, those that they need; a base before what is derived from it.
pub fn closed(others: Vec<Class>, own: Vec<Class>) -> Result<Vec<Class>, String> {
    let first = others.len();
    let all: Vec<Class> = others.into_iter().chain(own).collect();
    for (at, class) in all.iter().enumerate() {
        if find(&all[..at], &class.name).is_some() {
            return Err(format!("{}: {} is there twice", class.place, class.name));
        }
    }
    let mut wanted: Vec<String> = all[first..].iter().map(|class| class.name.clone()).collect();
    let mut at = 0;
    while let Some(name) = wanted.get(at).cloned() {
        at += 1;
        let class = find(&all, &name).ok_or_else(|| format!("schema: there is no class {name}"))?;
        for needed in needs(class) {
            if !wanted.iter().any(|known| same(known, &needed)) {
                wanted.push(needed);
            }
        }
    }
    let mut ordered: Vec<Class> = Vec::new();
    for class in &all {
        if wanted.iter().any(|name| same(name, &class.name)) {
            place(&all, class, &mut ordered)?;
        }
    }
    Ok(ordered)
}

fn place(all: &[Class], class: &Class, ordered: &mut Vec<Class>) -> Result<(), String> {
    if find(ordered, &class.name).is_some() {
        return Ok(());
    }
    if let Some(base) = &class.superclass {
        let found = find(all, base).ok_or_else(|| format!("{}: there is no class {base}", class.place))?;
        place(all, found, ordered)?;
    }
    ordered.push(class.clone());
    Ok(())
}

fn elements(class: &Class) -> impl Iterator<Item = &Element> {
    class.properties.iter().chain(class.methods.iter().flat_map(|method| &method.parameters))
}

/// The classes that a class names.
fn needs(class: &Class) -> Vec<String> {
    let mut found: Vec<String> = class.superclass.iter().cloned().collect();
    for element in elements(class) {
        if element.reference {
            found.push(element.cim_type.clone());
        }
        found.extend(embedded(&element.qualifiers));
    }
    found
}

fn embedded(qualifiers: &[Qualifier]) -> Option<String> {
    qualifiers.iter().find_map(|qualifier| match (&*qualifier.name, &qualifier.value) {
        ("EmbeddedInstance", Literal::Text(class)) => Some(class.clone()),
        _ => None,
    })
}

/// Names, types, overrides and qualifiers.
pub fn namespace(declared: &[QualifierDeclaration], classes: &[Class]) -> Result<(), String> {
    for class in classes {
        let problem = |text: String| Err(format!("{}: {}: {text}", class.place, class.name));
        let twice = |(at, property): (usize, &Element)| {
            class.properties[..at]
                .iter()
                .any(|other| same(&other.name, &property.name))
                .then(|| property.name.clone())
        };
        if let Some(name) = class.properties.iter().enumerate().find_map(twice) {
            return problem(format!("{name} is there twice"));
        }
        let methods = class.methods.iter().flat_map(|method| &method.qualifiers);
        let qualifiers = class.qualifiers.iter().chain(elements(class).flat_map(|found| &found.qualifiers));
        for found in qualifiers.chain(methods) {
            if let Err(text) = qualifier(declared, found) {
                return problem(text);
            }
        }
        for element in elements(class) {
            if let Err(text) = value_map(&element.qualifiers).and_then(|()| types(classes, element)) {
                return problem(format!("{} in line {}: {text}", element.name, element.line));
            }
        }
        let association = std::iter::once(class)
            .chain(bases(classes, class))
            .any(|above| above.qualifiers.iter().any(|qualifier| qualifier.name == "Association"));
        let strange = |property: &&Element| property.reference && (property.array || !association);
        if let Some(found) = class.properties.iter().find(strange) {
            return problem(format!("{} in line {} cannot be a reference", found.name, found.line));
        }
        for method in &class.methods {
            if let Err(text) = value_map(&method.qualifiers) {
                return problem(format!("{} in line {}: {text}", method.name, method.line));
            }
            if !TYPES.contains(&&*method.returns) {
                return problem(format!("{} returns the unknown type {}", method.name, method.returns));
            }
        }
        if let Err(text) = overrides(classes, class) {
            return problem(text);
        }
    }
    Ok(())
}

fn qualifier(declared: &[QualifierDeclaration], found: &Qualifier) -> Result<(), String> {
    let Some(declaration) = declared.iter().find(|declaration| declaration.name == found.name) else {
        return Err(format!("the qualifier {} in line {} is not declared", found.name, found.line));
    };
    let fits = |value: &Literal| {
        matches!(
            (&*declaration.cim_type, value),
            ("boolean", Literal::Boolean(_)) | ("string", Literal::Text(_)) | ("uint32", Literal::Number(_))
        )
    };
    let good = match &found.value {
        Literal::Array(elements) => declaration.array && elements.iter().all(fits),
        value => !declaration.array && fits(value),
    };
    if good {
        Ok(())
    } else {
        Err(format!("the qualifier {} in line {} has a value of another type", found.name, found.line))
    }
}

/// Each value has its name.
fn value_map(qualifiers: &[Qualifier]) -> Result<(), String> {
    let length = |name: &str| {
        qualifiers.iter().find(|found| found.name == name).map(|found| match &found.value {
            Literal::Array(elements) => elements.len(),
            _ => 1,
        })
    };
    match (length("ValueMap"), length("Values")) {
        (Some(map), Some(values)) if map != values => {
            Err(format!("ValueMap has {map} elements, Values has {values}"))
        }
        _ => Ok(()),
    }
}

fn types(classes: &[Class], element: &Element) -> Result<(), String> {
    if element.reference {
        if find(classes, &element.cim_type).is_none() {
            return Err(format!("it refers to the class {}, which is not there", element.cim_type));
        }
    } else if !TYPES.contains(&&*element.cim_type) {
        return Err(format!("there is no type {}", element.cim_type));
    }
    if let Some(class) = embedded(&element.qualifiers) {
        if find(classes, &class).is_none() || element.cim_type != "string" {
            return Err(format!("it cannot carry an instance of {class}"));
        }
    }
    let fits = |value: &Literal| match (value, &*element.cim_type) {
        (Literal::Null, _) | (Literal::Text(_), "string" | "datetime") => true,
        (Literal::Boolean(_), cim_type) => cim_type == "boolean",
        (Literal::Number(number), cim_type) if cim_type.contains("int") => number.parse::<i128>().is_ok(),
        (Literal::Number(number), "real32" | "real64") => number.parse::<f64>().is_ok(),
        _ => false,
    };
    let good = match &element.default {
        Literal::Array(elements) => element.array && elements.iter().all(fits),
        Literal::Null => true,
        value => !element.array && fits(value),
    };
    if good { Ok(()) } else { Err("its default has another type".to_owned()) }
}

/// The classes above a class, the nearest first.
fn bases<'a>(classes: &'a [Class], class: &'a Class) -> impl Iterator<Item = &'a Class> {
    let base = |class: &Class| class.superclass.as_deref().and_then(|name| find(classes, name));
    std::iter::successors(base(class), move |class| base(class))
}

/// What has the name of an inherited member says so, and has its type.
fn overrides(classes: &[Class], class: &Class) -> Result<(), String> {
    let says = |qualifiers: &[Qualifier]| qualifiers.iter().any(|qualifier| qualifier.name == "Override");
    for property in &class.properties {
        let above =
            |base: &'_ Class| base.properties.iter().find(|other| same(&other.name, &property.name)).cloned();
        let inherited = bases(classes, class).find_map(above);
        let place = format!("{} in line {}", property.name, property.line);
        match (inherited, says(&property.qualifiers)) {
            (None, false) => {}
            (None, true) => return Err(format!("{place} overrides nothing")),
            (Some(_), false) => return Err(format!("{place} is inherited and does not say Override")),
            (Some(base), true) => {
                let narrower = property.reference
                    && base.reference
                    && find(classes, &property.cim_type).is_some_and(|found| {
                        same(&found.name, &base.cim_type)
                            || bases(classes, found).any(|above| same(&above.name, &base.cim_type))
                    });
                let alike = !property.reference && property.cim_type == base.cim_type;
                if property.array != base.array || !(narrower || alike) {
                    return Err(format!("{place} overrides a property of another type"));
                }
            }
        }
    }
    for method in &class.methods {
        let above = |base: &Class| base.methods.iter().any(|other| same(&other.name, &method.name));
        if bases(classes, class).any(above) != says(&method.qualifiers) {
            return Err(format!("{} in line {}: Override is wrong or missing", method.name, method.line));
        }
    }
    Ok(())
}
