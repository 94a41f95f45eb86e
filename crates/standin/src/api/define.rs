//! Reads the definition of a VM from the body of a request.

use super::reason::Request;
use standin_hypervisor::definition::VmDefinition;
use standin_hypervisor::error::Error;
use standin_model::Refusal;
use standin_model::reason::Text;
use std::path::Path;

/// A definition from TOML or JSON text, with paths made absolute by `base_dir`, and whether the text says the VM's
/// identity; else one was made up, and the VM of the same name, if there is one, is meant.
///
/// # Errors
/// 32773 with the line or field that is wrong.
pub(super) fn read(text: &str, json: bool, base_dir: Option<&Path>) -> Result<(VmDefinition, bool), Refusal> {
    let (mut definition, has_id) = if json { from_json(text)? } else { from_toml(text)? };
    match base_dir {
        Some(dir) if dir.is_absolute() => definition.resolve(dir),
        Some(dir) => {
            return Err(Request::BaseDir { path: dir.to_owned() }.into());
        }
        None => refuse_relative(&definition)?,
    }
    Ok((definition, has_id))
}

fn from_toml(text: &str) -> Result<(VmDefinition, bool), Refusal> {
    let definition = VmDefinition::from_toml(text).map_err(|error| refusal(&error))?;
    // It was TOML a moment ago; the table is read again only to see whether the identity was written or made up.
    let has_id = text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("uuid"));
    Ok((definition, has_id))
}

fn from_json(text: &str) -> Result<(VmDefinition, bool), Refusal> {
    let wrong = |error: serde_json::Error| Request::DefinitionJson { error: error.to_string() };
    let value: serde_json::Value = serde_json::from_str(text).map_err(wrong)?;
    let has_id = value.get("uuid").is_some();
    let definition: VmDefinition = serde_json::from_value(value).map_err(wrong)?;
    definition.validate().map_err(|error| refusal(&error))?;
    Ok((definition, has_id))
}

fn refusal(error: &Error) -> Refusal {
    Request::Definition(Text::new(error.to_string(), error.remedy())).into()
}

/// Relative paths mean nothing to a daemon that does not know from where.
fn refuse_relative(definition: &VmDefinition) -> Result<(), Refusal> {
    // A directory that no definition names: what moved there was relative.
    let mut moved = definition.clone();
    moved.resolve(Path::new("/"));
    if moved == *definition {
        return Ok(());
    }
    Err(Request::RelativeFiles { vm: definition.name.clone() }.into())
}
