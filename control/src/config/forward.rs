//! Port forwards as people write them, in the file and at run time.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use postern_core::conntrack::tuple::protocol;
use postern_core::snapshot::is_link_local;

use super::{InterfaceSettings, value};

/// Why a port forward was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ForwardError {
    /// The protocol is neither tcp nor udp.
    #[error("`{0}` is not a protocol that has port forwards: tcp or udp")]
    Protocol(String),
    /// Not a port or a range of ports.
    #[error("`{0}` is not a port (1 to 65535) or a range such as \"8000-8010\"")]
    Ports(String),
    /// Not a host, or a host with ports.
    #[error(
        "`{0}` is not a target: write \"192.168.1.10:80\", \"[2001:db8::10]:80\" or an address alone"
    )]
    Target(String),
    /// The target is an address that no host can have.
    #[error("{0}, which cannot be forwarded to")]
    TargetAddress(String),
    /// The range does not fit above the target's port.
    #[error("{count} ports from {to_port} go beyond 65535")]
    PortOverflow {
        /// Number of ports forwarded.
        count: u32,
        /// The target's first port.
        to_port: u16,
    },
    /// The two ranges differ in length.
    #[error("{count} ports cannot go to {to_count}: the two ranges must have the same length")]
    RangeLength {
        /// Number of ports forwarded.
        count: u32,
        /// Number of ports of the target.
        to_count: u32,
    },
    /// There is no such interface.
    #[error("there is no interface `{0}`")]
    UnknownInterface(String),
    /// The interface has addresses, but none of the target's family.
    #[error("interface `{interface}` has no {family} address to forward from")]
    Family {
        /// The interface.
        interface: String,
        /// "IPv4" or "IPv6".
        family: &'static str,
    },
    /// Another forward has one of these ports.
    #[error("overlaps the forward {0}")]
    Overlap(String),
}

/// A protocol that has port forwards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ForwardProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl ForwardProtocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }
}

impl fmt::Display for ForwardProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for ForwardProtocol {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(ForwardError::Protocol(text.to_owned())),
        }
    }
}

/// A port or a range of ports, never empty, never with port 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports `first..=last`; `None` if there are none or port 0 is one of them.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last < first { None } else { Some(Self { first, last }) }
    }

    /// First port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Last port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Number of ports: 1..=65535.
    pub const fn count(self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }

    /// Whether the two have a port in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for PortRange {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |t: &str| {
            let t = t.trim();
            t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse().ok()).flatten()
        };
        port(first)
            .zip(port(last))
            .and_then(|(first, last)| Self::new(first, last))
            .ok_or_else(|| ForwardError::Ports(text.to_owned()))
    }
}

/// A host inside, and its ports unless they are those forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForwardTarget {
    /// The host.
    pub address: IpAddr,
    /// Its ports; `None` for the same as forwarded.
    pub ports: Option<PortRange>,
}

impl FromStr for ForwardTarget {
    type Err = ForwardError;

    /// Reads `a.b.c.d`, `a.b.c.d:ports`, `v6`, `[v6]` or `[v6]:ports`.
    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let bad = || ForwardError::Target(text.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { address, ports: None });
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or_else(bad)?;
            let address = address.parse::<Ipv6Addr>().map_err(|_| bad())?.into();
            if rest.is_empty() {
                return Ok(Self { address, ports: None });
            }
            let ports = rest.strip_prefix(':').ok_or_else(bad)?.parse()?;
            return Ok(Self { address, ports: Some(ports) });
        }
        let (address, ports) = text.split_once(':').ok_or_else(bad)?;
        let address = address.parse::<std::net::Ipv4Addr>().map_err(|_| bad())?.into();
        Ok(Self { address, ports: Some(ports.parse()?) })
    }
}

/// A port forward: connections to these ports of the interface's addresses go to a host inside. Made
/// by [`ForwardSpec::new`] only, so its ports fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardSpec {
    interface: String,
    protocol: ForwardProtocol,
    ports: PortRange,
    to: IpAddr,
    to_port: u16,
}

impl ForwardSpec {
    /// A forward whose range fits its target. Whether the interface exists and no other forward has
    /// the ports is for [`ForwardSpec::check`] to say.
    ///
    /// # Errors
    /// `RangeLength`, `PortOverflow`, or `TargetAddress` for what is no host's address.
    pub fn new(
        interface: impl Into<String>,
        protocol: ForwardProtocol,
        ports: PortRange,
        target: ForwardTarget,
    ) -> Result<Self, ForwardError> {
        let ForwardTarget { address: to, ports: to_ports } = target;
        let count = ports.count();
        let to_port = to_ports.map_or(ports.first(), PortRange::first);
        if let Some(to_ports) = to_ports
            && to_ports.count() != 1
            && to_ports.count() != count
        {
            return Err(ForwardError::RangeLength { count, to_count: to_ports.count() });
        }
        if u32::from(to_port) + (count - 1) > u32::from(u16::MAX) {
            return Err(ForwardError::PortOverflow { count, to_port });
        }
        value::host_address(to).map_err(|(text, _)| ForwardError::TargetAddress(text))?;
        if to.is_ipv6() && is_link_local(to) {
            let text = format!("`{to}` is a link-local address");
            return Err(ForwardError::TargetAddress(text));
        }
        Ok(Self { interface: interface.into(), protocol, ports, to, to_port })
    }

    /// Reads the four texts of a forward: `wan`, `tcp`, `8000-8010`, `192.168.1.10:80`.
    ///
    /// # Errors
    /// What is wrong with the first bad one, or with the forward as a whole.
    pub fn parse(
        interface: &str,
        protocol: &str,
        port: &str,
        to: &str,
    ) -> Result<Self, ForwardError> {
        Self::new(interface, protocol.parse()?, port.parse()?, to.parse()?)
    }

    /// Name of the interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// TCP or UDP.
    pub fn protocol(&self) -> ForwardProtocol {
        self.protocol
    }

    /// Ports forwarded.
    pub fn ports(&self) -> PortRange {
        self.ports
    }

    /// The host inside.
    pub fn to(&self) -> IpAddr {
        self.to
    }

    /// The target's port for the first port forwarded; the others follow.
    pub fn to_port(&self) -> u16 {
        self.to_port
    }

    /// The target's port for the last port forwarded.
    pub fn to_last(&self) -> u16 {
        // Checked by `new`: the sum is a port.
        self.to_port + (self.ports.last() - self.ports.first())
    }

    /// Whether both would claim the same port: same interface, protocol, family, and ports in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.interface == other.interface
            && self.protocol == other.protocol
            && self.to.is_ipv4() == other.to.is_ipv4()
            && self.ports.overlaps(other.ports)
    }

    /// Whether the forward can stand beside `others` on these `interfaces`: used for the file and for
    /// a forward added at run time alike.
    ///
    /// # Errors
    /// `UnknownInterface`, `Family`, or `Overlap` naming the other forward.
    pub fn check<'a>(
        &self,
        interfaces: &[InterfaceSettings],
        others: impl IntoIterator<Item = &'a ForwardSpec>,
    ) -> Result<(), ForwardError> {
        self.check_interface(interfaces)?;
        match others.into_iter().find(|other| self.overlaps(other)) {
            Some(other) => Err(ForwardError::Overlap(other.to_string())),
            None => Ok(()),
        }
    }

    /// The part of [`Self::check`] that is about the interface.
    pub(super) fn check_interface(
        &self,
        interfaces: &[InterfaceSettings],
    ) -> Result<(), ForwardError> {
        let interface = interfaces
            .iter()
            .find(|i| i.name == self.interface)
            .ok_or_else(|| ForwardError::UnknownInterface(self.interface.clone()))?;
        // Without configured addresses of its own the interface may get any; DHCP and router
        // advertisements add to those it has.
        let may_get = interface.addresses.is_empty()
            || if self.to.is_ipv4() { interface.dhcp } else { interface.accept_ra };
        let has = interface.addresses.iter().any(|a| a.address.is_ipv4() == self.to.is_ipv4());
        if has || may_get {
            return Ok(());
        }
        let family = if self.to.is_ipv4() { "IPv4" } else { "IPv6" };
        Err(ForwardError::Family { interface: self.interface.clone(), family })
    }
}

impl fmt::Display for ForwardSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, protocol, ports, to, to_port } = self;
        write!(f, "{interface} {protocol} {ports} to ")?;
        let to_ports = PortRange { first: *to_port, last: self.to_last() };
        match to {
            IpAddr::V4(to) => write!(f, "{to}:{to_ports}"),
            IpAddr::V6(to) => write!(f, "[{to}]:{to_ports}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(port: &str, to: &str) -> Result<ForwardSpec, ForwardError> {
        ForwardSpec::parse("wan", "tcp", port, to)
    }

    #[test]
    fn a_forward_reads_as_it_is_shown() {
        for (port, to, shown) in [
            ("8080", "192.168.1.10:80", "wan tcp 8080 to 192.168.1.10:80"),
            ("8000-8010", "192.168.1.10", "wan tcp 8000-8010 to 192.168.1.10:8000-8010"),
            ("8000-8010", "192.168.1.10:9000", "wan tcp 8000-8010 to 192.168.1.10:9000-9010"),
            ("8000-8010", "192.168.1.10:9000-9010", "wan tcp 8000-8010 to 192.168.1.10:9000-9010"),
            ("443", "[2001:db8::10]:8443", "wan tcp 443 to [2001:db8::10]:8443"),
            ("443", "2001:db8::10", "wan tcp 443 to [2001:db8::10]:443"),
            ("443", "[2001:db8::10]", "wan tcp 443 to [2001:db8::10]:443"),
        ] {
            assert_eq!(spec(port, to).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn ports_end_at_65535_and_begin_at_1() {
        assert_eq!(spec("1-11", "10.0.0.1:65525").unwrap().to_last(), 65_535);
        let overflow = ForwardError::PortOverflow { count: 11, to_port: 65_526 };
        assert_eq!(spec("1-11", "10.0.0.1:65526"), Err(overflow));
        assert_eq!(spec("1-65535", "10.0.0.1").unwrap().ports().count(), 65_535);
        for bad in ["0", "65536", "0-5", "10-9", "-1", "1-", "-", "", "+1", "1-2-3", "a"] {
            assert_eq!(spec(bad, "10.0.0.1:1"), Err(ForwardError::Ports(bad.into())), "{bad:?}");
        }
    }

    #[test]
    fn bad_targets_are_refused() {
        for bad in [
            "",
            "host:80",
            "10.0.0.1:",
            "10.0.0.1:0",
            "[10.0.0.1]:80",
            "[::1",
            "2001:db8::1:80:x",
            "[2001:db8::1]80",
        ] {
            assert!(spec("80", bad).is_err(), "{bad:?}");
        }
        for bad in [
            "127.0.0.1:80",
            "0.0.0.0:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[::1]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
        ] {
            assert!(matches!(spec("80", bad), Err(ForwardError::TargetAddress(_))), "{bad:?}");
        }
        let length = ForwardError::RangeLength { count: 11, to_count: 10 };
        assert_eq!(spec("8000-8010", "10.0.0.1:9000-9009"), Err(length));
    }

    #[test]
    fn overlap_needs_the_same_interface_protocol_family_and_a_port() {
        let one = spec("8000-8010", "10.0.0.1").unwrap();
        let overlaps = |interface, protocol, port, to| {
            one.overlaps(&ForwardSpec::parse(interface, protocol, port, to).unwrap())
        };
        assert!(overlaps("wan", "tcp", "8010", "10.0.0.2"));
        assert!(overlaps("wan", "tcp", "8000", "10.0.0.2"));
        assert!(overlaps("wan", "tcp", "7000-9000", "10.0.0.2"));
        assert!(!overlaps("wan", "tcp", "8011", "10.0.0.2"));
        assert!(!overlaps("wan", "tcp", "7999", "10.0.0.2"));
        assert!(!overlaps("wan", "udp", "8000", "10.0.0.2"));
        assert!(!overlaps("lan", "tcp", "8000", "10.0.0.2"));
        assert!(!overlaps("wan", "tcp", "8000", "2001:db8::2"));
    }
}
