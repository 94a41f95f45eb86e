//! `standin vm ...`

use super::Session;
use crate::api::client::segment;
use crate::api::types::{AdoptRequest, Done, StartRequest, StartView, StopRequest, refused_name};
use crate::args::{Adopt, Start, Stop, VmVerb};
use crate::exit::Failure;
use crate::output::table;
use standin_model::VmName;
use standin_model::view::VmView;
use std::io::Read;
use std::path::{Path, PathBuf};

/// One byte more than the daemon takes: it refuses what is longer, and nothing is cut off silently.
const MAX_DEFINITION: u64 = crate::api::MAX_BODY as u64 + 1;

/// Runs the verb.
pub(super) async fn run(session: &Session, verb: VmVerb) -> Result<(), Failure> {
    match verb {
        VmVerb::Define { file } => define(session, &file).await,
        VmVerb::List => {
            let mut vms: Vec<VmView> = session.client.get("/v1/vms").await?;
            vms.sort_by(|a, b| (&a.vm, a.id).cmp(&(&b.vm, b.id)));
            session.style.print(&vms, |vms| table::vms(session.look(), vms))
        }
        VmVerb::Show { vm } => {
            let view: VmView = session.client.get(&path(&vm, "")).await?;
            session.style.print(&view, |view| table::vm(session.look(), view))
        }
        VmVerb::Start(start) => self::start(session, start).await,
        VmVerb::Stop(stop) => end(session, stop).await,
        VmVerb::Adopt(adopt) => self::adopt(session, adopt).await,
        VmVerb::Forget { vm } => {
            let done: Done = session.client.delete(&path(&vm, "/claim")).await?;
            session.style.print(&done, |_| format!("this host does not know any more where {vm} lives"))
        }
        VmVerb::Remove { vm } => {
            let done: Done = session.client.delete(&path(&vm, "")).await?;
            session.style.print(&done, |_| format!("{vm} is forgotten; its disks stay"))
        }
    }
}

async fn start(session: &Session, args: Start) -> Result<(), Failure> {
    let request = StartRequest { yes: args.yes, force: args.force };
    let view: StartView = session.client.send(&path(&args.vm, "/start"), &request).await?;
    session.style.print(&view, |view| match &view.job {
        Some(job) => format!(
            "{} waits: {}\nThe job goes on; follow it with `standin jobs {} --watch`",
            view.vm.vm, job.description, job.id
        ),
        None => {
            let by = view.vm.accelerator.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
            format!("{} runs{by}", view.vm.vm)
        }
    })
}

/// The path of a VM in the API, whatever was typed as its name.
pub(super) fn path(vm: &str, rest: &str) -> String {
    format!("/v1/vms/{}{rest}", segment(vm))
}

async fn define(session: &Session, file: &Path) -> Result<(), Failure> {
    let (text, base) = if file == Path::new("-") {
        (read(std::io::stdin().lock()), PathBuf::from("."))
    } else {
        let text = std::fs::File::open(file).and_then(read_checked);
        (
            text,
            file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf(),
        )
    };
    let unreadable = |error: std::io::Error| {
        Failure::Usage(format!(
            "the definition {} cannot be read: {error}; name a readable TOML file",
            file.display()
        ))
    };
    let text = text.map_err(unreadable)?;
    // The daemon runs elsewhere: relative paths in the file count from the file.
    let base = std::path::absolute(base).map_err(unreadable)?;
    let base = base.to_str().ok_or_else(|| {
        Failure::Usage(format!(
            "the directory {} has a name that is not UTF-8; move the definition",
            base.display()
        ))
    })?;
    let target = format!("/v1/vms?base_dir={}", segment(base));
    let view: VmView = session.client.send_toml(&target, &text).await?;
    session.style.print(&view, |view| {
        format!("{} is defined ({}); start it with `standin vm start {}`", view.vm, view.id, view.vm)
    })
}

/// A directory opens like a file and fails only at the first read, with words that help nobody.
fn read_checked(file: std::fs::File) -> std::io::Result<String> {
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::new(std::io::ErrorKind::IsADirectory, "it is a directory"));
    }
    read(file)
}

fn read(source: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    source.take(MAX_DEFINITION).read_to_string(&mut text)?;
    Ok(text)
}

async fn end(session: &Session, stop: Stop) -> Result<(), Failure> {
    let request = StopRequest { force: stop.force, timeout_s: stop.timeout.as_secs() };
    if !stop.force && session.style.bars {
        eprintln!("asking the guest to shut down, for at most {} s", request.timeout_s);
    }
    let target = path(&stop.vm, "/stop");
    let view: VmView = session.client.send_patiently(&target, &request, stop.timeout).await?;
    session.style.print(&view, |view| format!("{} is {}", view.vm, view.power))
}

async fn adopt(session: &Session, adopt: Adopt) -> Result<(), Failure> {
    let name = adopt.name.map(VmName::new).transpose().map_err(|error| refused_name(&error))?;
    let qmp = std::path::absolute(&adopt.qmp)
        .map_err(|error| Failure::Usage(format!("--qmp {}: {error}", adopt.qmp.display())))?;
    let view: VmView =
        session.client.send("/v1/adopt", &AdoptRequest { qmp, name, force: adopt.force }).await?;
    session.style.print(&view, |view| table::vm(session.look(), view))
}
