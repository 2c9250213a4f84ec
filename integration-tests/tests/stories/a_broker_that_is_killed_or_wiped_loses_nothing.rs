use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{broker::Broker, stand::Stand};
use segue_schemas::{queue, status::RunStatus};

const LIMIT: Duration = Duration::from_secs(60);
/// Short looks for lost bells, so that the story is short.
const LOOKS: &str = "timing: {lease: 6s, renew: 1s}\n";

/// Each job leaves a line behind, so that one that ran twice shows.
fn pipeline(ledger: &Path) -> String {
    format!(
        "on: push\njobs:\n  note:\n    runs-on: [linux]\n    steps:\n      - run: echo \"$SHA\" >> {}\n        env:\n          SHA: \
         ${{{{ github.sha }}}}\n",
        ledger.display()
    )
}

/// Pushes a commit of its own; the delivery and the commit.
async fn push(stand: &Stand, ledger: &Path, number: u32) -> Result<(String, String)> {
    let files = [(".segue/pipelines/note.yml", pipeline(ledger)), ("number", number.to_string())];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let commit = stand.repository.commit(&format!("number {number}"), &files)?;
    Ok((stand.push("main").await?, commit))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_every_push_runs_once_before_during_and_after() -> Result<()> {
    let mut broker = Broker::start("").await?;
    let mut stand = Stand::start_with_broker(&broker, LOOKS).await?;
    for name in ["one", "two"] {
        stand.start_worker(name, &broker.url("worker"))?;
    }
    let ledger = stand.folder().join("ledger");
    fs::write(&ledger, "")?;
    open_to_all(&ledger)?;
    let mut pushed = Vec::new();
    let mut numbers = 0..;
    let mut some = async |stand: &Stand, count: usize| -> Result<()> {
        for number in numbers.by_ref().take(count) {
            pushed.push(push(stand, &ledger, number).await?);
        }
        Ok(())
    };

    some(&stand, 3).await?;
    // in the middle of it: some bells are not confirmed, some are not answered
    broker.kill()?;
    some(&stand, 3).await?;
    broker.restart().await?;
    some(&stand, 3).await?;
    broker.until("bells go again", LIMIT, async |broker| Ok(broker.queues().await?.len() >= 5)).await?;
    some(&stand, 2).await?;
    broker.kill()?;
    broker.wipe()?;
    some(&stand, 2).await?;
    broker.restart().await?;
    some(&stand, 2).await?;

    let api = stand.api()?;
    for (guid, _) in &pushed {
        let view = api.run_of(guid, LIMIT).await?;
        ensure!(view.run.status == RunStatus::Succeeded, "{view:#?}");
    }
    let noted = fs::read_to_string(&ledger)?;
    let lines: Vec<&str> = noted.lines().collect();
    let commits: BTreeSet<&str> = pushed.iter().map(|(_, commit)| commit.as_str()).collect();
    assert_eq!(lines.iter().copied().collect::<BTreeSet<_>>(), commits, "every push ran");
    assert_eq!(lines.len(), commits.len(), "and ran once");

    // the wiped broker has everything again, and bells go through it once more
    broker
        .until("everything is declared anew", LIMIT, async |broker| {
            let queues = broker.queues().await?;
            Ok([queue::DELIVERIES, queue::DEAD_LETTERS, "segue.jobs.default+linux"]
                .iter()
                .all(|wanted| queues.iter().any(|queue| queue == wanted)))
        })
        .await?;
    let said = stand.server_output();
    said.find("no bells go through the broker").context("the server says that the broker is away")?;
    said.find("asks the server every so often").context("so do the workers")?;
    Ok(())
}

fn open_to_all(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o666))?)
}
