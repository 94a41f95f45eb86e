//! Identify (DSP0226 clause 11): who is there and what he speaks. Clients' sessions begin with one; it needs no
//! headers. Asked for without authentication it leaves out the version.

use crate::names;
use crate::service::{Reply, Settings};
use crate::write::escape;

/// Answers an Identify in the namespace it was asked in.
#[must_use]
pub fn answer(reply: &Reply<'_>, namespace: &str, settings: &Settings, anonymous: bool) -> String {
    let mut out = String::with_capacity(1024);
    out.push_str("<s:Envelope xml:lang=\"en-US\" xmlns:s=\"");
    out.push_str(names::SOAP);
    out.push_str("\"><s:Header/><s:Body><wsmid:IdentifyResponse xmlns:wsmid=\"");
    // One of two fixed texts.
    out.push_str(if namespace == names::IDENTIFY_TYPO { names::IDENTIFY_TYPO } else { names::IDENTITY });
    out.push_str("\"><wsmid:ProtocolVersion>");
    out.push_str(names::WSMAN);
    out.push_str("</wsmid:ProtocolVersion><wsmid:ProductVendor>");
    escape(&mut out, &settings.vendor);
    out.push_str("</wsmid:ProductVendor><wsmid:ProductVersion>");
    escape(&mut out, if anonymous { "" } else { &settings.version });
    out.push_str("</wsmid:ProductVersion><wsmid:SecurityProfiles>");
    for profile in &settings.security_profiles {
        out.push_str("<wsmid:SecurityProfileName>");
        escape(&mut out, profile);
        out.push_str("</wsmid:SecurityProfileName>");
    }
    out.push_str("</wsmid:SecurityProfiles></wsmid:IdentifyResponse>");
    reply.end(out)
}
