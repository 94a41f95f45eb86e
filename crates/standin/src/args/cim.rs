//! `standin cim`: needs no daemon.

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

/// `standin cim`
#[derive(Debug, ClapArgs)]
pub struct Cim {
    /// What to do.
    #[command(subcommand)]
    pub verb: CimVerb,
}

/// What `standin cim` does.
#[derive(Debug, Subcommand)]
pub enum CimVerb {
    /// Print the classes as MOF, for the tools that compile it
    Mof {
        /// Which namespace
        #[arg(long, value_enum, default_value_t = Namespace::Virtualization)]
        namespace: Namespace,
    },
}

/// The namespaces with classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Namespace {
    /// root/virtualization/v2
    Virtualization,
    /// root/cimv2
    Cimv2,
    /// interop
    Interop,
}
