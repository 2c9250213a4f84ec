//! What a host carries of previews, against what there is to be: it puts them to sleep and wakes them by itself; it may carry one that
//! nobody knows of any more, after the database went back to an earlier state; and it may have lost one. Comes in: what a worker tells of a
//! host. Goes out: how previews stand, and removals.

use std::time::Duration;

use indexmap::IndexMap;
use segue_pipelines::preview::{ENVIRONMENT, is_preview};
use segue_schemas::{
    config::PreviewConfig,
    deploy::{Release, Rollout, RolloutSpec, ServiceSpec, Strategy},
    preview::{Preview, PreviewState},
};

use super::{previews::remove, rollouts::next_id};
use crate::store::{
    Bell, Result, Store, StoreError, Tx,
    sql::Conn,
    tables::{
        previews, releases,
        rollouts::{self, StoredRollout},
    },
};

/// How long ago a preview must have come to serve that a host is believed to have lost: what a host tells is younger.
const SETTLED: Duration = Duration::from_secs(120);

const UNKNOWN: &str = "the host carries a preview that nothing is known of here; where no other Segue uses the host, \
    `environments.preview.remove-unknown: true` has it taken away";
const LOST: &str = "the host does not carry a preview that serves there; where every host has a name of its own, \
    `environments.preview.remove-unknown: true` has it no longer listed, and a push makes it again";

/// A service that a host carries in the environment of previews.
#[derive(Debug, Clone)]
pub struct Carried {
    /// Its name.
    pub name: String,
    /// The host name that it is reached by.
    pub address: Option<String>,
    /// What serves.
    pub release: Release,
    /// Whether it sleeps.
    pub is_asleep: bool,
}

/// Where a host and the store say different things.
enum Difference {
    /// It was put to sleep or woken.
    Nap(Preview, PreviewState),
    /// There is to be none of that name.
    Stray(Carried),
    /// It is not there.
    Lost(Preview),
}

impl Difference {
    /// Whether a host's word is enough for it, whatever the configuration says; what it is not enough for is told in the log.
    fn goes_by_its_word(&self, host: &str) -> bool {
        match self {
            Self::Nap(..) => return true,
            Self::Stray(carried) => tracing::warn!(host, preview = carried.name, "{UNKNOWN}"),
            Self::Lost(preview) => tracing::warn!(host, preview = preview.name, "{LOST}"),
        }
        false
    }
}

impl Store {
    /// A host carries these services in the environment of previews, and no others.
    ///
    /// What is a stray or lost by a host's word alone is taken away where `remove-unknown` says that the word can be relied on: another
    /// Segue at the same host knows of what is a stray here, and another host of the same name carries what is lost here.
    pub async fn host_carries(&self, host: &str, carried: Vec<Carried>) -> Result<()> {
        if !self.is_host(host).await? {
            return Ok(());
        }
        let acts = self.environment(ENVIRONMENT).previews().remove_unknown;
        let mut found = differences(self, &mut self.read().await?, host, &carried).await?;
        if !acts {
            found.retain(|difference| difference.goes_by_its_word(host));
        }
        if found.is_empty() {
            return Ok(());
        }
        let (store, host) = (self.clone(), host.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                for difference in differences(&store, &mut tx.conn, &host, &carried).await? {
                    match difference {
                        Difference::Nap(mut preview, state) => {
                            if state == PreviewState::Serving {
                                preview.touched_at = tx.now;
                            }
                            preview.state = state;
                            // its comment says what a push or its end has changed
                            previews::save(&mut tx.conn, &preview).await?;
                        }
                        Difference::Stray(_) | Difference::Lost(_) if !acts => {}
                        Difference::Stray(carried) => take_away(tx, &host, carried).await?,
                        Difference::Lost(preview) => {
                            let reason = format!("host `{host}` does not carry it any more");
                            remove(&store, tx, &preview, &reason).await?;
                        }
                    }
                }
                Ok(())
            })
        })
        .await
    }
}

async fn differences(store: &Store, conn: &mut Conn, host: &str, carried: &[Carried]) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    for one in carried {
        match previews::find(conn, &one.name).await? {
            // one of an earlier place goes with its pull request, and says nothing of the one that is
            Some(known) if known.state != PreviewState::Gone && !is_at(conn, host, &known).await? => {}
            Some(known) if known.state == PreviewState::Serving && one.is_asleep => {
                found.push(Difference::Nap(known, PreviewState::Asleep));
            }
            Some(known) if known.state == PreviewState::Asleep && !one.is_asleep => {
                found.push(Difference::Nap(known, PreviewState::Serving));
            }
            Some(known) if known.state != PreviewState::Gone => {}
            _ if is_stray(store, conn, one).await? => found.push(Difference::Stray(one.clone())),
            _ => {}
        }
    }
    for preview in previews::list(conn, false).await? {
        let serves = matches!(preview.state, PreviewState::Serving | PreviewState::Asleep);
        if serves && !carried.iter().any(|one| one.name == preview.name) && is_lost(store, conn, host, &preview).await?
        {
            found.push(Difference::Lost(preview));
        }
    }
    Ok(found)
}

/// Whether it is a preview by name and address, and nothing is known that brings it or has brought it.
async fn is_stray(store: &Store, conn: &mut Conn, one: &Carried) -> Result<bool> {
    let PreviewConfig { domain, fork_domain, .. } = store.environment(ENVIRONMENT).previews();
    let is_address = |domain: &String| one.address.as_ref() == Some(&format!("{}.{domain}", one.name));
    if !is_preview(&one.name) || !(is_address(&domain) || fork_domain.as_ref().is_some_and(is_address)) {
        return Ok(false);
    }
    Ok(releases::serving(conn, ENVIRONMENT, &one.name).await?.is_none()
        && rollouts::open_of_pair(conn, ENVIRONMENT, &one.name).await?.is_empty())
}

/// Whether it came to serve at that host, so long ago that the host would tell of it.
async fn is_lost(store: &Store, conn: &mut Conn, host: &str, preview: &Preview) -> Result<bool> {
    let rollout = newest(conn, host, preview).await?;
    Ok(rollout.and_then(|it| it.ended_at).is_some_and(|ended| store.now().since(ended) >= SETTLED))
}

/// Whether its newest rollout is that host's.
async fn is_at(conn: &mut Conn, host: &str, preview: &Preview) -> Result<bool> {
    Ok(newest(conn, host, preview).await?.is_some())
}

/// The preview's newest rollout, where it is that host's.
async fn newest(conn: &mut Conn, host: &str, preview: &Preview) -> Result<Option<Rollout>> {
    let Some(rollout) = preview.rollout else { return Ok(None) };
    match rollouts::load(conn, rollout).await {
        Ok(found) => Ok(Some(found.record.rollout).filter(|it| it.spec.hosts.iter().any(|name| name == host))),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Has a host take away what nobody knows of.
async fn take_away(tx: &mut Tx, host: &str, carried: Carried) -> Result<()> {
    let release = releases::get_or_insert(&mut tx.conn, carried.release).await?;
    let spec = RolloutSpec {
        service: ServiceSpec::named(carried.name.clone()),
        release,
        environment: ENVIRONMENT.into(),
        hosts: vec![host.to_owned()],
        strategy: Strategy::Remove,
        previous: None,
        is_rollback: false,
        variables: IndexMap::new(),
        sleep_after: None,
        data: None,
        repair: None,
    };
    let removal = StoredRollout::new(next_id(tx).await?, spec, "segue".into(), tx.now);
    rollouts::insert(&mut tx.conn, &removal).await?;
    tracing::warn!(host, preview = carried.name, rollout = %removal.id(), "a preview that nobody knows of is taken away");
    tx.ring(Bell::Rollouts);
    Ok(())
}
