//! Turns the schema files in `schema/` into tables of Rust, one for each namespace. Whatever is wrong in them (a
//! class that does not exist, an override of nothing, a qualifier that is not declared) stops the build with the
//! file and the line.

#[path = "build/check.rs"]
mod check;
#[path = "build/emit.rs"]
mod emit;
#[path = "build/lexer.rs"]
mod lexer;
#[path = "build/parser.rs"]
mod parser;

use std::path::{Path, PathBuf};

/// A namespace: its function, the files of its own classes, and files from which it takes what those need.
const NAMESPACES: [(&str, &[&str], &[&str]); 4] = [
    ("VIRTUALIZATION", &["cim.mof", "systems.mof", "replication.mof", "wmi.mof"], &[]),
    ("INTEROP", &["interop.mof", "wmi.mof"], &["cim.mof"]),
    ("CIMV2", &["cimv2.mof", "wmi.mof"], &[]),
    ("ROOT", &["wmi.mof"], &[]),
];

fn main() {
    println!("cargo::rerun-if-changed=schema");
    println!("cargo::rerun-if-changed=build");
    if let Err(problem) = generate() {
        println!("cargo::error={problem}");
        std::process::exit(1);
    }
}

fn generate() -> Result<(), String> {
    let folder =
        Path::new(&std::env::var("CARGO_MANIFEST_DIR").map_err(|error| error.to_string())?).join("schema");
    let read = |name: &str| parser::file(&folder.join(name));
    let qualifiers = read("qualifiers.mof")?.qualifiers;
    let mut out = emit::qualifiers(&qualifiers);
    for (name, own, needed) in NAMESPACES {
        let classes = |files: &[&str]| -> Result<Vec<parser::Class>, String> {
            let mut all = Vec::new();
            for file in files {
                all.extend(read(file)?.classes);
            }
            Ok(all)
        };
        let classes = check::closed(classes(needed)?, classes(own)?)?;
        check::namespace(&qualifiers, &classes)?;
        out.push_str(&emit::classes(name, &classes));
    }
    let target =
        PathBuf::from(std::env::var("OUT_DIR").map_err(|error| error.to_string())?).join("schema.rs");
    std::fs::write(&target, out).map_err(|error| format!("cannot write {}: {error}", target.display()))
}
