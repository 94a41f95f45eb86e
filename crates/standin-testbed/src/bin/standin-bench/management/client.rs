//! A client of WS-Management that costs little beside the daemon it measures: one thread for all connections, one
//! buffer and no copy for each, and of HTTP and XML only what is needed to tell a right answer from a wrong one.

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The namespace of the virtualization classes, as a resource URI.
const WMI: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2";
/// No reply of a benchmark is longer.
const LONGEST: usize = 4 << 20;

/// Where the service is, and who asks.
#[derive(Clone)]
pub struct Server {
    address: SocketAddr,
    connector: TlsConnector,
    /// What every request begins with, up to the length of its body.
    head: Arc<str>,
}

impl Server {
    /// A server whose certificate is of the authority in `trust`, asked as a user with a password.
    ///
    /// # Errors
    /// When the authority cannot be read.
    pub fn new(address: SocketAddr, trust: &Path, user: &str, password: &str) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        let read = || format!("read {}", trust.display());
        for certificate in CertificateDer::pem_file_iter(trust).with_context(read)? {
            roots.add(certificate.with_context(read)?).with_context(read)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choose the versions of TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let credentials = STANDARD.encode(format!("{user}:{password}"));
        let head = format!(
            "POST /wsman HTTP/1.1\r\nHost: {address}\r\nAuthorization: Basic {credentials}\r\n\
             User-Agent: standin-bench\r\nContent-Type: application/soap+xml;charset=UTF-8\r\nContent-Length: "
        );
        Ok(Self { address, connector: TlsConnector::from(Arc::new(config)), head: head.into() })
    }

    /// A connection that stays.
    ///
    /// # Errors
    /// When the server is not there, or is another.
    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await.context("connect")?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = self.connector.connect(name, stream).await.context("TLS handshake")?;
        Ok(Connection {
            stream,
            head: Arc::clone(&self.head),
            request: Vec::with_capacity(4096),
            reply: Vec::with_capacity(16 << 10),
        })
    }
}

/// A connection: one request after the other.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    head: Arc<str>,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Connection {
    /// Sends a message and gives the status and the body of the reply.
    ///
    /// # Errors
    /// When the connection ends, or no reply of HTTP with a length comes.
    pub async fn post(&mut self, body: &str) -> Result<(u16, &str)> {
        self.request.clear();
        self.request.extend_from_slice(self.head.as_bytes());
        self.request.extend_from_slice(body.len().to_string().as_bytes());
        self.request.extend_from_slice(b"\r\n\r\n");
        self.request.extend_from_slice(body.as_bytes());
        self.stream.write_all(&self.request).await.context("send")?;
        self.stream.flush().await.context("send")?;
        self.reply.clear();
        let mut frame = None;
        loop {
            let read = self.stream.read_buf(&mut self.reply).await.context("receive")?;
            ensure!(read > 0, "the server ended the connection");
            if frame.is_none() {
                frame = Frame::read(&self.reply)?;
            }
            match &frame {
                Some(frame) if self.reply.len() >= frame.end => break,
                _ => {}
            }
        }
        let frame = frame.context("no reply")?;
        ensure!(self.reply.len() == frame.end, "more came than the length of the reply");
        let body = self.reply.get(frame.begin..).unwrap_or_default();
        Ok((frame.status, std::str::from_utf8(body).context("the reply is no UTF-8")?))
    }

    /// The same; a reply that is no success is an error.
    ///
    /// # Errors
    /// As [`Self::post`], and the beginning of the reply when its status is not 200.
    pub async fn ask(&mut self, body: &str) -> Result<&str> {
        match self.post(body).await? {
            (200, text) => Ok(text),
            (status, text) => {
                let shown: String = text.chars().take(2000).collect();
                bail!("the server answered {status}: {shown}")
            }
        }
    }
}

/// Where the body of a reply is.
struct Frame {
    status: u16,
    begin: usize,
    end: usize,
}

impl Frame {
    /// Of a reply whose head is complete.
    fn read(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(head) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else { return Ok(None) };
        let text = bytes.get(..head).and_then(|head| std::str::from_utf8(head).ok());
        let mut lines = text.context("the head of the reply is no text")?.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let status = status.context("the reply is not of HTTP/1.1")?;
        let length = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let length = length.context("the reply says no length")?;
        ensure!(length <= LONGEST, "a reply of {length} bytes");
        Ok(Some(Self { status, begin: head + 4, end: head + 4 + length }))
    }
}

/// A Get of an instance by its `InstanceID`, with the headers that Windows' own client sends.
pub fn get(message: &str, class: &str, instance: &str) -> String {
    let selectors =
        format!("<w:SelectorSet><w:Selector Name=\"InstanceID\">{instance}</w:Selector></w:SelectorSet>");
    envelope(message, "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get", class, &selectors, "")
}

/// An Enumerate that gives its first page at once.
pub fn enumerate(message: &str, class: &str, page: usize) -> String {
    let action = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate";
    let body =
        format!("<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>{page}</w:MaxElements></n:Enumerate>");
    envelope(message, action, class, "", &body)
}

/// A Pull of the next page.
pub fn pull(message: &str, class: &str, context: &str, page: usize) -> String {
    let action = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Pull";
    let body = format!(
        "<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext>\
         <n:MaxElements>{page}</n:MaxElements></n:Pull>"
    );
    envelope(message, action, class, "", &body)
}

fn envelope(message: &str, action: &str, class: &str, selectors: &str, body: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
         xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
         xmlns:n=\"http://schemas.xmlsoap.org/ws/2004/09/enumeration\" \
         xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\" \
         xmlns:p=\"http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd\"><s:Header>\
         <a:To>https://bench:5986/wsman</a:To>\
         <w:ResourceURI s:mustUnderstand=\"true\">{WMI}/{class}</w:ResourceURI>\
         <a:ReplyTo><a:Address s:mustUnderstand=\"true\">\
         http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>\
         <a:Action s:mustUnderstand=\"true\">{action}</a:Action>\
         <w:MaxEnvelopeSize s:mustUnderstand=\"true\">512000</w:MaxEnvelopeSize>\
         <a:MessageID>{message}</a:MessageID>\
         <w:Locale xml:lang=\"en-US\" s:mustUnderstand=\"false\"/>\
         <p:DataLocale xml:lang=\"en-US\" s:mustUnderstand=\"false\"/>\
         <w:OperationTimeout>PT60.000S</w:OperationTimeout>{selectors}\
         </s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )
}
