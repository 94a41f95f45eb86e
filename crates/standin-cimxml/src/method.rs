//! Methods of classes (DSP0200 5.3.1): the extrinsic operations.

use crate::server::CimXml;
use standin_cim::xml::write::{Scope, attribute, embedded_mark, value_in};
use standin_cim::{
    Caller, CimError, CimType, MethodAnswer, MethodCall, MethodDecl, Namespace, Result, StatusCode,
    TypedValue, same_name,
};

/// Calls a method; returns its `RETURNVALUE` and `PARAMVALUE`s.
///
/// # Errors
/// What `Operations::invoke` refuses.
pub(crate) async fn invoke(server: &CimXml, caller: &Caller, call: MethodCall) -> Result<String> {
    let Some(namespace) = call.target.namespace.clone() else {
        return Err(CimError::new(StatusCode::InvalidNamespace, "the target of the call has no namespace"));
    };
    let schema = server.operations.schema(&namespace)?;
    let (class, method) = (call.target.class.clone(), call.method.clone());
    let answer = server.operations.invoke(caller, call).await?;
    let declared = schema.class(&class).and_then(|class| class.method(&method));
    Ok(body(&answer, declared, &namespace))
}

fn body(answer: &MethodAnswer, declared: Option<&MethodDecl>, namespace: &Namespace) -> String {
    let returns = declared.map_or(CimType::Uint32, |declared| declared.returns);
    let mut out = String::from("<RETURNVALUE");
    attribute(&mut out, "PARAMTYPE", returns.as_str());
    out.push_str("><VALUE>");
    if returns == CimType::Boolean {
        out.push_str(if answer.return_value == 0 { "false" } else { "true" });
    } else {
        out.push_str(&answer.return_value.to_string());
    }
    out.push_str("</VALUE></RETURNVALUE>");
    for (name, value) in &answer.out {
        let parameter = declared.and_then(|declared| {
            declared.parameters.iter().find(|parameter| same_name(&parameter.name, name))
        });
        let embedded = parameter.and_then(|parameter| parameter.embedded_class.as_deref());
        out_parameter(&mut out, name, value, embedded, namespace);
    }
    out
}

fn out_parameter(
    out: &mut String,
    name: &str,
    typed: &TypedValue,
    embedded: Option<&str>,
    namespace: &Namespace,
) {
    out.push_str("<PARAMVALUE");
    attribute(out, "NAME", name);
    attribute(out, "PARAMTYPE", typed.cim_type.as_str());
    if typed.cim_type == CimType::String {
        embedded_mark(out, typed.value.as_ref(), embedded);
    }
    out.push('>');
    if let Some(value) = &typed.value {
        value_in(out, value, Scope { host: None, namespace: Some(namespace) });
    }
    out.push_str("</PARAMVALUE>");
}
