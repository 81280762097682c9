//! Where traffic may go: prefixes, the flows between two of them, and what is refused.
//!
//! A generator that answers to a typing mistake with a million packets a second must not be able to
//! reach anybody: addresses are those set aside for private use, benchmarks and documentation, and a
//! device that carries a default route is not touched.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;

/// Why a run is not begun.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// An address that could be somebody's.
    #[error(
        "{what} {address} is outside its own topology: allowed are RFC 1918, 198.18.0.0/15, 192.0.2.0/24, \
         198.51.100.0/24, 203.0.113.0/24, fc00::/7, 2001:db8::/32 and 2001:2::/48"
    )]
    OutsideTopology {
        /// Whose address, for people.
        what: String,
        /// The address or prefix.
        address: String,
    },
    /// A device that other things depend on.
    #[error("device {0} carries a default route: it is not a device of a test bench")]
    DefaultRoute(String),
    /// A combination that means nothing.
    #[error("{0}")]
    Meaningless(String),
}

/// The IP version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4; addresses are the low 32 bits of a `u128`.
    V4,
    /// IPv6.
    V6,
}

/// A prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    /// Its IP version.
    pub family: Family,
    first: u128,
    bits: u8,
}

impl Cidr {
    const fn width(family: Family) -> u8 {
        match family {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    const fn v4(octets: [u8; 4], bits: u8) -> Self {
        Self { family: Family::V4, first: u32::from_be_bytes(octets) as u128, bits }
    }

    const fn v6(high: u64, bits: u8) -> Self {
        Self { family: Family::V6, first: (high as u128) << 64, bits }
    }

    /// Whether all of `other` lies in this prefix.
    pub fn covers(&self, other: &Self) -> bool {
        let shift = u32::from(Self::width(self.family) - self.bits);
        let high = |address: u128| address.checked_shr(shift).unwrap_or(0);
        self.family == other.family
            && self.bits <= other.bits
            && high(self.first) == high(other.first)
    }

    /// Host addresses used: not the first and last of an IPv4 prefix shorter than /31, nor the first of
    /// an IPv6 prefix shorter than /127. At most 2^24.
    pub fn hosts(&self) -> u64 {
        let free = Self::width(self.family) - self.bits;
        let all = 1u64 << free.min(25);
        let usable = match (free, self.family) {
            (0 | 1, _) => all,
            (_, Family::V4) => all - 2,
            (_, Family::V6) => all - 1,
        };
        usable.min(1 << 24)
    }

    /// The host address of a number below [`hosts`](Self::hosts).
    pub fn host(&self, number: u64) -> u128 {
        let free = Self::width(self.family) - self.bits;
        self.first + u128::from(number) + u128::from(free > 1)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is no address"))?;
        let (family, value) = number(address);
        let width = Self::width(family);
        let bits = match bits {
            None => width,
            Some(bits) => bits
                .parse()
                .ok()
                .filter(|&bits| bits >= 1 && bits <= width)
                .ok_or_else(|| format!("`/{bits}` is no prefix length: 1 to {width}"))?,
        };
        let host_bits = u128::MAX.checked_shl(u32::from(width - bits)).unwrap_or(0);
        Ok(Self { family, first: value & host_bits, bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", address(self.family, self.first), self.bits)
    }
}

fn number(address: IpAddr) -> (Family, u128) {
    match address {
        IpAddr::V4(address) => (Family::V4, u128::from(u32::from(address))),
        IpAddr::V6(address) => (Family::V6, u128::from(address)),
    }
}

/// The address of a number, for people.
pub fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(number as u32).into(),
        Family::V6 => Ipv6Addr::from(number).into(),
    }
}

/// What traffic may be from and to.
const ALLOWED: [Cidr; 10] = [
    Cidr::v4([10, 0, 0, 0], 8),          // RFC 1918
    Cidr::v4([172, 16, 0, 0], 12),       // RFC 1918
    Cidr::v4([192, 168, 0, 0], 16),      // RFC 1918
    Cidr::v4([198, 18, 0, 0], 15),       // RFC 2544: benchmarks
    Cidr::v4([192, 0, 2, 0], 24),        // RFC 5737: documentation
    Cidr::v4([198, 51, 100, 0], 24),     // RFC 5737
    Cidr::v4([203, 0, 113, 0], 24),      // RFC 5737
    Cidr::v6(0xfc00_0000_0000_0000, 7),  // RFC 4193
    Cidr::v6(0x2001_0db8_0000_0000, 32), // RFC 3849: documentation
    Cidr::v6(0x2001_0002_0000_0000, 48), // RFC 5180: benchmarks
];

/// Refuses a prefix that is not wholly inside the allowed ranges.
///
/// # Errors
/// [`Refused::OutsideTopology`].
pub fn check_prefix(what: &str, prefix: &Cidr) -> Result<(), Refused> {
    if ALLOWED.iter().any(|allowed| allowed.covers(prefix)) {
        return Ok(());
    }
    Err(Refused::OutsideTopology { what: what.to_owned(), address: prefix.to_string() })
}

/// Whether a single address is allowed.
pub fn allowed(family: Family, number: u128) -> bool {
    let prefix = Cidr { family, first: number, bits: Cidr::width(family) };
    ALLOWED.iter().any(|allowed| allowed.covers(&prefix))
}

/// Refuses a device that carries a default route of this network namespace.
///
/// # Errors
/// [`Refused::DefaultRoute`], or that the routes cannot be read.
pub fn check_device(device: &str) -> Result<(), Refused> {
    let unreadable = |e: io::Error| Refused::Meaningless(format!("routes cannot be read: {e}"));
    let v4 = fs::read_to_string("/proc/thread-self/net/route").map_err(unreadable)?;
    let v6 = match fs::read_to_string("/proc/thread-self/net/ipv6_route") {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.map_err(unreadable)?,
    };
    let sysfs = Path::new("/sys/class/net");
    if with_uppers(sysfs, device).iter().any(|device| carries_default(device, &v4, &v6)) {
        return Err(Refused::DefaultRoute(device.to_owned()));
    }
    Ok(())
}

/// A device and all that stand on it: the bridge or bond that it is a port of, its VLANs and macvlans, and theirs.
fn with_uppers(sysfs: &Path, device: &str) -> Vec<String> {
    let mut found = vec![device.to_owned()];
    let mut next = 0;
    while let Some(device) = found.get(next) {
        next += 1;
        // One that does not exist has none; what is to be done with it will fail.
        for entry in fs::read_dir(sysfs.join(device)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(upper) = name.to_str().and_then(|name| name.strip_prefix("upper_"))
                && !found.iter().any(|known| known == upper)
            {
                found.push(upper.to_owned());
            }
        }
    }
    found
}

/// `v4` and `v6` as in `/proc/net/route` and `/proc/net/ipv6_route`.
fn carries_default(device: &str, v4: &str, v6: &str) -> bool {
    let v4 = v4.lines().skip(1).any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.len() > 7 && words[0] == device && words[1] == "00000000" && words[7] == "00000000"
    });
    let v6 = v6.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let default = words.len() > 9 && words[1] == "00" && words[0].bytes().all(|b| b == b'0');
        default && words[9] == device
    });
    v4 || v6
}

/// The MAC address of the only neighbour the kernel knows on `device`; `None` if there is none or they
/// differ. Static neighbours are there too.
pub fn only_neighbour(device: &str) -> Option<[u8; 6]> {
    neighbour_in(device, &fs::read_to_string("/proc/thread-self/net/arp").ok()?)
}

/// `arp` as in `/proc/net/arp`.
fn neighbour_in(device: &str, arp: &str) -> Option<[u8; 6]> {
    let mut found = None;
    for line in arp.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.len() < 6 || words[5] != device || words[2] == "0x0" {
            continue;
        }
        let mac = mac(words[3]).ok()?;
        if found.is_some_and(|other| other != mac) {
            return None;
        }
        found = Some(mac);
    }
    found
}

/// An Ethernet address in the usual way of writing.
///
/// # Errors
/// A sentence for people.
pub fn mac(text: &str) -> Result<[u8; 6], String> {
    let parts: Vec<&str> = text.split(':').collect();
    let byte = |part: &&str| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten();
    let bytes: Option<Vec<u8>> = parts.iter().map(byte).collect();
    let bytes: Option<[u8; 6]> = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes
        .filter(|bytes| bytes[0] & 1 == 0)
        .ok_or_else(|| format!("`{text}` is no unicast MAC address such as 02:00:00:00:00:01"))
}

/// One direction's addresses and ports, as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

impl Tuple {
    /// The tuple of the answer.
    pub const fn inverted(self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port }
    }
}

const FIRST_PORT: u64 = 1024;
const PORTS: u64 = 65_536 - FIRST_PORT;

/// All flows between two prefixes, by number: arithmetic, no memory.
#[derive(Clone, Copy, Debug)]
pub struct Flows {
    src: Cidr,
    dst: Cidr,
    dst_port: u16,
    src_hosts: u64,
    dst_hosts: u64,
}

impl Flows {
    /// The flows from `src` to `dst`.
    ///
    /// # Errors
    /// [`Refused`]: addresses outside the topology or of two IP versions.
    pub fn new(src: Cidr, dst: Cidr, dst_port: u16) -> Result<Self, Refused> {
        check_prefix("--src", &src)?;
        check_prefix("--dst", &dst)?;
        if src.family != dst.family {
            let text = "--src and --dst are of two IP versions".to_owned();
            return Err(Refused::Meaningless(text));
        }
        let (src_hosts, dst_hosts) = (src.hosts(), dst.hosts());
        Ok(Self { src, dst, dst_port, src_hosts, dst_hosts })
    }

    /// The IP version.
    pub const fn family(&self) -> Family {
        self.src.family
    }

    /// The port they all go to.
    pub const fn dst_port(&self) -> u16 {
        self.dst_port
    }

    /// How many different tuples there are.
    pub const fn capacity(&self) -> u64 {
        self.src_hosts * PORTS * self.dst_hosts
    }

    /// The tuple of a flow. Numbers below [`capacity`](Self::capacity) have different ones: source ports differ first,
    /// so that any number of flows has many, as real hosts' do; hosts and destinations are spread by hashes.
    #[inline]
    pub fn tuple(&self, number: u64) -> Tuple {
        let sources = self.src_hosts * PORTS;
        let (source, lap) = (number % sources, number / sources);
        let (port, host) = (source % PORTS, source / PORTS);
        let spread = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        Tuple {
            // Of one port, different hosts.
            src: self.src.host((spread(port) + host) % self.src_hosts),
            dst: self.dst.host((spread(source) + lap) % self.dst_hosts),
            src_port: (FIRST_PORT + port) as u16,
            dst_port: self.dst_port,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a prefix")
    }

    #[test]
    fn prefixes_of_the_topology_are_allowed_and_their_neighbours_refused() {
        let allowed =
            ["10.0.0.0/8", "10.1.2.3", "172.31.255.0/24", "192.168.7.0/24", "198.19.0.0/16"];
        let more =
            ["203.0.113.9/32", "fd00::/8", "2001:db8:1::/64", "2001:2:0:1::/64", "192.0.2.0/24"];
        for text in allowed.into_iter().chain(more) {
            assert!(check_prefix("--src", &cidr(text)).is_ok(), "{text}");
        }
        let refused = ["10.0.0.0/7", "172.32.0.0/16", "198.20.0.0/24", "8.8.8.8", "192.0.3.0/24"];
        let more = ["2001:db9::/32", "2001:2:1::/48", "2606:4700::/32", "fe80::/64", "0.0.0.0/1"];
        for text in refused.into_iter().chain(more) {
            let error = check_prefix("--dst", &cidr(text)).expect_err(text);
            assert!(error.to_string().contains("outside its own topology"), "{error}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in
            ["", "10.0.0.0/33", "10.0.0.0/0", "10.0.0/8", "fd00::/129", "10.0.0.0/x", "host"]
        {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn network_and_broadcast_addresses_are_not_hosts() {
        let net = cidr("192.0.2.0/30");
        assert_eq!((net.hosts(), net.host(0), net.host(1)), (2, 0xc000_0201, 0xc000_0202));
        assert_eq!((cidr("192.0.2.8/32").hosts(), cidr("192.0.2.8/32").host(0)), (1, 0xc000_0208));
        assert_eq!(cidr("fd00::/8").hosts(), 1 << 24);
        assert_eq!(cidr("fd00::/64").host(0) & 0xffff, 1);
    }

    #[test]
    fn flows_have_different_tuples_over_all_destinations() {
        let flows = Flows::new(cidr("10.0.0.0/31"), cidr("198.18.0.0/30"), 9).expect("allowed");
        assert_eq!(flows.capacity(), 2 * 64_512 * 2);
        let mut seen = HashSet::new();
        let mut destinations = HashSet::new();
        for number in 0..flows.capacity() {
            let Tuple { src, dst, src_port, dst_port } = flows.tuple(number);
            assert!(src_port >= 1024 && dst_port == 9);
            destinations.insert(dst);
            assert!(seen.insert((src, dst, src_port)), "flow {number}");
        }
        assert_eq!(destinations.len(), 2);
    }

    #[test]
    fn a_thousand_flows_are_of_many_hosts_and_ports() {
        let flows = Flows::new(cidr("10.0.0.0/12"), cidr("198.18.0.0/15"), 9).expect("allowed");
        let tuples: Vec<_> = (0..1000).map(|number| flows.tuple(number)).collect();
        let different =
            |of: fn(&Tuple) -> u128| tuples.iter().map(of).collect::<HashSet<_>>().len();
        assert_eq!(different(|tuple| u128::from(tuple.src_port)), 1000);
        assert!(different(|tuple| tuple.src) > 900 && different(|tuple| tuple.dst) > 900);
    }

    #[test]
    fn a_default_route_is_seen_in_either_table() {
        let head =
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        let v4 = format!(
            "{head}eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth1\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n"
        );
        assert!(carries_default("eth0", &v4, "") && !carries_default("eth1", &v4, ""));
        let zero = "0".repeat(32);
        let v6 = format!("{zero} 00 {zero} 00 {zero} 00000400 00000001 00000000 00000003 eth2\n");
        assert!(carries_default("eth2", head, &v6) && !carries_default("eth1", head, &v6));
    }

    #[test]
    fn what_stands_on_a_device_is_found_through_all_storeys() {
        let sysfs = std::env::temp_dir().join(format!("postern-uppers-{}", std::process::id()));
        for link in ["eth0/upper_bond0", "bond0/upper_br0", "br0/lower_bond0", "br0/upper_bond0"] {
            fs::create_dir_all(sysfs.join(link)).expect("a folder");
        }
        let found = ["eth0", "none"].map(|device| with_uppers(&sysfs, device));
        fs::remove_dir_all(&sysfs).expect("it was ours");
        assert_eq!(found, [vec!["eth0", "bond0", "br0"], vec!["none"]]);
    }

    #[test]
    fn the_only_neighbour_is_found_and_two_are_none() {
        let head =
            "IP address       HW type     Flags       HW address            Mask     Device\n";
        let one = format!("{head}10.0.0.1  0x1  0x6  02:00:00:00:00:05  *  a\n");
        assert_eq!(neighbour_in("a", &one), Some([2, 0, 0, 0, 0, 5]));
        assert_eq!(neighbour_in("b", &one), None);
        let two = format!("{one}10.0.0.2  0x1  0x6  02:00:00:00:00:06  *  a\n");
        assert_eq!(neighbour_in("a", &two), None);
        assert!(mac("01:00:5e:00:00:01").is_err() && mac("2:0:0:0:0:1").is_err());
    }
}
