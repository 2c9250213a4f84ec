//! Data of one environment that come to another: whether they may, by which commands, from which host to which, and under what name.
//!
//! Comes in: what serves in both, and the journal. Goes out: what is to be done, or why not. Never here: reading data, which is
//! [`crate::sanitise`]'s.

use std::collections::BTreeMap;

use segue_schemas::{
    config::EnvironmentConfig,
    deploy::{JournalEntry, JournalKind, Release, ServiceSpec},
    id::{BackupId, Digest, InvalidId, RolloutId},
    sync::{SyncFrom, SyncSpec},
};

use crate::preview::ENVIRONMENT as PREVIEW;

/// Digits of a copy's digest in the name of what is made of it.
const DIGITS: usize = 12;

/// Whether data of one environment may come to another.
///
/// # Errors
/// Why not, and what would have to be written for it.
pub fn allowed(from: &str, to: &str, settings: &EnvironmentConfig) -> Result<(), String> {
    if from == to {
        return Err(format!("`{to}` has its own data already: name another environment with `from`"));
    }
    if [from, to].contains(&PREVIEW) {
        return Err(format!("data come neither to `{PREVIEW}` nor from there: fill previews with `seed`"));
    }
    if settings.data_from.iter().any(|known| known == from) {
        return Ok(());
    }
    Err(format!(
        "`{to}` takes no data from `{from}`: whoever runs Segue says so with `environments.{to}.data-from: [{from}]` in segue.yaml. What \
         serves in `{to}` loses its own data by it"
    ))
}

/// What is to be brought: from a release, by the rules of its file, to another one of the same service.
///
/// # Errors
/// What one of the two files lacks.
pub fn wanted(
    (from, release, source): (&str, &Release, &ServiceSpec),
    (to, target): (&str, &ServiceSpec),
    hosts: Vec<String>,
    data: SyncFrom,
) -> Result<SyncSpec, String> {
    let name = &release.service;
    let lacks = |what: &str, environment: &str| {
        format!(
            "what serves of `{name}` in `{environment}` does not say {what} in .segue/services/{name}.yml: write that and deploy it there"
        )
    };
    let backup = source.backup.as_ref().ok_or_else(|| lacks("how its data are backed up (`backup`)", from))?;
    let rules = source.sync.clone().ok_or_else(|| lacks("what is personal in its data (`sync`)", from))?;
    if target.backup.is_none() {
        return Err(lacks("how its data are backed up (`backup`), which is done before others take their place", to));
    }
    if restore_command(target).is_none() {
        return Err(lacks("how data are taken in (`sync.restore`, or `backup.restore`)", to));
    }
    Ok(SyncSpec {
        from: from.to_owned(),
        hosts,
        data,
        release: release.id,
        commit: release.commit.clone(),
        run: rules.run.clone().unwrap_or_else(|| backup.run.clone()),
        container: backup.container.clone(),
        timeout_minutes: backup.timeout_minutes,
        rules,
    })
}

/// The command that takes in data from elsewhere.
#[must_use]
pub fn restore_command(service: &ServiceSpec) -> Option<String> {
    let own = service.sync.as_ref().and_then(|sync| sync.restore.clone());
    own.or_else(|| service.backup.as_ref().and_then(|backup| backup.restore.clone()))
}

/// From which host to which, by their places: of data that all hosts share, from the first to the first; else to each from its like.
///
/// # Errors
/// There are fewer hosts that have data than hosts that take some.
pub fn pairs(sources: usize, targets: usize, each: bool) -> Result<Vec<(usize, usize)>, String> {
    let wanted = if each { targets } else { targets.min(1) };
    if sources < wanted {
        return Err(format!(
            "each host has data of its own (`backup.hosts: each`): {targets} hosts would take some, and {sources} have some to give"
        ));
    }
    Ok((0..wanted).map(|place| (place, place)).collect())
}

/// What a copy is called where it has come to. The same copy has the same name; `tries`: how many before it were cut short.
///
/// # Errors
/// The names that it is made of are no names.
pub fn named(
    to: &str,
    service: &str,
    from: &str,
    rollout: RolloutId,
    copy: &Digest,
    tries: usize,
) -> Result<BackupId, InvalidId> {
    let text = copy.to_string();
    let digits: String = text.trim_start_matches("sha256:").chars().take(DIGITS).collect();
    let again = if tries == 0 { String::new() } else { format!(".{}", tries + 1) };
    format!("{to}-{service}-from-{from}-{rollout}-{digits}{again}").parse()
}

/// What is being brought to which host, where that has begun: from then on nothing is fetched any more.
#[must_use]
pub fn begun(journal: &[JournalEntry]) -> Option<BTreeMap<String, BackupId>> {
    let intent = journal.iter().rev().find(|entry| entry.kind == JournalKind::RestoreIntent)?;
    serde_json::from_value(intent.detail["imports"].clone()).ok()
}

#[cfg(test)]
mod tests {
    use segue_schemas::{
        deploy::ServiceBackup,
        id::{Epoch, ReleaseId, RunId},
        sync::ServiceSync,
        time::Timestamp,
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn nobody_takes_data_who_does_not_say_so() {
        let settings = EnvironmentConfig { data_from: vec!["production".into()], ..EnvironmentConfig::default() };
        assert_eq!(allowed("production", "staging", &settings), Ok(()));
        let refused = |from: &str, to: &str, settings: &EnvironmentConfig| allowed(from, to, settings).unwrap_err();
        assert!(
            refused("staging", "production", &EnvironmentConfig::default())
                .contains("environments.production.data-from")
        );
        assert!(refused("other", "staging", &settings).contains("[other]"));
        assert!(refused("staging", "staging", &settings).contains("its own data"));
        let previews = EnvironmentConfig { data_from: vec![PREVIEW.into()], ..EnvironmentConfig::default() };
        assert!(refused(PREVIEW, "staging", &previews).contains("seed"));
    }

    fn release() -> Release {
        Release {
            id: ReleaseId(7),
            repository: "o/r".into(),
            service: "shop".into(),
            digest: format!("sha256:{:064x}", 1).parse().unwrap(),
            image: None,
            commit: format!("{:040x}", 1).parse().unwrap(),
            run: RunId(1),
            created_at: Timestamp(0),
        }
    }

    fn service(backup: &str, sync: &str) -> ServiceSpec {
        let backup: Option<ServiceBackup> = serde_yaml::from_str(backup).unwrap();
        let sync: Option<ServiceSync> = serde_yaml::from_str(sync).unwrap();
        ServiceSpec { backup, sync, ..ServiceSpec::named("shop".into()) }
    }

    #[test]
    fn both_files_say_what_is_needed() {
        let both = service("{run: dump, restore: load}", "{format: csv}");
        let get = |source: &ServiceSpec, target: &ServiceSpec| {
            wanted(("production", &release(), source), ("staging", target), vec!["a".into()], SyncFrom::Fresh)
        };
        let plain = get(&both, &both).unwrap();
        assert_eq!((plain.run.as_str(), restore_command(&both).as_deref()), ("dump", Some("load")));
        let own = service("{run: dump}", "{format: csv, run: plain, restore: take}");
        assert_eq!((get(&own, &own).unwrap().run, restore_command(&own)), ("plain".into(), Some("take".into())));
        let check = |source: &ServiceSpec, target: &ServiceSpec, words: &[&str]| {
            let why = get(source, target).unwrap_err();
            words.iter().for_each(|word| assert!(why.contains(word), "{why}"));
        };
        let nothing = service("null", "null");
        check(&nothing, &both, &["`production`", "(`backup`)"]);
        check(&service("{run: dump}", "null"), &both, &["`production`", "(`sync`)"]);
        check(&both, &nothing, &["`staging`", "(`backup`)"]);
        check(&both, &service("{run: dump}", "null"), &["`staging`", "`sync.restore`"]);
    }

    #[test]
    fn hosts_are_paired_by_their_places() {
        assert_eq!(pairs(3, 2, false).unwrap(), [(0, 0)]);
        assert_eq!(pairs(3, 2, true).unwrap(), [(0, 0), (1, 1)]);
        assert!(pairs(1, 2, true).unwrap_err().contains("2 hosts"));
        assert!(pairs(0, 1, false).is_err());
    }

    #[test]
    fn the_same_copy_has_the_same_name() {
        let copy = format!("sha256:{:064x}", u128::MAX).parse().unwrap();
        let name = |tries| named("staging", "shop", "production", RolloutId(9), &copy, tries).unwrap().to_string();
        assert_eq!(name(0), "staging-shop-from-production-9-000000000000");
        assert_eq!(name(1), "staging-shop-from-production-9-000000000000.2");
    }

    #[test]
    fn what_is_being_brought_stands_in_the_journal() {
        let entry =
            |kind, detail| JournalEntry { sequence: 1, epoch: Epoch(1), at: Timestamp(0), kind, host: None, detail };
        assert_eq!(begun(&[entry(JournalKind::ImportIntent, json!({}))]), None);
        let journal = [entry(JournalKind::RestoreIntent, json!({ "imports": { "b": "x-1" } }))];
        assert_eq!(begun(&journal).unwrap(), [("b".to_owned(), "x-1".parse().unwrap())].into());
    }
}
