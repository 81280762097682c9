//! Linux plays scripts: its conntrack and NAT between two veth pairs, many scripts side by side.
//!
//! Nothing is waited for but a canary: an untracked datagram sent the same way behind the others. What has not
//! come out when it has never will, since all of it happens in order on one core.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::fate::{Chosen, Fate, Seen, State};
use super::flow::{FORWARDS, PARTIES, Side, Slot, wan_address};
use super::script::{Conditions, DATAGRAMS, FIRST_ID, PAUSE, SHORT, Script, clear_dscp};
use super::wires::{Namespace, Wire, stay_on_one_core};
use crate::fragments::{identification, is_fragment, renumber};
use crate::packet::{Pkt, udp};
use crate::sent::{ethertype_of, frame};
use crate::setup::{LAN, WAN, interface_mac};
use crate::udp_lite::UDP_LITE;
use crate::wire::{adjusted, get16, set16};
use postern_core::conntrack::tuple::protocol;
use postern_core::rules::Family;
use postern_core::units::Mac;

/// Who sends and gets the canaries, inside and outside, and the port.
const CANARY: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 255, 255, 2), Ipv4Addr::new(198, 51, 100, 9)];
const CANARY_PORT: u16 = 9;
/// A canary that takes longer is lost, and that is a fault of the laboratory.
const CANARY_WAIT: Duration = Duration::from_secs(10);
/// Most time a section may take: nothing of it may time out meanwhile.
const SECTION_MAX: Duration = Duration::from_millis(700);
const _: () = assert!(SECTION_MAX.as_millis() < SHORT.as_millis());
/// How often a batch is played again because the machine was too busy.
const TRIES: usize = 12;
/// Identifications of fragments, as they are sent: this bit, which play, which datagram. What is left of a play is gone when
/// its turn comes again.
const OWN_ID: u16 = 0x8000;
const PLAYS: u16 = OWN_ID / DATAGRAMS;
/// Room for fragments of which the rest never comes, bytes.
const FRAGMENT_ROOM: u64 = 64 << 20;
/// The stations at the other ends.
const STATION: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// Three namespaces: inside, the firewall, outside. The thread that made it must be the one that uses it.
#[derive(Debug)]
pub(super) struct Linux {
    inside: Wire,
    outside: Wire,
    conditions: Option<Conditions>,
    serial: u64,
    /// Numbers what is played.
    plays: u16,
    /// Batches that had to be played again.
    pub(super) repeated: usize,
    _namespaces: [Namespace; 3],
}

impl Linux {
    /// Sets everything up; this thread stays in the firewall's namespace.
    ///
    /// # Errors
    /// If a command fails; it says which.
    pub(super) fn new(core: usize) -> io::Result<Self> {
        stay_on_one_core(core);
        let ends = [Namespace::new()?, Namespace::new()?];
        let firewall = Namespace::new()?;
        for (name, id, end) in [("lan", 0, &ends[0]), ("wan", 1, &ends[1])] {
            let path = end.path();
            let mac = format!("02:f0:00:00:00:0{id}");
            let make =
                format!("link add {name} address {mac} type veth peer name end netns {path}");
            run("ip", &make.split(' ').collect::<Vec<_>>(), "")?;
        }
        let wires = [&ends[0], &ends[1]].map(|end| {
            end.enter()?;
            // Nobody lives here: what arrives is only looked at.
            fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
            run("ip", &["link", "set", "end", "up"], "")?;
            Wire::open("end")
        });
        let [inside, outside] = wires;
        firewall.enter()?;
        configure()?;
        let [a, b] = ends;
        Ok(Self {
            inside: inside?,
            outside: outside?,
            conditions: None,
            serial: 0,
            plays: 0,
            repeated: 0,
            _namespaces: [a, b, firewall],
        })
    }

    /// Plays scripts of the same conditions side by side, the n-th in slot n. Fates of their shots, in order.
    ///
    /// # Errors
    /// If the laboratory fails, or the machine is too busy for its clock.
    pub(super) fn play(&mut self, scripts: &[&Script]) -> io::Result<Vec<Vec<Fate>>> {
        let Some(first) = scripts.first() else { return Ok(Vec::new()) };
        assert!(scripts.len() <= usize::from(Slot::COUNT));
        assert!(scripts.iter().all(|s| s.sections.len() == first.sections.len()));
        self.set(&first.conditions)?;
        for _ in 0..TRIES {
            run("conntrack", &["-F"], "")?;
            if let Some(fates) = self.try_to_play(scripts)? {
                return Ok(fates);
            }
            self.repeated += 1;
        }
        Err(io::Error::other("the machine is too busy to play a section in time"))
    }

    /// What `conntrack -L` says.
    pub(super) fn table(&self) -> String {
        let of = |family| run("conntrack", &["-L", "-f", family], "");
        let both = of("ipv4").and_then(|v4| Ok(v4 + &of("ipv6")?));
        both.unwrap_or_else(|error| error.to_string())
    }

    fn set(&mut self, conditions: &Conditions) -> io::Result<()> {
        if self.conditions.as_ref() != Some(conditions) {
            for (name, value) in conditions.sysctls() {
                sysctl(&format!("netfilter/{name}"), value)?;
            }
            let masquerade = if conditions.masquerade6 { "masquerade" } else { "accept" };
            let rules = format!(
                "flush chain ip6 lab outwards\nadd rule ip6 lab outwards oifname wan {masquerade}\n"
            );
            run("nft", &["-f", "-"], &rules)?;
            self.conditions = Some(conditions.clone());
        }
        Ok(())
    }

    /// `None` if it took too long.
    fn try_to_play(&mut self, scripts: &[&Script]) -> io::Result<Option<Vec<Vec<Fate>>>> {
        let mut fates: Vec<Vec<Fate>> =
            scripts.iter().map(|s| Vec::with_capacity(s.len())).collect();
        let mut chosen: Vec<_> = scripts.iter().map(|s| Chosen::new(s)).collect();
        self.plays = self.plays.wrapping_add(1);
        let sections = scripts.first().map_or(0, |s| s.sections.len());
        for number in 0..sections {
            if number > 0 {
                std::thread::sleep(PAUSE);
            }
            let started = Instant::now();
            let rounds = scripts.iter().map(|s| s.sections[number].len()).max().unwrap_or(0);
            for round in 0..rounds {
                for (place, script) in scripts.iter().enumerate() {
                    if let Some(shot) = script.sections[number].get(round) {
                        let flow = &script.flows[shot.flow];
                        let slot = Slot(place as u16);
                        let mut l3 = shot.build(flow, slot, chosen[place].of(shot.flow));
                        self.number(&mut l3);
                        retell_lite(&mut l3, [UDP_LITE, protocol::UDP]);
                        self.send(flow.enters(shot.back), &l3)?;
                    }
                }
                let mut seen: Vec<Vec<Seen>> = scripts.iter().map(|_| Vec::new()).collect();
                self.collect(&mut seen)?;
                for (place, (script, seen)) in scripts.iter().zip(seen).enumerate() {
                    if let Some(shot) = script.sections[number].get(round) {
                        let (flow, known) = (&script.flows[shot.flow], chosen[place].of(shot.flow));
                        let fate = Fate::of(seen, shot, flow, known);
                        chosen[place].learn(script, shot, &fate);
                        fates[place].push(fate);
                    } else if let Some(stray) = seen.first() {
                        return Err(io::Error::other(format!("out of nowhere: {stray:02x?}")));
                    }
                }
            }
            if started.elapsed() > SECTION_MAX {
                return Ok(None);
            }
        }
        Ok(Some(fates))
    }

    /// Gives a fragment an identification that no play before had: what was never whole waits for long.
    fn number(&self, l3: &mut [u8]) {
        if is_fragment(l3) {
            let id = identification(l3) - FIRST_ID;
            renumber(l3, OWN_ID + (self.plays % PLAYS) * DATAGRAMS + id);
        }
    }

    fn send(&self, side: Side, l3: &[u8]) -> io::Result<()> {
        let (wire, at) = match side {
            Side::Lan => (&self.inside, LAN),
            Side::Wan => (&self.outside, WAN),
        };
        wire.send(&frame(interface_mac(at.interface()), STATION, ethertype_of(l3), l3))
    }

    /// Sends a canary each way and takes in what comes out until both are here.
    fn collect(&mut self, seen: &mut [Vec<Seen>]) -> io::Result<()> {
        self.serial += 1;
        let serial = self.serial.to_be_bytes();
        let [inside, outside] = CANARY.map(|a| (IpAddr::from(a), CANARY_PORT));
        let canaries = [udp(inside, outside).payload(serial), udp(outside, inside).payload(serial)];
        self.send(Side::Lan, &canaries[0].build())?;
        self.send(Side::Wan, &canaries[1].build())?;
        let until = Instant::now() + CANARY_WAIT;
        for (side, canary) in [(Side::Wan, &canaries[0]), (Side::Lan, &canaries[1])] {
            let wire = if side == Side::Lan { &self.inside } else { &self.outside };
            let canary = canary.clone().hop().build();
            loop {
                let Some(frame) = wire.receive()? else {
                    wire.wait(until)?;
                    continue;
                };
                let l3 = trimmed(&frame);
                if l3 == canary {
                    break;
                }
                if !matches!(get16(&frame, 12), 0x0800 | 0x86dd) {
                    continue; // the firewall's own
                }
                let stray = || io::Error::other(format!("for nobody: {:?}", Pkt::read(&l3)));
                let slot = destination(&l3).and_then(Slot::of).ok_or_else(stray)?;
                let place = seen.get_mut(usize::from(slot.0)).ok_or_else(stray)?;
                place.push(tell(side, l3));
            }
        }
        Ok(())
    }
}

/// The IP packet in a frame.
fn trimmed(frame: &[u8]) -> Vec<u8> {
    let l3 = frame.get(14..).unwrap_or_default();
    let len = match l3.first().map(|byte| byte >> 4) {
        Some(4) if l3.len() >= 20 => usize::from(get16(l3, 2)),
        Some(6) if l3.len() >= 40 => 40 + usize::from(get16(l3, 4)),
        _ => l3.len(),
    };
    l3[..len.min(l3.len())].to_vec()
}

/// Whom an IP packet is for.
fn destination(l3: &[u8]) -> Option<IpAddr> {
    match l3.first()? >> 4 {
        4 => Some(<[u8; 4]>::try_from(l3.get(16..20)?).ok()?.into()),
        _ => Some(<[u8; 16]>::try_from(l3.get(24..40)?).ok()?.into()),
    }
}

/// Reads the ctstate that the ruleset wrote into the packet, and takes it out again.
fn tell(side: Side, mut l3: Vec<u8>) -> Seen {
    let dscp = match l3.first().map(|byte| byte >> 4) {
        Some(6) => l3.get(1).map(|class| (l3[0] & 15) << 2 | class >> 6),
        _ => l3.get(1).map(|tos| tos >> 2),
    };
    let state = match dscp {
        Some(1) => Some(State::New),
        Some(2) => Some(State::Established),
        Some(3) => Some(State::Related),
        _ => None,
    };
    clear_dscp(&mut l3);
    retell_lite(&mut l3, [protocol::UDP, UDP_LITE]);
    if is_fragment(&l3) && l3[0] >> 4 == 4 {
        let id = identification(&l3);
        renumber(&mut l3, FIRST_ID + id % DATAGRAMS);
    }
    Seen { side, state, l3 }
}

/// Linux reckons the checksum of UDP-Lite with the protocol number of UDP in its pseudo header (`udplite_error` of
/// nf_conntrack_proto_udp.c; RFC 3828 §3.1 says 136), and takes every right one for wrong. So that the rest can be compared it is
/// told it as it wants it, and what it says is told back.
fn retell_lite(l3: &mut [u8], [from, to]: [u8; 2]) {
    let is_first = |word: u16| word == 0;
    let place = match l3.first().map(|byte| byte >> 4) {
        Some(4) if l3.len() >= 28 && l3[9] == UDP_LITE => {
            is_first(get16(l3, 6) & 0x1fff).then_some(20)
        }
        Some(6) if l3.len() >= 48 && l3[6] == UDP_LITE => Some(40),
        Some(6) if l3.len() >= 56 && (l3[6], l3[40]) == (44, UDP_LITE) => {
            is_first(get16(l3, 42) & !7).then_some(48)
        }
        _ => None,
    };
    let Some(at) = place.map(|l4| l4 + 6) else { return };
    let sum = adjusted(get16(l3, at), from.into(), to.into());
    set16(l3, at, if sum == 0 { 0xffff } else { sum });
}

/// Addresses, routes, neighbours, switches and the ruleset of the firewall's namespace.
fn configure() -> io::Result<()> {
    let ip = "link set lo up\nlink set lan up\nlink set wan up\n\
         address add 10.0.0.1/32 dev lan\naddress add 203.0.113.2/24 dev wan\n\
         route add 10.0.0.2/32 dev lan\nroute add 10.0.0.0/8 via 10.0.0.2\n\
         route add default via 203.0.113.1\n\
         neighbour add 10.0.0.2 lladdr 02:00:00:00:00:09 dev lan nud permanent\n\
         neighbour add 203.0.113.1 lladdr 02:00:00:00:00:09 dev wan nud permanent\n\
         address add 2001:db8:1::1/128 dev lan nodad\n\
         address add 2001:db8:2::2/64 dev wan nodad\n\
         route add 2001:db8:1::2/128 dev lan\nroute add 2001:db8:1::/64 via 2001:db8:1::2 dev lan\n\
         route add default via 2001:db8:2::1 dev wan\n\
         neighbour add 2001:db8:1::2 lladdr 02:00:00:00:00:09 dev lan nud permanent\n\
         neighbour add 2001:db8:2::1 lladdr 02:00:00:00:00:09 dev wan nud permanent\n";
    // First, or the host would tell its neighbours of its addresses.
    for family in Family::ALL {
        run("nft", &["-f", "-"], &ruleset(family))?;
    }
    for name in ["ipv6/conf/all/forwarding", "ipv4/ip_forward"] {
        sysctl(name, 1)?;
    }
    for name in ["all", "default", "lan", "wan"] {
        sysctl(&format!("ipv4/conf/{name}/rp_filter"), 0)?;
        sysctl(&format!("ipv4/conf/{name}/send_redirects"), 0)?;
    }
    run("ip", &["-batch", "-"], ip)?;
    for name in ["lan", "wan"] {
        run("ethtool", &["-K", name, "tx", "off", "gso", "off", "gro", "off"], "")?;
    }
    for name in ["ipv4/ipfrag_high_thresh", "netfilter/nf_conntrack_frag6_high_thresh"] {
        sysctl(name, FRAGMENT_ROOM)?;
    }
    sysctl("netfilter/nf_conntrack_checksum", 1)?;
    Ok(())
}

/// Postern's built-in policy and forwards, in Linux's words; and the ctstate written into what crosses. What the host would
/// say itself is dropped before conntrack sees it: Postern's is not played.
fn ruleset(family: Family) -> String {
    let mut targets = Vec::new();
    for slot in (0..Slot::COUNT).map(Slot) {
        for (protocol, port, host, to) in FORWARDS {
            let host = slot.host(family, host);
            for number in 0..PARTIES {
                for client in [slot.peer(family, number), slot.host(family, number)] {
                    targets.push(format!("{client} . {protocol} . {port} : {host} . {to}"));
                }
            }
        }
    }
    let [inside, outside] = CANARY;
    let canary = match family {
        Family::V4 => format!("ip saddr {{ {inside}, {outside} }} udp dport {CANARY_PORT}"),
        Family::V6 => "meta l4proto 255".to_string(), // none
    };
    let (ip, address, lan) = match family {
        Family::V4 => ("ip", "ipv4_addr", "10.0.0.0/8"),
        Family::V6 => ("ip6", "ipv6_addr", "2001:db8:1::/64"),
    };
    let ours = wan_address(family);
    let mut out = format!("table {ip} lab {{\n");
    let _ = write!(
        out,
        "map forwards {{ type {address} . inet_proto . inet_service : {address} . inet_service\n\
         elements = {{ {} }} }}\n\
         chain first {{ type filter hook prerouting priority raw\n {canary} notrack\n}}\n\
         chain nat_destination {{ type nat hook prerouting priority dstnat\n\
         {ip} daddr {ours} meta l4proto {{ tcp, udp, sctp, udplite }} \
         dnat {ip} to {ip} saddr . meta l4proto . th dport map @forwards\n}}\n\
         chain outwards {{\n oifname wan masquerade\n}}\n\
         chain nat_source {{ type nat hook postrouting priority srcnat\n jump outwards\n\
         {ip} saddr {lan} oifname lan ct status dnat masquerade\n}}\n\
         chain input {{ type filter hook input priority filter; policy drop\n\
         ct state established,related accept\n ct state invalid drop\n iifname lan accept\n}}\n\
         chain own {{ type filter hook output priority raw; policy drop\n}}\n\
         chain forward {{ type filter hook forward priority filter; policy drop\n {canary} accept\n\
         ct state new {ip} dscp set 1\n ct state established {ip} dscp set 2\n\
         ct state related {ip} dscp set 3\n\
         ct state established,related accept\n ct state invalid drop\n ct status dnat accept\n\
         iifname lan oifname wan accept\n}}\n}}\n",
        targets.join(",\n"),
    );
    out
}

fn sysctl(name: &str, value: u64) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/{name}"), value.to_string())
        .map_err(|error| io::Error::other(format!("{name}: {error}")))
}

/// Runs a command in this thread's namespace; what it says on its standard output.
fn run(program: &str, arguments: &[&str], input: &str) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::other(format!("{program}: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let done = child.wait_with_output()?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(io::Error::other(format!("{program} {}: {said}", arguments.join(" "))));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
