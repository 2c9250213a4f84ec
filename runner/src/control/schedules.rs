//! Pipelines that time starts: what is scheduled, and what is due.

use std::time::Duration;

use segue_pipelines::schedule::Schedule;
use segue_schemas::{
    id::{CommitSha, DeliveryId},
    time::Timestamp,
    trigger::{Event, Trigger},
};
use uuid::Uuid;

use crate::store::{
    Bell, Meaning, NewDelivery, Payload, Result, ScheduleRecord, Store, StoreError, Tx,
    tables::{deliveries, schedules},
};

/// Schedules that are looked after in one transaction; the next one takes the rest.
const AT_ONCE: u32 = 50;
/// How long it is remembered that a time has come.
const SLOTS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

impl Store {
    /// Stores what the default branch of a repository says of its schedules. One that is there already keeps its next time, a
    /// new one begins now. Nothing is written where nothing has changed.
    pub async fn set_schedules(&self, repository: &str, wanted: Vec<(String, Schedule)>) -> Result<()> {
        let record = |(file, schedule)| ScheduleRecord { repository: repository.to_owned(), file, schedule };
        let wanted: Vec<ScheduleRecord> = wanted.into_iter().map(record).collect();
        let stored = schedules::of_repository(&mut self.read().await?, repository).await?;
        if stored.len() == wanted.len() && wanted.iter().all(|one| stored.contains(one)) {
            return Ok(());
        }
        let repository = repository.to_owned();
        self.write(move |tx| Box::pin(async move { set(tx, &repository, wanted).await })).await
    }

    /// The repositories whose default branch had schedules when it was last read.
    pub async fn scheduled_repositories(&self) -> Result<Vec<String>> {
        schedules::repositories(&mut self.read().await?).await
    }

    /// When the next time of any schedule comes.
    pub async fn next_schedule_due(&self) -> Result<Option<Timestamp>> {
        schedules::next_due(&mut self.read().await?).await
    }

    /// Makes a delivery for each schedule whose time has come: each time once, however many servers ask. Of the times that
    /// passed while nobody asked, the latest alone. Gives how many it made.
    pub async fn fire_schedules(&self) -> Result<usize> {
        let mut fired = 0;
        loop {
            let (seen, made) = self.write(|tx| Box::pin(async move { fire(tx).await })).await?;
            fired += made;
            if seen < AT_ONCE as usize {
                return Ok(fired);
            }
        }
    }
}

async fn set(tx: &mut Tx, repository: &str, wanted: Vec<ScheduleRecord>) -> Result<()> {
    let stored = schedules::of_repository(&mut tx.conn, repository).await?;
    for gone in stored.iter().filter(|one| !wanted.contains(one)) {
        schedules::remove(&mut tx.conn, gone).await?;
    }
    for new in wanted.iter().filter(|one| !stored.contains(one)) {
        if let Some(next) = new.schedule.next_after(tx.now) {
            schedules::put(&mut tx.conn, new, next).await?;
        }
    }
    tx.ring(Bell::Schedules);
    Ok(())
}

async fn fire(tx: &mut Tx) -> Result<(usize, usize)> {
    let due = schedules::due(&mut tx.conn, tx.now, AT_ONCE).await?;
    let mut made = 0;
    for one in &due {
        if let Some(latest) = one.schedule.latest(tx.now) {
            made += usize::from(deliver(tx, one, latest).await?);
        }
        match one.schedule.next_after(tx.now) {
            Some(next) => schedules::put(&mut tx.conn, one, next).await?,
            None => schedules::remove(&mut tx.conn, one).await?,
        }
    }
    if made > 0 {
        schedules::forget_slots(&mut tx.conn, Timestamp(tx.now.0 - SLOTS_KEPT.as_millis() as i64)).await?;
    }
    Ok((due.len(), made))
}

/// Whether the time was nobody's yet, and has its delivery now.
async fn deliver(tx: &mut Tx, one: &ScheduleRecord, due: Timestamp) -> Result<bool> {
    let id: DeliveryId =
        Uuid::now_v7().to_string().parse().map_err(|error| StoreError::corrupt("a delivery's id", error))?;
    if !schedules::take_slot(&mut tx.conn, one, due, &id).await? {
        return Ok(false);
    }
    let event = Event::Schedule {
        r#ref: String::new(),
        commit: CommitSha::zero(),
        file: Some(one.file.clone()),
        cron: Some(one.schedule.text().to_owned()),
        timezone: one.schedule.timezone().map(str::to_owned),
        due,
    };
    let repository = one.repository.clone();
    let delivery = NewDelivery {
        id,
        event: event.name().into(),
        repository: Some(repository.clone()),
        payload: Payload::Inline(String::new()),
        meaning: Meaning::Starts(Trigger {
            repository,
            clone_url: None,
            actor: "schedule".into(),
            authors: Vec::new(),
            event,
        }),
    };
    let new = deliveries::insert(&mut tx.conn, &delivery, tx.now).await?;
    tx.ring(Bell::Deliveries);
    Ok(new)
}
