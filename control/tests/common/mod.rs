//! A control server on a fake appliance, in a folder of its own.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use nix::unistd::Gid;
use postern_control::api::backend::{Backend, BackendError, ConnectionPage, Cursor};
use postern_control::api::connection::{
    Connection, ConnectionId, Counted, Ids, Protocol, TupleInfo,
};
use postern_control::api::event::{ConnectionEdit, EndReason, Event, Events};
use postern_control::api::expectation::Expectation;
use postern_control::api::filter::ConnectionFilter;
use postern_control::api::mapping::Mapping;
use postern_control::api::model::*;
use postern_control::api::server::{Limits, Server};
use postern_control::api::socket::reading_path;
use postern_control::api::trigger::{Holder, Trigger, TriggerKey, TriggerRequest};
use tokio::sync::oneshot;

/// A folder that goes with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("postern-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        // Other users' processes must get as far as the socket.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Connections the fake holds, one a page row.
pub(crate) const CONNECTIONS: u64 = 1000;
/// Connections on a page.
const PAGE: u64 = 100;

/// An appliance that remembers what it was asked.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) pages: AtomicU64,
    /// Whether a flush waits, whether it has begun, and whether it has come to its end.
    pub(crate) flush_waits: AtomicBool,
    pub(crate) flush_began: AtomicBool,
    pub(crate) flush_ended: AtomicBool,
    /// Never comes to the end of its connections.
    pub(crate) endless: bool,
    pub(crate) rules: Mutex<Vec<RulesRequest>>,
    pub(crate) forwards: Mutex<Vec<Forward>>,
    pub(crate) triggers: Mutex<Vec<Trigger>>,
    /// What was asked to be changed about connections.
    pub(crate) edits: Mutex<Vec<ConnectionEdit>>,
}

fn connection(number: u64) -> Connection {
    let (src, dst) = (IpAddr::from([192, 168, 1, 2]), IpAddr::from([192, 0, 2, 9]));
    let sport = 1024 + number as u16;
    let tuple = |src, dst, ids| TupleInfo { src, dst, ids, zone: 0, counted: None };
    Connection {
        id: ConnectionId(1 << 60 | number),
        family: Family::Ipv4,
        protocol: Protocol(6),
        protocol_number: 6,
        timeout_s: 7440,
        state: Some("ESTABLISHED".to_owned()),
        seen_reply: true,
        assured: true,
        snat: false,
        dnat: false,
        original: tuple(src, dst, Ids::Ports { sport, dport: 443 }),
        reply: tuple(dst, src, Ids::Ports { sport: 443, dport: sport }),
        mark: 0,
        zone: 0,
        original_ingress: Some("lan".to_owned()),
        original_egress: Some("wan".to_owned()),
        expected: false,
        helper: (number == 7).then(|| "ftp".to_owned()),
        age_s: 1,
        start_unix_s: 1_795_462_307,
        worker: 0,
    }
}

#[async_trait]
impl Backend for Fake {
    async fn status(&self) -> Result<Status, BackendError> {
        Ok(Status { version: "0.1.0".to_owned(), generation: 7, ..Status::default() })
    }

    async fn drops(&self) -> Result<Drops, BackendError> {
        let mut values = postern_core::counters::Values::default();
        values.drops[postern_core::verdict::DropReason::DeniedByRule as usize] = 3;
        Ok(Drops::from_values(&[values]))
    }

    async fn rules(&self, request: RulesRequest) -> Result<RulesOutcome, BackendError> {
        assert!(!request.args.iter().any(|arg| arg == "panic"), "as asked");
        let code = u8::from(request.args.iter().any(|arg| arg == "refuse")) * 2;
        let bytes = request.stdin.as_ref().map_or(0, String::len);
        let stdout = format!("{} {:?} {bytes}\n", request.program_name(), request.args);
        self.rules.lock().unwrap().push(request);
        Ok(RulesOutcome { stdout, stderr: "warning\n".to_owned(), code })
    }

    async fn forwards(&self) -> Result<Vec<Forward>, BackendError> {
        Ok(self.forwards.lock().unwrap().clone())
    }

    async fn add_forward(&self, request: ForwardRequest) -> Result<Forward, BackendError> {
        let forward = Forward {
            interface: request.interface.unwrap_or_else(|| "wan".to_owned()),
            protocol: request.protocol,
            port: request.port,
            to: request.to,
            origin: ForwardOrigin::Runtime,
        };
        let mut forwards = self.forwards.lock().unwrap();
        if forwards.iter().any(|there| there.port == forward.port) {
            return Err(BackendError::Conflict("overlaps the forward there".to_owned()));
        }
        forwards.push(forward.clone());
        Ok(forward)
    }

    async fn remove_forward(&self, key: ForwardKey) -> Result<Forward, BackendError> {
        let mut forwards = self.forwards.lock().unwrap();
        let at = forwards.iter().position(|there| there.port == key.port);
        at.map(|at| forwards.remove(at))
            .ok_or_else(|| BackendError::NotFound("no such forward".to_owned()))
    }

    async fn triggers(&self) -> Result<Vec<Trigger>, BackendError> {
        Ok(self.triggers.lock().unwrap().clone())
    }

    async fn add_trigger(&self, request: TriggerRequest) -> Result<Trigger, BackendError> {
        let trigger = Trigger {
            interface: request.interface.unwrap_or_else(|| "wan".to_owned()),
            protocol: request.protocol,
            outbound: request.outbound,
            inbound: request.inbound,
            timeout_s: request.timeout_s.unwrap_or(60),
            origin: ForwardOrigin::Runtime,
            holder: Some(Holder { host: [192, 168, 1, 2].into(), remaining_s: 59 }),
        };
        self.triggers.lock().unwrap().push(trigger.clone());
        Ok(trigger)
    }

    async fn remove_trigger(&self, key: TriggerKey) -> Result<Trigger, BackendError> {
        let mut triggers = self.triggers.lock().unwrap();
        let at = triggers.iter().position(|there| there.inbound == key.inbound);
        at.map(|at| triggers.remove(at))
            .ok_or_else(|| BackendError::NotFound("no such trigger".to_owned()))
    }

    async fn connections(
        &self,
        filter: &ConnectionFilter,
        Cursor(from): Cursor,
    ) -> Result<ConnectionPage, BackendError> {
        self.pages.fetch_add(1, Ordering::Relaxed);
        let page = (from..from + PAGE).map(|n| connection(n % CONNECTIONS));
        let connections = page.filter(|connection| filter.matches(&connection.into())).collect();
        let more = self.endless || from + PAGE < CONNECTIONS;
        Ok(ConnectionPage { connections, next: more.then_some(Cursor(from + PAGE)) })
    }

    async fn delete_connections(&self, filter: &ConnectionFilter) -> Result<u64, BackendError> {
        let passes = |n: &u64| filter.matches(&(&connection(*n)).into());
        Ok((0..CONNECTIONS).filter(passes).count() as u64)
    }

    async fn connection(&self, id: ConnectionId) -> Result<Connection, BackendError> {
        let number = id.0 ^ 1 << 60;
        let missing = || BackendError::NotFound("no such connection".to_owned());
        (number < CONNECTIONS).then(|| connection(number)).ok_or_else(missing)
    }

    async fn connection_count(&self) -> Result<ConnectionCount, BackendError> {
        let ipv4 = TableUse { used: CONNECTIONS, capacity: 2000 };
        Ok(ConnectionCount { ipv4, ..ConnectionCount::default() })
    }

    async fn delete_connection(&self, id: ConnectionId) -> Result<Connection, BackendError> {
        self.connection(id).await
    }

    async fn update_connections(
        &self,
        filter: &ConnectionFilter,
        edit: &ConnectionEdit,
    ) -> Result<u64, BackendError> {
        self.edits.lock().unwrap().push(*edit);
        self.delete_connections(filter).await
    }

    async fn update_connection(
        &self,
        id: ConnectionId,
        edit: &ConnectionEdit,
    ) -> Result<Connection, BackendError> {
        self.edits.lock().unwrap().push(*edit);
        let mark = edit.mark.unwrap_or_default();
        Ok(Connection { mark, ..self.connection(id).await? })
    }

    /// A short life of connection 7, then a gap, then the end; or, if it is endless, one connection after another.
    async fn events(&self) -> Result<Events, BackendError> {
        let at = |ms: u64| 1_795_462_307_000 + ms;
        if self.endless {
            let new = move |n| Event::New {
                time_unix_ms: at(n),
                connection: connection(n % CONNECTIONS),
            };
            return Ok(Box::pin(stream::iter((0..).map(move |n| vec![new(n)]))));
        }
        let first = Connection {
            state: Some("SYN_SENT".to_owned()),
            seen_reply: false,
            assured: false,
            timeout_s: 240,
            ..connection(7)
        };
        let mut last = Connection { timeout_s: 0, mark: 5, ..connection(7) };
        for tuple in [&mut last.original, &mut last.reply] {
            tuple.counted = Some(Counted { packets: 3, bytes: 164 });
        }
        let destroy = Event::Destroy {
            time_unix_ms: at(9_001),
            connection: last,
            reason: EndReason::Timeout,
            duration_ms: 9_001,
        };
        let update = Event::Update { time_unix_ms: at(1), connection: connection(7) };
        let other = Event::New { time_unix_ms: at(2), connection: connection(8) };
        let batches = [
            vec![Event::New { time_unix_ms: at(0), connection: first }, update],
            vec![other],
            vec![destroy],
            vec![Event::Overrun { time_unix_ms: at(9_002), missed: 12 }],
        ];
        Ok(Box::pin(stream::iter(batches)))
    }

    async fn mappings(&self) -> Result<Vec<Mapping>, BackendError> {
        let mapping = Mapping {
            protocol: Protocol(17),
            inside: [192, 168, 1, 2].into(),
            inside_port: 5000,
            zone: 0,
            external: [203, 0, 113, 2].into(),
            external_port: 5002,
            open: true,
            connections: 2,
            timeout_s: None,
        };
        let idle = Mapping {
            protocol: Protocol(6),
            open: false,
            connections: 0,
            timeout_s: Some(287),
            ..mapping.clone()
        };
        Ok(vec![mapping, idle])
    }

    async fn expectations(&self) -> Result<Vec<Expectation>, BackendError> {
        let master = connection(7);
        Ok(vec![Expectation {
            timeout_s: 297,
            protocol: Protocol(6),
            protocol_number: 6,
            src: Some([192, 0, 2, 9].into()),
            dst: [203, 0, 113, 2].into(),
            dport: 50_012,
            to: [192, 168, 1, 2].into(),
            to_port: 50_012,
            master: master.id,
            master_original: master.original,
            helper: master.helper,
        }])
    }

    async fn flush_connections(&self) -> Result<u64, BackendError> {
        self.flush_began.store(true, Ordering::SeqCst);
        while self.flush_waits.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.flush_ended.store(true, Ordering::SeqCst);
        Ok(CONNECTIONS)
    }

    async fn check_config(&self, text: String) -> Result<Vec<ConfigFault>, BackendError> {
        Ok(if text.is_empty() { vec![fault()] } else { Vec::new() })
    }

    async fn reload(&self) -> Result<ReloadOutcome, BackendError> {
        Err(BackendError::Faults(vec![fault()]))
    }
}

fn fault() -> ConfigFault {
    ConfigFault {
        file: Some("postern.toml".to_owned()),
        line: 3,
        column: 7,
        text: "no interfaces".to_owned(),
        hint: None,
    }
}

/// A server in a thread, stopped and joined when dropped.
pub(crate) struct Running {
    pub(crate) folder: Folder,
    pub(crate) socket: PathBuf,
    pub(crate) fake: Arc<Fake>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn new() -> Self {
        Self::with(Fake::default(), Limits::default(), None)
    }

    pub(crate) fn with(fake: Fake, limits: Limits, group: Option<u32>) -> Self {
        Self::start(fake, limits, group, None)
    }

    /// With a socket for readers besides.
    pub(crate) fn with_readers(
        fake: Fake,
        limits: Limits,
        group: Option<u32>,
        readers: u32,
    ) -> Self {
        Self::start(fake, limits, group, Some(readers))
    }

    fn start(fake: Fake, limits: Limits, group: Option<u32>, readers: Option<u32>) -> Self {
        let folder = Folder::new();
        let socket = folder.join("control.sock");
        let mut server = Server::open(&socket, group.map(Gid::from_raw), limits).unwrap();
        if let Some(readers) = readers {
            let path = reading_path(&socket);
            server = server.with_readers(&path, Gid::from_raw(readers)).unwrap();
        }
        let (stop, stopped) = oneshot::channel();
        let fake = Arc::new(fake);
        let backend = Arc::clone(&fake);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let stop = async { drop(stopped.await) };
            runtime.block_on(server.serve(backend, stop)).unwrap();
        });
        Self { folder, socket, fake, stop: Some(stop), thread: Some(thread) }
    }

    /// The socket for readers.
    pub(crate) fn reading(&self) -> PathBuf {
        reading_path(&self.socket)
    }

    pub(crate) fn connect(&self) -> UnixStream {
        connect(&self.socket)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking());
        let left = self.socket.exists() || self.reading().exists();
        assert!(!left || std::thread::panicking(), "the socket files are gone");
    }
}

pub(crate) fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}
