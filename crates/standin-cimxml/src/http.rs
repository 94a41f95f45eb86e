//! What HTTP says of an operation: the method, the extension headers, the encoding of the body (DSP0200 6 and 7).

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Method, StatusCode};
use std::borrow::Cow;

/// A message that is refused before it is an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// What the header `CIMError` says (DSP0200 7.3), if anything.
    pub cim_error: Option<&'static str>,
    /// What is wrong, for a person.
    pub detail: String,
}

impl Refusal {
    /// The client's message is wrong.
    #[must_use]
    pub fn bad(cim_error: &'static str, detail: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, cim_error: Some(cim_error), detail: detail.into() }
    }

    /// The message asks for something that is not served here.
    #[must_use]
    pub fn unsupported(cim_error: &'static str, detail: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_IMPLEMENTED, cim_error: Some(cim_error), detail: detail.into() }
    }
}

/// The extension headers of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// `CIMMethod`, decoded.
    pub method: String,
    /// `CIMObject`, decoded.
    pub object: String,
    /// The number before each header when the HTTP method is `M-POST` (RFC 2774).
    pub prefix: Option<String>,
}

/// Reads the extension headers.
///
/// # Errors
/// They are missing, or ask for a batch or a version that is not served.
pub fn head(method: &Method, headers: &HeaderMap) -> Result<Head, Refusal> {
    let prefix = if *method == Method::POST { None } else { Some(extension(headers)?) };
    let find = |name: &str| {
        let full = match &prefix {
            Some(prefix) => format!("{prefix}-{name}"),
            None => name.to_owned(),
        };
        headers.get(full.as_str()).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
    };
    if find("cimbatch").is_some() {
        return Err(Refusal::unsupported("multiple-requests-unsupported", "send one request in a message"));
    }
    match find("cimoperation") {
        Some(operation) if operation.eq_ignore_ascii_case("MethodCall") => {}
        Some(_) => {
            return Err(Refusal::bad("unsupported-operation", "the header CIMOperation is not MethodCall"));
        }
        None => {
            return Err(Refusal::bad(
                "unsupported-operation",
                "the header CIMOperation: MethodCall is missing",
            ));
        }
    }
    if let Some(version) = find("cimprotocolversion") {
        if !is_version_1(&version) {
            return Err(Refusal::unsupported(
                "unsupported-protocol-version",
                "CIMProtocolVersion 1.x is served",
            ));
        }
    }
    let need = |name: &str, shown: &str| {
        let value = find(name).filter(|value| !value.is_empty());
        let value =
            value.ok_or_else(|| Refusal::bad("header-mismatch", format!("the header {shown} is missing")))?;
        decode(&value)
            .ok_or_else(|| Refusal::bad("header-mismatch", format!("the header {shown} is not UTF-8 in %XX")))
    };
    Ok(Head { method: need("cimmethod", "CIMMethod")?, object: need("cimobject", "CIMObject")?, prefix })
}

/// The number of the extension that an `M-POST` declares in its header `Man`.
fn extension(headers: &HeaderMap) -> Result<String, Refusal> {
    let declared = headers.get_all("man").iter().filter_map(|value| value.to_str().ok()).find_map(|value| {
        let (_, parameters) = value.split_once("http://www.dmtf.org/cim/mapping/http/v1.0")?;
        let number = parameters.split_once("ns=")?.1.trim();
        let digits: String = number.chars().take_while(char::is_ascii_digit).take(4).collect();
        (!digits.is_empty()).then_some(digits)
    });
    declared.ok_or_else(|| Refusal {
        // RFC 2774 9: a mandatory extension that is not known is "not extended".
        status: StatusCode::NOT_EXTENDED,
        cim_error: None,
        detail: "the header Man of an M-POST does not declare CIM operations; use POST".to_owned(),
    })
}

/// Whether a version is `1` with any minor number.
#[must_use]
pub fn is_version_1(version: &str) -> bool {
    let (major, minor) = version.trim().split_once('.').unwrap_or((version.trim(), "0"));
    major == "1" && !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// Replaces `%XX`; `None` when the result is not UTF-8.
#[must_use]
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let code = match (first, behind) {
            (b'%', [high, low, ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                std::str::from_utf8(&behind[..2]).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok())
            }
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8(bytes).ok()
}

/// Writes what a header cannot carry as `%XX`.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte == b'%' || !(b' '..=b'~').contains(&byte) {
            out.push_str(&format!("%{byte:02X}"));
        } else {
            out.push(char::from(byte));
        }
    }
    out
}

/// The text of a body. XML is UTF-8, or UTF-16 with a byte order mark.
///
/// # Errors
/// The type is another, or the bytes are not what they should be.
pub fn text<'a>(headers: &HeaderMap, body: &'a Bytes) -> Result<Cow<'a, str>, Refusal> {
    let refuse = |detail: &str| Refusal {
        status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
        cim_error: None,
        detail: detail.to_owned(),
    };
    let content =
        headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/xml");
    let (kind, parameters) = content.split_once(';').unwrap_or((content, ""));
    let kind = kind.trim().to_ascii_lowercase();
    if !matches!(kind.as_str(), "application/xml" | "text/xml" | "") {
        return Err(refuse("the Content-Type is not application/xml"));
    }
    let charset = parameters.to_ascii_lowercase().split_once("charset=").map(|(_, value)| {
        value.split(';').next().unwrap_or_default().trim_matches([' ', '"', '\'']).to_owned()
    });
    match charset.as_deref() {
        None | Some("utf-8" | "utf8" | "us-ascii" | "utf-16" | "utf-16le" | "utf-16be") => {}
        Some(_) => return Err(refuse("the charset is not utf-8")),
    }
    let malformed = || Refusal::bad("request-not-well-formed", "the body is no text in its charset");
    match body.as_ref() {
        [0xff, 0xfe, units @ ..] => utf16(units, u16::from_le_bytes).map(Cow::Owned).ok_or_else(malformed),
        [0xfe, 0xff, units @ ..] => utf16(units, u16::from_be_bytes).map(Cow::Owned).ok_or_else(malformed),
        bytes => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| malformed()),
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    if bytes.len() % 2 != 0 {
        return None;
    }
    let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    char::decode_utf16(units).collect::<Result<String, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_headers_of_an_operation_are_read_and_decoded() {
        let read = head(
            &Method::POST,
            &headers(&[
                ("cimoperation", "MethodCall"),
                ("cimmethod", "GetInstance"),
                ("cimobject", "root%2Fx%3AC.K%3D%22%C3%A9%22"),
            ]),
        );
        let wanted = Head { method: "GetInstance".into(), object: "root/x:C.K=\"é\"".into(), prefix: None };
        assert_eq!(read, Ok(wanted));
    }

    #[test]
    fn what_is_no_operation_is_refused_as_the_standard_says() {
        let read = |pairs: &[(&'static str, &str)]| {
            let refusal = head(&Method::POST, &headers(pairs)).unwrap_err();
            (refusal.status.as_u16(), refusal.cim_error.unwrap())
        };
        let call = ("cimoperation", "MethodCall");
        let method = ("cimmethod", "X");
        assert_eq!(read(&[]), (400, "unsupported-operation"));
        assert_eq!(read(&[("cimoperation", "MethodResponse")]), (400, "unsupported-operation"));
        assert_eq!(read(&[call]), (400, "header-mismatch"));
        assert_eq!(read(&[call, method]), (400, "header-mismatch"));
        assert_eq!(read(&[call, method, ("cimobject", "%FF")]), (400, "header-mismatch"));
        assert_eq!(read(&[call, ("cimprotocolversion", "2.0")]), (501, "unsupported-protocol-version"));
        assert_eq!(read(&[call, ("cimbatch", "")]), (501, "multiple-requests-unsupported"));
    }

    #[test]
    fn an_m_post_has_its_number_before_each_header() {
        let method = Method::from_bytes(b"M-POST").unwrap();
        let man = ("man", "http://www.dmtf.org/cim/mapping/http/v1.0 ; ns=73");
        let pairs = [man, ("73-cimoperation", "MethodCall"), ("73-cimmethod", "A"), ("73-cimobject", "root")];
        assert_eq!(head(&method, &headers(&pairs)).unwrap().prefix.as_deref(), Some("73"));
        assert_eq!(head(&method, &headers(&pairs[1..])).unwrap_err().status.as_u16(), 510);
    }

    #[test]
    fn bodies_are_utf_8_or_utf_16_with_a_mark() {
        let utf16: Vec<u8> = "\u{feff}<é/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let none = HeaderMap::new();
        assert_eq!(text(&none, &Bytes::from(utf16)).unwrap(), "<é/>");
        assert_eq!(text(&none, &Bytes::from_static("<é/>".as_bytes())).unwrap(), "<é/>");
        let quoted = headers(&[("content-type", "text/xml; charset=\"UTF-8\"")]);
        assert!(text(&quoted, &Bytes::new()).is_ok());
        for (bytes, kind, status) in [
            (&b"\xff"[..], "application/xml", 400),
            (b"\xff\xfea", "application/xml", 400),
            (b"\xff\xfe\x00\xd8", "application/xml", 400),
            (b"a", "application/json", 415),
            (b"a", "text/xml; charset=iso-8859-1", 415),
        ] {
            let read = text(&headers(&[("content-type", kind)]), &Bytes::from_static(bytes))
                .unwrap_err()
                .status
                .as_u16();
            assert_eq!(read, status, "{kind}");
        }
    }

    #[test]
    fn percent_signs_that_mean_nothing_stay() {
        assert_eq!(decode("100%").as_deref(), Some("100%"));
        assert_eq!(decode("%zz%4").as_deref(), Some("%zz%4"));
        assert_eq!(decode(&encode("a% é\n")).as_deref(), Some("a% é\n"));
    }
}
