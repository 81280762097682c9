//! Paths to backend calls. The OpenAPI document is made from the same list, so it cannot miss one.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use utoipa::openapi::{ContactBuilder, InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::backend::{Backend, BackendError, Cursor};
use super::connection::{Connection, ConnectionId};
use super::filter::{ConnectionFilter, ConnectionQuery};
use super::model::{
    BODY_MAX, CheckOutcome, CheckRequest, ConnectionCount, Deleted, Drops, ErrorBody, Forward,
    ForwardKey, ForwardRequest, Forwards, RESTORE_TEXT_MAX, ReloadOutcome, RulesOutcome,
    RulesProgram, RulesQuery, RulesRequest, Status, Version,
};
use super::trigger::{Trigger, TriggerKey, TriggerRequest, Triggers};

mod table;

/// Body of a restore: the text, and what JSON's escapes add to it.
const RESTORE_BODY_MAX: usize = RESTORE_TEXT_MAX / 4 * 5;
/// So much of a body that is too large is read to its end and thrown away: a client that still writes when the
/// connection closes gets an error from its own system in place of our answer.
const DISCARD_MAX: usize = 64 << 20;
/// Restores whose text is being received at once.
const RESTORES_MAX: usize = 2;

/// What a handler gets: the appliance.
type Appliance = State<Arc<dyn Backend>>;
type Answer<T> = Result<Json<T>, ApiError>;

/// The API's routes on `backend`, for one entrance: places for large bodies are its own. A request's body must have
/// arrived within `patience`.
pub fn router(backend: Arc<dyn Backend>, patience: Duration) -> Router {
    let reception = Reception { patience, large: Arc::new(Semaphore::new(RESTORES_MAX)) };
    let (router, document) = documented().split_for_parts();
    let document = Bytes::from(document.to_json().expect("the document is plain data"));
    let json = [(header::CONTENT_TYPE, "application/json")];
    router
        .route("/v1/openapi.json", get(async move || (json, document)))
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "no such path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method")
        })
        // `receive` bounds them.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(reception, receive))
        .with_state(backend)
}

/// The same for those who may look and change nothing. C205.
pub fn looking(router: Router) -> Router {
    router.layer(middleware::from_fn(look_only))
}

/// GET never changes anything (RFC 9110 §9.2.1); no other method gets further than this.
async fn look_only(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let detail = "only reading is allowed on this socket: changes need the control socket, which is for \
        root and members of its group";
    let close = [(header::CONNECTION, HeaderValue::from_static("close"))];
    (close, ApiError::new(StatusCode::FORBIDDEN, detail)).into_response()
}

/// Answers everybody who may not use the socket.
pub fn refusal() -> Router {
    Router::new().fallback(async || {
        let detail = "only root and members of the socket's group may use the control socket";
        (
            [(header::CONNECTION, HeaderValue::from_static("close"))],
            ApiError::new(StatusCode::FORBIDDEN, detail),
        )
    })
}

/// The OpenAPI document.
pub fn document() -> OpenApi {
    documented().split_for_parts().1
}

fn documented() -> OpenApiRouter<Arc<dyn Backend>> {
    let info = InfoBuilder::new()
        .title("Postern control API")
        .version("1")
        .description(Some(
            "HTTP and JSON over the appliance's control socket. Errors are ErrorBody objects. \
             Listings of connections are newline-delimited JSON, one Connection a line, sent as \
             fast as the client reads; so are events, for as long as the client stays: one that \
             does not keep up is told how many it missed. On the socket for readers (control-ro.sock, if control_read_group \
             is configured) every method but GET and HEAD is answered 403.",
        ))
        .contact(Some(ContactBuilder::new().name(Some("Postern")).build()))
        .build();
    OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info).build())
        .routes(routes!(version))
        .routes(routes!(status))
        .routes(routes!(drops))
        .routes(routes!(saved_rules, rules))
        .routes(routes!(forwards, add_forward, remove_forward))
        .routes(routes!(triggers, add_trigger, remove_trigger))
        .routes(routes!(connections, delete_connections, table::update_connections))
        .routes(routes!(connection_count))
        .routes(routes!(flush_connections))
        .routes(routes!(table::events))
        .routes(routes!(table::expectations))
        .routes(routes!(table::mappings))
        .routes(routes!(connection, delete_connection, table::update_connection))
        .routes(routes!(check_config))
        .routes(routes!(reload))
}

/// Which program answers.
#[utoipa::path(get, path = "/v1/version", responses((status = 200, body = Version)))]
async fn version() -> Json<Version> {
    Json(Version {
        name: "postern".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: "v1".to_owned(),
    })
}

/// How the appliance does: workers, tables, books, drops, interfaces.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
async fn status(State(backend): Appliance) -> Answer<Status> {
    Ok(Json(backend.status().await?))
}

/// Every drop reason with its count.
#[utoipa::path(get, path = "/v1/drops", responses((status = 200, body = Drops)))]
async fn drops(State(backend): Appliance) -> Answer<Drops> {
    Ok(Json(backend.drops().await?))
}

/// The rules in force, as iptables-save prints them.
#[utoipa::path(get, path = "/v1/rules", params(RulesQuery),
    responses((status = 200, body = RulesOutcome), (status = "4XX", body = ErrorBody)))]
async fn saved_rules(
    State(backend): Appliance,
    Parameters(query): Parameters<RulesQuery>,
) -> Answer<RulesOutcome> {
    let args = if query.counters { vec!["-c".to_owned()] } else { Vec::new() };
    let (family, program) = (query.family, RulesProgram::Save);
    Ok(Json(backend.rules(RulesRequest { family, program, args, stdin: None }).await?))
}

/// Runs a command of the iptables language.
#[utoipa::path(post, path = "/v1/rules", request_body = RulesRequest,
    responses((status = 200, body = RulesOutcome), (status = "4XX", body = ErrorBody)))]
async fn rules(
    State(backend): Appliance,
    Json(request): Json<RulesRequest>,
) -> Answer<RulesOutcome> {
    if request.stdin.as_ref().is_some_and(|text| text.len() > RESTORE_TEXT_MAX) {
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "the text exceeds 16 MiB"));
    }
    Ok(Json(backend.rules(request).await?))
}

/// All port forwards.
#[utoipa::path(get, path = "/v1/forwards", responses((status = 200, body = Forwards)))]
async fn forwards(State(backend): Appliance) -> Answer<Forwards> {
    Ok(Json(Forwards { forwards: backend.forwards().await? }))
}

/// Adds a port forward, in effect when the answer comes.
#[utoipa::path(post, path = "/v1/forwards", request_body = ForwardRequest,
    responses((status = 201, body = Forward), (status = "4XX", body = ErrorBody)))]
async fn add_forward(
    State(backend): Appliance,
    Json(request): Json<ForwardRequest>,
) -> Result<(StatusCode, Json<Forward>), ApiError> {
    Ok((StatusCode::CREATED, Json(backend.add_forward(request).await?)))
}

/// Removes a port forward; its live connections go on.
#[utoipa::path(delete, path = "/v1/forwards", params(ForwardKey),
    responses((status = 200, body = Forward), (status = "4XX", body = ErrorBody)))]
async fn remove_forward(
    State(backend): Appliance,
    Parameters(key): Parameters<ForwardKey>,
) -> Answer<Forward> {
    Ok(Json(backend.remove_forward(key).await?))
}

/// All port triggers, with who holds them.
#[utoipa::path(get, path = "/v1/triggers", responses((status = 200, body = Triggers)))]
async fn triggers(State(backend): Appliance) -> Answer<Triggers> {
    Ok(Json(Triggers { triggers: backend.triggers().await? }))
}

/// Adds a port trigger, in effect when the answer comes.
#[utoipa::path(post, path = "/v1/triggers", request_body = TriggerRequest,
    responses((status = 201, body = Trigger), (status = "4XX", body = ErrorBody)))]
async fn add_trigger(
    State(backend): Appliance,
    Json(request): Json<TriggerRequest>,
) -> Result<(StatusCode, Json<Trigger>), ApiError> {
    Ok((StatusCode::CREATED, Json(backend.add_trigger(request).await?)))
}

/// Removes a port trigger; connections that it let in go on.
#[utoipa::path(delete, path = "/v1/triggers", params(TriggerKey),
    responses((status = 200, body = Trigger), (status = "4XX", body = ErrorBody)))]
async fn remove_trigger(
    State(backend): Appliance,
    Parameters(key): Parameters<TriggerKey>,
) -> Answer<Trigger> {
    Ok(Json(backend.remove_trigger(key).await?))
}

/// Lists connections, one JSON object a line.
#[utoipa::path(get, path = "/v1/connections", params(ConnectionQuery),
    responses(
        (status = 200, body = Connection, content_type = "application/x-ndjson"),
        (status = "4XX", body = ErrorBody)))]
async fn connections(
    State(backend): Appliance,
    Parameters(query): Parameters<ConnectionQuery>,
) -> Result<Response, ApiError> {
    let filter = ConnectionFilter::try_from(&query)?;
    // The first page before the answer begins: what fails at once is then an error, not a torn body.
    let first = backend.connections(&filter, Cursor::default()).await?;
    let pages = stream::try_unfold((Some(first), None), move |(page, mut cursor)| {
        let (backend, filter) = (Arc::clone(&backend), filter.clone());
        async move {
            let mut ready = page;
            loop {
                let page = match (ready.take(), cursor) {
                    (Some(page), _) => page,
                    (None, Some(at)) => backend.connections(&filter, at).await?,
                    (None, None) => return Ok(None),
                };
                cursor = page.next;
                if !page.connections.is_empty() {
                    let chunk = lines(&page.connections);
                    return Ok::<_, BackendError>(Some((chunk, (None, cursor))));
                }
                // Long runs of empty rows must not keep others from their turn.
                tokio::task::yield_now().await;
            }
        }
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(pages)).into_response())
}

fn lines(connections: &[Connection]) -> Bytes {
    let mut text = Vec::with_capacity(connections.len() * 384);
    for connection in connections {
        serde_json::to_writer(&mut text, connection).expect("memory takes all, and keys are text");
        text.push(b'\n');
    }
    text.into()
}

/// Deletes the connections that pass the filter.
#[utoipa::path(delete, path = "/v1/connections", params(ConnectionQuery),
    responses((status = 200, body = Deleted), (status = "4XX", body = ErrorBody)))]
async fn delete_connections(
    State(backend): Appliance,
    Parameters(query): Parameters<ConnectionQuery>,
) -> Answer<Deleted> {
    let filter = ConnectionFilter::try_from(&query)?;
    if filter.is_empty() {
        let detail = "a filter is needed; POST /v1/connections/flush deletes all";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, detail));
    }
    let deleted = carried_through(async move { backend.delete_connections(&filter).await }).await?;
    Ok(Json(Deleted { deleted }))
}

/// Does it in a task of its own: to its end although the client may leave.
async fn carried_through<T: Send + 'static>(
    work: impl Future<Output = Result<T, BackendError>> + Send + 'static,
) -> Result<T, BackendError> {
    let failed = |error: JoinError| BackendError::Internal(error.to_string());
    tokio::spawn(work).await.map_err(failed)?
}

/// How many connections there are.
#[utoipa::path(get, path = "/v1/connections/count",
    responses((status = 200, body = ConnectionCount)))]
async fn connection_count(State(backend): Appliance) -> Answer<ConnectionCount> {
    Ok(Json(backend.connection_count().await?))
}

/// Deletes every connection.
#[utoipa::path(post, path = "/v1/connections/flush", responses((status = 200, body = Deleted)))]
async fn flush_connections(State(backend): Appliance) -> Answer<Deleted> {
    let deleted = carried_through(async move { backend.flush_connections().await }).await?;
    Ok(Json(Deleted { deleted }))
}

/// One connection.
#[utoipa::path(get, path = "/v1/connections/{id}",
    params(("id" = String, Path, description = "The connection's id")),
    responses((status = 200, body = Connection), (status = "4XX", body = ErrorBody)))]
async fn connection(State(backend): Appliance, Path(id): Path<String>) -> Answer<Connection> {
    Ok(Json(backend.connection(connection_id(&id)?).await?))
}

/// Deletes one connection; the answer is what it was.
#[utoipa::path(delete, path = "/v1/connections/{id}",
    params(("id" = String, Path, description = "The connection's id")),
    responses((status = 200, body = Connection), (status = "4XX", body = ErrorBody)))]
async fn delete_connection(
    State(backend): Appliance,
    Path(id): Path<String>,
) -> Answer<Connection> {
    Ok(Json(backend.delete_connection(connection_id(&id)?).await?))
}

fn connection_id(text: &str) -> Result<ConnectionId, ApiError> {
    text.parse().map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "the id is not a number"))
}

/// Says what is wrong with a configuration; changes nothing.
#[utoipa::path(post, path = "/v1/config/check", request_body = CheckRequest,
    responses((status = 200, body = CheckOutcome), (status = "4XX", body = ErrorBody)))]
async fn check_config(
    State(backend): Appliance,
    Json(request): Json<CheckRequest>,
) -> Answer<CheckOutcome> {
    Ok(Json(CheckOutcome { faults: backend.check_config(request.text).await? }))
}

/// Reads the configuration file again. Refused as a whole (422, with all faults) or in effect when
/// the answer comes.
#[utoipa::path(post, path = "/v1/config/reload",
    responses((status = 200, body = ReloadOutcome), (status = "4XX", body = ErrorBody)))]
async fn reload(State(backend): Appliance) -> Answer<ReloadOutcome> {
    Ok(Json(backend.reload().await?))
}

/// How bodies are received.
#[derive(Clone)]
struct Reception {
    patience: Duration,
    /// Places for large ones.
    large: Arc<Semaphore>,
}

/// Receives the whole body before anything else happens: bounded in size, in time, and in how many
/// large ones there are at once.
async fn receive(State(how): State<Reception>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let refuse = |status, detail: &str| {
        let close = [(header::CONNECTION, HeaderValue::from_static("close"))];
        (close, ApiError::new(status, detail)).into_response()
    };
    // RFC 9110 §9.3.1: a server may refuse content in a GET request.
    if matches!(parts.method, Method::GET | Method::HEAD) && !body.is_end_stream() {
        return refuse(StatusCode::BAD_REQUEST, "a request to read has no body");
    }
    let restore =
        parts.method == Method::POST && parts.uri.path() == "/v1/rules" && !body.is_end_stream();
    let most = if restore { RESTORE_BODY_MAX } else { BODY_MAX };
    // A client that asks before it sends (curl does, RFC 9110 §10.1.1) sends nothing when told at once.
    let discard_max = if parts.headers.contains_key(header::EXPECT) { 0 } else { DISCARD_MAX };
    let received = tokio::time::timeout(how.patience, async {
        let _turn = if restore { how.large.acquire().await.ok() } else { None };
        read_body(body, most, discard_max).await
    });
    match received.await {
        Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time"),
        Ok(Err(Unreceived::TooLarge)) => {
            refuse(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body exceeds {most} bytes"))
        }
        Ok(Err(Unreceived::Torn)) => {
            refuse(StatusCode::BAD_REQUEST, "the body is malformed or cut short")
        }
        Ok(Ok(bytes)) => {
            let mut response = next.run(Request::from_parts(parts, Body::from(bytes))).await;
            let no_store = HeaderValue::from_static("no-store");
            response.headers_mut().insert(header::CACHE_CONTROL, no_store);
            response
        }
    }
}

/// Why there is no body.
enum Unreceived {
    TooLarge,
    Torn,
}

/// Reads a body of up to `most` bytes. More than that is read, up to `discard_max`, but not kept.
async fn read_body(mut body: Body, most: usize, discard_max: usize) -> Result<Bytes, Unreceived> {
    let (mut kept, mut seen) = (Vec::new(), 0usize);
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut too_large = declared > most;
    if declared > discard_max.max(most) {
        return Err(Unreceived::TooLarge);
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Unreceived::Torn)?;
        let Some(data) = frame.data_ref() else { continue };
        seen += data.len();
        too_large |= seen > most;
        if !too_large {
            kept.extend_from_slice(data);
        } else if seen > discard_max {
            break;
        } else {
            kept = Vec::new();
        }
    }
    if too_large { Err(Unreceived::TooLarge) } else { Ok(kept.into()) }
}

/// An answer that is not 2xx.
#[derive(Debug)]
struct ApiError(StatusCode, ErrorBody);

impl ApiError {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let error = match status {
            StatusCode::BAD_REQUEST => "bad_request",
            StatusCode::FORBIDDEN => "forbidden",
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
            StatusCode::REQUEST_TIMEOUT => "timeout",
            StatusCode::CONFLICT => "conflict",
            StatusCode::PAYLOAD_TOO_LARGE => "too_large",
            StatusCode::UNPROCESSABLE_ENTITY => "invalid",
            StatusCode::SERVICE_UNAVAILABLE => "unavailable",
            status if status.is_client_error() => "bad_request",
            _ => "internal",
        };
        let body = ErrorBody { error: error.to_owned(), detail: detail.into(), faults: Vec::new() };
        Self(status, body)
    }
}

impl From<BackendError> for ApiError {
    fn from(error: BackendError) -> Self {
        let status = match error {
            BackendError::NotFound(_) => StatusCode::NOT_FOUND,
            BackendError::Invalid(_) | BackendError::Faults(_) => StatusCode::UNPROCESSABLE_ENTITY,
            BackendError::Conflict(_) => StatusCode::CONFLICT,
            BackendError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            BackendError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut answer = Self::new(status, error.to_string());
        if let BackendError::Faults(faults) = error {
            answer.1.faults = faults;
        }
        answer
    }
}

impl From<super::filter::FilterError> for ApiError {
    fn from(error: super::filter::FilterError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, axum::Json(self.1)).into_response()
    }
}

/// axum's Json, but what it refuses is an [`ErrorBody`] too.
struct Json<T>(T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        // `receive` has bounded the body already.
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| ApiError::new(error.status(), error.body_text()))?;
        // The content type is not asked for: curl -d sends another one, and no browser gets here.
        serde_json::from_slice(&bytes).map(Json).map_err(|error| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                format!("the request is not as documented: {error}"),
            )
        })
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// axum's Query, but what it refuses is an [`ErrorBody`] too.
struct Parameters<T>(T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _state: &S,
    ) -> Result<Self, ApiError> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(value)| Self(value))
            .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, error.body_text()))
    }
}
