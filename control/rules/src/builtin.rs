//! The policy that Postern starts with: an ordinary ruleset, to be seen, edited and replaced like any other.

use std::fmt::Write;

use postern_core::rules::Family;

use crate::model::{Counts, Rulesets};
use crate::save::{RestoreOptions, restore};
use crate::values;
use crate::{Error, program};

/// What the built-in policy needs to know of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceRole<'a> {
    /// Its name, as `-i` has it.
    pub name: &'a str,
    /// Whether it leads out: its zone is `wan`, or it masquerades.
    pub outside: bool,
}

/// The built-in policy for these interfaces, as a dump.
///
/// Inside may open connections outwards and to the appliance; the appliance may open any; nobody else may open any, but
/// for what a forward translates (DNAT). Answers come back. Inside interfaces do not reach one another.
pub fn builtin_dump(family: Family, roles: &[InterfaceRole<'_>]) -> String {
    let mut out = format!("# The built-in policy of {}\n*filter\n", program(family));
    out.push_str(":INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    let inside = || roles.iter().filter(|role| !role.outside);
    let outside = || roles.iter().filter(|role| role.outside);
    let known = |chain: &str| {
        format!(
            "-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A {chain} -m conntrack --ctstate INVALID -j DROP\n"
        )
    };
    out.push_str(&known("INPUT"));
    if family == Family::V6 {
        // Neighbour discovery and multicast listener discovery: IPv6 does not work without (RFC 4890 §4.4.1).
        out.push_str("-A INPUT -p ipv6-icmp -m conntrack --ctstate UNTRACKED -j ACCEPT\n");
    }
    for role in inside() {
        let _ = writeln!(out, "-A INPUT -i {} -j ACCEPT", role.name);
    }
    out.push_str(&known("FORWARD"));
    out.push_str("-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT\n");
    for from in inside() {
        for to in outside() {
            let _ = writeln!(out, "-A FORWARD -i {} -o {} -j ACCEPT", from.name, to.name);
        }
    }
    out.push_str("COMMIT\n");
    out
}

/// The built-in policy of both families for these interfaces.
///
/// # Errors
/// A name that no interface can have.
pub fn builtin(roles: &[InterfaceRole<'_>]) -> Result<Rulesets, Error> {
    for role in roles {
        values::interface(role.name)?;
        if role.name.ends_with('+') {
            return Err(Error::usage("an interface's name may not end in +"));
        }
    }
    let mut rulesets = Rulesets::new();
    for family in Family::ALL {
        let dump = builtin_dump(family, roles);
        let options = RestoreOptions::default();
        restore(&dump, family, options, &mut rulesets, &Counts::default()).map_err(|e| e.error)?;
    }
    Ok(rulesets)
}
