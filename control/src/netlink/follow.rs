//! Follows the kernel: a dump at the start, then events, gathered for 20 ms.
//!
//! Neighbour events are taken over as they come. For links, addresses and routes an event says only
//! *that* something changed: what it is now is asked for anew. The kernel does not tell of all it
//! does (IPv4 routes vanish silently with their device or address), a dump is always right, and the
//! routes are compiled as a whole anyway. Dumps of large tables are spaced so that they take at most
//! about a fifth of the control thread's time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use postern_core::forward::Neighbours;
use postern_core::pipeline::Wanted;
use postern_core::units::InterfaceId;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::decode::{self, AddressRow, LinkRow, NeighbourRow, RouteRow};
use super::neighbours::{Resolution, ResolveCounters, Table};
use super::socket::{Events, Heard, Requests};
use super::{Changes, KernelState, translate};

/// How long events are gathered before they are acted on.
pub const COALESCE: Duration = Duration::from_millis(20);
/// Room for events the kernel keeps for us, bytes. Overrun is healed, so this is only for quiet.
const RECEIVE_BYTES: libc::c_int = 4 << 20;
/// After a dump of the routes the next one waits so many times as long as it took.
const DUMP_SPACING: u32 = 4;
/// Most datagrams taken before the rest of the process gets its turn.
const DATAGRAMS_MAX: usize = 10_000;

/// Follows the TAPs of the appliance in this process's network namespace.
#[derive(Debug)]
pub struct Follower {
    names: Vec<String>,
    requests: Requests,
    events: Events,
    rows: Rows,
    state: KernelState,
    neighbours: Table,
    dirty: Dirty,
    /// No dump of the routes before this.
    routes_not_before: Instant,
    warnings: BTreeSet<String>,
    overruns: u64,
}

/// The kernel's objects as last dumped.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) links: Vec<LinkRow>,
    pub(super) addresses: Vec<AddressRow>,
    pub(super) routes: Vec<RouteRow>,
    /// The interface each device's frames leave by: the TAPs and what sits plainly on them.
    pub(super) interfaces: BTreeMap<u32, InterfaceId>,
}

/// What has to be dumped anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Dirty {
    links: bool,
    addresses: bool,
    routes: bool,
    neighbours: bool,
    rules: bool,
}

impl Dirty {
    const ALL: Self =
        Self { links: true, addresses: true, routes: true, neighbours: true, rules: true };
}

impl Follower {
    /// Starts to follow the devices of these names, the n-th being `InterfaceId(n)`, with room for so many
    /// neighbours (a power of two, 64 ..= 32,768), and takes a first dump. A device that is not there (yet) is no error.
    ///
    /// # Errors
    /// If the sockets cannot be had or the kernel does not answer.
    pub fn open(names: Vec<String>, neighbours: usize) -> io::Result<Self> {
        Self::open_with(names, neighbours, RECEIVE_BYTES)
    }

    /// [`Follower::open`] with another receive buffer, bytes: for tests of overruns.
    ///
    /// # Errors
    /// As [`Follower::open`].
    pub fn open_with(
        names: Vec<String>,
        neighbours: usize,
        receive_bytes: i32,
    ) -> io::Result<Self> {
        let now = Instant::now();
        // Listening begins before the dump, so nothing falls between the two.
        let events = Events::open(receive_bytes)?;
        let mut follower = Self {
            names,
            requests: Requests::open()?,
            events,
            rows: Rows::default(),
            state: KernelState::default(),
            neighbours: Table::new(neighbours),
            dirty: Dirty::ALL,
            routes_not_before: now,
            warnings: BTreeSet::new(),
            overruns: 0,
        };
        follower.refresh(now)?;
        Ok(follower)
    }

    /// The kernel's side as last seen.
    pub fn state(&self) -> &KernelState {
        &self.state
    }

    /// The neighbour array that is being kept. [`Follower::tick`] may put another in its place.
    pub fn neighbours(&self) -> &Arc<Neighbours> {
        self.neighbours.array()
    }

    /// How often the kernel had to throw events away, after which everything was dumped anew.
    pub fn overruns(&self) -> u64 {
        self.overruns
    }

    /// What became of the workers' wishes.
    pub fn resolve_counters(&self) -> ResolveCounters {
        self.neighbours.counters
    }

    /// What the kernel does that the appliance does not follow, each once: policy routing, multipath.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.warnings.iter().map(String::as_str)
    }

    /// Waits for the kernel to change something, gathers for [`COALESCE`], takes it over, and says what
    /// changed. Can be dropped and called again at any time.
    ///
    /// # Errors
    /// If the kernel does not answer a dump.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub async fn changed(&mut self) -> io::Result<Changes> {
        loop {
            let waits_for_routes = self.dirty.routes.then_some(self.routes_not_before);
            {
                let fd = self.events.fd();
                // SAFETY: the descriptor is borrowed from the socket, which keeps it open for longer
                // than this block, and a BorrowedFd is always the same descriptor.
                let events = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
                match waits_for_routes {
                    None => drop(events.readable().await?),
                    Some(at) => match tokio::time::timeout_at(at.into(), events.readable()).await {
                        Ok(ready) => drop(ready?),
                        Err(_elapsed) => {}
                    },
                }
            }
            tokio::time::sleep(COALESCE).await;
            let changes = self.poll(Instant::now())?;
            if changes.any() {
                return Ok(changes);
            }
        }
    }

    /// Takes over what the kernel has changed since the last call, without waiting.
    ///
    /// # Errors
    /// If the kernel does not answer a dump.
    pub fn poll(&mut self, now: Instant) -> io::Result<Changes> {
        let mut changes = Changes::default();
        for _ in 0..DATAGRAMS_MAX {
            let (dirty, neighbours) = (&mut self.dirty, &mut self.neighbours);
            let (rows, names) = (&self.rows, &self.names);
            let heard = self.events.take(|message| {
                changes.neighbours |= event(message, rows, names, dirty, neighbours, now);
            })?;
            match heard {
                Heard::Events => {}
                Heard::Overrun => {
                    self.overruns += 1;
                    self.dirty = Dirty::ALL;
                    tracing::warn!("rtnetlink events were lost; asking for everything anew");
                }
                Heard::Nothing => break,
            }
        }
        Ok(changes.and(self.refresh(now)?))
    }

    /// Has the kernel resolve a next hop, for a worker that holds a packet for it.
    pub fn resolve(&mut self, wanted: Wanted, now: Instant) -> Resolution {
        let ifindex = self.state.link(wanted.interface).map(|l| l.ifindex);
        self.neighbours.resolve(&mut self.requests, ifindex, wanted, now)
    }

    /// To be called about once a second: has the kernel verify stale neighbours that are in use, lets
    /// failed ones be asked for again, and replaces an array that is filling up. Whether it did: then
    /// a snapshot with [`Follower::neighbours`] is due.
    #[must_use]
    pub fn tick(&mut self, now: Instant) -> bool {
        let state = &self.state;
        let ifindex = |id| state.link(id).map(|l| l.ifindex);
        self.neighbours.tick(&mut self.requests, ifindex, now);
        self.neighbours.renew(now)
    }

    /// Dumps what is dirty, and says what changed.
    fn refresh(&mut self, now: Instant) -> io::Result<Changes> {
        let mut changes = Changes::default();
        if self.dirty == Dirty::default() {
            return Ok(changes);
        }
        if self.dirty.links {
            let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
            self.rows.links = self.requests.dump(&message, |m| match m {
                RouteNetlinkMessage::NewLink(link) => Some(decode::link(link)),
                _ => None,
            })?;
            self.dirty.links = false;
            let interfaces = translate::interfaces(&self.rows.links, &self.names);
            if interfaces != self.rows.interfaces {
                // Addresses, routes and neighbours are held by interface: look at them again.
                self.rows.interfaces = interfaces;
                self.dirty = Dirty { rules: self.dirty.rules, links: false, ..Dirty::ALL };
                self.routes_not_before = now;
            }
        }
        if self.dirty.addresses {
            let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
            self.rows.addresses = dump_addresses(&mut self.requests, &message)?;
            self.dirty.addresses = false;
        }
        if self.dirty.routes && now >= self.routes_not_before {
            let began = Instant::now();
            self.rows.routes = dump_routes(&mut self.requests)?;
            self.routes_not_before = now + began.elapsed() * DUMP_SPACING;
            self.dirty.routes = false;
        }
        if self.dirty.neighbours {
            changes.neighbours |= self.refresh_neighbours(now)?;
        }
        if self.dirty.rules {
            self.refresh_rules()?;
        }
        let mut warn = |text: String| {
            if !self.warnings.contains(&text) {
                tracing::warn!("{text}");
                self.warnings.insert(text);
            }
        };
        let state = translate::state(&self.rows, &self.names, &mut warn);
        changes.links |= state.links != self.state.links;
        changes.addresses |= state.addresses != self.state.addresses;
        changes.routes |= state.routes != self.state.routes;
        self.state = state;
        Ok(changes)
    }

    fn refresh_neighbours(&mut self, now: Instant) -> io::Result<bool> {
        let message = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let rows = self.requests.dump(&message, |m| match m {
            RouteNetlinkMessage::NewNeighbour(neighbour) => decode::neighbour(neighbour),
            _ => None,
        })?;
        self.dirty.neighbours = false;
        let of_taps = |row: NeighbourRow| Some((self.rows.tap(row.ifindex, &self.names)?, row));
        let rows: Vec<_> = rows.into_iter().filter_map(of_taps).collect();
        Ok(self.neighbours.replace(&rows, now))
    }

    /// Warns of policy routing: only tables `local` and `main` are followed.
    fn refresh_rules(&mut self) -> io::Result<()> {
        self.dirty.rules = false;
        let message = RouteNetlinkMessage::GetRule(RuleMessage::default());
        let own = self.requests.dump(&message, |m| match m {
            RouteNetlinkMessage::NewRule(rule) => policy_rule(&rule).then_some(()),
            _ => None,
        })?;
        if !own.is_empty() {
            let text = "the kernel has routing rules of its own (`ip rule`); \
                only tables main and local are followed";
            if self.warnings.insert(text.to_owned()) {
                tracing::warn!("{text}");
            }
        }
        Ok(())
    }
}

impl AsFd for Follower {
    /// Readable when [`Follower::poll`] has something to take over.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.fd()
    }
}

impl Rows {
    /// The interface whose TAP this is; `None` for other devices, those on top of a TAP included.
    fn tap(&self, ifindex: u32, names: &[String]) -> Option<InterfaceId> {
        let id = *self.interfaces.get(&ifindex)?;
        let row = self.links.iter().find(|l| l.ifindex == ifindex)?;
        (row.name == names[id.index()]).then_some(id)
    }
}

/// Notes what an event makes dirty; a neighbour is taken over at once. Whether one changed.
fn event(
    message: RouteNetlinkMessage,
    rows: &Rows,
    names: &[String],
    dirty: &mut Dirty,
    neighbours: &mut Table,
    now: Instant,
) -> bool {
    use RouteNetlinkMessage as M;
    match message {
        M::NewLink(link) | M::DelLink(link) => {
            let row = decode::link(link);
            let known = rows.links.iter().find(|known| known.ifindex == row.ifindex);
            let of_ours = rows.interfaces.contains_key(&row.ifindex)
                || row.lower.is_some_and(|(lower, _)| rows.interfaces.contains_key(&lower))
                || names.contains(&row.name);
            if of_ours || known != Some(&row) {
                dirty.links = true;
            }
            // Going down takes IPv4 routes along without a word, whoever's device it is.
            if known.is_none_or(|known| (known.up, known.carrier) != (row.up, row.carrier)) {
                (dirty.addresses, dirty.routes) = (true, true);
            }
        }
        M::NewAddress(_) | M::DelAddress(_) => {
            (dirty.addresses, dirty.routes) = (true, true);
        }
        M::NewRoute(route) | M::DelRoute(route) if followed(&route) => dirty.routes = true,
        M::NewRule(_) | M::DelRule(_) => dirty.rules = true,
        M::NewNeighbour(neighbour) => {
            let Some(row) = decode::neighbour(neighbour) else { return false };
            return rows.tap(row.ifindex, names).is_some_and(|id| neighbours.set(id, &row, now));
        }
        M::DelNeighbour(neighbour) => {
            let Some(row) = decode::neighbour(neighbour) else { return false };
            let id = rows.tap(row.ifindex, names);
            return id.is_some_and(|id| neighbours.forget(id, row.address));
        }
        _ => {}
    }
    false
}

/// Whether a route's event can matter: it is of table local or main.
fn followed(route: &RouteMessage) -> bool {
    let long = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    matches!(long.unwrap_or(u32::from(route.header.table)), 254 | 255)
}

/// Whether a rule is none of those every namespace begins with (0 local, 32766 main, 32767 default).
fn policy_rule(rule: &RuleMessage) -> bool {
    let priority = rule.attributes.iter().find_map(|a| match a {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    let first = u32::from(rule.header.table) == 255 && priority.is_none_or(|p| p == 0);
    !first && !matches!(priority, Some(32_766 | 32_767))
}

pub(super) fn dump_addresses(
    requests: &mut Requests,
    message: &RouteNetlinkMessage,
) -> io::Result<Vec<AddressRow>> {
    requests.dump(message, |m| match m {
        RouteNetlinkMessage::NewAddress(address) => decode::address(address),
        _ => None,
    })
}

/// Tables local and main of both families.
pub(super) fn dump_routes(requests: &mut Requests) -> io::Result<Vec<RouteRow>> {
    let mut rows = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for table in [255, 254] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = table;
            let dumped = requests.dump(&RouteNetlinkMessage::GetRoute(message), |m| match m {
                RouteNetlinkMessage::NewRoute(route) => {
                    // Kernels without strict checking give every table each time.
                    decode::route(route).filter(|row| row.local_table == (table == 255))
                }
                _ => None,
            });
            match dumped {
                Ok(dumped) => rows.extend(dumped),
                // A fresh namespace has no tables yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(rows)
}
