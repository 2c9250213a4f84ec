//! What all have in common that tell somebody outside of what lies in an outbox: when to go on, and why a request failed.

use tokio::time::Instant;

/// Returns at a time; never, where there is none.
pub(crate) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// An error of a request with all that caused it, in one line.
pub(crate) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
