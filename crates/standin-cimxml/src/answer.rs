//! The answer: the elements around what an operation gave (DSP0201 5.2.6).

use standin_cim::xml::write::{attribute, escape, instance};
use standin_cim::{CimError, Instance};

/// What an intrinsic operation gave.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    /// What stands in `IRETURNVALUE`; `None` when the operation returns nothing.
    pub value: Option<String>,
    /// Whole `PARAMVALUE` elements of out parameters.
    pub out: String,
}

impl Answer {
    /// One that returns these elements.
    pub fn of(value: String) -> Self {
        Self { value: Some(value), out: String::new() }
    }

    /// One that returns nothing.
    pub fn nothing() -> Self {
        Self::default()
    }
}

/// The message with the answer to an intrinsic operation.
pub(crate) fn intrinsic(id: &str, name: &str, answer: &Result<Answer, CimError>) -> String {
    let length =
        answer.as_ref().map_or(0, |answer| answer.value.as_ref().map_or(0, String::len) + answer.out.len());
    let mut out = start(id, length);
    out.push_str("<IMETHODRESPONSE");
    attribute(&mut out, "NAME", name);
    out.push('>');
    match answer {
        Ok(answer) => {
            if let Some(value) = &answer.value {
                out.push_str("<IRETURNVALUE>");
                out.push_str(value);
                out.push_str("</IRETURNVALUE>");
            }
            out.push_str(&answer.out);
        }
        Err(failed) => error(&mut out, failed),
    }
    out.push_str("</IMETHODRESPONSE>");
    end(out)
}

/// The message with the answer of a method: `body` is its `RETURNVALUE` and `PARAMVALUE`s.
pub(crate) fn extrinsic(id: &str, name: &str, body: &Result<String, CimError>) -> String {
    let mut out = start(id, body.as_ref().map_or(0, String::len));
    out.push_str("<METHODRESPONSE");
    attribute(&mut out, "NAME", name);
    out.push('>');
    match body {
        Ok(body) => out.push_str(body),
        Err(failed) => error(&mut out, failed),
    }
    out.push_str("</METHODRESPONSE>");
    end(out)
}

fn start(id: &str, length: usize) -> String {
    let mut out = String::with_capacity(length + 512);
    out.push_str(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\"><MESSAGE",
    );
    attribute(&mut out, "ID", id);
    out.push_str(" PROTOCOLVERSION=\"1.0\"><SIMPLERSP>");
    out
}

fn end(mut out: String) -> String {
    out.push_str("</SIMPLERSP></MESSAGE></CIM>\n");
    out
}

fn error(out: &mut String, error: &CimError) {
    out.push_str("<ERROR");
    attribute(out, "CODE", &error.status.code().to_string());
    attribute(out, "DESCRIPTION", &error.message);
    out.push('>');
    error.details.iter().for_each(|detail: &Instance| instance(out, detail));
    out.push_str("</ERROR>");
}

/// An out parameter that is text.
pub(crate) fn out_text(out: &mut String, name: &str, cim_type: &str, text: &str) {
    out.push_str("<PARAMVALUE");
    attribute(out, "NAME", name);
    attribute(out, "PARAMTYPE", cim_type);
    out.push_str("><VALUE>");
    escape(out, text);
    out.push_str("</VALUE></PARAMVALUE>");
}
