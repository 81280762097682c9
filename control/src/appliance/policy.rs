//! Which rules are in force: those of the files the configuration names, else the built-in policy, and in
//! front of them what the port forwards need.

use std::fs;
use std::path::{Path, PathBuf};

use postern_core::rules::{Family, Hook};
use postern_rules::{
    Counts, InterfaceRole, RestoreError, RestoreOptions, Rulesets, builtin, restore,
};

use crate::compile::NumberedForward;
use crate::config::Settings;

/// The reserved chain that accepts what port forwards translate.
pub const FORWARD_CHAIN: &str = "POSTERN-FORWARD";

/// Why there are no rules.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A rules file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A rules file is refused.
    #[error("{}: {source}", path.display())]
    Restore {
        /// The file.
        path: PathBuf,
        /// Where, and why.
        source: Box<RestoreError>,
    },
    /// A rule of our own making is refused.
    #[error("generated rules: {0}")]
    Generated(Box<postern_rules::Error>),
}

impl From<postern_rules::Error> for PolicyError {
    fn from(error: postern_rules::Error) -> Self {
        Self::Generated(Box::new(error))
    }
}

/// The rules that the configuration says: a family without a file has the built-in policy.
///
/// # Errors
/// See [`PolicyError`].
pub fn load(config: &Settings) -> Result<Rulesets, PolicyError> {
    let roles: Vec<_> = config
        .interfaces
        .iter()
        .map(|i| InterfaceRole { name: &i.name, outside: i.is_outside() })
        .collect();
    let mut rulesets = builtin(&roles)?;
    load_files(config, &mut rulesets, &Counts::default())?;
    Ok(rulesets)
}

/// Puts the rules of the files that the configuration names into `rulesets`. `live` is what the
/// policies in use have counted.
///
/// # Errors
/// See [`PolicyError`].
pub fn load_files(
    config: &Settings,
    rulesets: &mut Rulesets,
    live: &Counts,
) -> Result<(), PolicyError> {
    for (family, file) in [(Family::V4, &config.rules), (Family::V6, &config.rules6)] {
        if let Some(path) = file {
            load_file(rulesets, family, path, live)?;
        }
    }
    Ok(())
}

fn load_file(
    rulesets: &mut Rulesets,
    family: Family,
    path: &Path,
    live: &Counts,
) -> Result<(), PolicyError> {
    let text = fs::read_to_string(path)
        .map_err(|source| PolicyError::Read { path: path.to_owned(), source })?;
    restore(&text, family, RestoreOptions::default(), rulesets, live).map_err(|source| {
        PolicyError::Restore { path: path.to_owned(), source: Box::new(source) }
    })?;
    Ok(())
}

/// Writes the reserved chain: a rule for each port forward. Without forwards of a family there is
/// no chain in its table.
///
/// # Errors
/// See [`PolicyError`].
pub fn set_forwards(
    rulesets: &mut Rulesets,
    forwards: &[NumberedForward],
) -> Result<(), PolicyError> {
    for family in Family::ALL {
        let rules: Vec<Vec<String>> = forwards
            .iter()
            .filter(|f| f.spec.to().is_ipv4() == (family == Family::V4))
            .map(forward_rule)
            .collect();
        if rules.is_empty() {
            rulesets.remove_reserved(family, FORWARD_CHAIN);
        } else {
            rulesets.set_reserved(family, FORWARD_CHAIN, Hook::Forward, &rules)?;
        }
    }
    Ok(())
}

/// Accepts what this forward translated, seen where rules see it: with its destination inside.
fn forward_rule(forward: &NumberedForward) -> Vec<String> {
    let spec = &forward.spec;
    let (first, last) = (spec.to_port(), spec.to_last());
    let ports = if first == last { first.to_string() } else { format!("{first}:{last}") };
    let comment = format!("forward {} {} {}", spec.interface(), spec.protocol(), spec.ports());
    let to = spec.to().to_string();
    let protocol = spec.protocol().to_string();
    ["-d", &to, "-p", &protocol, "--dport", &ports, "-m", "conntrack", "--ctstate", "DNAT"]
        .into_iter()
        .chain(["-m", "comment", "--comment", &comment, "-j", "ACCEPT"])
        .map(str::to_owned)
        .collect()
}
