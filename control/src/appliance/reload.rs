//! Two configurations side by side: what a running appliance cannot take over, and what a reload changed, in
//! words. Pure.

use postern_core::helper::Kind;

use crate::config::{InterfaceSettings, Settings};

/// The keys whose change needs a restart, of those that differ. Empty: `new` can be put into force.
pub fn needs_restart(old: &Settings, new: &Settings) -> Vec<String> {
    let mut keys = Vec::new();
    let mut compare = |key: &str, same: bool| {
        if !same {
            keys.push(format!("`{key}`"));
        }
    };
    compare("workers", old.workers == new.workers);
    compare("idle", old.idle == new.idle);
    compare("frames", old.frames == new.frames);
    compare("control", old.control == new.control);
    compare("control_read_group", old.control_read_group == new.control_read_group);
    compare("run_dir", old.run_dir == new.run_dir);
    let names = |settings: &Settings| -> Vec<String> {
        settings.interfaces.iter().map(|i| i.name.clone()).collect()
    };
    if names(old) == names(new) {
        for (old, new) in old.interfaces.iter().zip(&new.interfaces) {
            let mut compare =
                |key: &str, same| compare(&format!("interface.{}.{key}", old.name), same);
            compare("device", old.device == new.device);
            compare("mtu", old.mtu == new.mtu);
            compare("accept_ra", old.accept_ra == new.accept_ra);
            compare("queues", old.queues == new.queues);
            compare("busy_poll", old.busy_poll == new.busy_poll);
            compare("mode", old.mode == new.mode);
        }
    } else {
        compare("interface (names and order)", false);
    }
    let same_capacity = old.conntrack.capacity == new.conntrack.capacity;
    compare("conntrack.capacity", same_capacity);
    // Unless it is set, it follows the other.
    let same_capacity6 = old.conntrack.capacity6 == new.conntrack.capacity6;
    compare("conntrack.capacity6", same_capacity6 || !same_capacity);
    compare("conntrack.hash_key", old.conntrack.hash_key == new.conntrack.hash_key);
    keys
}

/// What the switches say now that they did not say before. Rules, forwards and timeouts are not among them.
pub fn differences(old: &Settings, new: &Settings) -> Vec<String> {
    let mut changes = Vec::new();
    for (old, new) in old.interfaces.iter().zip(&new.interfaces) {
        interface(old, new, &mut changes);
    }
    if old.triggers != new.triggers {
        changes.push("the port triggers changed".to_owned());
    }
    let (old, new) = (&old.conntrack, &new.conntrack);
    if old.helpers != new.helpers {
        let names = Kind::ALL.into_iter().filter(|kind| new.helpers.has(*kind)).map(Kind::name);
        let names: String = names.map(|name| format!(" {name}")).collect();
        let names = if names.is_empty() { " none" } else { &names };
        changes.push(format!("conntrack: helpers are{names}"));
    }
    for (key, old, new) in [
        ("loose", old.loose, new.loose),
        ("liberal", old.liberal, new.liberal),
        ("checksum", old.checksum, new.checksum),
        ("accounting", old.accounting, new.accounting),
    ] {
        if old != new {
            changes.push(format!("conntrack: {key} is {}", on(new)));
        }
    }
    changes
}

fn interface(old: &InterfaceSettings, new: &InterfaceSettings, changes: &mut Vec<String>) {
    let mut say = |text: String| changes.push(format!("interface {}: {text}", new.name));
    if old.zone != new.zone {
        say(format!("zone is {}", new.zone));
    }
    if old.conntrack_zone != new.conntrack_zone {
        say(format!("conntrack_zone is {}", new.conntrack_zone));
    }
    if old.addresses != new.addresses {
        let addresses = new.addresses.iter().map(|a| format!(" {}/{}", a.address, a.length));
        let addresses: String = addresses.collect();
        say(format!("addresses are{}", if addresses.is_empty() { " none" } else { &addresses }));
    }
    if old.gateways != new.gateways {
        let gateways: String = new.gateways.iter().map(|g| format!(" {g}")).collect();
        say(format!("gateways are{}", if gateways.is_empty() { " none" } else { &gateways }));
    }
    for (key, old, new) in [
        ("masquerade", old.masquerade, new.masquerade),
        ("dhcp", old.dhcp, new.dhcp),
        ("promiscuous", old.promiscuous, new.promiscuous),
    ] {
        if old != new {
            say(format!("{key} is {}", on(new)));
        }
    }
    if old.independent != new.independent {
        let word = new.independent.map_or("off".to_owned(), |word| format!("{word:?}"));
        say(format!("endpoint_independent is {}", word.to_lowercase()));
    }
    if old.reverse_path != new.reverse_path {
        say(format!("rp_filter is {}", format!("{:?}", new.reverse_path).to_lowercase()));
    }
}

const fn on(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

/// Takes every step forth. If one fails, it and those before it are taken back, last first, and the failure
/// says so, or what went wrong then.
///
/// # Errors
/// The failure of the step.
pub fn all_or_nothing<S>(
    steps: &[S],
    mut forth: impl FnMut(&S) -> Result<(), String>,
    mut back: impl FnMut(&S) -> Result<(), String>,
) -> Result<(), String> {
    for (place, step) in steps.iter().enumerate() {
        let Err(failure) = forth(step) else { continue };
        let undone = steps[..=place].iter().rev().map(&mut back);
        let stuck: Vec<_> = undone.filter_map(Result::err).collect();
        return Err(if stuck.is_empty() {
            format!("{failure} (everything is as it was before)")
        } else {
            format!("{failure}; and could not be undone: {}", stuck.join("; "))
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, Config};

    const TEXT: &str = "
        workers = 1
        [interface.lan]
        device = 'eth0'
        address = ['192.168.1.1/24']
        [interface.wan]
        device = 'eth1'
        [conntrack]
        capacity = 1000
        ";

    fn config(text: &str) -> Config {
        config::parse(Path::new("/etc/postern/t.toml"), text.as_bytes()).unwrap()
    }

    fn changed(from: &str, to: &str) -> Config {
        assert!(TEXT.contains(from), "{from}");
        config(&TEXT.replacen(from, to, 1))
    }

    #[test]
    fn what_cannot_change_while_it_runs_is_named() {
        let old = config(TEXT);
        assert!(needs_restart(&old, &old).is_empty());
        for (from, to, keys) in [
            ("workers = 1", "workers = [0]", "`workers`"),
            ("workers = 1", "workers = 1\nidle = 'spin'", "`idle`"),
            ("workers = 1", "workers = 1\nframes = 4096", "`frames`"),
            ("workers = 1", "workers = 1\ncontrol = '/run/x'", "`control`"),
            ("workers = 1", "workers = 1\nrun_dir = '/run/x'", "`run_dir`"),
            ("'eth1'", "'eth2'", "`interface.wan.device`"),
            ("'eth1'", "'eth1'\nmtu = 1400", "`interface.wan.mtu`"),
            ("'eth1'", "'eth1'\naccept_ra = true", "`interface.wan.accept_ra`"),
            ("'eth1'", "'eth1'\nqueues = 1", "`interface.wan.queues`"),
            ("'eth1'", "'eth1'\nbusy_poll = true", "`interface.wan.busy_poll`"),
            ("'eth1'", "'eth1'\nmode = 'copy'", "`interface.wan.mode`"),
            ("interface.wan", "interface.dmz", "`interface (names and order)`"),
            ("capacity = 1000", "capacity = 2000", "`conntrack.capacity`"),
            (
                "capacity = 1000",
                "capacity = 1000\nhash_key = '000102030405060708090a0b0c0d0e0f'",
                "`conntrack.hash_key`",
            ),
            (
                "'eth1'",
                "'eth1'\nmtu = 1400\nmode = 'copy'",
                "`interface.wan.mtu` `interface.wan.mode`",
            ),
        ] {
            assert_eq!(needs_restart(&old, &changed(from, to)).join(" "), keys);
        }
    }

    #[test]
    fn what_can_change_is_said_in_words() {
        let old = config(TEXT);
        assert!(differences(&old, &old).is_empty());
        for (from, to, words) in [
            ("'eth1'", "'eth1'\nzone = 'x'", "interface wan: zone is x"),
            ("'eth1'", "'eth1'\nconntrack_zone = 7", "interface wan: conntrack_zone is 7"),
            ("'eth1'", "'eth1'\nmasquerade = true", "interface wan: masquerade is on"),
            ("'eth1'", "'eth1'\ndhcp = false", "interface wan: dhcp is off"),
            ("'eth1'", "'eth1'\npromiscuous = true", "interface wan: promiscuous is on"),
            ("'eth1'", "'eth1'\nrp_filter = 'off'", "interface wan: rp_filter is off"),
            ("'eth1'", "'eth1'\nrp_filter = 'loose'", "interface wan: rp_filter is loose"),
            (
                "['192.168.1.1/24']",
                "['10.0.0.1/8', 'fd00::1/64']\ngateway = ['10.0.0.2']",
                "interface lan: addresses are 10.0.0.1/8 fd00::1/64, interface lan: gateways are 10.0.0.2",
            ),
            ("address = ['192.168.1.1/24']", "dhcp = false", "interface lan: addresses are none"),
            ("[conntrack]", "[conntrack]\nloose = true", "conntrack: loose is on"),
            ("[conntrack]", "[conntrack]\nliberal = true", "conntrack: liberal is on"),
            ("[conntrack]", "[conntrack]\nchecksum = false", "conntrack: checksum is off"),
            ("[conntrack]", "[conntrack]\naccounting = false", "conntrack: accounting is off"),
        ] {
            let new = changed(from, to);
            assert_eq!(differences(&old, &new).join(", "), words);
            assert!(needs_restart(&old, &new).is_empty(), "{to}");
        }
    }

    #[test]
    fn a_step_that_fails_takes_the_earlier_ones_back() {
        let run = |forth_fails: u32, back_fails: u32| {
            let done = std::cell::RefCell::new(Vec::new());
            let step = |sign: char, fails: u32| {
                let done = &done;
                move |step: &u32| {
                    done.borrow_mut().push(format!("{sign}{step}"));
                    if *step == fails { Err(format!("{sign}{step} fails")) } else { Ok(()) }
                }
            };
            let result = all_or_nothing(&[1, 2, 3], step('+', forth_fails), step('-', back_fails));
            (result.err().unwrap_or_default(), done.into_inner().join(" "))
        };
        assert_eq!(run(0, 0), (String::new(), "+1 +2 +3".into()));
        let all = "(everything is as it was before)";
        assert_eq!(run(2, 0), (format!("+2 fails {all}"), "+1 +2 -2 -1".into()));
        let stuck = "+2 fails; and could not be undone: -2 fails".to_owned();
        assert_eq!(run(2, 2), (stuck, "+1 +2 -2 -1".into()));
    }
}
