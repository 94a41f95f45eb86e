//! Faults: what a request is answered with that is not done (DSP0226 clause 14 and its annex; the numbers are those
//! of Windows' `winerror.h`, which clients compare).
//!
//! A fault says itself three times, for three sorts of clients: code, subcode and reason (SOAP);
//! `MSFT_WmiError` with the CIM status (CIM cmdlets, virt-who, pywinrm); `WSManFault` (pypsrp, pywinrm).

use crate::names;
use crate::write::{escape, number};
use standin_cim::{CimError, StatusCode};

/// The sort of a fault, named as its subcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the standards' own and say it")]
pub enum Kind {
    VersionMismatch,
    MustUnderstand,
    ActionNotSupported,
    DestinationUnreachable,
    EndpointUnavailable,
    InvalidMessageInformationHeader,
    MessageInformationHeaderRequired,
    AccessDenied,
    AlreadyExists,
    EncodingLimit,
    InternalError,
    InvalidParameter,
    InvalidSelectors,
    QuotaLimit,
    SchemaValidationError,
    TimedOut,
    UnsupportedFeature,
    CannotProcessFilter,
    FilterDialectRequestedUnavailable,
    InvalidEnumerationContext,
    InvalidExpirationTime,
    InvalidRepresentation,
}

impl Kind {
    /// The SOAP code, the subcode with its prefix, and the number that Windows has for it.
    fn parts(self) -> (&'static str, &'static str, u32) {
        match self {
            Self::VersionMismatch => ("s:VersionMismatch", "", 2_150_858_765),
            Self::MustUnderstand => ("s:MustUnderstand", "", 2_150_858_768),
            Self::ActionNotSupported => ("s:Sender", "a:ActionNotSupported", 2_150_858_771),
            Self::DestinationUnreachable => ("s:Sender", "a:DestinationUnreachable", 2_150_858_752),
            Self::EndpointUnavailable => ("s:Receiver", "a:EndpointUnavailable", 2_150_858_772),
            Self::InvalidMessageInformationHeader => {
                ("s:Sender", "a:InvalidMessageInformationHeader", 2_150_858_767)
            }
            Self::MessageInformationHeaderRequired => {
                ("s:Sender", "a:MessageInformationHeaderRequired", 2_150_858_769)
            }
            Self::AccessDenied => ("s:Sender", "w:AccessDenied", 5),
            Self::AlreadyExists => ("s:Sender", "w:AlreadyExists", 2_150_858_803),
            Self::EncodingLimit => ("s:Sender", "w:EncodingLimit", 2_150_858_805),
            Self::InternalError => ("s:Receiver", "w:InternalError", 2_150_858_755),
            Self::InvalidParameter => ("s:Sender", "w:InvalidParameter", 2_150_858_810),
            Self::InvalidSelectors => ("s:Sender", "w:InvalidSelectors", 2_150_858_813),
            Self::QuotaLimit => ("s:Sender", "w:QuotaLimit", 2_150_858_815),
            Self::SchemaValidationError => ("s:Sender", "w:SchemaValidationError", 2_150_858_817),
            Self::TimedOut => ("s:Receiver", "w:TimedOut", 2_150_858_793),
            Self::UnsupportedFeature => ("s:Sender", "w:UnsupportedFeature", 2_150_858_818),
            Self::CannotProcessFilter => ("s:Sender", "n:CannotProcessFilter", 2_150_858_778),
            Self::FilterDialectRequestedUnavailable => {
                ("s:Sender", "n:FilterDialectRequestedUnavailable", 2_150_858_777)
            }
            Self::InvalidEnumerationContext => ("s:Receiver", "n:InvalidEnumerationContext", 2_150_858_779),
            Self::InvalidExpirationTime => ("s:Sender", "n:InvalidExpirationTime", 2_150_858_774),
            Self::InvalidRepresentation => ("s:Sender", "x:InvalidRepresentation", 2_150_858_773),
        }
    }

    /// The action of a message with this fault: that of the namespace of its subcode.
    #[must_use]
    pub fn action(self) -> &'static str {
        match self.parts().1.as_bytes().first() {
            Some(b'w') => "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault",
            Some(b'n') => "http://schemas.xmlsoap.org/ws/2004/09/enumeration/fault",
            Some(b'x') => "http://schemas.xmlsoap.org/ws/2004/09/transfer/fault",
            _ => "http://schemas.xmlsoap.org/ws/2004/08/addressing/fault",
        }
    }
}

/// What the request was for: the same CIM error is another fault in a query than in a Get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum During {
    /// Get, Put, Create, Delete, and the target of an enumeration.
    Transfer,
    /// A query or another filter.
    Filter,
    /// A method.
    Invoke,
}

/// A fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Its sort.
    pub kind: Kind,
    /// What happened, to what, and what to do.
    pub reason: String,
    /// What follows [`names::FAULT_DETAIL`] in `w:FaultDetail`.
    pub detail: Option<&'static str>,
    /// The status of the CIM operation; `Failed` where it came from elsewhere.
    pub status: StatusCode,
    /// The number of Windows.
    pub code: u32,
    /// The header that was not understood: its namespace and name.
    pub not_understood: Option<(String, String)>,
}

impl Fault {
    /// A fault with the number of its sort.
    #[must_use]
    pub fn new(kind: Kind, reason: impl Into<String>) -> Self {
        let code = kind.parts().2;
        let reason = reason.into();
        Self { kind, reason, detail: None, status: StatusCode::Failed, code, not_understood: None }
    }

    /// With a `w:FaultDetail`.
    #[must_use]
    pub fn detail(mut self, detail: &'static str) -> Self {
        self.detail = Some(detail);
        self
    }

    /// With another number than that of its sort.
    #[must_use]
    pub fn wsman_code(mut self, code: u32) -> Self {
        self.code = code;
        self
    }

    /// With the status of a CIM operation.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The fault of a CIM error.
    #[must_use]
    pub fn from_cim(error: CimError, during: During) -> Self {
        let (kind, detail, code) = of_status(error.status, during);
        let mut fault = Self::new(kind, error.message).status(error.status);
        fault.detail = detail;
        if let Some(code) = code {
            fault.code = code;
        }
        fault
    }

    /// Writes the child of the Body.
    pub fn write(&self, out: &mut String) {
        let (code, subcode, _) = self.kind.parts();
        out.push_str("<s:Fault><s:Code><s:Value>");
        out.push_str(code);
        out.push_str("</s:Value>");
        if !subcode.is_empty() {
            out.push_str("<s:Subcode><s:Value>");
            out.push_str(subcode);
            out.push_str("</s:Value></s:Subcode>");
        }
        out.push_str("</s:Code><s:Reason><s:Text xml:lang=\"en-US\">");
        escape(out, &self.reason);
        out.push_str("</s:Text></s:Reason><s:Detail>");
        if let Some(detail) = self.detail {
            out.push_str("<w:FaultDetail>");
            out.push_str(names::FAULT_DETAIL);
            out.push_str(detail);
            out.push_str("</w:FaultDetail>");
        }
        self.write_wmi_error(out);
        out.push_str("<f:WSManFault xmlns:f=\"");
        out.push_str(names::WSMAN_FAULT);
        out.push_str("\" Code=\"");
        number(out, u64::from(self.code));
        out.push_str("\"><f:Message>");
        self.write_message(out);
        out.push_str("</f:Message></f:WSManFault></s:Detail></s:Fault>");
    }

    fn write_wmi_error(&self, out: &mut String) {
        out.push_str("<p:MSFT_WmiError xmlns:p=\"");
        out.push_str(names::WMI_ERROR);
        out.push_str("\"><p:CIMStatusCode>");
        number(out, u64::from(self.status.code()));
        out.push_str("</p:CIMStatusCode><p:Message>");
        self.write_message(out);
        out.push_str("</p:Message><p:error_Code>");
        number(out, u64::from(self.code));
        out.push_str("</p:error_Code><p:error_Type>HRESULT</p:error_Type></p:MSFT_WmiError>");
    }

    /// The reason, with WMI's own word for the error behind it: some clients look for nothing else.
    fn write_message(&self, out: &mut String) {
        escape(out, &self.reason);
        if let Some(word) = wmi_word(self.status) {
            out.push_str(" (");
            out.push_str(word);
            out.push(')');
        }
    }
}

/// The sort of the fault, its detail, and its number where that is not the sort's own.
fn of_status(status: StatusCode, during: During) -> (Kind, Option<&'static str>, Option<u32>) {
    const CANNOT_PROCESS_FILTER: u32 = 2_150_858_778;
    use StatusCode as S;
    match status {
        S::AccessDenied => (Kind::AccessDenied, None, None),
        S::NotFound => (Kind::DestinationUnreachable, None, None),
        // Clients that look for a namespace know it by this number, whatever they asked for.
        S::InvalidNamespace => {
            (Kind::DestinationUnreachable, Some("InvalidResourceURI"), Some(CANNOT_PROCESS_FILTER))
        }
        S::InvalidClass => {
            let code = (during == During::Filter).then_some(CANNOT_PROCESS_FILTER);
            (Kind::DestinationUnreachable, Some("InvalidResourceURI"), code)
        }
        S::InvalidParameter if during == During::Transfer => (Kind::InvalidSelectors, None, None),
        S::InvalidParameter => (Kind::InvalidParameter, None, None),
        S::NotSupported => (Kind::UnsupportedFeature, None, None),
        S::AlreadyExists => (Kind::AlreadyExists, None, None),
        S::NoSuchProperty if during == During::Filter => (Kind::CannotProcessFilter, None, None),
        S::NoSuchProperty | S::TypeMismatch => (Kind::SchemaValidationError, None, None),
        S::QueryLanguageNotSupported => (Kind::FilterDialectRequestedUnavailable, None, None),
        S::InvalidQuery => (Kind::CannotProcessFilter, None, None),
        S::MethodNotFound | S::MethodNotAvailable => (Kind::ActionNotSupported, None, None),
        S::InvalidEnumerationContext => (Kind::InvalidEnumerationContext, None, None),
        S::ServerLimitsExceeded => (Kind::QuotaLimit, None, None),
        S::ServerIsShuttingDown => (Kind::EndpointUnavailable, None, None),
        _ => (Kind::InternalError, None, None),
    }
}

/// The constants of WMI (`WBEMSTATUS`).
fn wmi_word(status: StatusCode) -> Option<&'static str> {
    Some(match status {
        StatusCode::AccessDenied => "WBEM_E_ACCESS_DENIED",
        StatusCode::NotFound => "WBEM_E_NOT_FOUND",
        StatusCode::InvalidNamespace => "WBEM_E_INVALID_NAMESPACE",
        StatusCode::InvalidClass => "WBEM_E_INVALID_CLASS",
        StatusCode::InvalidParameter => "WBEM_E_INVALID_PARAMETER",
        StatusCode::NotSupported => "WBEM_E_NOT_SUPPORTED",
        StatusCode::AlreadyExists => "WBEM_E_ALREADY_EXISTS",
        StatusCode::NoSuchProperty => "WBEM_E_INVALID_PROPERTY",
        StatusCode::TypeMismatch => "WBEM_E_TYPE_MISMATCH",
        StatusCode::QueryLanguageNotSupported => "WBEM_E_INVALID_QUERY_TYPE",
        StatusCode::InvalidQuery => "WBEM_E_INVALID_QUERY",
        StatusCode::MethodNotFound => "WBEM_E_INVALID_METHOD",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: StatusCode, during: During) -> (Kind, u32) {
        let fault = Fault::from_cim(CimError::new(status, "x"), during);
        (fault.kind, fault.code)
    }

    #[test]
    fn every_error_of_an_operation_has_the_fault_that_clients_expect() {
        use During::{Filter, Invoke, Transfer};
        for during in [Transfer, Filter, Invoke] {
            assert_eq!(
                of(StatusCode::InvalidNamespace, during),
                (Kind::DestinationUnreachable, 2_150_858_778)
            );
            assert_eq!(of(StatusCode::NotFound, during), (Kind::DestinationUnreachable, 2_150_858_752));
            assert_eq!(of(StatusCode::AccessDenied, during), (Kind::AccessDenied, 5));
            assert_eq!(of(StatusCode::NotSupported, during).0, Kind::UnsupportedFeature);
            assert_eq!(of(StatusCode::Failed, during).0, Kind::InternalError);
        }
        assert_eq!(of(StatusCode::InvalidClass, Transfer), (Kind::DestinationUnreachable, 2_150_858_752));
        assert_eq!(of(StatusCode::InvalidClass, Filter), (Kind::DestinationUnreachable, 2_150_858_778));
        assert_eq!(of(StatusCode::InvalidParameter, Transfer).0, Kind::InvalidSelectors);
        assert_eq!(of(StatusCode::InvalidParameter, Invoke).0, Kind::InvalidParameter);
        assert_eq!(of(StatusCode::InvalidQuery, Filter).0, Kind::CannotProcessFilter);
        assert_eq!(of(StatusCode::MethodNotFound, Invoke).0, Kind::ActionNotSupported);
    }

    #[test]
    fn a_fault_says_itself_for_every_sort_of_client() {
        let error = CimError::new(StatusCode::InvalidNamespace, "there is no namespace <x>");
        let mut out = String::new();
        Fault::from_cim(error, During::Filter).write(&mut out);
        for part in [
            "<s:Value>s:Sender</s:Value><s:Subcode><s:Value>a:DestinationUnreachable</s:Value>",
            "<s:Text xml:lang=\"en-US\">there is no namespace &lt;x&gt;</s:Text>",
            "faultDetail/InvalidResourceURI</w:FaultDetail>",
            "<p:CIMStatusCode>3</p:CIMStatusCode>",
            "<p:Message>there is no namespace &lt;x&gt; (WBEM_E_INVALID_NAMESPACE)</p:Message>",
            "<p:error_Code>2150858778</p:error_Code>",
            " Code=\"2150858778\"><f:Message>there is",
        ] {
            assert!(out.contains(part), "{part} in {out}");
        }
    }
}
