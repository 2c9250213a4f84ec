//! People are told: one message each for a failure, a recovery, a rollback and a hold, to Slack-compatible or plain
//! webhooks. Comes in: the store's outbox of notifications, so that none is lost over a restart. Goes out: HTTP POST. The
//! address is a secret: it is in no log and no error. Never here: deciding what is worth a message.

use std::{sync::Arc, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use segue_schemas::config::{NotificationConfig, NotificationEvent, NotificationKind};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{self, AuthError},
    outgoing::{at, cause},
    store::{Bell, Notification, Result, Store},
    telemetry::Metrics,
};

/// Time limit of one message.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// Messages that are looked at in one go.
const AT_A_TIME: u32 = 32;
/// Pause after the store has failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// Characters of a receiver's answer that go into the record.
const ANSWER_CHARS: usize = 200;

/// Somebody to tell.
struct Receiver {
    /// Stable over restarts and changes of order, and says nothing of the address.
    name: String,
    config: NotificationConfig,
    url: SecretString,
}

/// Why a receiver can't be told anything.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// Its address can't be read.
    #[error("notifications[{index}]: {source}")]
    Address {
        /// Which.
        index: usize,
        /// Why.
        source: AuthError,
    },
    /// It has none, or two.
    #[error("notifications[{index}]: set either `url` or `url-file`")]
    OneAddress {
        /// Which.
        index: usize,
    },
    /// What it has is none.
    #[error("notifications[{index}]: the address is no http or https URL")]
    NoUrl {
        /// Which.
        index: usize,
    },
    /// HTTP can't be spoken.
    #[error("no message can be sent: {0}")]
    Client(String),
}

/// Sends messages.
pub struct Notifier {
    store: Store,
    receivers: Vec<Receiver>,
    client: reqwest::Client,
    metrics: Arc<Metrics>,
}

impl Notifier {
    /// A notifier for the receivers of the operator's file.
    ///
    /// # Errors
    /// [`NotifyError`] naming the receiver that can't be used.
    pub fn new(store: Store, metrics: Arc<Metrics>) -> std::result::Result<Self, NotifyError> {
        let config = store.config().clone();
        let receivers = config.notifications.iter().enumerate().map(|(index, one)| receiver(index, one));
        let receivers = receivers.collect::<std::result::Result<_, _>>()?;
        let client = reqwest::Client::builder()
            .timeout(SEND_LIMIT)
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| NotifyError::Client(error.to_string()))?;
        Ok(Self { store, receivers, client, metrics })
    }

    /// Sends until `stop`; what is not sent then is sent after the next start.
    pub async fn run(self, stop: CancellationToken) {
        let mut bell = self.store.doorbell().listen(Bell::Notifications);
        loop {
            let next_due = match self.send_due().await {
                Ok(next_due) => next_due,
                Err(error) => {
                    tracing::warn!(%error, "notifications can't be read or recorded");
                    Some(Instant::now() + STORE_PAUSE)
                }
            };
            tokio::select! {
                () = bell.rung() => {}
                () = at(next_due) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Sends what is due, and says when the next one will be.
    async fn send_due(&self) -> Result<Option<Instant>> {
        loop {
            let due = self.store.due_notifications(AT_A_TIME).await?;
            if due.is_empty() {
                break;
            }
            for notification in due {
                let (told, error) = self.tell_all(&notification).await;
                self.store.notification_tried(notification.id, told, error).await?;
            }
        }
        let due = self.store.next_notification_due().await?;
        Ok(due.map(|due| Instant::now() + due.since(self.store.now())))
    }

    /// Tells everybody who wants to know and does not know yet: who knows now, and what stopped the others.
    async fn tell_all(&self, notification: &Notification) -> (Vec<String>, Option<String>) {
        let mut told = notification.told.clone();
        let mut errors = Vec::new();
        for receiver in self.receivers.iter().filter(|receiver| receiver.config.wants(notification.event)) {
            if told.contains(&receiver.name) {
                continue;
            }
            match self.tell(receiver, notification).await {
                Ok(()) => told.push(receiver.name.clone()),
                Err(error) => {
                    tracing::warn!(
                        notification = notification.id,
                        receiver = receiver.name,
                        error,
                        "a message was not taken"
                    );
                    errors.push(format!("{}: {error}", receiver.name));
                }
            }
        }
        self.metrics.notification(errors.is_empty());
        (told, (!errors.is_empty()).then(|| errors.join("; ")))
    }

    async fn tell(&self, receiver: &Receiver, notification: &Notification) -> std::result::Result<(), String> {
        let body = message(receiver.config.kind, notification);
        let request = self.client.post(receiver.url.expose_secret()).json(&body);
        // reqwest's errors name the URL
        let response = request.send().await.map_err(|error| cause(&error.without_url()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let answer = response.text().await.unwrap_or_default();
        let answer: String = answer.chars().take(ANSWER_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Err(format!("it answered {status} {answer}"))
    }
}

fn receiver(index: usize, config: &NotificationConfig) -> std::result::Result<Receiver, NotifyError> {
    let url = match (&config.url, &config.url_file) {
        (Some(url), None) => SecretString::from(url.as_str()),
        (None, Some(file)) => auth::read(file).map_err(|source| NotifyError::Address { index, source })?,
        _ => return Err(NotifyError::OneAddress { index }),
    };
    let parsed = reqwest::Url::parse(url.expose_secret()).ok();
    if !parsed.is_some_and(|parsed| matches!(parsed.scheme(), "http" | "https") && parsed.has_host()) {
        return Err(NotifyError::NoUrl { index });
    }
    let hash = ring::digest::digest(&ring::digest::SHA256, url.expose_secret().as_bytes());
    let kind = match config.kind {
        NotificationKind::Slack => "slack",
        NotificationKind::Webhook => "webhook",
    };
    let name = format!("{kind}-{}", hex::encode(&hash.as_ref()[..4]));
    Ok(Receiver { name, config: config.clone(), url })
}

/// The body of a message.
fn message(kind: NotificationKind, notification: &Notification) -> Value {
    let summary = notification.detail.get("summary").and_then(Value::as_str).unwrap_or("something happened");
    let place = match (notification.run, notification.rollout) {
        (_, Some(rollout)) => format!(" (rollout {rollout})"),
        (Some(run), None) => format!(" (run {run})"),
        (None, None) => String::new(),
    };
    match kind {
        NotificationKind::Slack => {
            json!({ "text": format!("{} {}{place}", sign(notification.event), escape(summary)) })
        }
        NotificationKind::Webhook => json!({
            "id": notification.id,
            "event": notification.event,
            "summary": summary,
            "run": notification.run,
            "rollout": notification.rollout,
            "at": notification.created_at,
            "detail": notification.detail,
        }),
    }
}

fn sign(event: NotificationEvent) -> &'static str {
    match event {
        NotificationEvent::RunFailed => ":x:",
        NotificationEvent::RunRecovered => ":white_check_mark:",
        NotificationEvent::RolledBack => ":rewind:",
        NotificationEvent::Held => ":pause_button:",
        NotificationEvent::Message => ":speech_balloon:",
    }
}

/// Slack's three control characters. <https://docs.slack.dev/messaging/formatting-message-text>
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests;
