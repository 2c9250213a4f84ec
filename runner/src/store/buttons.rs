//! Buttons of checks that not everybody may press: each is kept from the delivery that brought it until it was done or refused. What came
//! of it stands at its delivery.

use std::time::Duration;

use segue_schemas::{id::DeliveryId, time::Timestamp};

use super::{
    Bell, Button, DeliveryState, Result, Store, StoreError, Tx,
    due::Due,
    sql::{Conn, Row, args},
    tables::deliveries,
};

/// How long it is remembered that one was pressed.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A button that somebody has pressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueButton {
    /// The delivery that told of it.
    pub delivery: DeliveryId,
    /// `owner/name`
    pub repository: String,
    /// GitHub's number of the check.
    pub check: i64,
    /// Which.
    pub button: Button,
    /// Who.
    pub by: String,
    /// When it came here.
    pub created_at: Timestamp,
    /// Tries that failed.
    pub tries: u32,
}

/// Keeps one that was pressed.
pub(crate) async fn insert(
    tx: &mut Tx,
    delivery: &DeliveryId,
    repository: &str,
    by: &str,
    check: i64,
    button: Button,
) -> Result<()> {
    let old = Timestamp(tx.now.0 - KEPT.as_millis() as i64);
    tx.conn.run("DELETE FROM github_buttons WHERE created_at < $1", args![old]).await?;
    let sql =
        "INSERT INTO github_buttons (delivery_id, repository, check_id, button, pressed_by, created_at, next_try_at)
        VALUES ($1, $2, $3, $4, $5, $6, $6)";
    tx.conn.run(sql, args![delivery, repository, check, button.as_str(), by, tx.now]).await?;
    tx.ring(Bell::Shows);
    Ok(())
}

/// Notes that one is done with; `false`: it was before.
pub(crate) async fn conclude(tx: &mut Tx, pressed: &DueButton) -> Result<bool> {
    let sql = "UPDATE github_buttons SET done_at = $2, error = NULL WHERE delivery_id = $1 AND done_at IS NULL";
    Ok(tx.conn.run(sql, args![&pressed.delivery, tx.now]).await? > 0)
}

/// Has its delivery say what came of it.
pub(crate) async fn note(tx: &mut Tx, pressed: &DueButton, is_done: bool, outcome: &str) -> Result<()> {
    let state = if is_done { DeliveryState::Planned } else { DeliveryState::Ignored };
    let reason = format!("{} pressed `{}`: {outcome}", pressed.by, pressed.button.as_str());
    deliveries::settle(&mut tx.conn, &pressed.delivery, state, Some(&reason), tx.now).await
}

impl Store {
    /// Buttons that are to be looked at now, oldest first; where several servers share the database they are taken.
    pub async fn due_buttons(&self, limit: u32) -> Result<Vec<DueButton>> {
        self.due(limit).await
    }

    /// When the next of them is due.
    pub async fn next_button_due(&self) -> Result<Option<Timestamp>> {
        self.next_due("SELECT MIN(next_try_at) AS due FROM github_buttons WHERE done_at IS NULL").await
    }

    /// Nothing is done of one, and why.
    pub async fn refuse_button(&self, pressed: &DueButton, why: String) -> Result<()> {
        let pressed = pressed.clone();
        self.write(move |tx| {
            Box::pin(async move {
                if conclude(tx, &pressed).await? {
                    note(tx, &pressed, false, &why).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// It is looked at later; `error`: because a try failed.
    pub async fn button_put_off(&self, pressed: &DueButton, until: Timestamp, error: Option<String>) -> Result<()> {
        let delivery = pressed.delivery.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let failed = u32::from(error.is_some());
                let sql =
                    "UPDATE github_buttons SET next_try_at = $2, tries = tries + $3, error = $4 WHERE delivery_id = $1";
                tx.conn.run(sql, args![&delivery, until, failed, error]).await?;
                Ok(())
            })
        })
        .await
    }
}

impl Due for DueButton {
    async fn due(conn: &mut Conn, now: Timestamp, limit: u32) -> Result<Vec<Self>> {
        let sql = "SELECT * FROM github_buttons WHERE done_at IS NULL AND next_try_at <= $1
            ORDER BY next_try_at, delivery_id LIMIT $2";
        conn.all(sql, args![now, limit]).await?.iter().map(button).collect()
    }

    async fn take(&self, conn: &mut Conn, until: Timestamp) -> Result<()> {
        let sql = "UPDATE github_buttons SET next_try_at = $2 WHERE delivery_id = $1";
        conn.run(sql, args![&self.delivery, until]).await.map(drop)
    }
}

fn button(row: &Row) -> Result<DueButton> {
    let word = row.text("button")?;
    Ok(DueButton {
        delivery: row.parsed("delivery_id")?,
        repository: row.text("repository")?,
        check: row.int("check_id")?,
        button: Button::parse(&word).ok_or_else(|| StoreError::corrupt("github_buttons.button", &word))?,
        by: row.text("pressed_by")?,
        created_at: row.time("created_at")?,
        tries: row.count("tries")?,
    })
}
