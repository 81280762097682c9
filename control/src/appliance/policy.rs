//! Which rules are in force: those of the files the configuration names, else the built-in policy, and in
//! front of them what the port forwards need.

use std::fs;
use std::path::{Path, PathBuf};

use postern_core::rules::{Family, Hook};
use postern_rules::{
    Counts, InterfaceRole, RestoreError, RestoreOptions, Rulesets, builtin, builtin_dump, restore,
};

use crate::compile::NumberedForward;
use crate::config::{self, Config, Fault, HostFacts, Settings};

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
    /// A rule in force names a timeout policy that the configuration no longer has.
    #[error("{0}")]
    Timeouts(Box<postern_rules::Error>),
    /// A rule of our own making is refused.
    #[error("generated rules: {0}")]
    Generated(Box<postern_rules::Error>),
}

impl From<postern_rules::Error> for PolicyError {
    fn from(error: postern_rules::Error) -> Self {
        Self::Generated(Box::new(error))
    }
}

/// Loads a configuration and looks at all that it names: this host's devices, and the rules files. What this
/// passes can be started.
///
/// # Errors
/// All faults of the configuration; if there are none, the first of each rules file, with its place in it.
pub fn load_config(path: &Path, host: &impl HostFacts) -> Result<Config, Vec<Fault>> {
    let config = config::load(path, host)?;
    let mut faults = Vec::new();
    let mut rulesets = builtin(&roles(&config)).unwrap_or_default();
    name_timeouts(&config, &mut rulesets);
    for family in Family::ALL {
        if let Some(path) = file(&config, family)
            && let Err(error) = load_file(&mut rulesets, family, path, &Counts::default())
        {
            faults.push(error.fault(path));
        }
    }
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

impl PolicyError {
    /// The error as a fault of the file at `path`.
    fn fault(&self, path: &Path) -> Fault {
        let (line, column, message, hint) = match self {
            Self::Restore { source, .. } => {
                let at = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                let token = match source.token.as_str() {
                    "" => String::new(),
                    token => format!("`{token}`: "),
                };
                let message = format!("{token}{}", source.error.message().trim_end_matches('.'));
                let hint = source.error.advice().map(str::to_owned);
                (at(source.line), at(source.column), message, hint)
            }
            other => (1, 1, other.to_string(), None),
        };
        Fault { file: path.to_owned(), line, column, message, hint }
    }
}

/// The rules that the configuration says: a family without a file has the built-in policy.
///
/// # Errors
/// See [`PolicyError`].
pub fn load(config: &Settings) -> Result<Rulesets, PolicyError> {
    let mut rulesets = builtin(&roles(config))?;
    name_timeouts(config, &mut rulesets);
    for family in Family::ALL {
        if let Some(path) = file(config, family) {
            load_file(&mut rulesets, family, path, &Counts::default())?;
        }
    }
    Ok(rulesets)
}

/// What each family's rules in force are, by [`Family::index`].
pub type Sources = [Source; 2];

/// Where rules come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The built-in policy, as it was made: it follows the configuration.
    BuiltIn,
    /// A file or the operator: they are kept until a file takes their place.
    Operator,
}

/// The sources at start.
pub fn sources(config: &Settings) -> Sources {
    Family::ALL.map(|family| match file(config, family) {
        Some(_) => Source::Operator,
        None => Source::BuiltIn,
    })
}

/// The rules after a reload: those of the files, read again; the built-in policy made anew where it is in force;
/// else what is there. `live` is what the policies in use have counted. Returns what changed, in words.
///
/// # Errors
/// See [`PolicyError`].
pub fn reload(
    [old, new]: [&Settings; 2],
    rulesets: &mut Rulesets,
    sources: &mut Sources,
    live: &Counts,
) -> Result<Vec<String>, PolicyError> {
    let mut changes = Vec::new();
    name_timeouts(new, rulesets);
    for family in Family::ALL {
        let number = if family == Family::V4 { "IPv4" } else { "IPv6" };
        let source = &mut sources[family.index()];
        if let Some(path) = file(new, family) {
            load_file(rulesets, family, path, live)?;
            *source = Source::Operator;
            changes.push(format!("the {number} rules were read again from {}", path.display()));
            continue;
        }
        let dump = builtin_dump(family, &roles(new));
        let differs = dump != builtin_dump(family, &roles(old));
        match *source {
            Source::BuiltIn if differs => {
                restore(&dump, family, RestoreOptions::default(), rulesets, live)
                    .map_err(|error| error.error)?;
                changes.push(format!("the built-in {number} rules were made anew"));
            }
            Source::Operator if differs || file(old, family).is_some() => changes.push(format!(
                "the {number} rules stay as they are: they are no longer the built-in ones"
            )),
            Source::BuiltIn | Source::Operator => {}
        }
    }
    rulesets.check_timeout_policies().map_err(|error| PolicyError::Timeouts(Box::new(error)))?;
    Ok(changes)
}

/// Says which timeout policies rules may name.
fn name_timeouts(config: &Settings, rulesets: &mut Rulesets) {
    let names = config.timeout_policies.iter().map(|policy| policy.name.as_str());
    rulesets.set_timeout_policies(&names.collect::<Vec<_>>());
}

fn roles(config: &Settings) -> Vec<InterfaceRole<'_>> {
    let interfaces = config.interfaces.iter();
    interfaces.map(|i| InterfaceRole { name: &i.name, outside: i.is_outside() }).collect()
}

fn file(config: &Settings, family: Family) -> Option<&Path> {
    match family {
        Family::V4 => config.rules.as_deref(),
        Family::V6 => config.rules6.as_deref(),
    }
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

#[cfg(test)]
mod load_tests {
    use super::*;

    struct AnyHost;

    impl HostFacts for AnyHost {
        fn devices(&self) -> Vec<String> {
            vec!["nic-lan".to_owned()]
        }
        fn mtu(&self, _: &str) -> Option<u32> {
            Some(1500)
        }
        fn cores(&self) -> Vec<u16> {
            vec![0, 1]
        }
        fn readable(&self, path: &Path) -> bool {
            path.exists()
        }
    }

    /// C192: what is wrong in a rules file is found before anything is taken over, with its place.
    #[test]
    fn a_broken_rules_file_is_a_fault_of_the_configuration() {
        let folder = std::env::temp_dir().join(format!("postern-policy-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (config, rules) = (folder.join("postern.toml"), folder.join("rules.v4"));
        fs::write(&rules, "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j NOWHERE\nCOMMIT\n").unwrap();
        let text = "rules = \"rules.v4\"\n[interface.lan]\ndevice = \"nic-lan\"\n";
        fs::write(&config, text).unwrap();
        let faults = load_config(&config, &AnyHost);
        fs::write(&rules, "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n").unwrap();
        let mended = load_config(&config, &AnyHost);
        fs::remove_dir_all(&folder).unwrap();
        let faults = faults.unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!((&faults[0].file, faults[0].line), (&rules, 3));
        assert!(mended.is_ok(), "{mended:?}");
    }
}
