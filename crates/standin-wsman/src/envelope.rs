//! Requests: the SOAP envelope and its headers, checked and typed.
//!
//! ```text
//! bytes ─ text::decode ─ parse (within limits) ─ Message (headers as fields, Body as a node of the tree)
//! ```
//!
//! Every header that DSP0226 or MS-WSMV defines is accepted; an unknown one with `mustUnderstand` is refused.
//! Text of headers is trimmed, `MessageID` is kept verbatim otherwise.

use crate::epr::{self, Selectors};
use crate::fault::{Fault, Kind};
use crate::names;
use crate::resource::Resource;
use crate::tree::{child, elements, text};
use roxmltree::{Document, Node};
use standin_cim::Datetime;
use standin_cim::xml::{self, Limits, XmlError};
use std::borrow::Cow;
use std::time::Duration;

/// The smallest `MaxEnvelopeSize` that is accepted (DSP0226 R13.1-6).
const SMALLEST_ENVELOPE: u64 = 8192;

/// A request.
#[derive(Debug)]
pub struct Message<'a, 'i> {
    /// What is to be done.
    pub action: Cow<'a, str>,
    /// The `ResourceURI`, as it was written.
    pub resource_uri: Option<Cow<'a, str>>,
    /// The selectors.
    pub selectors: Selectors,
    /// The largest reply that the client takes, in bytes.
    pub max_envelope: Option<usize>,
    /// How long the client waits.
    pub timeout: Option<Duration>,
    /// The Body.
    pub body: Node<'a, 'i>,
}

impl Message<'_, '_> {
    /// What the resource URI says.
    ///
    /// # Errors
    /// `DestinationUnreachable` when there is none, or one of no known form.
    pub fn resource(&self) -> Result<Resource<'_>, Fault> {
        let uri = self.resource_uri.as_deref().ok_or_else(|| {
            Fault::new(Kind::DestinationUnreachable, "the message has no w:ResourceURI")
                .detail("InvalidResourceURI")
        })?;
        Resource::parse(uri).ok_or_else(|| {
            let reason = format!(
                "the resource URI {uri:.200} is of no known form; use \
                 http://schemas.microsoft.com/wbem/wsman/1/wmi/NAMESPACE/CLASS or \
                 http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CLASS"
            );
            Fault::new(Kind::DestinationUnreachable, reason)
                .detail("InvalidResourceURI")
                .wsman_code(2_150_858_811)
        })
    }
}

/// Parses a text within the limits. Document types, and entities with them, are refused.
///
/// # Errors
/// `EncodingLimit` for what is beyond the limits, `SchemaValidationError` for what is no XML.
pub fn parse(text: &str) -> Result<Document<'_>, Fault> {
    // White space before the XML declaration is common in hand-written requests.
    xml::parse(text.trim_start(), &Limits::REQUEST).map_err(|error| match error {
        XmlError::Limit { .. } => {
            Fault::new(Kind::EncodingLimit, format!("the message is too large: {error}"))
        }
        _ => {
            let reason = format!("the message is no XML that is taken here: {error}");
            Fault::new(Kind::SchemaValidationError, reason).wsman_code(2_150_858_819)
        }
    })
}

/// The message ID of an envelope, verbatim but for white space around it: needed for faults about other headers.
#[must_use]
pub fn message_id<'a>(document: &'a Document<'_>) -> Option<Cow<'a, str>> {
    let header = child(document.root_element(), "Header")?;
    child(header, "MessageID").map(trim)
}

/// Whether the Body asks who is there; such a message needs no headers.
#[must_use]
pub fn identify<'a>(document: &'a Document<'_>) -> Option<&'a str> {
    let root = document.root_element();
    let body = child(root, "Body").filter(|_| root.tag_name().namespace() == Some(names::SOAP))?;
    let asked = elements(body).next()?.tag_name();
    let namespace = asked.namespace()?;
    let known = [names::IDENTITY, names::IDENTIFY_TYPO].contains(&namespace);
    (known && asked.name() == "Identify").then_some(namespace)
}

/// Reads envelope and headers.
///
/// # Errors
/// `VersionMismatch`, `SchemaValidationError`, `MustUnderstand`, and what is wrong with a single header.
pub fn read<'a, 'i>(document: &'a Document<'i>) -> Result<Message<'a, 'i>, Fault> {
    let root = document.root_element();
    if root.tag_name().namespace() == Some(names::SOAP_11) {
        return Err(Fault::new(Kind::VersionMismatch, "SOAP 1.1 is not spoken here; use SOAP 1.2"));
    }
    if root.tag_name().name() != "Envelope" || root.tag_name().namespace() != Some(names::SOAP) {
        let reason = "the message is no SOAP 1.2 envelope (http://www.w3.org/2003/05/soap-envelope)";
        return Err(Fault::new(Kind::SchemaValidationError, reason));
    }
    let body = child(root, "Body")
        .ok_or_else(|| Fault::new(Kind::SchemaValidationError, "the envelope has no s:Body"))?;
    let mut headers = Headers::default();
    for header in child(root, "Header").into_iter().flat_map(elements) {
        headers.read(header)?;
    }
    let action = headers.action.ok_or_else(|| {
        Fault::new(Kind::MessageInformationHeaderRequired, "the message has no header a:Action")
    })?;
    Ok(Message {
        action,
        resource_uri: headers.resource_uri,
        selectors: headers.selectors.unwrap_or_default(),
        max_envelope: headers.max_envelope,
        timeout: headers.timeout,
        body,
    })
}

#[derive(Default)]
struct Headers<'a> {
    action: Option<Cow<'a, str>>,
    message_id: Option<()>,
    resource_uri: Option<Cow<'a, str>>,
    selectors: Option<Selectors>,
    max_envelope: Option<usize>,
    timeout: Option<Duration>,
}

impl<'a> Headers<'a> {
    fn read(&mut self, header: Node<'a, '_>) -> Result<(), Fault> {
        let name = header.tag_name();
        match (name.namespace().unwrap_or_default(), name.name()) {
            (names::ADDRESSING, "Action") => once(&mut self.action, trim(header), "a:Action"),
            (names::ADDRESSING, "MessageID") => once(&mut self.message_id, (), "a:MessageID"),
            (names::ADDRESSING, "ReplyTo" | "FaultTo") => answer_here(header),
            (names::ADDRESSING, "To" | "From" | "RelatesTo") => Ok(()),
            (names::WSMAN, "ResourceURI") => once(&mut self.resource_uri, trim(header), "w:ResourceURI"),
            (names::WSMAN, "SelectorSet") => {
                once(&mut self.selectors, epr::selectors(header)?, "w:SelectorSet")
            }
            (names::WSMAN, "MaxEnvelopeSize") => {
                once(&mut self.max_envelope, envelope_size(header)?, "w:MaxEnvelopeSize")
            }
            (names::WSMAN, "OperationTimeout") => {
                once(&mut self.timeout, duration(header)?, "w:OperationTimeout")
            }
            (names::WSMAN, "Locale" | "OptionSet" | "RequestTotalItemsCountEstimate") => Ok(()),
            (
                names::WSMAN_MICROSOFT,
                "DataLocale" | "SessionId" | "OperationID" | "SequenceId" | "ActivityId",
            ) => Ok(()),
            (names::WSMAN, "FragmentTransfer") if must_understand(header) => Err(Fault::new(
                Kind::UnsupportedFeature,
                "parts of an instance cannot be transferred; leave out w:FragmentTransfer",
            )
            .detail("FragmentLevelAccess")),
            (namespace, name) if must_understand(header) => Err(not_understood(namespace, name)),
            _ => Ok(()),
        }
    }
}

fn once<T>(place: &mut Option<T>, value: T, name: &str) -> Result<(), Fault> {
    if place.replace(value).is_some() {
        let reason = format!("the header {name} is given more than once");
        return Err(Fault::new(Kind::InvalidMessageInformationHeader, reason));
    }
    Ok(())
}

fn trim<'a>(node: Node<'a, '_>) -> Cow<'a, str> {
    match text(node) {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    }
}

fn must_understand(header: Node<'_, '_>) -> bool {
    let value = header.attribute((names::SOAP, "mustUnderstand")).unwrap_or_default();
    matches!(value.trim(), "true" | "1")
}

fn not_understood(namespace: &str, name: &str) -> Fault {
    let reason = format!("the header {name:.80} of {namespace:.200} must be understood and is not");
    let mut fault = Fault::new(Kind::MustUnderstand, reason);
    fault.not_understood = Some((namespace.to_owned(), name.to_owned()));
    fault
}

/// Replies go back on the same connection and nowhere else.
fn answer_here(header: Node<'_, '_>) -> Result<(), Fault> {
    let address = child(header, "Address").map(trim).unwrap_or_default();
    if address.is_empty() || address == names::ANONYMOUS {
        return Ok(());
    }
    let reason = format!("replies go back on the connection of the request, not to {address:.200}");
    Err(Fault::new(Kind::UnsupportedFeature, reason).detail("AddressingMode"))
}

fn envelope_size(header: Node<'_, '_>) -> Result<usize, Fault> {
    let text = trim(header);
    let Ok(size) = text.parse::<u64>() else {
        let reason = format!("w:MaxEnvelopeSize is no number of bytes: {text:.40}");
        return Err(Fault::new(Kind::SchemaValidationError, reason));
    };
    if size < SMALLEST_ENVELOPE {
        let reason = format!("w:MaxEnvelopeSize is {size}; it must be {SMALLEST_ENVELOPE} or more");
        return Err(Fault::new(Kind::EncodingLimit, reason).detail("MinimumEnvelopeLimit"));
    }
    Ok(usize::try_from(size).unwrap_or(usize::MAX))
}

/// Reads an `xs:duration`.
///
/// # Errors
/// `InvalidParameter` for other text.
pub fn duration(node: Node<'_, '_>) -> Result<Duration, Fault> {
    let text = trim(node);
    match Datetime::parse_xsd(&text) {
        Some(Datetime::Interval { microseconds }) => Ok(Duration::from_micros(microseconds)),
        _ => {
            let name = node.tag_name().name();
            let reason = format!("{name} is no duration as PT60S: {text:.40}");
            Err(Fault::new(Kind::InvalidParameter, reason))
        }
    }
}
