//! Connections to the control socket: how many, how long, and what happens to garbage.
//!
//! Life of a connection: accepted, or closed when there are too many; its peer looked at, and refused
//! if it may not; then requests, each of which must arrive in time, until the client leaves, stalls or
//! the appliance stops. A request that panics ends its own connection and nothing else.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::unistd::Gid;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::backend::Backend;
use super::peer::Allowed;
use super::routes;
use super::socket::{ControlSocket, SocketError};
use super::stall::StallGuard;

/// How much of everything a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more are closed.
    pub connections: usize,
    /// Connections at once of peers that are only told that they may not.
    pub refusals: usize,
    /// A request's header must have arrived within this; also how long an idle connection is kept.
    pub header_patience: Duration,
    /// Its body must have arrived within this.
    pub body_patience: Duration,
    /// A client must read something within this.
    pub stall_patience: Duration,
    /// What is under way at the end may still take this long.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            refusals: 8,
            header_patience: Duration::from_secs(10),
            body_patience: Duration::from_secs(10),
            stall_patience: Duration::from_secs(30),
            farewell: Duration::from_secs(1),
        }
    }
}

/// Bytes of header, and of what is read ahead, at most.
const BUFFER_MAX: usize = 64 << 10;
/// Pause after a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What those who come by a socket may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Change,
    Look,
}

/// A socket and who may come in by it.
#[derive(Debug)]
struct Entrance {
    socket: ControlSocket,
    allowed: Allowed,
    role: Role,
}

/// The open control socket, and the one beside it for those who may only look, if there is one.
#[derive(Debug)]
pub struct Server {
    entrances: Vec<Entrance>,
    group: Option<Gid>,
    limits: Limits,
}

impl Server {
    /// Opens the socket at `path` for root, this process's user and the members of `group`.
    /// From now on clients can connect; they are answered once [`Server::serve`] runs.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn open(path: &Path, group: Option<Gid>, limits: Limits) -> Result<Self, SocketError> {
        let socket = ControlSocket::open(path, group)?;
        let allowed = Allowed::new(group.into_iter().collect());
        let entrances = vec![Entrance { socket, allowed, role: Role::Change }];
        Ok(Self { entrances, group, limits })
    }

    /// Opens another socket, at `path`, for those who may use the first and for members of `group`; by it
    /// nothing can be changed, whoever comes. It has its own places, so that a crowd of readers does not
    /// keep out who has to act.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn with_readers(mut self, path: &Path, group: Gid) -> Result<Self, SocketError> {
        let socket = ControlSocket::open(path, Some(group))?;
        let allowed = Allowed::new(self.group.into_iter().chain([group]).collect());
        self.entrances.push(Entrance { socket, allowed, role: Role::Look });
        Ok(self)
    }

    /// Answers requests until `stop` is done, then removes the socket.
    ///
    /// # Errors
    /// If the runtime refuses the socket. Nothing that a client does ends it.
    pub async fn serve(
        self,
        backend: Arc<dyn Backend>,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let refusal = routes::refusal();
        let refusals = Arc::new(Semaphore::new(self.limits.refusals));
        let mut doors = Vec::new();
        for Entrance { socket, allowed, role } in &self.entrances {
            let router = routes::router(Arc::clone(&backend), self.limits.body_patience);
            let router = match role {
                Role::Change => router,
                Role::Look => routes::looking(router),
            };
            let listener = UnixListener::from_std(socket.listener()?)?;
            let places = Arc::new(Semaphore::new(self.limits.connections));
            doors.push(Door { listener, allowed, router, places });
        }
        let mut clients = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let (stream, door) = tokio::select! {
                () = &mut stop => break,
                Some(_) = clients.join_next(), if !clients.is_empty() => continue,
                accepted = accept(&doors) => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "control socket: accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let (places, router) = match door.allowed.admits(&stream) {
                Ok(true) => (&door.places, door.router.clone()),
                Ok(false) | Err(_) => (&refusals, refusal.clone()),
            };
            match Arc::clone(places).try_acquire_owned() {
                Ok(place) => drop(clients.spawn(converse(stream, router, self.limits, place))),
                Err(_) => turn_away(&stream),
            }
        }
        drop(doors);
        drop(self.entrances);
        let rest = async { while clients.join_next().await.is_some() {} };
        // Those still there are aborted with the set.
        let _ = tokio::time::timeout(self.limits.farewell, rest).await;
        Ok(())
    }
}

/// An entrance, open.
struct Door<'e> {
    listener: UnixListener,
    allowed: &'e Allowed,
    router: Router,
    places: Arc<Semaphore>,
}

/// The next client at any of the doors.
async fn accept<'d, 'e>(doors: &'d [Door<'e>]) -> io::Result<(UnixStream, &'d Door<'e>)> {
    poll_fn(|context| {
        for door in doors {
            if let Poll::Ready(accepted) = door.listener.poll_accept(context) {
                return Poll::Ready(accepted.map(|(stream, _)| (stream, door)));
            }
        }
        Poll::Pending
    })
    .await
}

async fn converse(
    stream: UnixStream,
    router: Router,
    limits: Limits,
    _place: OwnedSemaphorePermit,
) {
    let stream = TokioIo::new(StallGuard::new(stream, limits.stall_patience));
    let ended = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_patience)
        .max_buf_size(BUFFER_MAX)
        // A client that has said all it has to say still wants the answer (nc, socat).
        .half_close(true)
        .serve_connection(stream, TowerToHyperService::new(router))
        .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "control connection");
    }
}

/// Says so, if that takes no waiting, and closes.
fn turn_away(stream: &UnixStream) {
    const ANSWER: &str = "HTTP/1.1 503 Service Unavailable\r\n\
        content-type: application/json\r\n\
        content-length: 65\r\n\
        connection: close\r\n\r\n\
        {\"error\":\"unavailable\",\"detail\":\"too many control connections\"}\r\n";
    let _ = stream.try_write(ANSWER.as_bytes());
}
