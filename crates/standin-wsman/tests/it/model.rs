//! A small world: a few classes as replication has them, some VMs, and a service in front of it.

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use standin_access::endpoint::{Endpoint, Request, Response};
use standin_cim::broker::Broker;
use standin_cim::memory::Repository;
use standin_cim::{
    Caller, CimError, CimType, Class, Datetime, Instance, Key, Keys, MethodAnswer, MethodCall, MethodDecl,
    Namespace, ObjectPath, ParameterDecl, PropertyDecl, Qualifier, RawValue, Role, Schema, StatusCode, Text,
    TypedValue, Value,
};
use standin_wsman::{Limits, Service, Settings};
use std::sync::{Arc, Mutex};

pub const V2: &str = "root/virtualization/v2";
pub const WMI: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2";
pub const DMTF: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2";
pub const GET: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get";
pub const PUT: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Put";
pub const ENUMERATE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate";
pub const PULL: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Pull";
pub const RELEASE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Release";
pub const VM: &str = "6F6D1CB2-0000-4000-8000-000000000000";

fn null(cim_type: CimType, array: bool) -> TypedValue {
    TypedValue { cim_type, array, value: None }
}

fn flag(name: &'static str) -> Qualifier {
    let value = TypedValue { cim_type: CimType::Boolean, array: false, value: Some(true.into()) };
    Qualifier { name: name.into(), value }
}

/// `name:type`, with `*` before the name of a key, `!` before one that may be written, and `[]` behind an array's.
fn property(class: &'static str, spec: &'static str) -> PropertyDecl {
    let (name, kind) = spec.split_once(':').unwrap();
    let (kind, array) = kind.strip_suffix("[]").map_or((kind, false), |kind| (kind, true));
    let (key, name) = name.strip_prefix('*').map_or((false, name), |name| (true, name));
    let (writable, name) = name.strip_prefix('!').map_or((false, name), |name| (true, name));
    let reference = kind.strip_prefix("ref ");
    let cim_type = if reference.is_some() { CimType::Reference } else { CimType::parse(kind).unwrap() };
    PropertyDecl {
        name: name.into(),
        default: null(cim_type, array),
        reference_class: reference.map(Text::Borrowed),
        embedded_class: None,
        key,
        writable,
        origin: class.into(),
        qualifiers: Vec::new(),
    }
}

fn class(
    name: &'static str,
    base: Option<&Class>,
    specs: &[&'static str],
    methods: Vec<MethodDecl>,
) -> Class {
    let mut properties = base.map(|base| base.properties.clone()).unwrap_or_default();
    properties.extend(specs.iter().map(|spec| property(name, spec)));
    let association = properties.iter().any(|property| property.default.cim_type == CimType::Reference);
    Class {
        name: name.into(),
        superclass: base.map(|base| base.name.clone()),
        association,
        is_abstract: name.starts_with("CIM_"),
        properties,
        methods,
        qualifiers: Vec::new(),
    }
}

/// `name:type` of a parameter; `>` before the name of one that the method gives.
fn parameter(spec: &'static str) -> ParameterDecl {
    let (output, spec) = spec.strip_prefix('>').map_or((false, spec), |spec| (true, spec));
    let (object, spec) = spec.strip_prefix('@').map_or((false, spec), |spec| (true, spec));
    let declared = property("", spec);
    ParameterDecl {
        name: declared.name,
        cim_type: declared.default.cim_type,
        array: declared.default.array,
        reference_class: declared.reference_class,
        embedded_class: object.then_some("Msvm_ReplicationStatistics".into()),
        input: !output,
        output,
        required: false,
        qualifiers: if object { vec![flag("EmbeddedObject")] } else { Vec::new() },
    }
}

fn method(name: &'static str, parameters: &[&'static str]) -> MethodDecl {
    MethodDecl {
        name: name.into(),
        returns: CimType::Uint32,
        parameters: parameters.iter().map(|spec| parameter(spec)).collect(),
        origin: "Msvm_ReplicationService".into(),
        qualifiers: Vec::new(),
    }
}

pub fn schema() -> Schema {
    let element = class("CIM_ManagedElement", None, &["Caption:string", "ElementName:string"], Vec::new());
    let system = class(
        "CIM_ComputerSystem",
        Some(&element),
        &["*CreationClassName:string", "*Name:string", "Dedicated:uint16[]"],
        Vec::new(),
    );
    let vm = class(
        "Msvm_ComputerSystem",
        Some(&system),
        &[
            "!Roles:string[]",
            "!OtherName:string",
            "Ready:boolean",
            "Big:uint64",
            "Small:sint16",
            "Part:real64",
            "Letter:char16",
            "InstallDate:datetime",
            "OnTimeInMilliseconds:datetime",
            "Settings:string",
            "Parent:ref Msvm_ComputerSystem",
        ],
        vec![method(
            "RequestStateChange",
            &["RequestedState:uint16", "TimeoutPeriod:datetime", ">Job:ref CIM_Job"],
        )],
    );
    let service = class(
        "Msvm_ReplicationService",
        Some(&element),
        &["*Name:string"],
        vec![
            method(
                "InitiateFailover",
                &[
                    "ComputerSystem:ref CIM_ComputerSystem",
                    "SnapshotSettingData:string",
                    "Tags:string[]",
                    ">Job:ref Msvm_ConcreteJob",
                ],
            ),
            method(
                "GetReplicationStatistics",
                &[">@ReplicationStatistics:string[]", ">ReplicationHealthIssues:string[]"],
            ),
            method("Slow", &[]),
        ],
    );
    let job = class("Msvm_ConcreteJob", Some(&element), &["*InstanceID:string"], Vec::new());
    let statistics = class(
        "Msvm_ReplicationStatistics",
        None,
        &["ReplicationSuccessCount:uint32", "MaxReplicationLatency:uint64", "StartStatisticTime:datetime"],
        Vec::new(),
    );
    let link = class(
        "Msvm_SystemReplicationService",
        None,
        &["*Antecedent:ref Msvm_ComputerSystem", "*Dependent:ref Msvm_ReplicationService"],
        Vec::new(),
    );
    Schema::new(vec![element, system, vm, service, job, statistics, link])
}

pub fn key(name: &'static str, value: &str) -> Key {
    Key::text(name, value.to_owned())
}

pub fn vm_path(n: usize) -> ObjectPath {
    let name = format!("6F6D1CB2-0000-4000-8000-{n:012}");
    ObjectPath::new(
        "Msvm_ComputerSystem",
        vec![key("CreationClassName", "Msvm_ComputerSystem"), key("Name", &name)],
    )
}

fn vm(n: usize) -> Instance {
    let mut vm = Instance::new("Msvm_ComputerSystem");
    let path = vm_path(n);
    let Keys::Named(keys) = &path.keys else { unreachable!() };
    for key in keys {
        let value = Value::from(key.value.to_text());
        vm.set(key.name.clone(), CimType::String, false, Some(value));
    }
    vm.set("ElementName", CimType::String, false, Some(format!("vm <{n}> & \"friends\"").into()));
    vm.set("Roles", CimType::String, true, Some(vec!["web", "db"].into()));
    vm.set("Ready", CimType::Boolean, false, Some((n % 2 == 0).into()));
    vm.set("Big", CimType::Uint64, false, Some(u64::MAX.into()));
    vm.set("Small", CimType::Sint16, false, Some(i16::MIN.into()));
    vm.set("Part", CimType::Real64, false, Some(0.25_f64.into()));
    vm.set("Letter", CimType::Char16, false, Some(Value::Char16(0xe4)));
    let at: jiff::Timestamp = "2013-04-15T16:28:43.488171Z".parse().unwrap();
    vm.set("InstallDate", CimType::Datetime, false, Some(Datetime::utc(at).into()));
    vm.set("OnTimeInMilliseconds", CimType::Datetime, false, Some(Datetime::seconds(100).into()));
    if n == 0 {
        let mut inner = Instance::new("Msvm_ReplicationStatistics");
        inner.set("ReplicationSuccessCount", CimType::Uint32, false, Some(7_u32.into()));
        vm.set("Settings", CimType::String, false, Some(inner.into()));
        vm.set("Parent", CimType::Reference, false, Some(vm_path(1).into()));
    }
    vm
}

/// What the methods were called with.
pub type Calls = Arc<Mutex<Vec<MethodCall>>>;

/// The world with so many VMs; and what its methods were called with.
pub fn repository(vms: usize) -> (Repository, Calls) {
    let calls = Calls::default();
    let failover = calls.clone();
    let repository = Repository::new()
        .with_namespace(V2, Arc::new(schema()))
        .with_namespace("root/cimv2", Arc::new(Schema::new(Vec::new())))
        .with_method("Msvm_ReplicationService.InitiateFailover", move |_, call| {
            failover.lock().unwrap().push(call.clone());
            let job = ObjectPath::new("Msvm_ConcreteJob", vec![key("InstanceID", "job-1")]);
            Ok(answer(4096, vec![("Job", CimType::Reference, false, Some(job.into()))]))
        })
        .with_method("Msvm_ReplicationService.GetReplicationStatistics", |_, _| {
            let mut statistics = Instance::new("Msvm_ReplicationStatistics");
            statistics.set("ReplicationSuccessCount", CimType::Uint32, false, Some(3_u32.into()));
            statistics.set("MaxReplicationLatency", CimType::Uint64, false, None);
            let start = Datetime::seconds(0);
            statistics.set("StartStatisticTime", CimType::Datetime, false, Some(start.into()));
            let text = standin_cim::embedded::to_text(&statistics);
            let both = Value::Array(vec![Some(statistics.clone().into()), Some(statistics.into())]);
            Ok(answer(
                0,
                vec![
                    ("ReplicationStatistics", CimType::String, true, Some(both)),
                    ("ReplicationHealthIssues", CimType::String, true, Some(vec![text].into())),
                ],
            ))
        })
        .with_method("Msvm_ReplicationService.Slow", |_, _| {
            std::thread::sleep(std::time::Duration::from_millis(200));
            Ok(answer(0, Vec::new()))
        })
        .with_method("Msvm_ComputerSystem.RequestStateChange", |caller, _| {
            if caller.may(Role::Operator) {
                Ok(answer(0, vec![("Job", CimType::Reference, false, None)]))
            } else {
                Err(CimError::new(StatusCode::AccessDenied, "a viewer changes nothing"))
            }
        });
    for n in 0..vms {
        repository.put(V2, vm(n)).unwrap();
        let mut link = Instance::new("Msvm_SystemReplicationService");
        link.set("Antecedent", CimType::Reference, false, Some(vm_path(n).into()));
        link.set("Dependent", CimType::Reference, false, Some(service_path().into()));
        repository.put(V2, link).unwrap();
    }
    let mut service = Instance::new("Msvm_ReplicationService");
    service.set("Name", CimType::String, false, Some("replication".into()));
    repository.put(V2, service).unwrap();
    (repository, calls)
}

pub fn service_path() -> ObjectPath {
    ObjectPath::new("Msvm_ReplicationService", vec![key("Name", "replication")])
}

fn answer(return_value: u32, out: Vec<(&'static str, CimType, bool, Option<Value>)>) -> MethodAnswer {
    let out = out
        .into_iter()
        .map(|(name, cim_type, array, value)| (Text::Borrowed(name), TypedValue { cim_type, array, value }));
    MethodAnswer { return_value, out: out.collect() }
}

/// A service in front of the world.
pub struct World {
    pub service: Arc<Service>,
    pub calls: Calls,
    pub caller: Caller,
}

pub fn caller(name: &str, role: Role) -> Caller {
    Caller {
        name: name.into(),
        role,
        from: "192.0.2.1:4711".parse().unwrap(),
        proof: "basic",
        protocol: "ws-management",
    }
}

impl World {
    pub fn new(vms: usize) -> Self {
        Self::with_limits(vms, Limits::default())
    }

    pub fn with_limits(vms: usize, limits: Limits) -> Self {
        let (repository, calls) = repository(vms);
        let broker = Arc::new(Broker::new(repository).with_host("here"));
        let service = Service::new(broker, Settings { limits, ..Settings::default() });
        Self { service: Arc::new(service), calls, caller: caller("anna", Role::Administrator) }
    }

    /// The same world for somebody else.
    pub fn as_user(&self, name: &str, role: Role) -> Self {
        Self { service: self.service.clone(), calls: self.calls.clone(), caller: caller(name, role) }
    }

    pub async fn post(&self, body: impl Into<Bytes>, content_type: Option<&'static str>) -> Response {
        let mut headers = HeaderMap::new();
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        let (method, path, caller) = (Method::POST, "/wsman".to_owned(), self.caller.clone());
        self.service.call(Request { method, path, headers, body: body.into(), caller }).await
    }

    /// Sends a message; returns the status and the text of the reply, which must be XML.
    pub async fn send(&self, message: &str) -> (u16, String) {
        let response = self.post(message.to_owned(), None).await;
        let (text, _) = standin_wsman::text::decode(&response.body, Some(response.content_type)).unwrap();
        let text = text.into_owned();
        roxmltree::Document::parse(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
        (response.status, text)
    }

    /// Sends a message that must be answered with success.
    pub async fn done(&self, message: &str) -> String {
        let (status, text) = self.send(message).await;
        assert_eq!(status, 200, "{text}");
        text
    }

    /// Sends a message that must be answered with this fault.
    pub async fn fault(&self, message: &str, code: &str, subcode: &str) -> String {
        let (status, text) = self.send(message).await;
        assert_eq!(status, 500, "{text}");
        assert!(text.contains(&format!("<s:Value>{code}</s:Value>")), "{code} in {text}");
        if !subcode.is_empty() {
            assert!(text.contains(&format!("<s:Value>{subcode}</s:Value>")), "{subcode} in {text}");
        }
        text
    }
}

/// A message with the usual headers.
pub fn message(action: &str, uri: &str, selectors: &[(&str, &str)], body: &str) -> String {
    with_headers(action, uri, selectors, "", body)
}

pub fn with_headers(
    action: &str,
    uri: &str,
    selectors: &[(&str, &str)],
    headers: &str,
    body: &str,
) -> String {
    let selectors: String = selectors
        .iter()
        .map(|(name, value)| format!("<w:Selector Name=\"{name}\">{value}</w:Selector>"))
        .collect();
    let set = if selectors.is_empty() {
        String::new()
    } else {
        format!("<w:SelectorSet>{selectors}</w:SelectorSet>")
    };
    format!(
        "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
         xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
         xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\" \
         xmlns:n=\"http://schemas.xmlsoap.org/ws/2004/09/enumeration\"><s:Header>\
         <a:To>http://here:5985/wsman</a:To><a:Action s:mustUnderstand=\"true\">{action}</a:Action>\
         <w:ResourceURI s:mustUnderstand=\"true\">{uri}</w:ResourceURI>\
         <a:MessageID>uuid:1</a:MessageID>{headers}{set}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )
}

/// The selectors of a VM.
pub const VM_KEYS: [(&str, &str); 2] = [("CreationClassName", "Msvm_ComputerSystem"), ("Name", VM)];

/// What is between the first `from` and the next `to`.
pub fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("no {from} in {text}"));
    rest.split_once(to).unwrap_or_else(|| panic!("no {to} in {text}")).0
}

/// Whether the argument of that name is this.
pub fn argument<'a>(call: &'a MethodCall, name: &str) -> Option<&'a RawValue> {
    call.arguments.iter().find(|argument| argument.name == name).map(|argument| &argument.value)
}

pub fn namespace() -> Namespace {
    Namespace::new(V2)
}
