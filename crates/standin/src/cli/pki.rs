//! `standin pki ...` and `standin enroll`: the verbs that work on certificate files.

use crate::args::{Enroll, PkiVerb};
use crate::config::Config;
use crate::exit::Failure;
use crate::output::Style;
use std::path::PathBuf;

pub(super) fn pki(verb: PkiVerb, config: &Config, style: Style) -> Result<(), Failure> {
    let _ = (verb, config, style);
    Err(anyhow::anyhow!("the certificate authority is not linked into this build").into())
}

pub(super) fn enroll(args: Enroll, config: &Config, socket: PathBuf, style: Style) -> Result<(), Failure> {
    let _ = (args, config, socket, style);
    Err(anyhow::anyhow!("enrolment is not linked into this build").into())
}
