//! Tables of Rust: constants that `src/schema` makes classes of when they are first asked for.

use crate::parser::{Class, Element, Literal, Method, Qualifier, QualifierDeclaration};

/// The table of qualifier declarations.
pub fn qualifiers(declarations: &[QualifierDeclaration]) -> String {
    let mut out = String::from("static QUALIFIERS: &[QualifierRow] = &[\n");
    for declared in declarations {
        let QualifierDeclaration { name, cim_type, array, scopes, flavors, .. } = declared;
        let default = literal(&declared.default);
        out.push_str(&format!(
            "QualifierRow {{ name: {name:?}, cim_type: {cim_type:?}, array: {array}, default: {default}, \
             scopes: &{scopes:?}, flavors: &{flavors:?} }},\n"
        ));
    }
    out.push_str("];\n");
    out
}

/// The table of the classes of a namespace.
pub fn classes(name: &str, classes: &[Class]) -> String {
    let mut out = format!("static {name}: &[ClassRow] = &[\n");
    for class in classes {
        let superclass = class.superclass.as_deref().unwrap_or_default();
        let properties: String = class.properties.iter().map(element).collect();
        let methods: String = class.methods.iter().map(method).collect();
        out.push_str(&format!(
            "ClassRow {{ name: {:?}, superclass: {superclass:?}, qualifiers: {}, properties: &[{properties}], \
             methods: &[{methods}] }},\n",
            class.name,
            said(&class.qualifiers)
        ));
    }
    out.push_str("];\n");
    out
}

fn said(qualifiers: &[Qualifier]) -> String {
    let rows = qualifiers.iter().map(|found| format!("({:?}, {}),", found.name, literal(&found.value)));
    format!("&[{}]", rows.collect::<String>())
}

fn element(element: &Element) -> String {
    let Element { name, cim_type, reference, array, .. } = element;
    let (default, qualifiers) = (literal(&element.default), said(&element.qualifiers));
    format!(
        "ElementRow {{ name: {name:?}, cim_type: {cim_type:?}, reference: {reference}, array: {array}, \
         default: {default}, qualifiers: {qualifiers} }},"
    )
}

fn method(method: &Method) -> String {
    let parameters: String = method.parameters.iter().map(element).collect();
    format!(
        "MethodRow {{ name: {:?}, returns: {:?}, parameters: &[{parameters}], qualifiers: {} }},",
        method.name,
        method.returns,
        said(&method.qualifiers)
    )
}

fn literal(value: &Literal) -> String {
    match value {
        Literal::Null => "Literal::Null".to_owned(),
        Literal::Boolean(value) => format!("Literal::Boolean({value})"),
        Literal::Number(text) | Literal::Text(text) => format!("Literal::Text({text:?})"),
        Literal::Array(elements) => {
            format!(
                "Literal::Array(&[{}])",
                elements.iter().map(|one| literal(one) + ",").collect::<String>()
            )
        }
    }
}
