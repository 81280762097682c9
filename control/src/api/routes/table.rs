//! What can be done with the connection table besides listing and deleting: followed, changed, its expectations shown.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use super::{Answer, ApiError, Appliance, Json, Parameters, carried_through, connection_id};
use crate::api::backend::BackendError;
use crate::api::connection::Connection;
use crate::api::event::{ConnectionEdit, Event, EventKinds, Events, EventsQuery, Updated};
use crate::api::expectation::Expectations;
use crate::api::filter::{ConnectionFilter, ConnectionQuery};
use crate::api::mapping::Mappings;
use crate::api::model::ErrorBody;

/// After that long without an event an empty line is sent: who is gone does not keep its place.
const QUIET: Duration = Duration::from_secs(5);

/// What happens to connections from now on, one JSON object a line, until the client leaves or the appliance stops. Of
/// those that the filter lets pass; an `overrun` says how many of all are missing. Empty lines mean nothing.
#[utoipa::path(get, path = "/v1/connections/events", params(ConnectionQuery, EventsQuery),
    responses(
        (status = 200, body = Event, content_type = "application/x-ndjson"),
        (status = "4XX", body = ErrorBody)))]
pub(super) async fn events(
    State(backend): Appliance,
    Parameters(parameters): Parameters<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let bad = |detail: String| ApiError::new(StatusCode::BAD_REQUEST, detail);
    let (kinds, filter): (Vec<_>, Vec<_>) =
        parameters.into_iter().partition(|(name, _)| name == "events");
    let kinds = match kinds.last() {
        Some((_, text)) => text.parse().map_err(bad)?,
        None => EventKinds::default(),
    };
    let filter = serde_urlencoded::to_string(filter).unwrap_or_default();
    let query: ConnectionQuery =
        serde_urlencoded::from_str(&filter).map_err(|error| bad(error.to_string()))?;
    let filter = ConnectionFilter::try_from(&query)?;
    let wanted = move |event: &Event| {
        event.about().is_none_or(|(kind, connection)| {
            kinds.holds(kind) && filter.matches(&connection.into())
        })
    };
    let wanted = Arc::new(wanted);
    let chunks = stream::unfold(backend.events().await?, move |mut events: Events| {
        let wanted = Arc::clone(&wanted);
        async move { Some((Ok::<_, Infallible>(chunk(&mut events, &*wanted).await?), events)) }
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(chunks)).into_response())
}

/// The next lines to send; `None` at the end.
async fn chunk(events: &mut Events, wanted: &(impl Fn(&Event) -> bool + Sync)) -> Option<Bytes> {
    let quiet = Instant::now() + QUIET;
    loop {
        let Ok(batch) = timeout_at(quiet, events.next()).await else {
            return Some(Bytes::from_static(b"\n"));
        };
        let mut text = Vec::new();
        for event in batch?.iter().filter(|event| wanted(event)) {
            serde_json::to_writer(&mut text, event).expect("memory takes all, and keys are text");
            text.push(b'\n');
        }
        if !text.is_empty() {
            return Some(text.into());
        }
        // Long runs of events that nobody here wants must not keep others from their turn.
        tokio::task::yield_now().await;
    }
}

/// Changes the connections that pass the filter; a filter is needed.
#[utoipa::path(patch, path = "/v1/connections", params(ConnectionQuery), request_body = ConnectionEdit,
    responses((status = 200, body = Updated), (status = "4XX", body = ErrorBody)))]
pub(super) async fn update_connections(
    State(backend): Appliance,
    Parameters(query): Parameters<ConnectionQuery>,
    Json(edit): Json<ConnectionEdit>,
) -> Answer<Updated> {
    let filter = ConnectionFilter::try_from(&query)?;
    if filter.is_empty() {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "a filter is needed"));
    }
    edit.to_core().map_err(BackendError::Invalid)?;
    let work = async move { backend.update_connections(&filter, &edit).await };
    let updated = carried_through(work).await?;
    Ok(Json(Updated { updated }))
}

/// Changes one connection; the answer is what it is now.
#[utoipa::path(patch, path = "/v1/connections/{id}",
    params(("id" = String, Path, description = "The connection's id")), request_body = ConnectionEdit,
    responses((status = 200, body = Connection), (status = "4XX", body = ErrorBody)))]
pub(super) async fn update_connection(
    State(backend): Appliance,
    Path(id): Path<String>,
    Json(edit): Json<ConnectionEdit>,
) -> Answer<Connection> {
    let id = connection_id(&id)?;
    edit.to_core().map_err(BackendError::Invalid)?;
    Ok(Json(backend.update_connection(id, &edit).await?))
}

/// All connections that helpers expect.
#[utoipa::path(get, path = "/v1/expectations", responses((status = 200, body = Expectations)))]
pub(super) async fn expectations(State(backend): Appliance) -> Answer<Expectations> {
    Ok(Json(Expectations { expectations: backend.expectations().await? }))
}

/// All endpoint-independent mappings.
#[utoipa::path(get, path = "/v1/mappings", responses((status = 200, body = Mappings)))]
pub(super) async fn mappings(State(backend): Appliance) -> Answer<Mappings> {
    Ok(Json(Mappings { mappings: backend.mappings().await? }))
}
