//! Rollback points as git tags: after a promotion `rollback-YYYYMMDD-HHMMSS` is pushed to the repository that the release
//! came from. Comes in: the store's list of tags that are wanted. Goes out: a push each, or a note why there is none. A tag
//! that can't be pushed is a note, never an error: the rollback point itself is in the store.

use std::{sync::Arc, time::Duration};

use segue_schemas::config::Config;
use tokio_util::sync::CancellationToken;

use crate::{
    mirror::{Mirrors, RefName, RepositoryName, Source, Wanted},
    store::{Bell, Result, Store, WantedTag},
};

/// Tags that are looked at in one go.
const AT_A_TIME: u32 = 16;
/// Tries of a push, and the pause after the first; it doubles.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Pushes tags.
pub struct Tagger {
    store: Store,
    mirrors: Arc<Mirrors>,
    config: Arc<Config>,
}

impl Tagger {
    /// A tagger that pushes out of `mirrors`.
    #[must_use]
    pub fn new(store: Store, mirrors: Arc<Mirrors>) -> Self {
        let config = store.config().clone();
        Self { store, mirrors, config }
    }

    /// Pushes until `stop`; what is wanted then is pushed after the next start.
    pub async fn run(self, stop: CancellationToken) {
        let mut bell = self.store.doorbell().listen(Bell::Tags);
        loop {
            tokio::select! {
                done = self.push_wanted() => if let Err(error) = done {
                    tracing::warn!(%error, "tags that are wanted can't be read or recorded");
                },
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = bell.rung() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn push_wanted(&self) -> Result<()> {
        loop {
            let wanted = self.store.wanted_tags(AT_A_TIME).await?;
            if wanted.is_empty() {
                return Ok(());
            }
            for tag in wanted {
                let refused = self.push(&tag).await.err();
                if let Some(reason) = &refused {
                    tracing::info!(
                        tag = tag.tag,
                        repository = tag.repository,
                        reason,
                        "a rollback point has no git tag"
                    );
                }
                self.store.tag_pushed(&tag.tag, refused).await?;
            }
        }
    }

    /// Pushes one tag, or says why it won't be pushed.
    async fn push(&self, wanted: &WantedTag) -> std::result::Result<(), String> {
        let repository = self.config.repositories.get(&wanted.repository);
        let allowed = repository.and_then(|repository| repository.rollback_tags);
        if allowed == Some(false) {
            return Err("`rollback-tags` is off for the repository".into());
        }
        let name = RepositoryName::parse(&wanted.repository).map_err(|error| error.to_string())?;
        let source = match repository.and_then(|repository| repository.clone_url.as_deref()) {
            Some(address) => Source::parse(address).map_err(|error| error.to_string())?,
            None => self.mirrors.last_source(&name).await.ok_or("nothing says where the repository is")?,
        };
        let git_ref = RefName::parse(&format!("refs/tags/{}", wanted.tag)).map_err(|error| error.to_string())?;
        // where nobody said that tags may be pushed, one refusal is an answer
        let tries = if allowed == Some(true) || source.is_local() { TRIES } else { 1 };
        let mut pause = FIRST_PAUSE;
        for rest in (0..tries).rev() {
            match self.push_once(&name, &source, &git_ref, wanted).await {
                Ok(()) => return Ok(()),
                Err(error) if rest == 0 => return Err(error),
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause *= 2;
        }
        Ok(())
    }

    async fn push_once(
        &self,
        name: &RepositoryName,
        source: &Source,
        git_ref: &RefName,
        wanted: &WantedTag,
    ) -> std::result::Result<(), String> {
        // a mirror that was removed meanwhile is made again
        let commit = Wanted { commit: wanted.commit.clone(), git_ref: git_ref.clone() };
        self.mirrors.ensure(name, source, &[commit]).await.map_err(|error| error.to_string())?;
        self.mirrors.push_tag(name, source, &wanted.tag, &wanted.commit).await.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{REPOSITORY, Stand};

    async fn tagger(stand: &Stand, change: impl FnOnce(&mut Config)) -> Tagger {
        let running = stand.running.as_ref().unwrap();
        let mut config = running.reach.config.as_ref().clone();
        change(&mut config);
        let data = stand.data().join("another");
        let options =
            crate::store::StoreOptions { data, config: Arc::new(config.clone()), clock: crate::store::Clock::system() };
        let store = Store::open(options).await.unwrap();
        Tagger { store, mirrors: Arc::new(Mirrors::new(stand.data().join("mirrors"))), config: Arc::new(config) }
    }

    fn wanted(commit: &segue_schemas::id::CommitSha) -> WantedTag {
        WantedTag { tag: "rollback-20260102-030405".into(), repository: REPOSITORY.into(), commit: commit.clone() }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_rollback_point_becomes_a_tag_of_the_repository_it_came_from() {
        let stand = Stand::start().await;
        let commit = stand.push("d1", &[("a", "1")]).await;
        stand.settled("d1").await;
        // without a word in the operator's file it is pushed to where the commit was fetched from
        let tagger = tagger(&stand, |config| config.repositories.clear()).await;
        tagger.push(&wanted(&commit)).await.unwrap();
        let git_ref = RefName::parse("refs/tags/rollback-20260102-030405").unwrap();
        let (_, target) = tagger.mirrors.resolve(&stand.upstream.source(), Some(&git_ref)).await.unwrap();
        assert_eq!(target, commit);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn where_tags_are_off_or_not_taken_there_is_a_note() {
        let stand = Stand::start().await;
        let commit = stand.upstream.commit("main", &[("a", "1")]);
        let off = tagger(&stand, |config| config.repositories[REPOSITORY].rollback_tags = Some(false)).await;
        assert!(off.push(&wanted(&commit)).await.unwrap_err().contains("`rollback-tags` is off"));
        drop(off);
        let away = tagger(&stand, |config| {
            config.repositories[REPOSITORY].clone_url = Some("http://127.0.0.1:9/acme/shop.git".into());
        })
        .await;
        assert!(away.push(&wanted(&commit)).await.unwrap_err().contains("127.0.0.1:9"));
    }
}
