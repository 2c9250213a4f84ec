//! Backups of services: whether one is wanted before a rollout, what it is called, and which of them stay.
//!
//! Comes in: a rollout's specification with its journal, and the backups that there are. Goes out: what is to be done. Never here: taking
//! one, which is a host's work.

use segue_schemas::{
    deploy::{BackupKeep, JournalEntry, JournalKind, RolloutSpec, Strategy},
    id::{BackupId, InvalidId, ReleaseId, RolloutId},
    time::Timestamp,
};

/// The most backups of a service that `days` keeps in an environment.
const MOST_BY_AGE: usize = 1000;

/// How often a backup is begun for one rollout: a host that ends meanwhile leaves nothing of it, and another try may fare better.
pub const TRIES: usize = 3;

/// What is to be done before a rollout changes anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// Nothing: the service asks for none here, it goes back to an earlier release, which must not wait, or it was done.
    Nothing,
    /// A backup is asked for, but there are no data yet.
    FirstRelease,
    /// One is to be taken. One that was begun and of whose end nobody has heard is gone on with under its name.
    BackUp(Option<BackupId>),
}

/// What is to be done before a rollout changes anything, as its journal has it.
#[must_use]
pub fn before(spec: &RolloutSpec, has_begun: bool, journal: &[JournalEntry]) -> Before {
    let Some(backup) = &spec.service.backup else { return Before::Nothing };
    let restores = spec.strategy.brings_data();
    let is_wanted = restores || backup.environments.contains(&spec.environment);
    // a person's word is followed first: one that was aborted changes nothing, and needs no backup
    if !is_wanted || spec.is_rollback || spec.strategy == Strategy::Remove || has_begun {
        return Before::Nothing;
    }
    if journal.iter().any(|entry| entry.kind == JournalKind::BackedUp) {
        return Before::Nothing;
    }
    if spec.previous.is_none() {
        return Before::FirstRelease;
    }
    Before::BackUp(begun(journal))
}

/// The backup that was begun last for a rollout.
#[must_use]
pub fn begun(journal: &[JournalEntry]) -> Option<BackupId> {
    let intent = journal.iter().rev().find(|entry| entry.kind == JournalKind::BackUpIntent)?;
    intent.detail["backup"].as_str()?.parse().ok()
}

/// The name of a backup that is begun now, for a rollout. `tries`: how many were begun before for the same one.
///
/// # Errors
/// The names that it is made of are no names.
pub fn named(
    environment: &str,
    service: &str,
    release: ReleaseId,
    rollout: RolloutId,
    now: Timestamp,
    tries: usize,
) -> Result<BackupId, InvalidId> {
    let at = now.as_chrono().format("%Y%m%d-%H%M%S");
    let again = if tries == 0 { String::new() } else { format!(".{}", tries + 1) };
    format!("{environment}-{service}-{at}-r{release}-{rollout}{again}").parse()
}

/// Which of a service's backups in an environment go, by when each was begun. The newest always stays.
#[must_use]
pub fn outlived(kept: &[(BackupId, Timestamp)], keep: BackupKeep, now: Timestamp) -> Vec<BackupId> {
    let mut newest_first: Vec<&(BackupId, Timestamp)> = kept.iter().collect();
    newest_first.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
    let last = usize::try_from(keep.last).unwrap_or(usize::MAX).max(1);
    let young = |at: Timestamp| {
        keep.days.is_some_and(|days| now.since(at).as_secs() < u64::from(days).saturating_mul(24 * 3600))
    };
    let goes =
        |(place, (_, at)): &(usize, &(BackupId, Timestamp))| *place >= last && (*place >= MOST_BY_AGE || !young(*at));
    newest_first.into_iter().enumerate().filter(goes).map(|(_, (id, _))| id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use segue_schemas::{
        deploy::{BackupHosts, Release, ServiceBackup, ServiceSpec},
        id::{Epoch, RunId},
    };
    use serde_json::json;

    use super::*;

    const DAY_MS: i64 = 24 * 3600 * 1000;
    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    #[track_caller]
    fn check(ages_in_days: &[i64], last: u32, days: Option<u32>, go: &[i64]) {
        let id = |age: &i64| format!("b-{age}").parse::<BackupId>().unwrap();
        let kept: Vec<_> = ages_in_days.iter().map(|age| (id(age), Timestamp(NOW.0 - age * DAY_MS - 1))).collect();
        let gone = outlived(&kept, BackupKeep { last, days }, NOW);
        assert_eq!(gone, go.iter().map(id).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_neither_among_the_last_nor_young_goes() {
        check(&[], 3, None, &[]);
        check(&[9, 8, 7], 3, None, &[]);
        check(&[9, 8, 7, 1], 3, None, &[9]);
        // in whatever order they are told
        check(&[1, 9, 7, 8], 2, None, &[8, 9]);
        // young ones stay beyond the number, old ones within it
        check(&[0, 1, 2, 3, 40], 2, Some(3), &[3, 40]);
        check(&[50, 60, 70], 2, Some(3), &[70]);
        // the newest stays whatever is asked for
        check(&[90], 0, Some(1), &[]);
    }

    #[test]
    fn what_days_keep_is_bounded() {
        let kept: Vec<_> =
            (0..1200).map(|n| (format!("b-{n}").parse().unwrap(), Timestamp(NOW.0 - n * 1000))).collect();
        let gone = outlived(&kept, BackupKeep { last: 2, days: Some(30) }, NOW);
        assert_eq!((gone.len(), gone[0].as_str()), (200, "b-1000"));
    }

    fn spec() -> RolloutSpec {
        let release = |id| Release {
            id: ReleaseId(id),
            repository: "o/r".into(),
            service: "web".into(),
            digest: format!("sha256:{id:064x}").parse().unwrap(),
            image: None,
            commit: format!("{id:040x}").parse().unwrap(),
            run: RunId(1),
            created_at: Timestamp(0),
        };
        let backup = ServiceBackup {
            run: "cat data".into(),
            container: None,
            restore: None,
            environments: vec!["production".into()],
            keep: BackupKeep::default(),
            timeout_minutes: 30,
            hosts: BackupHosts::First,
        };
        RolloutSpec {
            release: release(2),
            service: ServiceSpec { backup: Some(backup), ..ServiceSpec::named("web".into()) },
            environment: "production".into(),
            hosts: vec!["local".into()],
            strategy: Strategy::HotSwap,
            previous: Some(release(1)),
            is_rollback: false,
            variables: [].into(),
            sleep_after: None,
            data: None,
            repair: None,
        }
    }

    fn entry(kind: JournalKind, backup: &str) -> JournalEntry {
        let detail = json!({ "backup": backup });
        JournalEntry { sequence: 1, epoch: Epoch(1), at: NOW, kind, host: None, detail }
    }

    #[test]
    fn a_release_that_comes_to_production_waits_for_a_backup_of_the_one_there() {
        assert_eq!(before(&spec(), false, &[]), Before::BackUp(None));
        assert_eq!(before(&RolloutSpec { previous: None, ..spec() }, false, &[]), Before::FirstRelease);
        let intent = entry(JournalKind::BackUpIntent, "b-1");
        let again = before(&spec(), false, std::slice::from_ref(&intent));
        assert_eq!(again, Before::BackUp(Some("b-1".parse().unwrap())), "what was begun is gone on with");
        let done = [intent, entry(JournalKind::BackedUp, "b-1")];
        assert_eq!(before(&spec(), false, &done), Before::Nothing, "once is enough");
    }

    #[test]
    fn nothing_else_waits_for_one() {
        let staging = RolloutSpec { environment: "staging".into(), ..spec() };
        let back = RolloutSpec { is_rollback: true, ..spec() };
        let removal = RolloutSpec { strategy: Strategy::Remove, ..spec() };
        let without = RolloutSpec { service: ServiceSpec::named("web".into()), ..spec() };
        for other in [staging.clone(), back, removal, without] {
            assert_eq!(before(&other, false, &[]), Before::Nothing, "{other:?}");
        }
        assert_eq!(before(&spec(), true, &[]), Before::Nothing, "it has begun to change something");
        let restore = Strategy::Restore { backup: "b-1".parse().unwrap() };
        let restored = RolloutSpec { strategy: restore, ..staging };
        assert_eq!(
            before(&restored, false, &[]),
            Before::BackUp(None),
            "what is overwritten can be had back, anywhere"
        );
    }

    #[test]
    fn a_backup_is_named_by_what_it_holds() {
        let name = |tries| named("production", "web", ReleaseId(7), RolloutId(12), NOW, tries).unwrap().to_string();
        assert_eq!(name(0), "production-web-20231114-221320-r7-12");
        assert_eq!(name(1), "production-web-20231114-221320-r7-12.2");
    }
}
