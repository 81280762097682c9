//! Gives TAPs the addresses and gateways of the configuration.
//!
//! What is added is marked as ours (a protocol number of our own), so that a later run or a changed
//! configuration takes back exactly what an earlier one gave, and nothing an operator added by hand.
//! The mark of addresses needs Linux 5.18; before, old addresses stay until removed by hand.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use postern_core::forward::route::RouteKind;
use postern_core::snapshot::InterfaceAddress;
use postern_io::device::Carrier;

use super::OURS;
use super::decode::{self, RouteRow};
use super::follow::{dump_addresses, dump_routes};
use super::socket::Requests;

/// Metric of the first interface's default routes; the n-th interface's is so much plus n.
pub const GATEWAY_METRIC: u32 = 100;

/// A change the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct ConfigureError {
    what: String,
    #[source]
    source: io::Error,
}

/// Names the change that failed.
fn during<T>(result: io::Result<T>, what: impl FnOnce() -> String) -> Result<T, ConfigureError> {
    result.map_err(|source| ConfigureError { what: what(), source })
}

/// Changes links, addresses and routes in this process's network namespace.
#[derive(Debug)]
pub struct Configurator {
    requests: Requests,
}

impl Configurator {
    /// # Errors
    /// If there is no netlink socket to be had.
    pub fn open() -> Result<Self, ConfigureError> {
        let requests = during(Requests::open(), || "open a netlink socket".to_owned())?;
        Ok(Self { requests })
    }

    /// The kernel's number for a device.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn ifindex(&mut self, name: &str) -> Result<u32, ConfigureError> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let rows = self.requests.dump(&message, |m| match m {
            RouteNetlinkMessage::NewLink(link) => Some(decode::link(link)),
            _ => None,
        });
        let rows = during(rows, || "list the devices".to_owned())?;
        let found = rows.iter().find(|row| row.name == name).map(|row| row.ifindex);
        let found = found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV));
        during(found, || format!("find device {name}"))
    }

    /// Sets a device administratively up or down.
    ///
    /// # Errors
    /// If there is no such device, or the kernel refuses.
    pub fn set_up(&mut self, name: &str, up: bool) -> Result<(), ConfigureError> {
        let mut message = LinkMessage::default();
        message.header.index = self.ifindex(name)?;
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        let word = if up { "up" } else { "down" };
        let result = self.requests.change(RouteNetlinkMessage::SetLink(message), 0);
        during(result, || format!("set {name} {word}"))
    }

    /// Sets a device's MTU, bytes.
    ///
    /// # Errors
    /// If there is no such device, or the kernel refuses.
    pub fn set_mtu(&mut self, name: &str, mtu: u16) -> Result<(), ConfigureError> {
        let mut message = LinkMessage::default();
        message.header.index = self.ifindex(name)?;
        message.attributes.push(LinkAttribute::Mtu(u32::from(mtu)));
        let result = self.requests.change(RouteNetlinkMessage::SetLink(message), 0);
        during(result, || format!("set the MTU of {name} to {mtu}"))
    }

    /// Gives a device carrier or takes it: for TAPs, whose link is what we say it is.
    ///
    /// # Errors
    /// If there is no such device, it has a link of its own, or it is a TAP that nobody has open.
    pub fn set_carrier(&mut self, name: &str, carrier: Carrier) -> Result<(), ConfigureError> {
        let on = carrier == Carrier::Up;
        let mut message = LinkMessage::default();
        message.header.index = self.ifindex(name)?;
        message.attributes.push(LinkAttribute::Carrier(u8::from(on)));
        let result = self.requests.change(RouteNetlinkMessage::SetLink(message), 0);
        during(result, || format!("switch the carrier of {name} {}", if on { "on" } else { "off" }))
    }

    /// Makes the device have these addresses and no others of ours. Addresses that are there already,
    /// whoever added them, are left as they are.
    ///
    /// # Errors
    /// At the first change the kernel refuses; calling again goes on from there.
    pub fn set_addresses(
        &mut self,
        name: &str,
        wanted: &[InterfaceAddress],
    ) -> Result<(), ConfigureError> {
        let ifindex = self.ifindex(name)?;
        for row in self.addresses(ifindex)? {
            if row.ours && !wanted.contains(&row.address) {
                let message = address_message(ifindex, row.address);
                match self.requests.change(RouteNetlinkMessage::DelAddress(message), 0) {
                    // It may have gone with another one of its network.
                    Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                    result => {
                        during(result, || format!("remove {} from {name}", show(row.address)))?
                    }
                }
            }
        }
        // Removing one may have taken others along: look again.
        let have: Vec<_> = self.addresses(ifindex)?.into_iter().map(|row| row.address).collect();
        for address in wanted.iter().filter(|a| !have.contains(a)) {
            let message = RouteNetlinkMessage::NewAddress(address_message(ifindex, *address));
            match self.requests.change(message, NLM_F_CREATE | NLM_F_EXCL) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => during(result, || format!("add {} to {name}", show(*address)))?,
            }
        }
        Ok(())
    }

    /// Makes the device have default routes by these gateways, at most one for each family, and no
    /// others of ours. The device must be up. `metric` is the kernel's; see [`GATEWAY_METRIC`].
    ///
    /// # Errors
    /// At the first change the kernel refuses, for example another default route of the same metric.
    pub fn set_gateways(
        &mut self,
        name: &str,
        wanted: &[IpAddr],
        metric: u32,
    ) -> Result<(), ConfigureError> {
        let ifindex = self.ifindex(name)?;
        let rows = during(dump_routes(&mut self.requests), || "list the routes".to_owned())?;
        let mut have = Vec::new();
        for row in rows.iter().filter(|row| is_our_default(row, ifindex)) {
            let gateway = row.hops[0].gateway;
            match gateway.filter(|g| wanted.contains(g) && row.metric == metric) {
                Some(gateway) => have.push(gateway),
                None => {
                    let message = default_route(ifindex, row.address, gateway, row.metric);
                    match self.requests.change(RouteNetlinkMessage::DelRoute(message), 0) {
                        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                        result => during(result, || format!("remove the old gateway of {name}"))?,
                    }
                }
            }
        }
        for gateway in wanted.iter().filter(|g| !have.contains(g)) {
            let message = default_route(ifindex, *gateway, Some(*gateway), metric);
            let message = RouteNetlinkMessage::NewRoute(message);
            let result = self.requests.change(message, NLM_F_CREATE | NLM_F_EXCL);
            during(result, || format!("add gateway {gateway} to {name}"))?;
        }
        Ok(())
    }

    fn addresses(&mut self, ifindex: u32) -> Result<Vec<decode::AddressRow>, ConfigureError> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let rows = dump_addresses(&mut self.requests, &message);
        let mut rows = during(rows, || "list the addresses".to_owned())?;
        rows.retain(|row| row.ifindex == ifindex);
        Ok(rows)
    }
}

fn show(address: InterfaceAddress) -> String {
    format!("{}/{}", address.address, address.length)
}

fn is_our_default(row: &RouteRow, ifindex: u32) -> bool {
    row.ours
        && row.length == 0
        && row.kind == RouteKind::Unicast
        && row.hops.len() == 1
        && row.hops[0].ifindex == ifindex
}

fn address_message(ifindex: u32, address: InterfaceAddress) -> AddressMessage {
    let InterfaceAddress { address, length } = address;
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.prefix_len = length;
    message.header.family =
        if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(OURS)));
    if let IpAddr::V4(v4) = address
        && length < 31
    {
        let broadcast =
            Ipv4Addr::from(u32::from(v4) | u32::MAX.checked_shr(u32::from(length)).unwrap_or(0));
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    message
}

/// A default route of the family of `family_of`.
fn default_route(
    ifindex: u32,
    family_of: IpAddr,
    gateway: Option<IpAddr>,
    metric: u32,
) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family =
        if family_of.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.table = 254; // RT_TABLE_MAIN
    message.header.protocol = RouteProtocol::Other(OURS);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(ifindex));
    message.attributes.push(RouteAttribute::Priority(metric));
    if let Some(gateway) = gateway {
        let gateway = match gateway {
            IpAddr::V4(a) => RouteAddress::Inet(a),
            IpAddr::V6(a) => RouteAddress::Inet6(a),
        };
        message.attributes.push(RouteAttribute::Gateway(gateway));
    }
    message
}
