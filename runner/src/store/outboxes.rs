use segue_schemas::time::Timestamp;

use super::{Notification, Result, Store, TokenKind, WantedTag};

impl Store {
    /// Notifications that are due, oldest first.
    pub async fn due_notifications(&self, limit: u32) -> Result<Vec<Notification>> {
        later(limit)
    }

    /// When the next notification is due; for the sender's timer.
    pub async fn next_notification_due(&self) -> Result<Option<Timestamp>> {
        later(())
    }

    /// Stores what a try came to: the receivers that have the message now, and the error that stopped the others. Without an
    /// error it is done; with one it is due again after a pause that doubles from 5 s to 1 h, and given up after a day.
    pub async fn notification_tried(&self, id: i64, told: Vec<String>, error: Option<String>) -> Result<()> {
        later((id, told, error))
    }

    /// Rollback points that want their git tag, oldest first.
    pub async fn wanted_tags(&self, limit: u32) -> Result<Vec<WantedTag>> {
        later(limit)
    }

    /// Whether the tag is in the repository now, or why it won't be.
    pub async fn tag_pushed(&self, tag: &str, refused: Option<String>) -> Result<()> {
        later((tag, refused))
    }

    /// Stores the hash of a bearer token (64 hexadecimal digits of its SHA-256); one of the same name and kind gives way to it.
    pub async fn put_token(
        &self,
        hash: &str,
        name: &str,
        kind: TokenKind,
        expires_at: Option<Timestamp>,
    ) -> Result<()> {
        later((hash, name, kind, expires_at))
    }

    /// What the token with this hash opens; `None` for an unknown or expired one.
    pub async fn token(&self, hash: &str) -> Result<Option<(String, TokenKind)>> {
        later(hash)
    }
}

fn later<T, R>(_: T) -> Result<R> {
    Err(crate::store::StoreError::Unavailable("this operation is not there yet".into()))
}
