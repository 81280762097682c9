//! HTTP/1.1 over the control socket: one request a connection.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
pub use hyper::Method;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::api::model::ErrorBody;
use crate::api::socket::reading_path;

/// The daemon must begin to answer within this: a restore of very many rules takes its time.
const PATIENCE: Duration = Duration::from_secs(120);
/// Largest answer that is not a listing, bytes.
const ANSWER_MAX: usize = 256 << 20;

/// No body, to be given to [`Client::call`].
pub const NO_BODY: Option<&()> = None;

/// Why there is no answer, or not the one asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no appliance answers at {}: is it running? (--control names another socket)", .0.display())]
    NotRunning(PathBuf),
    /// The socket may not be opened, nor the one for readers.
    #[error(
        "{}: permission denied: be root, a member of the group postern or, to look, of `control_read_group`",
        .0.display()
    )]
    NotAllowed(PathBuf),
    /// Only the socket for readers may be opened, and this would change something.
    #[error(
        "you may look but not change anything: that takes root or a member of the group postern"
    )]
    MayOnlyLook,
    /// The daemon said no.
    #[error("{}", body.detail)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        body: ErrorBody,
    },
    /// The conversation broke.
    #[error("control socket: {0}")]
    Broken(String),
    /// The system said no.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
}

/// Talks to one daemon.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// A client of the daemon at `socket`; connects when asked something.
    ///
    /// # Errors
    /// If the system gives no descriptors.
    pub fn new(socket: PathBuf) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket, runtime })
    }

    /// Sends a request and reads the JSON answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = body.map(serde_json::to_vec).transpose().map_err(io::Error::from)?;
        self.runtime.block_on(async {
            let response = self.send(method, path, body.unwrap_or_default()).await?;
            let answer = read_all(response).await?;
            serde_json::from_slice(&answer)
                .map_err(|error| ClientError::Broken(format!("an answer not understood: {error}")))
        })
    }

    /// Sends a request whose answer is a listing, and hands over each line as it arrives.
    ///
    /// # Errors
    /// See [`ClientError`]; or what `each` said, which ends the listing.
    pub fn listing<E: From<ClientError>>(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.runtime.block_on(async {
            let mut response = self.send(Method::GET, path, Vec::new()).await?;
            let mut rest = Vec::new();
            while let Some(frame) = response.body_mut().frame().await {
                let frame = frame.map_err(|_| torn())?;
                let Some(data) = frame.data_ref() else { continue };
                rest.extend_from_slice(data);
                let mut begin = 0;
                while let Some(length) = rest[begin..].iter().position(|&byte| byte == b'\n') {
                    each(&rest[begin..begin + length])?;
                    begin += length + 1;
                }
                rest.drain(..begin);
            }
            if rest.is_empty() { Ok(()) } else { Err(torn().into()) }
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect(&method).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "postern")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ClientError::Broken(error.to_string()))?;
        let response = timeout(PATIENCE, sender.send_request(request))
            .await
            .map_err(|_| ClientError::Broken("the appliance does not answer".to_owned()))?
            .map_err(|error| broken(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = read_all(response).await?;
        Err(ClientError::Refused { status: status.as_u16(), body: error_body(status, &body) })
    }
}

impl Client {
    /// Connects to the control socket or, where that is closed to the user, to the one for readers.
    async fn connect(&self, method: &Method) -> Result<UnixStream, ClientError> {
        let error = match UnixStream::connect(&self.socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Err(ClientError::NotRunning(self.socket.clone()))
            }
            io::ErrorKind::PermissionDenied => {
                let reading = UnixStream::connect(reading_path(&self.socket)).await;
                match reading {
                    Ok(stream) if *method == Method::GET => Ok(stream),
                    Ok(_) => Err(ClientError::MayOnlyLook),
                    Err(_) => Err(ClientError::NotAllowed(self.socket.clone())),
                }
            }
            _ => Err(ClientError::Io(error)),
        }
    }
}

fn broken(error: &hyper::Error) -> ClientError {
    ClientError::Broken(format!("{error}; it is closed at once when there are too many clients"))
}

fn torn() -> ClientError {
    ClientError::Broken("the listing broke off: what was printed is not all".to_owned())
}

async fn read_all(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    http_body_util::Limited::new(response.into_body(), ANSWER_MAX)
        .collect()
        .await
        .map(|collected| collected.to_bytes())
        .map_err(|error| ClientError::Broken(error.to_string()))
}

fn error_body(status: StatusCode, bytes: &[u8]) -> ErrorBody {
    serde_json::from_slice(bytes).unwrap_or_else(|_| ErrorBody {
        error: "internal".to_owned(),
        detail: format!("the appliance answered {status}"),
        faults: Vec::new(),
    })
}

/// `path?query`, percent-encoded.
pub fn with_query(path: &str, query: &impl Serialize) -> String {
    let query = serde_urlencoded::to_string(query).expect("queries are flat structs of text");
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}
