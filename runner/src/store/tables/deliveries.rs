use std::time::Duration;

use segue_schemas::{
    id::{CommitSha, DeliveryId},
    time::Timestamp,
    trigger::{Event, Trigger},
};

use crate::store::{
    Delivery, DeliveryState, Meaning, NewDelivery, Payload, Result, StoreError,
    behind::Of,
    sql::{Conn, Row, args, to_json},
};

impl DeliveryState {
    /// The word that is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Planned => "planned",
            Self::Ignored => "ignored",
            Self::Failed => "failed",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Accepted, Self::Planned, Self::Ignored, Self::Failed].into_iter().find(|s| s.as_str() == word)
    }
}

/// Stores a delivery, with its bell where the planner is to look at it; `false` if its GUID is known.
pub(crate) async fn insert(conn: &mut Conn, delivery: &NewDelivery, now: Timestamp) -> Result<bool> {
    let (inline, file, bytes) = match &delivery.payload {
        Payload::Inline(text) => (Some(text), None, text.len() as u64),
        Payload::File { name, bytes } => (None, Some(name), *bytes),
    };
    let (trigger, state, reason) = match &delivery.meaning {
        Meaning::Starts(trigger) => (Some(to_json(trigger)?), DeliveryState::Accepted, None),
        // what is asked is done in the same transaction
        Meaning::Asks(_) | Meaning::Commented(_) => (None, DeliveryState::Planned, None),
        Meaning::Planned(trigger) => (Some(to_json(trigger)?), DeliveryState::Planned, None),
        Meaning::Ignored(reason) => (None, DeliveryState::Ignored, Some(reason)),
    };
    let waits = state == DeliveryState::Accepted;
    let settled = (!waits).then_some(now);
    let sql = "INSERT INTO deliveries (id, position, event, repository, received_at, payload, payload_file, payload_bytes,
            trigger_json, state, reason, settled_at, server)
        VALUES ($1, (SELECT value + 1 FROM counters WHERE name = 'delivery'), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        ON CONFLICT (id) DO NOTHING";
    let args = args![
        &delivery.id,
        &delivery.event,
        delivery.repository.as_ref(),
        now,
        inline,
        file,
        bytes,
        trigger,
        state.as_str(),
        reason,
        settled,
        conn.server(),
    ];
    if conn.run(sql, args).await? == 0 {
        return Ok(false);
    }
    let sql = "UPDATE counters SET value = value + 1 WHERE name = 'delivery'";
    conn.put(Of::row("counters", "delivery"), sql, args![]).await?;
    if waits {
        let sql = "INSERT INTO outbox (kind, subject, created_at) VALUES ('delivery', $1, $2)";
        conn.put(of_outbox(&delivery.id), sql, args![&delivery.id, now]).await?;
    }
    Ok(true)
}

fn of_outbox(id: &DeliveryId) -> Of {
    Of::row("outbox", id)
}

pub(crate) async fn find(conn: &mut Conn, id: &DeliveryId) -> Result<Option<Delivery>> {
    let sql = "SELECT id, position, event, repository, received_at, trigger_json, state, reason, tries, next_try_at
        FROM deliveries WHERE id = $1";
    conn.first(sql, args![id]).await?.as_ref().map(delivery).transpose()
}

/// How long a delivery is left to the server that took it, before any other plans it.
pub(crate) const LEFT_TO_ITS_SERVER: Duration = Duration::from_secs(10);

/// Deliveries whose bell has not been answered and that are due, at this server or left by another one.
pub(crate) async fn waiting(conn: &mut Conn, server: Option<i64>, now: Timestamp, limit: u32) -> Result<Vec<Delivery>> {
    let sql = "SELECT id, position, event, repository, received_at, trigger_json, state, reason, tries, next_try_at
        FROM outbox JOIN deliveries ON deliveries.id = outbox.subject
        WHERE outbox.kind = 'delivery' AND next_try_at <= $1
            AND (server IS NULL OR server = $3 OR (received_at + $4 <= $1 AND next_try_at + $4 <= $1))
        ORDER BY outbox.created_at, outbox.subject LIMIT $2";
    conn.all(sql, args![now, limit, server, left()]).await?.iter().map(delivery).collect()
}

/// Deliveries, newest first, from below a position on.
pub(crate) async fn list(conn: &mut Conn, before: Option<i64>, limit: u32) -> Result<Vec<Delivery>> {
    let sql = "SELECT id, position, event, repository, received_at, trigger_json, state, reason, tries, next_try_at
        FROM deliveries WHERE position < $1 ORDER BY position DESC LIMIT $2";
    conn.all(sql, args![before.unwrap_or(i64::MAX), limit.clamp(1, 200)]).await?.iter().map(delivery).collect()
}

fn left() -> i64 {
    LEFT_TO_ITS_SERVER.as_millis() as i64
}

/// When the next one that was put off, or that another server may leave, is due.
pub(crate) async fn next_due(conn: &mut Conn, server: Option<i64>, now: Timestamp) -> Result<Option<Timestamp>> {
    let sql = "SELECT MIN(due) AS due FROM (
            SELECT CASE WHEN server IS NULL OR server = $2 THEN next_try_at
                WHEN received_at > next_try_at THEN received_at + $3 ELSE next_try_at + $3 END AS due
            FROM outbox JOIN deliveries ON deliveries.id = outbox.subject WHERE outbox.kind = 'delivery') AS waiting
        WHERE due > $1";
    conn.first(sql, args![now, server, left()]).await?.map_or(Ok(None), |row| row.maybe_time("due"))
}

/// Settles a delivery and answers its bell.
pub(crate) async fn settle(
    conn: &mut Conn,
    id: &DeliveryId,
    state: DeliveryState,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<()> {
    let sql = "UPDATE deliveries SET state = $2, reason = $3, settled_at = $4 WHERE id = $1";
    conn.put(Of::row("deliveries", id), sql, args![id, state.as_str(), reason, now]).await?;
    conn.put(of_outbox(id), "DELETE FROM outbox WHERE kind = 'delivery' AND subject = $1", args![id]).await
}

/// Puts a delivery off.
pub(crate) async fn defer(conn: &mut Conn, id: &DeliveryId, reason: &str, until: Timestamp) -> Result<()> {
    let sql = "UPDATE deliveries SET reason = $2, tries = tries + 1, next_try_at = $3 WHERE id = $1";
    conn.run(sql, args![id, reason, until]).await?;
    Ok(())
}

/// Takes an identity of work; where it is taken, the delivery that has it. What is no new code (a label, a time that has come,
/// a person's wish) is known by its delivery alone.
pub(crate) async fn claim_identity(
    conn: &mut Conn,
    trigger: &Trigger,
    id: &DeliveryId,
    now: Timestamp,
) -> Result<Option<DeliveryId>> {
    let Some((before, after)) = ends(&trigger.event) else { return Ok(None) };
    let key = || args![&trigger.repository, trigger.event.name(), trigger.event.git_ref(), before, after];
    // a push that was found by comparing has been planned with another commit before it than its late webhook tells
    let sql =
        "INSERT INTO work_identities (repository, event, git_ref, before_commit, after_commit, delivery_id, created_at)
        SELECT $1, $2, $3, $4, $5, $6, $7 WHERE NOT EXISTS (SELECT 1 FROM work_identities found
            WHERE found.repository = $1 AND found.event = $2 AND found.git_ref = $3 AND found.after_commit = $5
                AND found.delivery_id LIKE 'head-%' AND NOT EXISTS (SELECT 1 FROM work_identities gone
                    WHERE gone.repository = $1 AND gone.event = $2 AND gone.git_ref = $3 AND gone.before_commit = $5
                        AND gone.created_at >= found.created_at))
        ON CONFLICT DO NOTHING";
    if conn.run(sql, [key(), args![id, now]].concat()).await? > 0 {
        return Ok(None);
    }
    let sql = "SELECT delivery_id FROM work_identities
        WHERE repository = $1 AND event = $2 AND git_ref = $3 AND after_commit = $5
            AND (before_commit = $4 OR delivery_id LIKE 'head-%')
        ORDER BY CASE WHEN before_commit = $4 THEN 0 ELSE 1 END LIMIT 1";
    match conn.first(sql, key()).await? {
        Some(row) => Ok(Some(row.parsed("delivery_id")?)),
        None => Err(StoreError::corrupt("work_identities", "an identity is taken by nobody")),
    }
}

/// How the deliveries are named that were made for pushes which were found by comparing; statements have it spelled out.
pub(crate) const FOUND: &str = "head-";

/// The repositories to which a push was heard of: a seek for each.
pub(crate) async fn pushed_repositories(conn: &mut Conn) -> Result<Vec<String>> {
    let sql = "WITH RECURSIVE known (repository) AS (
            SELECT MIN(repository) FROM work_identities
            UNION ALL
            SELECT (SELECT MIN(w.repository) FROM work_identities w WHERE w.repository > known.repository)
            FROM known WHERE known.repository IS NOT NULL)
        SELECT repository FROM known WHERE repository IS NOT NULL AND EXISTS (
            SELECT 1 FROM work_identities w WHERE w.repository = known.repository AND w.event = 'push')";
    conn.all(sql, args![]).await?.iter().map(|row| row.text("repository")).collect()
}

/// The commit that the newest push to a ref has brought.
pub(crate) async fn last_push(conn: &mut Conn, repository: &str, git_ref: &str) -> Result<Option<CommitSha>> {
    let sql = "SELECT after_commit FROM work_identities WHERE repository = $1 AND event = 'push' AND git_ref = $2
        ORDER BY created_at DESC LIMIT 1";
    conn.first(sql, args![repository, git_ref]).await?.map(|row| row.parsed("after_commit")).transpose()
}

/// Whether a push has brought a ref to this commit, and none has led it away since.
pub(crate) async fn is_known_to_be_at(
    conn: &mut Conn,
    repository: &str,
    git_ref: &str,
    commit: &CommitSha,
) -> Result<bool> {
    let sql = "SELECT 1 AS found FROM work_identities came
        WHERE came.repository = $1 AND came.event = 'push' AND came.git_ref = $2 AND came.after_commit = $3
            AND NOT EXISTS (SELECT 1 FROM work_identities gone
                WHERE gone.repository = $1 AND gone.event = 'push' AND gone.git_ref = $2 AND gone.before_commit = $3
                    AND gone.created_at >= came.created_at)
        LIMIT 1";
    Ok(conn.first(sql, args![repository, git_ref, commit]).await?.is_some())
}

/// Whether a push to a repository waits for the planner.
pub(crate) async fn has_waiting_push(conn: &mut Conn, repository: &str) -> Result<bool> {
    let sql = "SELECT 1 AS found FROM outbox JOIN deliveries ON deliveries.id = outbox.subject
        WHERE outbox.kind = 'delivery' AND deliveries.repository = $1 AND deliveries.event = 'push' LIMIT 1";
    Ok(conn.first(sql, args![repository]).await?.is_some())
}

/// Before and after, by which the same work is known again.
fn ends(event: &Event) -> Option<(&CommitSha, &CommitSha)> {
    match event {
        Event::Push { before, after, .. } => Some((before, after)),
        // one that is opened again runs again, at the same commits
        Event::PullRequest { action, .. } if action == "reopened" => None,
        Event::PullRequest { base, head, .. } => event.brings_code().then_some((base, head)),
        Event::WorkflowDispatch { .. }
        | Event::Schedule { .. }
        | Event::RepositoryDispatch { .. }
        | Event::IssueComment { .. } => None,
    }
}

fn delivery(row: &Row) -> Result<Delivery> {
    Ok(Delivery {
        id: row.parsed("id")?,
        position: row.int("position")?,
        event: row.text("event")?,
        repository: row.maybe_text("repository")?,
        received_at: row.time("received_at")?,
        trigger: row.maybe_json("trigger_json")?,
        state: row.word("state", DeliveryState::parse)?,
        reason: row.maybe_text("reason")?,
        tries: row.count("tries")?,
        next_try_at: row.time("next_try_at")?,
    })
}
