//! The endpoint: a request's way from bytes to an operation and back.
//!
//! ```text
//! bytes ─ text ─ envelope ─► by action ─► transfer, enumeration, invoke ─► Operations
//!                                                              │
//! bytes ◄─ encoding of the request ◄─ size the client takes ◄──┴── reply, or fault (HTTP 500)
//! ```
//!
//! One tree is parsed and one `String` written for each request. What a request may cost is bounded before it is
//! parsed (`envelope`), while it runs (the client's `OperationTimeout`), and after it (`contexts`).

use crate::contexts::{Contexts, Limits};
use crate::envelope::{self, Message};
use crate::fault::{Fault, Kind};
use crate::names::{self, action};
use crate::resource::Resource;
use crate::text::{self, Encoding};
use crate::{enumeration, identify, invoke, transfer, write};
use async_trait::async_trait;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use standin_access::endpoint::{Endpoint, Request, Response};
use standin_cim::{Caller, Namespace, Operations};
use std::sync::Arc;

/// The largest body that is looked at before anybody said who he is.
const ANONYMOUS_BODY: usize = 16 << 10;
/// A reply that the client did not limit: pages of an enumeration end below it.
const DEFAULT_ENVELOPE: usize = 500 << 10;

/// What the service says of itself, and what it allows.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The namespace of resource URIs of DMTF's family without `__cimnamespace`.
    pub default_namespace: Namespace,
    /// The product, for Identify.
    pub vendor: String,
    /// Its version, for Identify; not told without authentication.
    pub version: String,
    /// The URIs of the ways to authenticate (DSP0226, annex on security profiles).
    pub security_profiles: Vec<String>,
    /// What enumerations may keep.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        let profile = |name| format!("http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/{name}");
        Self {
            default_namespace: Namespace::from_static("root/virtualization/v2"),
            vendor: "standin".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            security_profiles: [
                "https/basic",
                "https/mutual",
                "https/spnego-kerberos",
                "http/spnego-kerberos",
            ]
            .map(profile)
            .into(),
            limits: Limits::default(),
        }
    }
}

/// WS-Management on `/wsman`.
pub struct Service {
    operations: Arc<dyn Operations>,
    settings: Settings,
    contexts: Contexts,
}

/// What every reply to a request has in common.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// The request's `MessageID`.
    pub relates_to: Option<&'a str>,
    /// The encoding of the request.
    pub encoding: Encoding,
    /// The size of replies that the client did not limit, in bytes.
    pub default_envelope: usize,
}

impl Reply<'_> {
    /// The envelope up to the Body.
    #[must_use]
    pub fn begin(&self, action: &str) -> String {
        let mut out = String::with_capacity(4096);
        write::begin(&mut out, action, self.relates_to);
        out
    }

    /// The envelope with its end.
    #[must_use]
    pub fn end(&self, mut out: String) -> String {
        write::end(&mut out);
        out
    }
}

impl Service {
    /// A service over these operations.
    #[must_use]
    pub fn new(operations: Arc<dyn Operations>, settings: Settings) -> Self {
        let contexts = Contexts::new(settings.limits);
        Self { operations, settings, contexts }
    }

    /// What it serves.
    #[must_use]
    pub fn operations(&self) -> &dyn Operations {
        &*self.operations
    }

    /// Open enumerations.
    #[must_use]
    pub fn contexts(&self) -> &Contexts {
        &self.contexts
    }

    /// The namespace of a request: by its resource URI, by its selector, or the default.
    #[must_use]
    pub fn namespace(&self, resource: &Resource<'_>, message: &Message<'_, '_>) -> Namespace {
        let said = resource.namespace.as_ref().or(message.selectors.namespace.as_ref());
        said.unwrap_or(&self.settings.default_namespace).clone()
    }

    /// The reply to a body, and whether it is a fault.
    async fn answer(&self, caller: &Caller, body: &[u8], content_type: Option<&str>) -> Response {
        let (text, encoding) = match text::decode(body, content_type) {
            Ok(decoded) => decoded,
            Err(fault) => return faulty(&fault, None, Encoding::Utf8),
        };
        let document = match envelope::parse(&text) {
            Ok(document) => document,
            Err(fault) => return faulty(&fault, None, encoding),
        };
        let relates_to = envelope::message_id(&document);
        let reply = Reply { relates_to: relates_to.as_deref(), encoding, default_envelope: DEFAULT_ENVELOPE };
        if let Some(namespace) = envelope::identify(&document) {
            return respond(identify::answer(&reply, namespace, &self.settings, false), 200, encoding);
        }
        let done = match envelope::read(&document) {
            Ok(message) => self.within_limits(caller, &reply, &message).await,
            Err(fault) => Err(fault),
        };
        match done {
            Ok(text) => respond(text, 200, encoding),
            Err(fault) => {
                tracing::debug!(user = %caller.name, from = %caller.from, kind = ?fault.kind, reason = %fault.reason,
                    "WS-Management request answered with a fault");
                faulty(&fault, reply.relates_to, encoding)
            }
        }
    }

    /// Does what is asked in the time and size that the client allows.
    async fn within_limits(
        &self,
        caller: &Caller,
        reply: &Reply<'_>,
        message: &Message<'_, '_>,
    ) -> Result<String, Fault> {
        let done = self.by_action(caller, reply, message);
        let text = match message.timeout {
            None => done.await?,
            Some(timeout) => tokio::time::timeout(timeout, done).await.map_err(|_| {
                let reason = format!("the operation took longer than w:OperationTimeout ({timeout:?})");
                Fault::new(Kind::TimedOut, reason)
            })??,
        };
        match message.max_envelope {
            Some(most) if text.len() > reply.encoding.budget(most) => {
                let reason = format!("the reply has {} bytes, w:MaxEnvelopeSize is {most}", text.len());
                let fault = Fault::new(Kind::EncodingLimit, reason);
                Err(if changes_something(&message.action) {
                    fault.detail("UnreportableSuccess").wsman_code(2_150_858_829)
                } else {
                    fault.detail("MaxEnvelopeSizeExceeded").wsman_code(2_150_858_824)
                })
            }
            _ => Ok(text),
        }
    }

    async fn by_action(
        &self,
        caller: &Caller,
        reply: &Reply<'_>,
        message: &Message<'_, '_>,
    ) -> Result<String, Fault> {
        match &*message.action {
            action::GET => transfer::get(self, caller, reply, message).await,
            action::ENUMERATE => enumeration::enumerate(self, caller, reply, message).await,
            action::PULL => enumeration::pull(self, caller, reply, message),
            action::RELEASE => enumeration::release(self, caller, reply, message),
            action::PUT => transfer::put(self, caller, reply, message).await,
            action::CREATE => transfer::create(self, caller, reply, message).await,
            action::DELETE => transfer::delete(self, caller, reply, message).await,
            _ => invoke::invoke(self, caller, reply, message).await,
        }
    }
}

fn changes_something(action: &str) -> bool {
    !matches!(action, action::GET | action::ENUMERATE | action::PULL | action::RELEASE)
}

#[async_trait]
impl Endpoint for Service {
    fn protocol(&self) -> &'static str {
        "ws-management"
    }

    fn serves(&self, path: &str) -> bool {
        path.trim_end_matches('/').eq_ignore_ascii_case("/wsman")
    }

    fn anonymous(&self, path: &str, headers: &HeaderMap, body: &Bytes) -> Option<Response> {
        let asked = headers.get("wsmanidentify")?.to_str().ok()?;
        if !asked.trim().eq_ignore_ascii_case("unauthenticated")
            || !self.serves(path)
            || body.len() > ANONYMOUS_BODY
        {
            return None;
        }
        let (text, encoding) = text::decode(body, content_type(headers)).ok()?;
        let document = envelope::parse(&text).ok()?;
        let namespace = envelope::identify(&document)?;
        let reply = Reply { relates_to: None, encoding, default_envelope: DEFAULT_ENVELOPE };
        Some(respond(identify::answer(&reply, namespace, &self.settings, true), 200, encoding))
    }

    async fn call(&self, request: Request) -> Response {
        if request.method != Method::POST {
            let mut response = Response {
                status: 405,
                content_type: "text/plain;charset=UTF-8",
                headers: HeaderMap::new(),
                body: Bytes::from_static(b"WS-Management is spoken by POST\n"),
            };
            response.headers.insert("allow", HeaderValue::from_static("POST"));
            return response;
        }
        self.answer(&request.caller, &request.body, content_type(&request.headers)).await
    }

    fn sweep(&self) {
        self.contexts.sweep();
    }

    fn refusal(&self, status: u16, reason: &str) -> Response {
        let fault = match status {
            // Clients look for faults where the status is 500, and nowhere else.
            413 => Fault::new(Kind::EncodingLimit, reason)
                .detail("ServiceEnvelopeLimit")
                .wsman_code(2_150_858_825),
            408 => Fault::new(Kind::TimedOut, reason),
            _ => Fault::new(Kind::SchemaValidationError, reason),
        };
        let response = faulty(&fault, None, Encoding::Utf8);
        Response { status: if status == 413 { 500 } else { status }, ..response }
    }
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok())
}

fn respond(text: String, status: u16, encoding: Encoding) -> Response {
    Response {
        status,
        content_type: encoding.content_type(),
        headers: HeaderMap::new(),
        body: Bytes::from(encoding.encode(text)),
    }
}

/// A fault, with the header that was not understood named as SOAP wants it (SOAP 1.2 part 1, 5.4.8).
fn faulty(fault: &Fault, relates_to: Option<&str>, encoding: Encoding) -> Response {
    let mut out = String::with_capacity(2048);
    write::begin(&mut out, fault.kind.action(), relates_to);
    if let Some((namespace, name)) = &fault.not_understood {
        let mut header = String::from("<s:NotUnderstood qname=\"h:");
        write::escape(&mut header, name);
        header.push_str("\" xmlns:h=\"");
        write::escape(&mut header, namespace);
        header.push_str("\"/>");
        if let Some(end) = out.rfind("</s:Header>") {
            out.insert_str(end, &header);
        }
    }
    if fault.kind == Kind::VersionMismatch {
        let header = format!(
            "<s:Upgrade><s:SupportedEnvelope qname=\"q:Envelope\" xmlns:q=\"{}\"/></s:Upgrade>",
            names::SOAP
        );
        if let Some(end) = out.rfind("</s:Header>") {
            out.insert_str(end, &header);
        }
    }
    fault.write(&mut out);
    write::end(&mut out);
    respond(out, 500, encoding)
}
