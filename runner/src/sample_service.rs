//! A small HTTP service to deploy in the demonstration, the integration tests and the benchmarks: it says which version
//! it is, streams, and is as slow or as faulty as its configuration says. It stands for a user's service; nothing else
//! of Segue knows it.

use std::{
    collections::BTreeMap,
    env,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use rand::Rng as _;
use segue_schemas::duration::Span;
use serde::Deserialize;

use crate::cli::{
    ending::{Exit, Explain as _, Failure},
    place::client_runtime,
};

/// Longest stream that a request may ask for, in seconds.
const MAX_STREAM_SECONDS: u32 = 60;
/// Pause between two pieces of a stream.
const STREAM_PAUSE: Duration = Duration::from_millis(100);

/// Serve the sample service
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its configuration (YAML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The port; 0 takes a free one, which is printed
    #[arg(long, env = "PORT", default_value_t = 0)]
    port: u16,
    /// The address; in a container every one of it
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    address: IpAddr,
    /// Read the configuration and end
    #[arg(long)]
    check: bool,
}

/// What the service is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    /// Answered by `/`.
    version: String,
    /// How long each answer of `/` takes.
    #[serde(default)]
    latency: Span,
    /// The share of requests to `/` that fail with 500, from 0 to 1, by environment.
    #[serde(default)]
    fail_share: BTreeMap<String, f64>,
    /// Whether `/healthz` ever says that the service is well.
    #[serde(default = "yes")]
    healthy: bool,
}

fn yes() -> bool {
    true
}

struct Service {
    version: String,
    environment: String,
    latency: Duration,
    fail_share: f64,
    healthy: bool,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    let service = Arc::new(read(args)?);
    if args.check {
        println!("version {} is well configured", service.version);
        return Ok(Exit::Done);
    }
    client_runtime()?.block_on(serve(SocketAddr::new(args.address, args.port), service))?;
    Ok(Exit::Done)
}

fn read(args: &Args) -> Result<Service, Failure> {
    let file = args.config.display();
    let text = std::fs::read_to_string(&args.config).explain(format_args!("cannot read {file}"))?;
    let config: Config = serde_yaml::from_str(&text).explain(format_args!("{file}"))?;
    if let Some((environment, share)) = config.fail_share.iter().find(|(_, share)| !(0.0..=1.0).contains(*share)) {
        return Err(Failure::new(format_args!("{file}: fail-share of {environment} is {share}"))
            .remedy("a share lies between 0 and 1"));
    }
    let environment = env::var("SEGUE_ENVIRONMENT").unwrap_or_default();
    Ok(Service {
        version: config.version,
        latency: config.latency.0,
        fail_share: config.fail_share.get(&environment).copied().unwrap_or(0.0),
        healthy: config.healthy,
        environment,
    })
}

async fn serve(wanted: SocketAddr, service: Arc<Service>) -> Result<(), Failure> {
    let listener = tokio::net::TcpListener::bind(wanted).await.explain(format_args!("cannot listen on {wanted}"))?;
    let address = listener.local_addr().explain("the listener has no address")?;
    println!("listening on http://{address}");
    let router = Router::new()
        .route("/", get(greet))
        .route("/healthz", get(health))
        .route("/stream", get(stream))
        .with_state(service);
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .explain("cannot listen for SIGTERM")?;
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            term.recv().await;
        })
        .await
        .explain("the service ended")
}

async fn greet(State(service): State<Arc<Service>>) -> Response {
    if !service.latency.is_zero() {
        tokio::time::sleep(service.latency).await;
    }
    let body = Json(serde_json::json!({"version": service.version, "environment": service.environment}));
    if service.fail_share > 0.0 && rand::rng().random_bool(service.fail_share) {
        return (StatusCode::INTERNAL_SERVER_ERROR, body).into_response();
    }
    body.into_response()
}

async fn health(State(service): State<Arc<Service>>) -> (StatusCode, &'static str) {
    if service.healthy { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "never well\n") }
}

#[derive(Deserialize)]
struct StreamQuery {
    #[serde(default = "one")]
    seconds: u32,
}

fn one() -> u32 {
    1
}

/// One line of text every tenth of a second, then `end`: a client that did not get `end` was cut.
async fn stream(State(service): State<Arc<Service>>, Query(query): Query<StreamQuery>) -> Response {
    let pieces = query.seconds.min(MAX_STREAM_SECONDS) * 10;
    let stream = futures_util::stream::unfold(0, move |piece| {
        let service = Arc::clone(&service);
        async move {
            if piece > pieces {
                return None;
            }
            if piece > 0 {
                tokio::time::sleep(STREAM_PAUSE).await;
            }
            let text = if piece == pieces { "end\n".into() } else { format!("{} {piece}\n", service.version) };
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), piece + 1))
        }
    });
    Body::from_stream(stream).into_response()
}
