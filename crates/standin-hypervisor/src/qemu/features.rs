//! What a QEMU can do beyond the floor (7.2), asked of its own schema. Versions are never compared: builds of
//! distributions have features of later ones.

use crate::error::Error;
use crate::qmp::{Qmp, json};
use serde_json::Value;

/// Optional features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Features {
    /// `blockdev-backup` takes `on-cbw-error`: the view breaks, not the guest's write.
    pub backup_on_cbw_error: bool,
}

impl Features {
    /// Asks.
    pub async fn probe(qmp: &Qmp) -> Result<Self, Error> {
        let schema = qmp.execute("query-qmp-schema", Value::Null).await?;
        let features = Self::from_schema(&schema)?;
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
        Ok(Self { backup_on_cbw_error: takes(schema, "blockdev-backup", "on-cbw-error") })
    }
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
    fn a_qemu_that_cannot_track_says_what_is_missing() {
        let error = Features::from_schema(&json!([{ "name": "transaction" }])).expect_err("too old");
        assert!(error.to_string().contains("blockdev-backup"), "{error}");
    }
}
