//! What earlier runs had that the configuration does not name any more: an interface was removed from it, or renamed.
//!
//! A device stays closed until it is released, also one that is not configured any more: that a line is gone from the
//! file must not open a host to the network it was closed to. `release` gives it back; until then every start says so.
//! A TAP without its device leads nowhere, and takes packets there by the routes it has: a start removes it.

use std::collections::BTreeSet;
use std::fmt::Display;

use postern_io::device::TakenOver;
use postern_io::tap::{self, TapError};
use postern_io::xdp::program;
use tracing::{info, warn};

use crate::config::Config;

/// All devices that are closed, or are to be: of the configuration, and those that there is a trace of. `note` is told
/// what cannot be looked up.
pub(super) fn devices(
    config: &Config,
    note: &mut impl FnMut(&str, &dyn Display),
) -> BTreeSet<String> {
    let mut all: BTreeSet<_> = config.interfaces.iter().map(|i| i.device.clone()).collect();
    for found in [TakenOver::recorded(&config.run_dir), program::pinned(&config.run_dir)] {
        match found {
            Ok(names) => all.extend(names),
            Err(error) => note(&config.run_dir.display().to_string(), &error),
        }
    }
    all
}

/// Removes TAPs of interfaces that are not configured any more, and says which devices are closed for nothing.
pub(super) fn see_to(config: &Config, warnings: &mut Vec<String>) {
    let mut say = |text: String| {
        warn!("{text}");
        warnings.push(text);
    };
    let devices = devices(config, &mut |what, error| say(format!("{what}: {error}")));
    for device in devices {
        match TakenOver::load(&config.run_dir, &device) {
            Ok(Some(taken)) => remove_taps(config, taken.taps(), &mut say),
            Ok(None) => {}
            Err(error) => say(error.to_string()),
        }
        if config.interfaces.iter().all(|interface| interface.device != device) {
            say(format!(
                "device {device} is not configured any more; it stays closed until `postern release`"
            ));
        }
    }
}

fn remove_taps(config: &Config, taps: &[String], say: &mut impl FnMut(String)) {
    for tap in taps.iter().filter(|&tap| config.interfaces.iter().all(|i| i.name != *tap)) {
        match tap::delete(tap) {
            Ok(true) => info!("TAP {tap}, which is not configured any more, is removed"),
            // It is gone, or somebody else has used the name since.
            Ok(false) | Err(TapError::NotOurs { .. }) => {}
            Err(error) => say(error.to_string()),
        }
    }
}

/// Removes the TAPs that nobody has a record of: what a start made that got no further, or an older version. Those of
/// another appliance that runs in this network namespace are in use, and stay.
pub(super) fn delete_unknown_taps(note: &mut impl FnMut(&str, &dyn Display)) {
    let taps = tap::ours().unwrap_or_else(|error| {
        note("listing the interfaces", &error);
        Vec::new()
    });
    for tap in taps {
        match tap::delete(&tap) {
            Ok(_) | Err(TapError::InUse { .. }) => {}
            Err(error) => note(&tap, &error),
        }
    }
}
