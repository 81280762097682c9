//! The running appliance as the control socket sees it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use postern_core::helper::expect::{EXPECTATIONS_MAX, Expectation as CoreExpectation};
use postern_core::nat::mapping::{self, Mapping as CoreMapping};
use postern_core::pipeline::{ConnectionId as CoreId, ConnectionView};
use postern_core::rules::Independence;
use postern_core::snapshot::Snapshot;
use postern_core::time::Tick;
use postern_core::units::InterfaceId;
use postern_io::runtime::{Answer, Census, Command, Handle};
use postern_io::xdp::socket::CopyMode;

use super::board::{ActiveForward, ActiveTrigger, Board, BoardError};
use super::events::Hub;
use super::start::{self, Taken};
use super::table::{self, Meant, Workers};
use super::{policy, reload, views};
use crate::api::backend::{Backend, BackendError, ConnectionPage, Cursor};
use crate::api::connection::{Connection, ConnectionId, Protocol, TupleInfo};
use crate::api::event::{ConnectionEdit, Events};
use crate::api::expectation::Expectation;
use crate::api::filter::{ConnectionFilter, Traits};
use crate::api::mapping::Mapping;
use crate::api::model::{
    Books, ConfigFault, ConnectionCount, DeviceMode, DropCount, Drops, FamilyRuleCounts, Forward,
    ForwardKey, ForwardRequest, InterfaceStatus, ReloadOutcome, RuleCounts, RulesOutcome,
    RulesRequest, Shortage, Status, TableUse, WorkerStatus,
};
use crate::api::trigger::{Holder, Trigger, TriggerKey, TriggerRequest};
use crate::compile;
use crate::config::{
    self, ForwardError, ForwardSpec, PortRange, ThisHost, TriggerError, TriggerSpec,
};

/// How long a worker may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the workers may take to adopt a snapshot before a change is reported as done anyway.
const ADOPTION: Duration = Duration::from_secs(1);
/// How long a walk that changes connections lets everybody else go on after each question.
const BREATH: Duration = Duration::from_millis(1);

/// What the running appliance's parts share.
pub struct Shared {
    /// What is in force.
    pub board: Mutex<Board>,
    /// The threads.
    pub handle: Handle,
    /// The devices, by interface: their programs and locks.
    pub taken: Vec<Taken>,
    /// The core of each worker.
    pub cores: Vec<u16>,
    /// What the operator should know.
    pub warnings: Mutex<Vec<String>>,
    /// Who follows what happens to connections.
    pub events: Hub,
    /// When it started.
    pub started: Instant,
}

impl Shared {
    /// The board, for a moment.
    pub fn board(&self) -> MutexGuard<'_, Board> {
        // A panic while it was held left nothing half done: changes are made to copies.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes a snapshot and waits until every thread runs on it.
    async fn put_into_force(&self, snapshot: Arc<Snapshot>) {
        self.handle.publish(snapshot);
        let until = Instant::now() + ADOPTION;
        while !self.handle.snapshots().is_adopted() && Instant::now() < until {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }
}

/// [`Backend`] over [`Shared`].
pub struct Running(pub Arc<Shared>);

impl Running {
    /// Asks a worker, off the control thread.
    pub(super) async fn ask(
        &self,
        worker: usize,
        command: Command,
    ) -> Result<Answer, BackendError> {
        let shared = Arc::clone(&self.0);
        let asked = tokio::task::spawn_blocking(move || match shared.handle.workers.get(worker) {
            Some(worker) => {
                worker.commands.ask(command, PATIENCE).map_err(|error| error.to_string())
            }
            None => Err("there is no such worker".to_owned()),
        });
        match asked.await {
            Ok(answer) => answer.map_err(BackendError::Unavailable),
            Err(error) => Err(BackendError::Internal(error.to_string())),
        }
    }

    fn show(&self, view: &ConnectionView) -> Connection {
        let mut shown = self.show_all(std::slice::from_ref(view));
        shown.remove(0)
    }

    fn show_all(&self, views: &[ConnectionView]) -> Vec<Connection> {
        let board = self.0.board();
        let (config, now) = (board.config(), SystemTime::now());
        let name = |id: InterfaceId| Some(config.interfaces.get(id.index())?.name.clone());
        let accounting = config.conntrack.accounting;
        views.iter().map(|view| views::connection(view, now, accounting, name)).collect()
    }

    /// What `filter` means, as far as the workers can tell, and the rest.
    fn meant<'a>(
        &self,
        filter: &'a ConnectionFilter,
    ) -> Meant<impl Fn(&ConnectionView) -> bool + Sync + use<'a>> {
        let names: Vec<_> =
            self.0.board().config().interfaces.iter().map(|i| i.name.clone()).collect();
        let also = move |view: &ConnectionView| {
            let name = |id: InterfaceId| names.get(id.index()).map(String::as_str);
            filter.matches(&Traits::of_view(view, name))
        };
        Meant { filter: filter.to_core(), also }
    }

    /// An expectation as the API shows it; `None` if its master is gone, and so it will be in a moment.
    async fn show_expected(&self, expected: &CoreExpectation) -> Option<Expectation> {
        let master = self.view(ConnectionId(expected.master)).await.ok()?;
        let remaining = expected.deadline.since(self.0.handle.clock.now().tick());
        let master = self.show(&master);
        Some(Expectation {
            timeout_s: remaining.max(0) as u32 / 1000,
            protocol: Protocol(expected.protocol),
            protocol_number: expected.protocol,
            src: expected.src,
            dst: expected.dst,
            dport: expected.dst_port,
            to: expected.to.0,
            to_port: expected.to.1,
            master: master.id,
            master_original: TupleInfo { counted: None, ..master.original },
            helper: master.helper,
        })
    }

    fn show_trigger(&self, board: &Board, active: &ActiveTrigger) -> Trigger {
        let spec = &active.spec;
        let now = self.0.handle.clock.now().tick();
        let rule = compile::trigger(board.config(), spec);
        let live = board.snapshot().triggers.iter().find(|live| Some(live.rule) == rule);
        let holder = live.and_then(|live| live.look(now)).map(|(host, deadline)| Holder {
            host,
            remaining_s: deadline.since(now).max(0) as u32 / 1000,
        });
        Trigger {
            interface: spec.interface.clone(),
            protocol: spec.protocol.to_string(),
            outbound: spec.outbound.to_string(),
            inbound: spec.inbound.to_string(),
            timeout_s: spec.timeout.as_secs() as u32,
            origin: active.origin,
            holder,
        }
    }

    async fn view(&self, ConnectionId(id): ConnectionId) -> Result<ConnectionView, BackendError> {
        let id = CoreId(id);
        let gone = || BackendError::NotFound(format!("there is no connection {}", id.0));
        let worker = usize::from(id.worker().0);
        if worker >= self.0.handle.workers.len() {
            return Err(gone());
        }
        match self.ask(worker, Command::Get { id }).await? {
            Answer::Got(Some(view)) => Ok(view),
            _ => Err(gone()),
        }
    }

    /// How full each worker's tables are: IPv4, IPv6. From what the workers publish, so that nothing is waited for.
    fn usage(&self) -> Vec<[TableUse; 2]> {
        let of = |census: Census| {
            [
                TableUse { used: census.connections_v4, capacity: census.capacity_v4 },
                TableUse { used: census.connections_v6, capacity: census.capacity_v6 },
            ]
        };
        self.0.handle.workers.iter().map(|worker| of(worker.gauges.read())).collect()
    }

    /// The interface a forward is on when none is named: the only one that leads outside.
    fn forward_interface(&self, named: Option<&str>) -> Result<String, BackendError> {
        if let Some(name) = named {
            return Ok(name.to_owned());
        }
        let board = self.0.board();
        let outside: Vec<_> = board.config().interfaces.iter().filter(|i| i.is_outside()).collect();
        match outside.as_slice() {
            [only] => Ok(only.name.clone()),
            _ => Err(BackendError::Invalid("say which interface is meant".to_owned())),
        }
    }
}

#[async_trait]
impl Workers for Running {
    fn count(&self) -> usize {
        self.0.handle.workers.len()
    }

    async fn ask(&self, worker: usize, command: Command) -> Result<Answer, BackendError> {
        Running::ask(self, worker, command).await
    }

    async fn make_room(&self) {
        self.0.events.hurry();
        tokio::time::sleep(BREATH).await;
    }
}

#[async_trait]
impl Backend for Running {
    async fn status(&self) -> Result<Status, BackendError> {
        let usage = self.usage();
        let shared = &self.0;
        let values = shared.handle.values();
        let board = shared.board();
        let workers = shared.handle.workers.iter().zip(&usage).enumerate();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: shared.started.elapsed().as_secs(),
            generation: board.snapshot().generation.0,
            config: Some(board.config().file.display().to_string()),
            workers: workers
                .map(|(place, (worker, &[ipv4, ipv6]))| {
                    let values = worker.counters.values();
                    let adopted = shared.handle.snapshots().adopted(place);
                    WorkerStatus {
                        id: worker.worker.0,
                        core: shared.cores.get(place).map(|&core| u32::from(core)),
                        generation: adopted.map_or(0, |generation| generation.0),
                        received: values.received,
                        forwarded: values.forwarded,
                        delivered: values.delivered,
                        dropped: values.dropped(),
                        ipv4,
                        ipv6,
                    }
                })
                .collect(),
            connections: sum(&usage),
            books: Books::from(&values),
            counters: values.named().map(|(name, n)| (name.to_owned(), n)).collect(),
            drops: self.drop_counts().into_iter().filter(|d| d.packets > 0).collect(),
            exhausted: self.shortages(),
            interfaces: interfaces(&board, &shared.taken),
            forwards: board.forwards().len() as u32,
            followers: shared.events.followers() as u32,
            rules: rule_counts(&board),
            warnings: shared.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        })
    }

    async fn drops(&self) -> Result<Drops, BackendError> {
        let reasons = self.drop_counts();
        Ok(Drops { total: reasons.iter().map(|r| r.packets).sum(), reasons })
    }

    async fn rules(&self, request: RulesRequest) -> Result<RulesOutcome, BackendError> {
        let (output, snapshot) = self.0.board().rules(&request);
        if let Some(snapshot) = snapshot {
            self.0.put_into_force(snapshot).await;
        }
        Ok(RulesOutcome {
            stdout: output.stdout,
            stderr: output.stderr,
            code: u8::try_from(output.code).unwrap_or(1),
        })
    }

    async fn forwards(&self) -> Result<Vec<Forward>, BackendError> {
        Ok(self.0.board().forwards().iter().map(forward).collect())
    }

    async fn add_forward(&self, request: ForwardRequest) -> Result<Forward, BackendError> {
        let interface = self.forward_interface(request.interface.as_deref())?;
        let spec = ForwardSpec::parse(&interface, &request.protocol, &request.port, &request.to)
            .map_err(refused)?;
        let (added, snapshot) = self.0.board().add_forward(spec)?;
        self.0.put_into_force(snapshot).await;
        Ok(forward(&added))
    }

    async fn remove_forward(&self, key: ForwardKey) -> Result<Forward, BackendError> {
        let interface = self.forward_interface(key.interface.as_deref())?;
        let ports: PortRange = key.port.parse().map_err(refused)?;
        let protocol = key.protocol.parse().map_err(refused)?;
        let (removed, snapshot) = self.0.board().remove_forward(|spec| {
            spec.interface() == interface && spec.protocol() == protocol && spec.ports() == ports
        })?;
        self.0.put_into_force(snapshot).await;
        Ok(forward(&removed))
    }

    async fn triggers(&self) -> Result<Vec<Trigger>, BackendError> {
        let board = self.0.board();
        Ok(board.triggers().iter().map(|active| self.show_trigger(&board, active)).collect())
    }

    async fn add_trigger(&self, request: TriggerRequest) -> Result<Trigger, BackendError> {
        let TriggerRequest { interface, protocol, outbound, inbound, timeout_s } = request;
        let interface = self.forward_interface(interface.as_deref())?;
        let timeout = timeout_s.map(|seconds| Duration::from_secs(seconds.into()));
        let spec = TriggerSpec::parse(&interface, &protocol, &outbound, &inbound, timeout)
            .map_err(BoardError::from)?;
        let (added, snapshot) = self.0.board().add_trigger(spec)?;
        self.0.put_into_force(snapshot).await;
        Ok(self.show_trigger(&self.0.board(), &added))
    }

    async fn remove_trigger(&self, key: TriggerKey) -> Result<Trigger, BackendError> {
        let interface = self.forward_interface(key.interface.as_deref())?;
        let inbound: PortRange = key.inbound.parse().map_err(refused)?;
        let protocol = key.protocol.parse().map_err(refused)?;
        let (removed, snapshot) = self.0.board().remove_trigger(|spec| {
            spec.interface == interface && spec.protocol == protocol && spec.inbound == inbound
        })?;
        self.0.put_into_force(snapshot).await;
        Ok(self.show_trigger(&self.0.board(), &removed))
    }

    async fn connections(
        &self,
        filter: &ConnectionFilter,
        cursor: Cursor,
    ) -> Result<ConnectionPage, BackendError> {
        let (views, next) = table::page(self, &self.meant(filter), cursor).await?;
        Ok(ConnectionPage { connections: self.show_all(&views), next })
    }

    async fn connection(&self, id: ConnectionId) -> Result<Connection, BackendError> {
        let view = self.view(id).await?;
        Ok(self.show(&view))
    }

    async fn connection_count(&self) -> Result<ConnectionCount, BackendError> {
        Ok(sum(&self.usage()))
    }

    async fn delete_connections(&self, filter: &ConnectionFilter) -> Result<u64, BackendError> {
        table::to_all(self, &self.meant(filter), |ids| Command::Delete { ids }).await
    }

    async fn delete_connection(&self, id: ConnectionId) -> Result<Connection, BackendError> {
        let view = self.view(id).await?;
        let shown = self.show(&view);
        if table::to_one(self, view.id, |ids| Command::Delete { ids }).await? {
            Ok(shown)
        } else {
            Err(BackendError::NotFound(format!("there is no connection {id}")))
        }
    }

    async fn update_connections(
        &self,
        filter: &ConnectionFilter,
        edit: &ConnectionEdit,
    ) -> Result<u64, BackendError> {
        let edit = edit.to_core().map_err(BackendError::Invalid)?;
        table::to_all(self, &self.meant(filter), |ids| Command::Edit { ids, edit }).await
    }

    async fn update_connection(
        &self,
        id: ConnectionId,
        edit: &ConnectionEdit,
    ) -> Result<Connection, BackendError> {
        let edit = edit.to_core().map_err(BackendError::Invalid)?;
        let id = self.view(id).await?.id;
        table::to_one(self, id, |ids| Command::Edit { ids, edit }).await?;
        Ok(self.show(&self.view(ConnectionId(id.0)).await?))
    }

    async fn events(&self) -> Result<Events, BackendError> {
        self.0.events.follow().await
    }

    async fn expectations(&self) -> Result<Vec<Expectation>, BackendError> {
        let buffer = Vec::with_capacity(EXPECTATIONS_MAX);
        let Answer::Expected(expected) = self.ask(0, Command::Expectations { buffer }).await?
        else {
            return Err(table::unexpected());
        };
        let mut shown = Vec::with_capacity(expected.len());
        for expected in &expected {
            shown.extend(self.show_expected(expected).await);
        }
        Ok(shown)
    }

    async fn mappings(&self) -> Result<Vec<Mapping>, BackendError> {
        let mut all = Vec::new();
        let mut next = Some(mapping::Cursor::default());
        while let Some(cursor) = next {
            let buffer = Vec::with_capacity(table::PAGE.max(mapping::SHOWN_MAX));
            let asked = self.ask(0, Command::Mappings { cursor, buffer }).await?;
            let Answer::Mapped { buffer, cursor } = asked else {
                return Err(table::unexpected());
            };
            let now = self.0.handle.clock.now().tick();
            all.extend(buffer.iter().map(|mapping| show_mapping(mapping, now)));
            next = cursor;
        }
        Ok(all)
    }

    async fn flush_connections(&self) -> Result<u64, BackendError> {
        table::flush(self).await
    }

    async fn check_config(&self, text: String) -> Result<Vec<ConfigFault>, BackendError> {
        let file = self.0.board().config().file.clone();
        let parsed = config::parse(&file, text.as_bytes());
        let faults = match &parsed {
            Ok(config) => config::check_host(config, &ThisHost),
            Err(faults) => faults.clone(),
        };
        Ok(faults.iter().map(ConfigFault::from).collect())
    }

    async fn reload(&self) -> Result<ReloadOutcome, BackendError> {
        let file = self.0.board().config().file.clone();
        let config = policy::load_config(&file, &ThisHost)
            .map_err(|faults| BackendError::Faults(faults.iter().map(Into::into).collect()))?;
        let (changes, snapshot) = {
            let mut board = self.0.board();
            let fixed = reload::needs_restart(board.config(), &config);
            if !fixed.is_empty() {
                let fixed = fixed.join(", ");
                return Err(BackendError::Conflict(format!(
                    "{fixed} cannot change while the appliance runs: restart it"
                )));
            }
            board.reload(config, start::reconfigure)?
        };
        let generation = snapshot.generation.0;
        self.0.put_into_force(snapshot).await;
        Ok(ReloadOutcome { generation, changes })
    }
}

impl Running {
    /// Drops by reason, of every worker and of the host thread, which comes last.
    /// Which addresses ran out of ports, over all workers, the worst first.
    fn shortages(&self) -> Vec<Shortage> {
        let mut sums = BTreeMap::<_, u64>::new();
        let workers = self.0.handle.workers.iter();
        for short in workers.flat_map(|worker| worker.counters.exhausted.shortages()) {
            *sums.entry((short.address, short.protocol)).or_default() += short.packets;
        }
        let show = |((address, protocol), packets): ((IpAddr, u8), u64)| Shortage {
            address: address.to_string(),
            protocol: Protocol(protocol).to_string(),
            packets,
        };
        let mut all: Vec<_> = sums.into_iter().map(show).collect();
        all.sort_by_key(|short| Reverse(short.packets));
        all
    }

    fn drop_counts(&self) -> Vec<DropCount> {
        let handle = &self.0.handle;
        let mut values: Vec<_> =
            handle.workers.iter().map(|worker| worker.counters.values()).collect();
        values.push(handle.host.counters.values());
        Drops::from_values(&values).reasons
    }
}

fn refused(error: ForwardError) -> BackendError {
    BackendError::Invalid(error.to_string())
}

impl From<BoardError> for BackendError {
    fn from(error: BoardError) -> Self {
        match error {
            BoardError::NoForward | BoardError::NoTrigger => Self::NotFound(error.to_string()),
            BoardError::ConfiguredForward
            | BoardError::ConfiguredTrigger
            | BoardError::Trigger(TriggerError::Overlap(_) | TriggerError::TooMany)
            | BoardError::Forward(ForwardError::Overlap(_)) => Self::Conflict(error.to_string()),
            BoardError::Kernel(_) => Self::Internal(error.to_string()),
            BoardError::Forward(_)
            | BoardError::Trigger(_)
            | BoardError::Policy(_)
            | BoardError::Rules(_) => Self::Invalid(error.to_string()),
        }
    }
}

fn forward(active: &ActiveForward) -> Forward {
    let spec = &active.forward.spec;
    let to_ports = if spec.to_port() == spec.to_last() {
        spec.to_port().to_string()
    } else {
        format!("{}-{}", spec.to_port(), spec.to_last())
    };
    let to = match spec.to() {
        std::net::IpAddr::V4(address) => format!("{address}:{to_ports}"),
        std::net::IpAddr::V6(address) => format!("[{address}]:{to_ports}"),
    };
    Forward {
        interface: spec.interface().to_owned(),
        protocol: spec.protocol().to_string(),
        port: spec.ports().to_string(),
        to,
        origin: active.origin,
    }
}

fn sum(usage: &[[TableUse; 2]]) -> ConnectionCount {
    let add = |a: TableUse, b: TableUse| TableUse {
        used: a.used + b.used,
        capacity: a.capacity + b.capacity,
    };
    usage.iter().fold(ConnectionCount::default(), |sum, &[ipv4, ipv6]| ConnectionCount {
        ipv4: add(sum.ipv4, ipv4),
        ipv6: add(sum.ipv6, ipv6),
    })
}

fn interfaces(board: &Board, taken: &[Taken]) -> Vec<InterfaceStatus> {
    let shown = |(place, settings): (usize, &config::InterfaceSettings)| {
        let live = board.snapshot().interfaces.get(InterfaceId(place as u8))?;
        let taken = taken.get(place);
        Some(InterfaceStatus {
            name: settings.name.clone(),
            device: settings.device.clone(),
            zone: Some(settings.zone.clone()),
            up: live.up,
            mac: live.mac.to_string(),
            mtu: u32::from(live.mtu),
            addresses: live
                .addresses
                .iter()
                .map(|a| format!("{}/{}", a.address, a.length))
                .collect(),
            masquerade: live.masquerade,
            mode: taken.map(|taken| match taken.mode {
                CopyMode::ZeroCopy => DeviceMode::ZeroCopy,
                CopyMode::Copy => DeviceMode::Copy,
            }),
            queues: taken.map_or(0, |taken| taken.queues),
            frames_without_socket: taken
                .and_then(|taken| taken.program.frames_without_socket().ok())
                .unwrap_or(0),
        })
    };
    board.config().interfaces.iter().enumerate().filter_map(shown).collect()
}

fn rule_counts(board: &Board) -> RuleCounts {
    let family = |family| {
        let ruleset = board.rulesets().family(family);
        let chains =
            postern_core::rules::TableId::ALL.into_iter().flat_map(|table| ruleset.chains(table));
        chains.fold(FamilyRuleCounts::default(), |sum, (_, chain)| FamilyRuleCounts {
            chains: sum.chains + 1,
            rules: sum.rules + chain.rules().len() as u32,
        })
    };
    RuleCounts {
        ipv4: family(postern_core::rules::Family::V4),
        ipv6: family(postern_core::rules::Family::V6),
    }
}

/// A mapping as the API shows it.
fn show_mapping(mapping: &CoreMapping, now: Tick) -> Mapping {
    let CoreMapping { protocol, inside, external, independence, connections, deadline } = *mapping;
    let remaining = deadline.since(now).max(0) as u32 / 1000;
    Mapping {
        protocol: Protocol(protocol),
        inside: *inside.ip(),
        inside_port: inside.port(),
        external: *external.ip(),
        external_port: external.port(),
        open: independence == Independence::Filtering,
        connections,
        timeout_s: (connections == 0).then_some(remaining),
    }
}
