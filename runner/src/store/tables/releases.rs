use segue_schemas::{
    deploy::Release,
    id::{JobId, ReleaseId, RolloutId, RunId},
    time::Timestamp,
};

use crate::store::{
    ReleaseFilter, Result, RollbackPoint, StoreError, WantedTag,
    sql::{Conn, Row, args},
};

/// What serves a pair of environment and service, and what served before.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    pub(crate) current: Release,
    pub(crate) previous: Option<ReleaseId>,
}

/// The release with these parts; made if it is not there. Its number and time are those of the first.
pub(crate) async fn get_or_insert(conn: &mut Conn, new: Release) -> Result<Release> {
    let sql = "SELECT * FROM releases WHERE repository = $1 AND service = $2 AND digest = $3 AND commit_sha = $4
            AND COALESCE(image, '') = $5";
    let image = new.image.as_deref().unwrap_or_default();
    let args = args![&new.repository, &new.service, &new.digest, &new.commit, image];
    if let Some(row) = conn.first(sql, args).await? {
        return release(&row);
    }
    let id = ReleaseId(conn.next_number("release").await?);
    let made = Release { id, ..new };
    insert(conn, &made).await?;
    Ok(made)
}

/// Stores a release that is known from elsewhere, under the number that it has.
pub(crate) async fn insert_known(conn: &mut Conn, known: &Release) -> Result<()> {
    if find(conn, known.id).await?.is_none() {
        insert(conn, known).await?;
        let sql = "UPDATE counters SET value = $1 WHERE name = 'release' AND value < $1";
        conn.run(sql, args![known.id]).await?;
    }
    Ok(())
}

async fn insert(conn: &mut Conn, made: &Release) -> Result<()> {
    let sql = "INSERT INTO releases (id, repository, service, digest, commit_sha, run_id, created_at, image)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let Release { id, repository, service, digest, image, commit, run, created_at } = made;
    conn.run(sql, args![*id, repository, service, digest, commit, *run, *created_at, image.as_ref()]).await?;
    Ok(())
}

pub(crate) async fn find(conn: &mut Conn, id: ReleaseId) -> Result<Option<Release>> {
    conn.first("SELECT * FROM releases WHERE id = $1", args![id]).await?.as_ref().map(release).transpose()
}

pub(crate) async fn load(conn: &mut Conn, id: ReleaseId) -> Result<Release> {
    find(conn, id).await?.ok_or_else(|| StoreError::not_found("release", id))
}

pub(crate) async fn list(conn: &mut Conn, filter: &ReleaseFilter) -> Result<Vec<Release>> {
    let sql = "SELECT * FROM releases WHERE ($1 IS NULL OR repository = $1) AND ($2 IS NULL OR service = $2)
            AND ($3 IS NULL OR id IN (SELECT release_id FROM rollouts WHERE environment = $3 AND status = 'succeeded'))
        ORDER BY id DESC LIMIT $4";
    let args = args![
        filter.repository.as_ref(),
        filter.service.as_ref(),
        filter.environment.as_ref(),
        filter.limit.clamp(1, 200)
    ];
    conn.all(sql, args).await?.iter().map(release).collect()
}

/// What serves.
pub(crate) async fn serving(conn: &mut Conn, environment: &str, service: &str) -> Result<Option<Serving>> {
    let sql = "SELECT releases.*, previous_id FROM current_releases JOIN releases ON releases.id = release_id
        WHERE environment = $1 AND current_releases.service = $2";
    let row = conn.first(sql, args![environment, service]).await?;
    row.map(|row| Ok(Serving { current: release(&row)?, previous: row.maybe_int("previous_id")?.map(ReleaseId) }))
        .transpose()
}

/// Whether what a rollout brought serves.
pub(crate) async fn is_serving(conn: &mut Conn, environment: &str, service: &str, rollout: RolloutId) -> Result<bool> {
    let sql = "SELECT rollout_id FROM current_releases WHERE environment = $1 AND service = $2 AND rollout_id = $3";
    Ok(conn.first(sql, args![environment, service, rollout]).await?.is_some())
}

/// Whether what a job's newest rollout brought serves, and something served before.
pub(crate) async fn has_way_back(conn: &mut Conn, job: JobId) -> Result<bool> {
    let sql = "SELECT r.id FROM rollouts r JOIN current_releases c ON c.rollout_id = r.id
        WHERE r.job_id = $1 AND c.previous_id IS NOT NULL LIMIT 1";
    Ok(conn.first(sql, args![job]).await?.is_some())
}

/// The run whose rollout brought what serves.
pub(crate) async fn run_that_serves(conn: &mut Conn, environment: &str, service: &str) -> Result<Option<RunId>> {
    let sql = "SELECT r.run_id FROM current_releases c JOIN rollouts r ON r.id = c.rollout_id
        WHERE c.environment = $1 AND c.service = $2";
    let row = conn.first(sql, args![environment, service]).await?;
    row.map_or(Ok(None), |row| Ok(row.maybe_int("run_id")?.map(RunId)))
}

/// From now on this release serves; what served before is the way back.
pub(crate) async fn set_serving(
    conn: &mut Conn,
    environment: &str,
    to: &Release,
    rollout: RolloutId,
    now: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO current_releases (environment, service, release_id, previous_id, rollout_id, since)
        VALUES ($1, $2, $3, NULL, $4, $5)
        ON CONFLICT (environment, service) DO UPDATE SET
            previous_id = CASE WHEN current_releases.release_id = excluded.release_id THEN current_releases.previous_id
                ELSE current_releases.release_id END,
            release_id = excluded.release_id, rollout_id = excluded.rollout_id, since = excluded.since";
    conn.run(sql, args![environment, &to.service, to.id, rollout, now]).await?;
    Ok(())
}

/// The rollout that brought what serves, and since when it does.
pub(crate) async fn served_by(
    conn: &mut Conn,
    environment: &str,
    service: &str,
) -> Result<Option<(RolloutId, Timestamp)>> {
    let sql = "SELECT rollout_id, since FROM current_releases WHERE environment = $1 AND service = $2";
    let Some(row) = conn.first(sql, args![environment, service]).await? else { return Ok(None) };
    Ok(Some((RolloutId(row.int("rollout_id")?), row.time("since")?)))
}

/// From now on nothing serves there.
pub(crate) async fn forget_serving(conn: &mut Conn, environment: &str, service: &str) -> Result<()> {
    let sql = "DELETE FROM current_releases WHERE environment = $1 AND service = $2";
    conn.run(sql, args![environment, service]).await.map(drop)
}

/// Every pair that something serves: environment, service, release.
pub(crate) async fn all_serving(conn: &mut Conn) -> Result<Vec<(String, Release)>> {
    let sql = "SELECT releases.*, environment FROM current_releases JOIN releases ON releases.id = release_id
        ORDER BY environment, releases.service LIMIT 10000";
    conn.all(sql, args![]).await?.iter().map(|row| Ok((row.text("environment")?, release(row)?))).collect()
}

/// Makes a release a rollback point of an environment, unless it is one. `tag_wanted`: whether its git tag is to be pushed.
pub(crate) async fn insert_point(
    conn: &mut Conn,
    environment: &str,
    to: &Release,
    rollout: RolloutId,
    tag_wanted: bool,
    now: Timestamp,
) -> Result<bool> {
    let sql = "SELECT tag FROM rollback_points WHERE environment = $1 AND service = $2 AND release_id = $3";
    if conn.first(sql, args![environment, &to.service, to.id]).await?.is_some() {
        return Ok(false);
    }
    let tag = free_tag(conn, now).await?;
    let sql = "INSERT INTO rollback_points (tag, environment, service, release_id, rollout_id, created_at, tagged)
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let tagged = if tag_wanted { "wanted" } else { "off" };
    conn.run(sql, args![tag, environment, &to.service, to.id, rollout, now, tagged]).await?;
    Ok(true)
}

/// `rollback-YYYYMMDD-HHMMSS`, with a number behind it where that second has one.
async fn free_tag(conn: &mut Conn, now: Timestamp) -> Result<String> {
    let base = now.as_chrono().format("rollback-%Y%m%d-%H%M%S").to_string();
    let sql = "SELECT COUNT(*) AS n FROM rollback_points WHERE tag = $1 OR tag LIKE $1 || '-%'";
    let taken: u64 = conn.first(sql, args![&base]).await?.map_or(Ok(0), |row| row.count("n"))?;
    Ok(if taken == 0 { base } else { format!("{base}-{}", taken + 1) })
}

/// Rollback points, newest first.
pub(crate) async fn points(
    conn: &mut Conn,
    environment: Option<&str>,
    service: Option<&str>,
    release_id: Option<ReleaseId>,
) -> Result<Vec<RollbackPoint>> {
    let sql = "SELECT releases.*, p.tag, p.environment, p.rollout_id AS point_rollout, p.created_at AS point_at,
            CASE WHEN c.release_id = p.release_id THEN 1 ELSE 0 END AS is_current
        FROM rollback_points p JOIN releases ON releases.id = p.release_id
            LEFT JOIN current_releases c ON c.environment = p.environment AND c.service = p.service
        WHERE ($1 IS NULL OR p.environment = $1) AND ($2 IS NULL OR p.service = $2) AND ($3 IS NULL OR p.release_id = $3)
        ORDER BY p.created_at DESC, p.tag DESC LIMIT 1000";
    let rows = conn.all(sql, args![environment, service, release_id]).await?;
    rows.iter()
        .map(|row| {
            Ok(RollbackPoint {
                tag: row.text("tag")?,
                environment: row.text("environment")?,
                release: release(row)?,
                rollout: RolloutId(row.int("point_rollout")?),
                created_at: row.time("point_at")?,
                current: row.flag("is_current")?,
            })
        })
        .collect()
}

pub(crate) async fn wanted_tags(conn: &mut Conn, limit: u32) -> Result<Vec<WantedTag>> {
    let sql = "SELECT tag, repository, commit_sha FROM rollback_points p JOIN releases ON releases.id = p.release_id
        WHERE tagged = 'wanted' ORDER BY p.created_at, tag LIMIT $1";
    let rows = conn.all(sql, args![limit]).await?;
    rows.iter()
        .map(|row| {
            Ok(WantedTag {
                tag: row.text("tag")?,
                repository: row.text("repository")?,
                commit: row.parsed("commit_sha")?,
            })
        })
        .collect()
}

pub(crate) async fn tag_pushed(conn: &mut Conn, tag: &str, refused: Option<String>) -> Result<()> {
    let word = if refused.is_some() { "refused" } else { "done" };
    conn.run("UPDATE rollback_points SET tagged = $2, tag_error = $3 WHERE tag = $1", args![tag, word, refused])
        .await?;
    Ok(())
}

fn release(row: &Row) -> Result<Release> {
    Ok(Release {
        id: ReleaseId(row.int("id")?),
        repository: row.text("repository")?,
        service: row.text("service")?,
        digest: row.parsed("digest")?,
        image: row.maybe_text("image")?,
        commit: row.parsed("commit_sha")?,
        run: RunId(row.int("run_id")?),
        created_at: row.time("created_at")?,
    })
}
