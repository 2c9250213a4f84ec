use std::time::Duration;

use anyhow::{Context as _, Result};
use segue_integration_tests::stand::Stand;
use segue_schemas::{
    api::RunView,
    status::{JobStatus, RunStatus},
};

const CALLER: &str = r#"on: [push]
env: { WHERE: in the caller }
jobs:
  choose:
    outputs: { target: "${{ steps.choose.outputs.target }}" }
    steps:
      - id: choose
        run: echo target=api >> "$SEGUE_OUTPUT"
  build:
    name: Build ${{ needs.choose.outputs.target }}
    needs: choose
    uses: ./.segue/pipelines/build.yml
    with: { target: "${{ needs.choose.outputs.target }}", level: 3 }
    secrets: { TOKEN: "${{ secrets.REGISTRY }}" }
  each:
    strategy: { matrix: { target: [web, db] } }
    uses: ./.segue/pipelines/build.yml
    with: { target: "${{ matrix.target }}", fast: true }
    secrets: inherit
  after:
    needs: [build, each]
    steps:
      - run: echo "built $ONE, and $TWO"
        env: { ONE: "${{ needs.build.outputs.version }}", TWO: "${{ needs.each.matrix.db.outputs.version }}" }
"#;

const CALLED: &str = r#"name: Build
on:
  workflow_call:
    inputs: { target: { required: true }, level: { type: number, default: 1 }, fast: { type: boolean } }
    secrets: { TOKEN: { required: true } }
    outputs: { version: { value: "${{ jobs.make.outputs.version }} at level ${{ inputs.level }}" } }
env: { WHERE: in the called file }
jobs:
  make:
    name: make ${{ inputs.target }}
    outputs: { version: "${{ steps.make.outputs.version }}" }
    steps:
      - id: make
        run: |
          echo "version=$TARGET-1" >> "$SEGUE_OUTPUT"
          echo "made $TARGET with ${#TOKEN} characters $WHERE"
        env: { TARGET: "${{ inputs.target }}", TOKEN: "${{ secrets.TOKEN }}" }
  check:
    needs: make
    if: ${{ !inputs.fast }}
    steps: [{ run: 'test "$V" = api-1', env: { V: "${{ needs.make.outputs.version }}" } }]
"#;

#[tokio::test]
async fn its_jobs_have_their_inputs_and_secrets_and_the_caller_sees_its_outputs() -> Result<()> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    let file = stand.folder().join("token");
    std::fs::write(&file, "hush-hush")?;
    let set = stand.segue(&["secret", "set", "REGISTRY", "--from-file", &file.display().to_string()])?;
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    let files = [(".segue/pipelines/ci.yml", CALLER), (".segue/pipelines/build.yml", CALLED)];
    stand.repository.commit("first", &files)?;
    let delivery = stand.push("main").await?;
    let view = api.run_of(&delivery, Duration::from_secs(60)).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    let keys: Vec<&str> = view.jobs.iter().map(|job| job.key.as_str()).collect();
    let wanted = [
        "choose",
        "build",
        "build/make",
        "build/check",
        "each (web)",
        "each (web)/make",
        "each (web)/check",
        "each (db)",
        "each (db)/make",
        "each (db)/check",
        "after",
    ];
    assert_eq!(keys, wanted);
    let job = |key: &str| view.jobs.iter().find(|job| job.key == key).context(key.to_owned());
    assert_eq!(job("build/make")?.name, "Build api / make api");
    assert_eq!(job("each (db)/check")?.status, JobStatus::Skipped);
    let log = api.log(&job("build/make")?.id).await?;
    assert!(log.contains("made api with 9 characters in the called file"), "{log}");
    // `inherit` passes secrets under their own names, and `TOKEN` is none
    let log = api.log(&job("each (web)/make")?.id).await?;
    assert!(log.contains("made web with 0 characters in the called file"), "{log}");
    let log = api.log(&job("after")?.id).await?;
    assert!(log.contains("built api-1 at level 3, and db-1 at level 1"), "{log}");

    // the working tree tells the same without a server
    let explained = stand.segue(&["explain", &stand.repository.work().display().to_string(), "--json"])?;
    let explained: serde_json::Value = serde_json::from_slice(&explained.stdout)?;
    let pipelines = explained["pipelines"].as_array().context("no pipelines")?;
    let caller = pipelines.iter().find(|one| one["name"] == "ci").context("not explained")?;
    let ids: Vec<&str> = caller["jobs"].as_array().into_iter().flatten().filter_map(|job| job["id"].as_str()).collect();
    // where a combination of a matrix has the key of its job
    assert_eq!(ids, wanted.map(|key| if key.contains('/') { key } else { key.split(' ').next().unwrap_or(key) }));
    Ok(())
}

#[tokio::test]
async fn a_failure_in_it_is_the_callers_and_a_rerun_keeps_what_succeeded() -> Result<()> {
    let stand = Stand::start("").await?;
    let api = stand.api()?;
    let marker = stand.folder().join("marker");
    let called = format!(
        "on: workflow_call\njobs:\n  good: {{ steps: [{{ run: echo good }}] }}\n  bad: {{ needs: good, steps: [{{ run: test -e {} }}] }}\n",
        marker.display()
    );
    let caller = "on: [push]\njobs:\n  call: { uses: ./.segue/pipelines/called.yml }\n  after: { needs: call, steps: [{ run: echo after }] }\n";
    stand
        .repository
        .commit("first", &[(".segue/pipelines/ci.yml", caller), (".segue/pipelines/called.yml", &called)])?;
    let view = api.run_of(&stand.push("main").await?, Duration::from_secs(60)).await?;
    let statuses = |view: &RunView| view.jobs.iter().map(|job| job.status).collect::<Vec<_>>();
    use JobStatus::{Failed, Skipped, Succeeded};
    assert_eq!(statuses(&view), [Failed, Succeeded, Failed, Skipped], "{view:#?}");
    assert_eq!(view.jobs[0].reason.as_deref(), Some("`call/bad` failed"));
    std::fs::write(&marker, "")?;
    let rerun = stand.segue(&["rerun", &view.run.id.to_string(), "--failed"])?;
    assert!(rerun.status.success(), "{}", String::from_utf8_lossy(&rerun.stderr));
    let again = api.ended(view.run.id.0, Duration::from_secs(60)).await?;
    assert_eq!(statuses(&again), [Succeeded; 4], "{again:#?}");
    assert_eq!(again.jobs[1].ended_at, view.jobs[1].ended_at, "`good` has not run again");
    Ok(())
}
