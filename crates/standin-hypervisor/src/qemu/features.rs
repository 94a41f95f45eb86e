//! What a QEMU can do beyond the floor (7.2), asked of its own schema. Versions are not compared: builds of
//! distributions have features of later ones. The exception is a fix, which leaves no trace in a schema; a version
//! that has it by its number has it in every build.

use crate::error::Error;
use crate::qmp::{Qmp, json};
use serde_json::Value;

/// Optional features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Features {
    /// `blockdev-backup` takes `on-cbw-error`: the view breaks, not the guest's write.
    pub backup_on_cbw_error: bool,
    /// A request to a cut may begin in a part that was copied to the scratch file and end in one that was not.
    /// QEMU below 8.0 answers all of such a request from the running disk: its commit a4d5224c2cb ("hbitmap: fix
    /// hbitmap_status() return value for first dirty bit case"), which the stable releases of 7.2 do not have.
    pub cut_reads_across: bool,
}

/// The first major version whose cuts are read right across clusters.
const READS_ACROSS: u64 = 8;

impl Features {
    /// Asks.
    pub async fn probe(qmp: &Qmp) -> Result<Self, Error> {
        let schema = qmp.execute("query-qmp-schema", Value::Null).await?;
        let version = qmp.execute("query-version", Value::Null).await?;
        let features = Self { cut_reads_across: reads_across(&version), ..Self::from_schema(&schema)? };
        tracing::debug!(?features, "QEMU's optional features");
        Ok(features)
    }

    fn from_schema(schema: &Value) -> Result<Self, Error> {
        for needed in ["transaction", "blockdev-backup", "block-export-add", "block-dirty-bitmap-merge"] {
            if find(schema, needed).is_none() {
                return Err(Error::Unsupported {
                    feature: format!("tracking changes with QEMU's {needed}"),
                    detail: "this QEMU does not have that command".to_owned(),
                });
            }
        }
        Ok(Self {
            backup_on_cbw_error: takes(schema, "blockdev-backup", "on-cbw-error"),
            cut_reads_across: false,
        })
    }
}

/// A version that cannot be read counts as an old one.
fn reads_across(version: &Value) -> bool {
    version["qemu"]["major"].as_u64().is_some_and(|major| major >= READS_ACROSS)
}

fn find<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    json::items(schema).iter().find(|entry| json::text(entry, "name") == name)
}

fn takes(schema: &Value, command: &str, argument: &str) -> bool {
    let Some(command) = find(schema, command) else { return false };
    let Some(arguments) = find(schema, json::text(command, "arg-type")) else { return false };
    json::list(arguments, "members").iter().any(|member| json::text(member, "name") == argument)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(members: &Value) -> Value {
        json!([
            { "name": "transaction", "meta-type": "command", "arg-type": "1" },
            { "name": "block-export-add", "meta-type": "command", "arg-type": "1" },
            { "name": "block-dirty-bitmap-merge", "meta-type": "command", "arg-type": "1" },
            { "name": "blockdev-backup", "meta-type": "command", "arg-type": "42" },
            { "name": "42", "meta-type": "object", "members": members },
        ])
    }

    #[test]
    fn an_argument_is_only_used_where_the_schema_has_it() {
        let old = Features::from_schema(&schema(&json!([{ "name": "target" }]))).expect("a schema");
        assert!(!old.backup_on_cbw_error);
        let new = Features::from_schema(&schema(&json!([{ "name": "on-cbw-error" }]))).expect("a schema");
        assert!(new.backup_on_cbw_error);
    }

    #[test]
    fn only_a_qemu_that_is_known_to_be_right_is_read_across_clusters() {
        let version =
            |major: u64| json!({ "qemu": { "major": major, "minor": 2, "micro": 22 }, "package": "" });
        assert!(!reads_across(&version(7)));
        assert!(reads_across(&version(8)));
        assert!(reads_across(&version(10)));
        assert!(!reads_across(&json!({ "qemu": {} })));
    }

    #[test]
    fn a_qemu_that_cannot_track_says_what_is_missing() {
        let error = Features::from_schema(&json!([{ "name": "transaction" }])).expect_err("too old");
        assert!(error.to_string().contains("blockdev-backup"), "{error}");
    }
}
