//! What the kernel said, in our terms: by [`InterfaceId`] instead of ifindex.

use postern_core::forward::route::Prefix;
use postern_core::snapshot::InterfaceAddress;
use postern_core::units::{InterfaceId, Mac};

/// The kernel's side of the appliance at one moment. Neighbours are not here: they go straight into
/// the core's array.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct KernelState {
    /// The TAP of each interface, by [`InterfaceId`]; `None` while there is none.
    pub links: Vec<Option<Link>>,
    /// Addresses of each interface, by [`InterfaceId`]: the TAP's own in the kernel's order, deprecated
    /// ones after the others, then those of the devices on top of it. Addresses that failed duplicate
    /// detection are left out.
    pub addresses: Vec<Vec<InterfaceAddress>>,
    /// Tables `local` and `main` of both families as one: what `local` holds has metric 0 and so comes
    /// before equal prefixes of `main`, whose metrics are one higher than the kernel's.
    pub routes: Vec<Prefix>,
}

impl KernelState {
    /// The link of an interface, if its TAP is there.
    pub fn link(&self, id: InterfaceId) -> Option<&Link> {
        self.links.get(id.index())?.as_ref()
    }

    /// The addresses of an interface.
    pub fn addresses(&self, id: InterfaceId) -> &[InterfaceAddress] {
        self.addresses.get(id.index()).map_or(&[], Vec::as_slice)
    }
}

/// A TAP as the kernel sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The kernel's number for it.
    pub ifindex: u32,
    /// Its MAC.
    pub mac: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has carrier.
    pub carrier: bool,
    /// Whether anything made it promiscuous.
    pub promiscuous: bool,
    /// MACs of the devices on top of it (macvlan, VRRP, VLAN) that differ from its own, sorted.
    pub upper_macs: Vec<Mac>,
}

/// What a batch of events changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// [`KernelState::links`].
    pub links: bool,
    /// [`KernelState::addresses`].
    pub addresses: bool,
    /// [`KernelState::routes`].
    pub routes: bool,
    /// Neighbours, updated in place.
    pub neighbours: bool,
}

impl Changes {
    /// Whether anything changed.
    pub const fn any(self) -> bool {
        self.links || self.addresses || self.routes || self.neighbours
    }

    /// Whether a new snapshot is needed.
    pub const fn state(self) -> bool {
        self.links || self.addresses || self.routes
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            links: self.links || other.links,
            addresses: self.addresses || other.addresses,
            routes: self.routes || other.routes,
            neighbours: self.neighbours || other.neighbours,
        }
    }
}
