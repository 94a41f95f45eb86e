use super::*;
use serde_json::{Value as Json, json};
use standin_cim::{CimType, Key, RawValue, Role, TypedValue};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Answers every method with 4096 and counts calls.
#[derive(Default)]
struct Counting(AtomicUsize);

fn unsupported<T>() -> Result<T> {
    Err(CimError::new(StatusCode::NotSupported, "This double does not do that."))
}

#[async_trait]
impl Operations for Counting {
    fn namespaces(&self) -> Vec<Namespace> {
        Vec::new()
    }
    fn schema(&self, _: &Namespace) -> Result<Arc<Schema>> {
        unsupported()
    }
    async fn get_instance(&self, _: &Caller, _: &ObjectPath) -> Result<Instance> {
        unsupported()
    }
    async fn enumerate(&self, _: &Caller, _: &Namespace, _: &str) -> Result<Vec<Instance>> {
        Ok(Vec::new())
    }
    async fn query(&self, _: &Caller, _: &Namespace, _: &str, _: &str) -> Result<QueryAnswer> {
        unsupported()
    }
    async fn associators(&self, _: &Caller, _: &ObjectPath, _: &AssociationFilter) -> Result<Vec<Instance>> {
        unsupported()
    }
    async fn references(&self, _: &Caller, _: &ObjectPath, _: &AssociationFilter) -> Result<Vec<Instance>> {
        unsupported()
    }
    async fn modify_instance(&self, _: &Caller, path: &ObjectPath, _: Vec<Named>) -> Result<Instance> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Instance::new(path.class.clone()))
    }
    async fn create_instance(&self, _: &Caller, _: &Namespace, _: &str, _: Vec<Named>) -> Result<ObjectPath> {
        unsupported()
    }
    async fn delete_instance(&self, _: &Caller, _: &ObjectPath) -> Result<()> {
        Err(CimError::new(StatusCode::AccessDenied, "Only an administrator may do that."))
    }
    async fn invoke(&self, _: &Caller, _: MethodCall) -> Result<MethodAnswer> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let job = ObjectPath::new("Msvm_ConcreteJob", vec![Key::text("InstanceID", "7")]);
        let job = TypedValue { cim_type: CimType::Reference, array: false, value: Some(job.into()) };
        Ok(MethodAnswer { return_value: 4096, out: vec![("Job".into(), job)] })
    }
}

fn alice() -> Caller {
    Caller {
        name: "alice".into(),
        role: Role::Administrator,
        from: ([192, 0, 2, 1], 50_000).into(),
        proof: "ntlm",
        protocol: "ws-management",
    }
}

fn service() -> ObjectPath {
    ObjectPath::new("Msvm_ReplicationService", vec![Key::text("Name", "vmms")])
        .within(Namespace::new("root/virtualization/v2"))
}

fn call(method: &str, arguments: Vec<(&str, RawValue)>) -> MethodCall {
    let arguments = arguments.into_iter().map(|(name, value)| Named { name: name.to_owned(), value });
    MethodCall { target: service(), method: method.to_owned(), arguments: arguments.collect() }
}

struct Fixture {
    dir: tempfile::TempDir,
    inner: Arc<Counting>,
    log: Arc<AuditLog>,
    audited: Audited<Counting>,
}

fn fixture(max_size: u64) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(AuditLog::with_size(dir.path().join("audit.log"), max_size).unwrap());
    let inner = Arc::new(Counting::default());
    let audited = Audited::new(Arc::clone(&inner), Arc::clone(&log), |call| call.method.starts_with("Get"));
    Fixture { dir, inner, log, audited }
}

impl Fixture {
    fn lines(&self) -> Vec<Json> {
        let text = std::fs::read_to_string(self.dir.path().join("audit.log")).unwrap();
        text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn a_call_that_changes_something_is_one_line_with_who_what_and_result() {
    let fixture = fixture(1 << 20);
    let system = ObjectPath::new("Msvm_ComputerSystem", vec![Key::text("Name", "6f2c")]);
    let arguments =
        vec![("ComputerSystem", RawValue::Reference(system)), ("SnapshotSettingData", RawValue::Null)];
    fixture.audited.invoke(&alice(), call("InitiateFailover", arguments)).await.unwrap();
    fixture.audited.modify_instance(&alice(), &service(), Vec::new()).await.unwrap();
    fixture.audited.delete_instance(&alice(), &service()).await.unwrap_err();
    let lines = fixture.lines();
    assert_eq!(lines.len(), 3);
    let first = &lines[0];
    assert_eq!(first["user"], "alice");
    assert_eq!(first["role"], "administrator");
    assert_eq!(first["from"], "192.0.2.1:50000");
    assert_eq!(first["proof"], "ntlm");
    assert_eq!(first["protocol"], "ws-management");
    assert_eq!(first["namespace"], "root/virtualization/v2");
    assert_eq!(first["target"], "Msvm_ReplicationService.Name=\"vmms\"");
    assert_eq!(first["method"], "InitiateFailover");
    assert_eq!(first["arguments"]["ComputerSystem"], "Msvm_ComputerSystem.Name=\"6f2c\"");
    assert_eq!(first["return_value"], 4096);
    assert_eq!(first["out"]["Job"], "Msvm_ConcreteJob.InstanceID=\"7\"");
    assert!(first["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    assert_eq!((&lines[1]["call"], &lines[1]["result"]), (&json!("modify"), &json!("done")));
    assert_eq!((&lines[2]["result"], &lines[2]["status"]), (&json!("failed"), &json!(2)));
}

#[tokio::test]
async fn reading_leaves_no_line() {
    let fixture = fixture(1 << 20);
    fixture.audited.enumerate(&alice(), &Namespace::new("root"), "X").await.unwrap();
    fixture.audited.invoke(&alice(), call("GetError", Vec::new())).await.unwrap();
    assert!(fixture.lines().is_empty());
}

#[tokio::test]
async fn secrets_are_left_out_wherever_they_stand() {
    let fixture = fixture(1 << 20);
    let embedded = "<INSTANCE CLASSNAME=\"X\"><PROPERTY NAME=\"ProxyPassword\" TYPE=\"string\"><VALUE>hunter2</VALUE>\
                    </PROPERTY><PROPERTY NAME=\"Name\" TYPE=\"string\"><VALUE>shown</VALUE></PROPERTY></INSTANCE>";
    let mut instance = Instance::new("Y");
    instance.set("Secret", CimType::String, false, Some("hunter2".into()));
    let arguments = vec![
        ("Password", RawValue::Text("hunter2".to_owned())),
        ("Settings", RawValue::Text(embedded.to_owned())),
        ("Broken", RawValue::Text("<INSTANCE hunter2".to_owned())),
        ("Object", RawValue::Array(vec![RawValue::Instance(Box::new(instance))])),
    ];
    fixture.audited.invoke(&alice(), call("SetX", arguments)).await.unwrap();
    let text = fixture.lines()[0].to_string();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("shown"), "{text}");
}

#[tokio::test]
async fn a_line_stays_one_line_and_short_whatever_a_client_sends() {
    let fixture = fixture(1 << 20);
    let arguments = vec![("Text", RawValue::Text("a\nb\u{0}".repeat(100_000)))];
    fixture.audited.invoke(&alice(), call("Set\nX", arguments)).await.unwrap();
    let text = std::fs::read_to_string(fixture.dir.path().join("audit.log")).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert!(text.len() < 64 << 10, "{}", text.len());
}

#[tokio::test]
async fn a_line_is_written_though_the_client_went_away() {
    let fixture = fixture(1 << 20);
    let caller = alice();
    let gone = fixture.audited.invoke(&caller, call("SetX", Vec::new()));
    // One poll starts the call; then the connection is dropped.
    let _ = tokio::time::timeout(std::time::Duration::ZERO, gone).await;
    for _ in 0..500 {
        if !fixture.lines().is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!((fixture.lines().len(), fixture.inner.0.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn while_the_log_cannot_be_written_nothing_is_changed() {
    let fixture = fixture(1 << 20);
    let path = fixture.dir.path().join("audit.log");
    let done = || fixture.inner.0.load(Ordering::SeqCst);
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    fixture.log.reopen().unwrap();
    fixture.audited.invoke(&alice(), call("SetX", Vec::new())).await.unwrap();
    assert_eq!(done(), 1, "the call whose line failed was done");
    let error = fixture.audited.invoke(&alice(), call("SetX", Vec::new())).await.unwrap_err();
    assert!(error.message.contains("audit log"), "{error}");
    assert_eq!(done(), 1);
    std::fs::remove_file(&path).unwrap();
    fixture.audited.invoke(&alice(), call("SetX", Vec::new())).await.unwrap();
    assert_eq!(done(), 2);
    let lines = fixture.lines();
    assert!(lines[0]["note"].is_string() && lines[1]["method"] == "SetX", "{lines:?}");
}

#[tokio::test]
async fn a_long_file_is_turned_over_and_one_that_was_moved_is_made_again() {
    let fixture = fixture(1);
    for _ in 0..3 {
        fixture.audited.invoke(&alice(), call("SetX", Vec::new())).await.unwrap();
    }
    assert_eq!(fixture.lines().len(), 1);
    assert!(fixture.dir.path().join("audit.log.2").exists());
    std::fs::rename(fixture.dir.path().join("audit.log"), fixture.dir.path().join("moved")).unwrap();
    fixture.log.reopen().unwrap();
    fixture.audited.invoke(&alice(), call("SetX", Vec::new())).await.unwrap();
    assert_eq!(fixture.lines().len(), 1);
}
