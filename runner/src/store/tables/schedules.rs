//! Schedules and the times of them that have come.

use segue_pipelines::schedule::Schedule;
use segue_schemas::{id::DeliveryId, time::Timestamp};

use crate::store::{
    Result, ScheduleRecord, StoreError,
    sql::{Conn, Row, args},
};

/// The schedules of a repository.
pub(crate) async fn of_repository(conn: &mut Conn, repository: &str) -> Result<Vec<ScheduleRecord>> {
    let sql = "SELECT * FROM schedules WHERE repository = $1 ORDER BY file, cron, timezone LIMIT 10000";
    conn.all(sql, args![repository]).await?.iter().map(record).collect()
}

/// The repositories that have any.
pub(crate) async fn repositories(conn: &mut Conn) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT repository FROM schedules ORDER BY repository LIMIT 10000";
    conn.all(sql, args![]).await?.iter().map(|row| row.text("repository")).collect()
}

/// Those whose time has come.
pub(crate) async fn due(conn: &mut Conn, now: Timestamp, limit: u32) -> Result<Vec<ScheduleRecord>> {
    let sql = "SELECT * FROM schedules WHERE next_due <= $1 ORDER BY next_due LIMIT $2";
    conn.all(sql, args![now, limit]).await?.iter().map(record).collect()
}

/// When the next one is due.
pub(crate) async fn next_due(conn: &mut Conn) -> Result<Option<Timestamp>> {
    let row = conn.first("SELECT MIN(next_due) AS due FROM schedules", args![]).await?;
    row.map_or(Ok(None), |row| row.maybe_time("due"))
}

/// Stores a schedule with its next time.
pub(crate) async fn put(conn: &mut Conn, one: &ScheduleRecord, next: Timestamp) -> Result<()> {
    let sql = "INSERT INTO schedules (repository, file, cron, timezone, next_due) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (repository, file, cron, timezone) DO UPDATE SET next_due = excluded.next_due";
    conn.run(sql, args![&one.repository, &one.file, one.schedule.text(), zone(one), next]).await?;
    Ok(())
}

/// Forgets one.
pub(crate) async fn remove(conn: &mut Conn, one: &ScheduleRecord) -> Result<()> {
    let sql = "DELETE FROM schedules WHERE repository = $1 AND file = $2 AND cron = $3 AND timezone = $4";
    conn.run(sql, args![&one.repository, &one.file, one.schedule.text(), zone(one)]).await?;
    Ok(())
}

/// Takes a time of a schedule; `false` where somebody has it already.
pub(crate) async fn take_slot(
    conn: &mut Conn,
    one: &ScheduleRecord,
    due: Timestamp,
    delivery: &DeliveryId,
) -> Result<bool> {
    let sql = "INSERT INTO schedule_slots (repository, file, cron, timezone, due, delivery_id)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    let args = args![&one.repository, &one.file, one.schedule.text(), zone(one), due, delivery];
    Ok(conn.run(sql, args).await? > 0)
}

/// Forgets the times that nobody will ask for again.
pub(crate) async fn forget_slots(conn: &mut Conn, before: Timestamp) -> Result<()> {
    conn.run("DELETE FROM schedule_slots WHERE due < $1", args![before]).await?;
    Ok(())
}

fn zone(one: &ScheduleRecord) -> &str {
    one.schedule.timezone().unwrap_or_default()
}

fn record(row: &Row) -> Result<ScheduleRecord> {
    let corrupt = |problem: String| StoreError::corrupt("schedules", problem);
    let schedule = Schedule::parse(&row.text("cron")?).map_err(|error| corrupt(error.to_string()))?;
    let zone = row.text("timezone")?;
    let schedule = if zone.is_empty() { schedule } else { schedule.in_timezone(&zone).map_err(corrupt)? };
    Ok(ScheduleRecord { repository: row.text("repository")?, file: row.text("file")?, schedule })
}
