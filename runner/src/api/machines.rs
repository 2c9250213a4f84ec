//! Machines that runs rent from a cloud.

use std::sync::Arc;

use axum::{Json, extract::State};
use segue_schemas::{
    machine::{Machine, MachineList},
    worker_api::ErrorBody,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, error::Result, extract::Path};

/// Machines that are listed at most.
const LISTED: u32 = 200;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(machines)).routes(routes!(end_machine))
}

/// Rented machines: those that may be there first, then the newest that were.
#[utoipa::path(get, path = "/machines", tag = "hosts", responses((status = 200, body = MachineList)))]
async fn machines(State(app): State<Arc<App>>) -> Result<Json<MachineList>> {
    let (items, trouble) = app.store.machines(LISTED).await?;
    Ok(Json(MachineList { items, trouble }))
}

/// Has a rented machine terminated, by its name or by the cloud's id of it. It is gone once its state is `ended`.
#[utoipa::path(delete, path = "/machines/{name}", tag = "hosts", params(("name" = String, Path)),
    responses((status = 200, body = Machine), (status = 404, body = ErrorBody)))]
async fn end_machine(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Machine>> {
    let ended = app.store.end_machine(name).await?;
    tracing::info!(name = ended.name, run = %ended.run, "a person has a rented machine terminated");
    Ok(Json(ended))
}
