//! Following a real kernel: each test in network namespaces of its own, made and removed by it.
//!
//! They need root (CAP_NET_ADMIN, CAP_SYS_ADMIN) and `ip`; without, they say so and pass. A veth end
//! named `wan` stands for the TAP.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use postern_control::netlink::{
    Changes, Configurator, FAILED_HOLD, Follower, RESOLUTIONS_PER_SECOND, Resolution,
    SOURCE_RESOLUTIONS_PER_SECOND,
};
use postern_core::forward::NeighbourState;
use postern_core::forward::neighbour::Neighbour;
use postern_core::forward::route::{Prefix, RouteKind};
use postern_core::pipeline::Wanted;
use postern_core::snapshot::InterfaceAddress;
use postern_core::units::{InterfaceId, Mac};
use postern_io::device::Carrier;
use postern_io::tap::{RouterAdvertisements, Tap, TapOptions};

const WAN: InterfaceId = InterfaceId(0);

/// Two namespaces joined by a veth pair: `wan` in the first, `far` in the second.
struct Lab {
    near: String,
    far: String,
}

impl Lab {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { near: format!("pnl-near-{unique}"), far: format!("pnl-far-{unique}") };
        ip(&format!("netns add {}", lab.near));
        ip(&format!("netns add {}", lab.far));
        ip(&format!("-n {} link add wan type veth peer name far netns {}", lab.near, lab.far));
        ip(&format!("-n {} link set lo up", lab.near));
        ip(&format!("-n {} link set wan up", lab.near));
        ip(&format!("-n {} link set far up", lab.far));
        lab
    }

    /// Runs `ip` in the far namespace.
    fn far(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.far));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Runs `ip`, in the namespace of the calling thread unless the arguments name one.
#[track_caller]
fn ip(arguments: &str) {
    let output =
        Command::new("ip").args(arguments.split_whitespace()).output().expect("ip is there");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sets a sysctl of the calling thread's namespace.
fn sysctl(path: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{path}"), value).expect(path);
}

/// Runs the test on a thread inside the near namespace of a lab of its own.
fn in_lab(test: impl FnOnce(&Lab) + Send) {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: needs root for network namespaces");
        return;
    }
    let lab = Lab::new();
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let namespace = File::open(format!("/run/netns/{}", lab.near)).expect("just made");
            // SAFETY: setns takes an open descriptor and changes this thread only.
            let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
            test(&lab);
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn open(names: &[&str]) -> Follower {
    let names = names.iter().map(|n| (*n).to_owned()).collect();
    Follower::open(names, 1024).expect("netlink is there")
}

fn at(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

/// Polls until `done`, and says what changed on the way.
#[track_caller]
fn until(
    follower: &mut Follower,
    seconds: u64,
    what: &str,
    done: impl Fn(&Follower) -> bool,
) -> Changes {
    let mut changes = Changes::default();
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        changes = changes.and(follower.poll(Instant::now()).expect("the kernel answers"));
        if done(follower) {
            return changes;
        }
        assert!(Instant::now() < end, "{what}: {:#?}", follower.state());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn has_address(follower: &Follower, address: &str) -> bool {
    follower.state().addresses(WAN).iter().any(|a| a.address == at(address))
}

fn routes(follower: &Follower, network: &str, length: u8) -> Vec<Prefix> {
    let wanted = |p: &&Prefix| p.address == at(network) && p.length == length;
    follower.state().routes.iter().filter(wanted).copied().collect()
}

fn neighbour(follower: &Follower, address: &str) -> Option<Neighbour> {
    let array = follower.neighbours();
    array.get(array.find(WAN, at(address))?)
}

fn has_state(follower: &Follower, address: &str, state: NeighbourState) -> bool {
    neighbour(follower, address).is_some_and(|n| n.state == state)
}

fn far_mac(lab: &Lab) -> Mac {
    let output = Command::new("ip").args(["-n", &lab.far, "-o", "link", "show", "far"]).output();
    let text = String::from_utf8(output.expect("ip is there").stdout).expect("ip writes ASCII");
    let mac = text.split("link/ether ").nth(1).expect("an ethernet device");
    let bytes: Vec<u8> =
        mac[..17].split(':').map(|b| u8::from_str_radix(b, 16).expect("hex")).collect();
    Mac(bytes.try_into().expect("six bytes"))
}

#[test]
fn addresses_and_routes_are_followed() {
    in_lab(|_| {
        let mut follower = open(&["wan"]);
        let link = follower.state().link(WAN).expect("wan is there").clone();
        assert!(link.up && link.mtu == 1500 && link.mac != Mac::default());
        assert!(!follower.poll(Instant::now()).expect("quiet").state());

        ip("addr add 192.0.2.2/24 dev wan");
        ip("route add default via 192.0.2.1");
        ip("route add 10.0.0.0/8 via 192.0.2.9 metric 7 mtu lock 1400");
        ip("route add unreachable 10.66.0.0/16");
        ip("route add blackhole 10.67.0.0/16");
        ip("-6 route add prohibit 2001:db8:66::/48");
        let changes = until(&mut follower, 5, "address", |f| {
            has_address(f, "192.0.2.2") && !routes(f, "2001:db8:66::", 48).is_empty()
        });
        assert!(changes.addresses && changes.routes);
        let kind = |f: &Follower, network, length| routes(f, network, length)[0].route.kind;
        assert_eq!(kind(&follower, "192.0.2.2", 32), RouteKind::Local);
        assert_eq!(kind(&follower, "192.0.2.255", 32), RouteKind::Broadcast);
        assert_eq!(kind(&follower, "10.66.0.0", 16), RouteKind::Unreachable);
        assert_eq!(kind(&follower, "10.67.0.0", 16), RouteKind::Blackhole);
        assert_eq!(kind(&follower, "2001:db8:66::", 48), RouteKind::Prohibit);
        let ten = routes(&follower, "10.0.0.0", 8)[0];
        assert_eq!((ten.metric, ten.route.mtu, ten.route.egress), (8, 1400, WAN));
        assert_eq!(ten.route.gateway, Some(at("192.0.2.9")));
        let default = routes(&follower, "0.0.0.0", 0)[0];
        assert_eq!(default.route.gateway, Some(at("192.0.2.1")));

        // The kernel sends no word of the routes that go with an address.
        ip("addr del 192.0.2.2/24 dev wan");
        until(&mut follower, 5, "address gone", |f| {
            !has_address(f, "192.0.2.2")
                && routes(f, "0.0.0.0", 0).is_empty()
                && routes(f, "192.0.2.0", 24).is_empty()
        });
        assert!(!routes(&follower, "10.66.0.0", 16).is_empty());
    });
}

#[test]
fn links_are_followed_through_down_up_delete_and_return() {
    in_lab(|lab| {
        let mut follower = open(&["lan", "wan"]);
        let wan = InterfaceId(1);
        assert!(follower.state().link(InterfaceId(0)).is_none());
        let first = follower.state().link(wan).expect("wan is there").ifindex;
        ip("addr add 192.0.2.2/24 dev wan");
        ip("addr add 2001:db8::2/64 dev wan nodad");
        until(&mut follower, 5, "addresses", |f| f.state().addresses(wan).len() == 3);

        ip("link set wan mtu 1400");
        until(&mut follower, 5, "mtu", |f| f.state().link(wan).is_some_and(|l| l.mtu == 1400));
        ip("link set wan down");
        until(&mut follower, 5, "down", |f| {
            f.state().link(wan).is_some_and(|l| !l.up) && routes(f, "192.0.2.0", 24).is_empty()
        });
        ip("link set wan up");
        until(&mut follower, 5, "up", |f| {
            f.state().link(wan).is_some_and(|l| l.up && l.carrier)
                && !routes(f, "192.0.2.0", 24).is_empty()
        });
        lab.far("link set far down");
        until(&mut follower, 5, "no carrier", |f| {
            f.state().link(wan).is_some_and(|l| l.up && !l.carrier)
        });

        // A VRRP daemon's macvlan: its MAC is accepted, its address is ours.
        ip("link add vrrp link wan address 00:00:5e:00:01:05 type macvlan mode bridge");
        ip("addr add 192.0.2.100/32 dev vrrp");
        until(&mut follower, 5, "macvlan", |f| {
            f.state().link(wan).is_some_and(|l| l.upper_macs == [Mac([0, 0, 0x5e, 0, 1, 5])])
                && f.state().addresses(wan).iter().any(|a| a.address == at("192.0.2.100"))
        });
        ip("link set wan promisc on");
        until(&mut follower, 5, "promisc", |f| f.state().link(wan).is_some_and(|l| l.promiscuous));

        ip("link del wan");
        until(&mut follower, 5, "deleted", |f| {
            f.state().link(wan).is_none() && f.state().addresses(wan).is_empty()
        });
        ip("tuntap add dev wan mode tap");
        ip("addr add 192.0.2.3/24 dev wan");
        until(&mut follower, 5, "came back", |f| {
            f.state().link(wan).is_some_and(|l| l.ifindex != first)
                && f.state().addresses(wan).len() == 1
        });
    });
}

#[test]
fn routes_that_go_down_with_their_device_are_missed() {
    in_lab(|_| {
        // With IPv6 there would be events about its routes; for IPv4's there are none.
        sysctl("ipv6/conf/wan/disable_ipv6", "1");
        ip("addr add 192.0.2.2/24 dev wan");
        ip("route add 10.0.0.0/8 via 192.0.2.9");
        let mut follower = open(&["wan"]);
        assert_eq!(routes(&follower, "10.0.0.0", 8).len(), 1);
        ip("link set wan down");
        until(&mut follower, 5, "down", |f| routes(f, "10.0.0.0", 8).is_empty());
        assert!(has_address(&follower, "192.0.2.2"), "addresses stay");
    });
}

#[test]
fn a_neighbour_that_answers_is_resolved_and_a_silent_one_fails() {
    in_lab(|lab| {
        ip("addr add 192.0.2.2/24 dev wan");
        lab.far("addr add 192.0.2.9/24 dev far");
        let mut follower = open(&["wan"]);
        let (there, silent) = (at("192.0.2.9"), at("192.0.2.77"));
        let asked = follower.resolve(wish(WAN, there, 1), Instant::now());
        assert!(matches!(asked, Resolution::Asked(_)), "{asked:?}");
        assert!(matches!(
            follower.resolve(wish(WAN, silent, 1), Instant::now()),
            Resolution::Asked(_)
        ));
        assert!(matches!(
            follower.resolve(wish(WAN, silent, 1), Instant::now()),
            Resolution::Known(_)
        ));
        let changes = until(&mut follower, 3, "resolved", |f| {
            has_state(f, "192.0.2.9", NeighbourState::Reachable)
        });
        assert!(changes.neighbours && !changes.state());
        assert_eq!(neighbour(&follower, "192.0.2.9").expect("found").mac, far_mac(lab));

        until(&mut follower, 6, "failed", |f| has_state(f, "192.0.2.77", NeighbourState::Failed));
        assert!(!follower.tick(Instant::now()), "the array has room");
        assert!(has_state(&follower, "192.0.2.77", NeighbourState::Failed), "held for a while");
        let _ = follower.tick(Instant::now() + FAILED_HOLD);
        assert!(has_state(&follower, "192.0.2.77", NeighbourState::Incomplete));
        lab.far("addr add 192.0.2.77/24 dev far");
        assert!(matches!(
            follower.resolve(wish(WAN, silent, 1), Instant::now()),
            Resolution::Asked(_)
        ));
        until(&mut follower, 3, "resolved at last", |f| {
            has_state(f, "192.0.2.77", NeighbourState::Reachable)
        });
        assert_eq!(follower.resolve_counters().asked, 3);

        ip("neigh del 192.0.2.9 dev wan");
        until(&mut follower, 3, "deleted", |f| {
            has_state(f, "192.0.2.9", NeighbourState::Incomplete)
        });
        ip("neigh replace 192.0.2.50 lladdr 02:00:00:00:00:50 dev wan nud permanent");
        until(&mut follower, 3, "permanent", |f| {
            has_state(f, "192.0.2.50", NeighbourState::Reachable)
        });
    });
}

#[test]
fn an_ipv6_neighbour_is_resolved() {
    in_lab(|lab| {
        ip("addr add 2001:db8::2/64 dev wan nodad");
        lab.far("addr add 2001:db8::9/64 dev far nodad");
        let mut follower = open(&["wan"]);
        // Asking needs a source address, which the kernel has once DAD of the link-local one is done.
        until(&mut follower, 5, "resolved", |f| {
            f.state().addresses(WAN).iter().any(|a| a.address == at("2001:db8::2"))
        });
        let asked = follower.resolve(wish(WAN, at("2001:db8::9"), 1), Instant::now());
        assert!(matches!(asked, Resolution::Asked(_)), "{asked:?}");
        until(&mut follower, 5, "resolved", |f| {
            has_state(f, "2001:db8::9", NeighbourState::Reachable)
        });
        assert_eq!(neighbour(&follower, "2001:db8::9").expect("found").mac, far_mac(lab));
    });
}

#[test]
fn a_stale_neighbour_is_verified_only_if_it_is_used() {
    in_lab(|lab| {
        ip("addr add 192.0.2.2/24 dev wan");
        lab.far("addr add 192.0.2.9/24 dev far");
        lab.far("addr add 192.0.2.10/24 dev far");
        sysctl("ipv4/neigh/wan/delay_first_probe_time", "1");
        let mac = far_mac(lab);
        for last in [9, 10] {
            ip(&format!("neigh replace 192.0.2.{last} lladdr {mac} dev wan nud stale"));
        }
        let mut follower = open(&["wan"]);
        let used = || follower.neighbours().find(WAN, at("192.0.2.9")).expect("dumped");
        // A worker's look at it; `neighbour` above would mark it used as well.
        assert_eq!(follower.neighbours().get(used()).expect("dumped").state, NeighbourState::Stale);
        assert!(!follower.tick(Instant::now()), "the array has room");
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            follower.poll(Instant::now()).expect("the kernel answers");
            if has_state(&follower, "192.0.2.9", NeighbourState::Reachable) {
                break;
            }
            assert!(Instant::now() < end, "not verified");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(has_state(&follower, "192.0.2.10", NeighbourState::Stale));
        assert_eq!(neighbour(&follower, "192.0.2.10").expect("dumped").mac, mac);
    });
}

/// What a worker asks for on behalf of a host in the LAN.
fn wish(interface: InterfaceId, address: IpAddr, host: u8) -> Wanted {
    let source = IpAddr::from([192, 168, 1, host]);
    Wanted { interface, address, ingress: InterfaceId(1), source }
}

/// One host cannot use up what the others on its side need, and all together cannot flood the link.
#[test]
fn a_scan_is_held_to_its_sources_budget_and_its_interfaces() {
    in_lab(|_| {
        ip("addr add 192.0.2.2/24 dev wan");
        let mut follower = open(&["wan"]);
        let now = Instant::now();
        let mut scan = |source: u8, from: u8| {
            let target = |i| IpAddr::from([10, 0, source, i]);
            let wishes = (from..from + 50).map(|i| wish(WAN, target(i), source));
            let results: Vec<_> = wishes.map(|wish| follower.resolve(wish, now)).collect();
            let over = results.iter().filter(|r| **r == Resolution::OverBudget).count();
            let asked = results.iter().filter(|r| matches!(r, Resolution::Asked(_))).count();
            assert_eq!(asked + over, 50);
            asked
        };
        assert_eq!((scan(1, 0), scan(1, 50)), (SOURCE_RESOLUTIONS_PER_SECOND as usize, 0));
        // The others have budgets of their own, but for the few whose bucket is the scanner's.
        let others = (2..30).filter(|&source| scan(source, 0) > 0).count();
        assert_eq!(others, 3, "sources that got what the interface had left");
        let counters = follower.resolve_counters();
        assert_eq!(counters.asked, u64::from(RESOLUTIONS_PER_SECOND));
        assert_eq!(counters.over_budget, 30 * 50 - counters.asked);
        let absent = follower.resolve(wish(InterfaceId(1), at("10.0.0.1"), 1), now);
        assert_eq!(absent, Resolution::Refused);
    });
}

#[test]
fn lost_events_are_healed_by_a_dump() {
    in_lab(|_| {
        let names = vec!["wan".to_owned()];
        let mut follower = Follower::open_with(names, 1024, 1).expect("netlink");
        let batch: String = (1..=200)
            .map(|i| format!("addr add 10.1.{i}.1/24 dev wan\nneigh add 10.1.{i}.2 lladdr 02:00:00:00:00:{:02x} dev wan\n", i % 256))
            .collect();
        let file = std::env::temp_dir().join(format!("pnl-batch-{}", std::process::id()));
        std::fs::write(&file, batch).expect("writable");
        ip(&format!("-batch {}", file.display()));
        std::fs::remove_file(&file).expect("just written");
        follower.poll(Instant::now()).expect("healed");
        assert!(follower.overruns() > 0);
        let v4 = follower.state().addresses(WAN).iter().filter(|a| a.address.is_ipv4()).count();
        assert_eq!(v4, 200);
        assert!(has_state(&follower, "10.1.200.2", NeighbourState::Reachable));
    });
}

#[test]
fn the_configured_addresses_and_gateways_are_given_once_and_taken_back() {
    in_lab(|_| {
        let network = |text: &str| {
            let (address, length) = text.split_once('/').expect("a prefix");
            InterfaceAddress { address: at(address), length: length.parse().expect("a length") }
        };
        let mut configurator = Configurator::open().expect("netlink");
        let mut follower = open(&["wan"]);
        ip("addr add 198.51.100.1/24 dev wan");
        let wanted = [network("192.0.2.2/24"), network("192.0.2.3/24"), network("2001:db8::2/64")];
        configurator.set_up("wan", true).expect("up");
        configurator.set_mtu("wan", 1492).expect("mtu");
        for _ in 0..2 {
            configurator.set_addresses("wan", &wanted).expect("addresses");
            configurator
                .set_gateways("wan", &[at("192.0.2.1"), at("fe80::1")], 101)
                .expect("gateways");
        }
        // Routes may come a little later than the rest: dumps of them are spaced.
        let gateways = |f: &Follower, any: &str| {
            routes(f, any, 0).iter().map(|p| p.route.gateway).collect::<Vec<_>>()
        };
        until(&mut follower, 5, "configured", |f| {
            wanted.iter().all(|a| f.state().addresses(WAN).contains(a))
                && f.state().link(WAN).is_some_and(|l| l.mtu == 1492)
                && gateways(f, "0.0.0.0") == [Some(at("192.0.2.1"))]
                && gateways(f, "::") == [Some(at("fe80::1"))]
        });

        // The primary goes, and takes its secondary along, which is wanted still.
        configurator.set_addresses("wan", &wanted[1..2]).expect("addresses");
        configurator.set_gateways("wan", &[at("192.0.2.254")], 101).expect("gateways");
        until(&mut follower, 5, "changed", |f| {
            !has_address(f, "192.0.2.2")
                && has_address(f, "192.0.2.3")
                && !has_address(f, "2001:db8::2")
                && gateways(f, "0.0.0.0") == [Some(at("192.0.2.254"))]
                && gateways(f, "::").is_empty()
        });

        configurator.set_gateways("wan", &[], 101).expect("gateways");
        configurator.set_addresses("wan", &[]).expect("addresses");
        until(&mut follower, 5, "taken back", |f| {
            !has_address(f, "192.0.2.3") && gateways(f, "0.0.0.0").is_empty()
        });
        assert!(has_address(&follower, "198.51.100.1"), "what others added stays");
        let error = configurator.set_up("nosuch", true).expect_err("absent");
        assert!(error.to_string().starts_with("cannot find device nosuch: "), "{error}");
    });
}

#[test]
fn a_tap_has_the_carrier_it_is_given() {
    in_lab(|_| {
        let tap = Tap::open(&TapOptions {
            name: "tap".to_owned(),
            mac: [2, 0, 0, 0, 0, 9],
            mtu: 1500,
            router_advertisements: RouterAdvertisements::Ignore,
        });
        let _tap = tap.expect("a TAP");
        let mut follower = open(&["tap"]);
        let mut configurator = Configurator::open().expect("netlink");
        let has = |on: bool| {
            move |f: &Follower| f.state().link(WAN).is_some_and(|l| l.up && l.carrier == on)
        };
        until(&mut follower, 5, "carrier at first", has(true));
        configurator.set_carrier("tap", Carrier::Down).expect("off");
        until(&mut follower, 5, "no carrier", has(false));
        configurator.set_carrier("tap", Carrier::Up).expect("on");
        until(&mut follower, 5, "carrier again", has(true));
        let error = configurator.set_carrier("wan", Carrier::Down).expect_err("it has its own");
        assert!(error.to_string().starts_with("cannot switch the carrier of wan off: "), "{error}");
    });
}

#[test]
fn waiting_wakes_on_a_change_and_gathers_what_follows() {
    in_lab(|_| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut follower = open(&["wan"]);
            // The link-local address of the fresh link may still be on its way.
            let quiet = Duration::from_secs(3);
            while tokio::time::timeout(quiet, follower.changed()).await.is_ok() {}
            ip("addr add 192.0.2.2/24 dev wan");
            ip("route add default via 192.0.2.1");
            let changes = tokio::time::timeout(Duration::from_secs(2), follower.changed()).await;
            let changes = changes.expect("woken").expect("the kernel answers");
            assert!(changes.addresses && has_address(&follower, "192.0.2.2"));
            while routes(&follower, "0.0.0.0", 0).is_empty() {
                let changes =
                    tokio::time::timeout(Duration::from_secs(2), follower.changed()).await;
                changes.expect("woken for the routes").expect("the kernel answers");
            }
        });
    });
}

#[test]
fn what_is_not_followed_is_said_once() {
    in_lab(|_| {
        ip("addr add 192.0.2.2/24 dev wan");
        ip("addr add 2001:db8::2/64 dev wan nodad");
        ip("route add 10.0.0.0/8 nexthop via 192.0.2.8 nexthop via 192.0.2.9");
        ip("-6 route add 2001:db8:5::/48 nexthop via 2001:db8::8 nexthop via 2001:db8::9");
        ip("nexthop add id 5 via 192.0.2.7 dev wan");
        ip("route add 10.7.0.0/16 nhid 5");
        ip("route add 10.8.0.0/16 via inet6 2001:db8::7 dev wan");
        let mut follower = open(&["wan"]);
        assert_eq!(routes(&follower, "10.0.0.0", 8)[0].route.gateway, Some(at("192.0.2.8")));
        assert_eq!(routes(&follower, "2001:db8:5::", 48)[0].route.egress, WAN);
        let object = routes(&follower, "10.7.0.0", 16);
        assert_eq!(object[0].route.gateway, Some(at("192.0.2.7")), "spelt out by the kernel");
        assert!(routes(&follower, "10.8.0.0", 16).is_empty());
        assert_eq!(follower.warnings().count(), 2, "{:?}", follower.warnings().collect::<Vec<_>>());

        ip("rule add from 10.0.0.0/8 table 5");
        until(&mut follower, 5, "rule", |f| f.warnings().any(|w| w.contains("ip rule")));
        assert_eq!(follower.warnings().count(), 3);
    });
}
