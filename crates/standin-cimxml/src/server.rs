//! The endpoint: from a request of a listener to its response.

use crate::enumerations::Enumerations;
use crate::http::{self, Refusal};
use crate::intrinsic::Operation;
use crate::request::{self, Call};
use crate::{answer, method};
use async_trait::async_trait;
use bytes::Bytes;
use hyper::header::{ALLOW, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use standin_access::endpoint::{Endpoint, Request, Response};
use standin_cim::{Operations, QualifierDecl, schema};
use std::sync::Arc;

const XML: &str = "application/xml; charset=\"utf-8\"";
const TEXT: &str = "text/plain; charset=\"utf-8\"";
/// The number before the headers of an answer to OPTIONS.
const OPTIONS_NUMBER: &str = "77";
const MAPPING: &str = "http://www.dmtf.org/cim/mapping/http/v1.0";

/// CIM-XML over operations. Answers on any path; keeps the open enumerations of its clients.
pub struct CimXml {
    pub(crate) operations: Arc<dyn Operations>,
    pub(crate) host: Arc<str>,
    pub(crate) qualifiers: Arc<[QualifierDecl]>,
    pub(crate) enumerations: Enumerations,
}

impl CimXml {
    /// An endpoint over operations, on a host of that name: it stands in full paths.
    #[must_use]
    pub fn new(operations: Arc<dyn Operations>, host: &str) -> Self {
        Self {
            operations,
            host: host.into(),
            qualifiers: schema::qualifiers().into(),
            enumerations: Enumerations::default(),
        }
    }

    /// The same with other declarations of qualifiers than those of the project's schema: what GetQualifier and
    /// EnumerateQualifiers answer, and the flavours of qualifiers in classes.
    #[must_use]
    pub fn with_qualifiers(mut self, qualifiers: impl Into<Arc<[QualifierDecl]>>) -> Self {
        self.qualifiers = qualifiers.into();
        self
    }

    async fn answer(&self, request: &Request) -> Result<Response, Refusal> {
        let head = http::head(&request.method, &request.headers)?;
        let text = http::text(&request.headers, &request.body)?;
        let message = request::read(&text)?;
        message.agree(&head.method, &head.object)?;
        let body = match message.call {
            Call::Intrinsic { name, namespace, arguments } => {
                let answer = match arguments {
                    Ok(arguments) => Operation::run(self, &request.caller, namespace, &name, arguments).await,
                    Err(error) => Err(error),
                };
                answer::intrinsic(&message.id, &name, &answer)
            }
            Call::Extrinsic { name, call } => {
                let body = match call {
                    Ok(call) => method::invoke(self, &request.caller, call).await,
                    Err(error) => Err(error),
                };
                answer::extrinsic(&message.id, &name, &body)
            }
        };
        let mut headers = HeaderMap::new();
        match &head.prefix {
            None => put(&mut headers, "cimoperation", "MethodResponse"),
            Some(number) => {
                put(&mut headers, "ext", "");
                put(&mut headers, "man", &format!("{MAPPING} ; ns={number}"));
                put(&mut headers, &format!("{number}-cimoperation"), "MethodResponse");
            }
        }
        Ok(Response { status: 200, content_type: XML, headers, body: Bytes::from(body) })
    }
}

/// Adds a header; what cannot be one is left out, because no answer depends on it.
fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        headers.insert(name, value);
    }
}

fn refuse(refusal: &Refusal) -> Response {
    let mut headers = HeaderMap::new();
    if let Some(cim_error) = refusal.cim_error {
        put(&mut headers, "cimerror", cim_error);
        // Not of the standard: OpenPegasus sends it and clients show it.
        put(&mut headers, "pgerrordetail", &http::encode(&refusal.detail));
    }
    let body = Bytes::from(format!("{}\n", refusal.detail));
    Response { status: refusal.status.as_u16(), content_type: TEXT, headers, body }
}

/// What OPTIONS answers (DSP0200 7.5).
fn options() -> Response {
    let mut headers = HeaderMap::new();
    put(&mut headers, "opt", &format!("{MAPPING} ; ns={OPTIONS_NUMBER}"));
    for (name, value) in [
        ("cimprotocolversion", "1.0"),
        (
            "cimsupportedfunctionalgroups",
            "basic-read, instance-manipulation, association-traversal, query-execution, qualifier-declaration",
        ),
        ("cimsupportedquerylanguages", "WQL, DMTF:CQL"),
        ("cimvalidation", "loosely-validating"),
    ] {
        put(&mut headers, &format!("{OPTIONS_NUMBER}-{name}"), value);
    }
    put(&mut headers, ALLOW.as_str(), "POST, M-POST, OPTIONS");
    Response { status: 200, content_type: TEXT, headers, body: Bytes::new() }
}

#[async_trait]
impl Endpoint for CimXml {
    fn protocol(&self) -> &'static str {
        "cim-xml"
    }

    fn serves(&self, _path: &str) -> bool {
        true
    }

    fn anonymous(&self, _path: &str, _headers: &HeaderMap, _body: &Bytes) -> Option<Response> {
        None
    }

    async fn call(&self, request: Request) -> Response {
        if request.method == Method::OPTIONS {
            return options();
        }
        if request.method != Method::POST && request.method.as_str() != "M-POST" {
            let mut response =
                self.refusal(StatusCode::METHOD_NOT_ALLOWED.as_u16(), "operations come by POST");
            put(&mut response.headers, ALLOW.as_str(), "POST, M-POST, OPTIONS");
            return response;
        }
        match self.answer(&request).await {
            Ok(response) => response,
            Err(refusal) => {
                tracing::debug!(
                    user = %request.caller.name, from = %request.caller.from,
                    "refused a CIM-XML message: {}", refusal.detail
                );
                refuse(&refusal)
            }
        }
    }

    fn sweep(&self) {
        self.enumerations.sweep();
    }

    fn refusal(&self, status: u16, reason: &str) -> Response {
        let body = Bytes::from(format!("{reason}\n"));
        Response { status, content_type: TEXT, headers: HeaderMap::new(), body }
    }
}
