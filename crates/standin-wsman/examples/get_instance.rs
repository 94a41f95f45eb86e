//! How long one Get takes, and an enumeration of a thousand instances in pages of a hundred: parse, look up in
//! memory, render, without a network.
//!
//! ```text
//! cargo run --release -p standin-wsman --example get_instance [rounds]
//! ```

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderMap;
use standin_access::endpoint::{Endpoint, Request};
use standin_cim::broker::Broker;
use standin_cim::memory::Repository;
use standin_cim::{Caller, CimType, Datetime, Instance, Role, Value, schema};
use standin_wsman::{Service, Settings};
use std::sync::Arc;
use std::time::Instant;

const NAMESPACE: &str = "root/virtualization/v2";
const CLASS: &str = "Msvm_ReplicationRelationship";
const INSTANCES: usize = 1000;

fn main() -> anyhow::Result<()> {
    let rounds: u32 = std::env::args().nth(1).map_or(Ok(50_000), |rounds| rounds.parse())?;
    // Few instances: the repository of tests looks at each of them.
    let service = service(100)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let request = Request {
        method: Method::POST,
        path: "/wsman".to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::from(message(57)),
        caller: Caller {
            name: "bench".into(),
            role: Role::Viewer,
            from: "127.0.0.1:1".parse()?,
            proof: "basic",
            protocol: "ws-management",
        },
    };
    let reply = runtime.block_on(service.call(request.clone()));
    anyhow::ensure!(reply.status == 200, "{}", String::from_utf8_lossy(&reply.body));
    let start = Instant::now();
    for _ in 0..rounds {
        runtime.block_on(service.call(request.clone()));
    }
    let each = start.elapsed() / rounds;
    println!(
        "GetInstance of {CLASS}: {:.1} us a round ({} bytes in, {} bytes out, {rounds} rounds)",
        each.as_secs_f64() * 1e6,
        request.body.len(),
        reply.body.len()
    );
    let service = self::service(INSTANCES)?;
    let start = Instant::now();
    let seen = runtime.block_on(enumerate(&service, &request.caller))?;
    anyhow::ensure!(seen == INSTANCES, "{seen} of {INSTANCES} instances came");
    println!("Enumerate of {INSTANCES} in pages of 100: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

fn service(instances: usize) -> anyhow::Result<Service> {
    let repository = Repository::new().with_namespace(NAMESPACE, schema::virtualization());
    for n in 0..instances {
        repository.put(NAMESPACE, relationship(n)?)?;
    }
    Ok(Service::new(Arc::new(Broker::new(repository)), Settings::default()))
}

/// Reads every instance; returns how many came.
async fn enumerate(service: &Service, caller: &Caller) -> anyhow::Result<usize> {
    let mut body =
        "<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>100</w:MaxElements></n:Enumerate>".to_owned();
    let (mut action, mut seen) = ("Enumerate", 0);
    loop {
        let text =
            envelope(&format!("http://schemas.xmlsoap.org/ws/2004/09/enumeration/{action}"), "", &body);
        let request = Request {
            method: Method::POST,
            path: "/wsman".to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::from(text),
            caller: caller.clone(),
        };
        let reply = service.call(request).await;
        let text = std::str::from_utf8(&reply.body)?;
        anyhow::ensure!(reply.status == 200, "{text}");
        seen += text.matches("_Type\"").count();
        if text.contains("EndOfSequence") {
            return Ok(seen);
        }
        let after = text.split_once("<n:EnumerationContext>").and_then(|(_, rest)| rest.split_once('<'));
        let context = after.ok_or_else(|| anyhow::anyhow!("no context in {text}"))?.0;
        action = "Pull";
        body = format!(
            "<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext>\
             <n:MaxElements>100</n:MaxElements></n:Pull>"
        );
    }
}

/// A relationship with a value for every property.
fn relationship(n: usize) -> anyhow::Result<Instance> {
    let schema = schema::virtualization();
    let class = schema.class(CLASS).ok_or_else(|| anyhow::anyhow!("the schema has no {CLASS}"))?;
    let mut instance = Instance::new(CLASS);
    for property in &class.properties {
        let value = match property.default.cim_type {
            CimType::String => Value::from(format!("Microsoft:{n:08}\\{}", property.name)),
            CimType::Boolean => true.into(),
            CimType::Uint8 => 1_u8.into(),
            CimType::Uint16 => 2_u16.into(),
            CimType::Uint32 => 3_u32.into(),
            CimType::Uint64 => 4_u64.into(),
            CimType::Datetime => Datetime::utc("2026-01-02T03:04:05Z".parse()?).into(),
            _ => continue,
        };
        let array = property.default.array;
        let value = if array { Value::Array(vec![Some(value.clone()), Some(value)]) } else { value };
        instance.set(property.name.clone(), property.default.cim_type, array, Some(value));
    }
    Ok(instance)
}

fn message(n: usize) -> String {
    let selectors = format!(
        "<w:SelectorSet><w:Selector Name=\"InstanceID\">Microsoft:{n:08}\\InstanceID</w:Selector></w:SelectorSet>"
    );
    envelope("http://schemas.xmlsoap.org/ws/2004/09/transfer/Get", &selectors, "")
}

fn envelope(action: &str, selectors: &str, body: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
         xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
         xmlns:n=\"http://schemas.xmlsoap.org/ws/2004/09/enumeration\" \
         xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\"><s:Header>\
         <a:To>http://here:5985/wsman</a:To><a:ReplyTo><a:Address s:mustUnderstand=\"true\">\
         http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>\
         <a:Action s:mustUnderstand=\"true\">{action}</a:Action>\
         <w:ResourceURI s:mustUnderstand=\"true\">\
         http://schemas.microsoft.com/wbem/wsman/1/wmi/{NAMESPACE}/{CLASS}</w:ResourceURI>\
         <w:MaxEnvelopeSize s:mustUnderstand=\"true\">512000</w:MaxEnvelopeSize>\
         <w:OperationTimeout>PT20S</w:OperationTimeout>\
         <a:MessageID>uuid:0B9F2F5E-61B2-4B8A-9C0A-8C2B6F3F9F10</a:MessageID>{selectors}\
         </s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )
}
