//! Records a history: sends webhooks, keeps the file that steps write to, and reads the API at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use segue_schemas::api::{DeliveryView, RunView};

use super::{Broken, Effect, EndedJob, EndedRun, History, Mark, Sent, check};
use crate::{
    api::Api,
    fleet::{Doors, Fleet},
    repository::Pushed,
    webhook::push_payload,
};

/// How long between two looks while runs are waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long an answer to a webhook is waited for: GitHub gives up after ten seconds.
const ANSWER: Duration = Duration::from_secs(10);

/// A pipeline whose steps tell what they do: two jobs beside each other, and one after both of which one at most is at work over all
/// runs. Each step says so in the log and in the file, takes `pause` seconds, and says that it has done it.
#[must_use]
pub fn pipeline(effects: &Path, pause: &str) -> String {
    let file = effects.display();
    let step = |step: u32| {
        let line = |mark: &str| format!("$SEGUE_RUN_ID $SEGUE_JOB $SEGUE_EPOCH {step} {mark}");
        let (begins, ends) = (line("begins"), line("ends"));
        format!(
            "      - run: |\n          echo \"effect {begins}\"\n          echo \"{begins}\" >> {file}\n          sleep {pause}\n          \
             echo \"{ends}\" >> {file}\n          echo \"effect {ends}\"\n"
        )
    };
    let job = |key: &str, more: &str| format!("  {key}:\n{more}    steps:\n{}{}", step(1), step(2));
    format!(
        "on: push\njobs:\n{}{}{}",
        job("one", ""),
        job("two", ""),
        job("last", "    needs: [one, two]\n    concurrency: last\n")
    )
}

/// Steps of each job of [`pipeline`].
const STEPS: [(&str, u32); 3] = [("one", 2), ("two", 2), ("last", 2)];

/// What is known so far.
pub struct Recorder {
    file: PathBuf,
    sent: Vec<Sent>,
}

impl Recorder {
    /// Begins a history; steps write into a file of `folder`.
    ///
    /// # Errors
    /// The file can't be made.
    pub fn start(folder: &Path) -> Result<Self> {
        let file = folder.join("effects");
        fs::write(&file, "")?;
        // jobs run as other users
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
        Ok(Self { file, sent: Vec::new() })
    }

    /// The file that steps write to.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Sends a push to one of the servers, and once more under the same GUID to the next until it is answered, as a sender does that
    /// must not lose it. Gives up after `limit`; then it is in the history as one of which nobody knows.
    pub async fn push(&mut self, doors: &Doors, pushed: &Pushed, limit: Duration) -> bool {
        let guid = uuid::Uuid::new_v4().to_string();
        let body = push_payload(&doors.repository, pushed).to_string();
        let begun = Instant::now();
        let first = self.sent.len() % doors.webhooks.len();
        for webhook in doors.webhooks.iter().cycle().skip(first) {
            let sending = webhook.send(&guid, "push", body.as_bytes());
            let accepted = match tokio::time::timeout(ANSWER, sending).await {
                Ok(Ok(answer)) if answer.status() == 202 => true,
                _ if begun.elapsed() > limit => false,
                _ => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
            };
            self.sent.push(Sent { guid, identity: pushed.after.clone(), accepted });
            return accepted;
        }
        false
    }

    /// How many lines steps have written.
    #[must_use]
    pub fn lines(&self) -> usize {
        fs::read_to_string(&self.file).map_or(0, |text| text.lines().count())
    }

    /// Waits until every accepted delivery is planned and every run has ended, however often a server is away meanwhile.
    ///
    /// # Errors
    /// Not within the limit; the message says what is still going on.
    pub async fn settle(&self, fleet: &Fleet, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        for server in (0..fleet.shape().servers).cycle() {
            let open = match self.read(&fleet.api(server)?).await {
                Ok(history) => {
                    let planned = |sent: &&Sent| !sent.accepted || history.runs_of.contains_key(&sent.guid);
                    let unplanned = self.sent.iter().filter(|sent| !planned(sent)).count();
                    let running = history.runs.iter().filter(|run| !run.status.is_final()).map(|run| run.run);
                    let running: Vec<i64> = running.collect();
                    if unplanned == 0 && running.is_empty() {
                        return Ok(());
                    }
                    format!("{unplanned} deliveries are not planned, and these runs have not ended: {running:?}")
                }
                Err(error) => format!("{error:#}"),
            };
            if begun.elapsed() > limit {
                bail!("it did not come to an end within {limit:?}, as server {server} says: {open}");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        bail!("there is no server")
    }

    /// The whole history as the last server tells it, with logs and with what the fleet took.
    ///
    /// # Errors
    /// The API does not answer.
    pub async fn history(&self, fleet: &Fleet) -> Result<History> {
        let api = fleet.api(fleet.shape().servers - 1)?;
        let mut history = self.read(&api).await?;
        history.memory = fleet.memory();
        history.written = fleet.trail()?;
        for run in &mut history.runs {
            let view: RunView = api.get(&format!("/runs/{}", run.run)).await?;
            for job in view.jobs {
                let log = api.log(&job.id).await?;
                let Some(ended) = run.jobs.get_mut(&job.key) else { continue };
                (ended.log_epochs, ended.log_is_whole) = read_log(&log, run.run, &job.key);
            }
        }
        Ok(history)
    }

    /// Every promise that was broken.
    ///
    /// # Errors
    /// The API does not answer.
    pub async fn broken(&self, fleet: &Fleet) -> Result<Vec<Broken>> {
        Ok(check(&self.history(fleet).await?))
    }

    async fn read(&self, api: &Api) -> Result<History> {
        let mut history = History {
            sent: self.sent.clone(),
            effects: read_effects(&fs::read_to_string(&self.file)?)?,
            steps: STEPS.iter().map(|(job, steps)| ((*job).to_owned(), *steps)).collect(),
            exclusive: vec!["last".into()],
            ..History::default()
        };
        let mut runs = BTreeSet::new();
        for Sent { guid, .. } in &self.sent {
            let answer = api.raw_get(&format!("/deliveries/{guid}")).await?;
            let known = match answer.status().as_u16() {
                404 => Some(None),
                200 => {
                    let view: DeliveryView = answer.json().await?;
                    let pending = view.status == segue_schemas::api::DeliveryStatus::Pending;
                    (!pending).then(|| Some(view.runs.iter().map(|run| run.0).collect::<Vec<_>>()))
                }
                status => bail!("delivery {guid}: the server answered {status}"),
            };
            // one that waits for the planner is neither lost nor done
            let Some(known) = known else { continue };
            runs.extend(known.iter().flatten().copied());
            history.runs_of.insert(guid.clone(), known);
        }
        for run in runs {
            let view: RunView = api.get(&format!("/runs/{run}")).await?;
            let job = |job: segue_schemas::api::JobView| {
                let ended =
                    EndedJob { status: job.status, log_epochs: Vec::new(), log_is_whole: true, reason: job.reason };
                (job.key, ended)
            };
            let jobs: BTreeMap<String, EndedJob> = view.jobs.into_iter().map(job).collect();
            history.runs.push(EndedRun { run, status: view.run.status, jobs });
        }
        Ok(history)
    }
}

fn read_effects(text: &str) -> Result<Vec<Effect>> {
    text.lines().map(|line| effect(line).with_context(|| format!("`{line}` was not written by a step"))).collect()
}

fn effect(line: &str) -> Option<Effect> {
    let mut words = line.split(' ');
    let effect = Effect {
        run: words.next()?.parse().ok()?,
        job: words.next()?.to_owned(),
        epoch: words.next()?.parse().ok()?,
        step: words.next()?.parse().ok()?,
        what: match words.next()? {
            "begins" => Mark::Begins,
            "ends" => Mark::Ends,
            _ => return None,
        },
    };
    words.next().is_none().then_some(effect)
}

/// The epochs in a job's log, and whether it has the output of every step to its end.
fn read_log(log: &str, run: i64, job: &str) -> (Vec<i64>, bool) {
    let told = |line: &str| effect(line.split_once("effect ").filter(|(before, _)| !before.contains("echo"))?.1);
    let told: Vec<Effect> = log.lines().filter_map(told).collect();
    let steps = STEPS.iter().find(|(key, _)| *key == job).map_or(0, |(_, steps)| *steps);
    let ends = |step| {
        let is_end = |e: &Effect| (e.run, e.job.as_str(), e.step, e.what) == (run, job, step, Mark::Ends);
        told.iter().any(is_end)
    };
    (told.iter().map(|effect| effect.epoch).collect(), (1..=steps).all(ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_step_is_read_and_another_is_none() {
        let read = read_effects("3 one 2 1 begins\n3 one 2 1 ends\n").unwrap();
        assert_eq!(read[1], Effect { run: 3, job: "one".into(), epoch: 2, step: 1, what: Mark::Ends });
        for wrong in ["3 one 2 1", "3 one 2 1 ends more", "x one 2 1 ends", ""] {
            assert!(effect(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_log_tells_its_epochs_and_whether_it_is_whole() {
        let log = "##[group]Run echo \"effect $SEGUE_RUN_ID\neffect 3 one 1 1 begins\neffect 3 one 2 1 begins\neffect 3 one 2 1 ends\n\
                   effect 3 one 2 2 begins\neffect 3 one 2 2 ends\n";
        assert_eq!(read_log(log, 3, "one"), (vec![1, 2, 2, 2, 2], true));
        let cut = log.trim_end().rsplit_once('\n').unwrap().0;
        assert!(!read_log(cut, 3, "one").1);
    }
}
