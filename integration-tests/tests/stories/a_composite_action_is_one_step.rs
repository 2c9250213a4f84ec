use std::time::Duration;

use anyhow::Result;
use segue_integration_tests::stand::Stand;
use segue_schemas::status::{RunStatus, StepStatus};

const LIMIT: Duration = Duration::from_secs(30);

const PIPELINE: &str = r#"on: [push]
jobs:
  one:
    env: { WHERE: the job }
    outputs:
      said: ${{ steps.greet.outputs.said }}
      forgiven: ${{ steps.break.outcome }} ${{ steps.break.conclusion }}
    steps:
      - id: greet
        uses: ./.segue/actions/greet
        env: { WHERE: the step }
        with: { who: world }
      - id: break
        uses: ./.segue/actions/break
        continue-on-error: ${{ github.ref == 'refs/heads/main' }}
      - run: test "$LEFT" = behind
"#;

const GREET: &str = r#"inputs:
  who: { required: true }
  word: { default: Hello }
outputs:
  said: { value: "${{ steps.say.outputs.text }}" }
runs:
  using: composite
  steps:
    - uses: ./.segue/actions/count
      id: count
    - id: say
      env: { WHO: "${{ inputs.who }}" }
      run: |
        echo "text=${{ inputs.word }} $WHO from $WHERE, ${{ steps.count.outputs.n }}${{ steps.greet.outcome }}" >> "$SEGUE_OUTPUT"
        echo "LEFT=behind" >> "$SEGUE_ENV"
"#;

const COUNT: &str = r#"outputs: { n: { value: "${{ steps.n.outputs.n }}" } }
runs: { using: composite, steps: [{ id: n, run: 'echo "n=1" >> "$SEGUE_OUTPUT"' }] }
"#;

const BREAK: &str = r#"runs:
  using: composite
  steps:
    - run: exit 3
    - run: echo never
    - if: failure()
      run: echo "cleaned up"
"#;

#[tokio::test]
async fn with_a_scope_of_its_own_and_outputs_for_the_job() -> Result<()> {
    let stand = Stand::start("").await?;
    let greet = GREET.replace("${{ steps.greet.outcome }}", "");
    stand.repository.commit(
        "first",
        &[
            (".segue/pipelines/one.yml", PIPELINE),
            (".segue/actions/greet/action.yml", &greet),
            (".segue/actions/count/action.yaml", COUNT),
            (".segue/actions/break/action.yml", BREAK),
        ],
    )?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Succeeded, "{view:#?}");
    let job = &view.jobs[0];
    assert_eq!(job.outputs["said"], "Hello world from the step, 1");
    assert_eq!(job.outputs["forgiven"], "failure success");
    assert_eq!(job.steps.len(), 3, "an action is one step");
    assert_eq!(job.steps[1].status, StepStatus::Succeeded, "forgiven");
    let reason = job.steps[1].reason.as_deref().unwrap_or_default();
    assert!(reason.contains("its step `exit 3`: exit code 3"), "{reason}");
    let log = stand.api()?.log(&job.id).await?;
    assert!(log.contains("cleaned up") && !log.contains("\nnever"), "{log}");
    assert!(log.contains("##[group]Run ./.segue/actions/greet\n  who: world\n  word: Hello"), "{log}");

    // an action cannot look into the job; the run says where, in the action's file
    stand.repository.commit("second", &[(".segue/actions/greet/action.yml", GREET)])?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, LIMIT).await?;
    assert_eq!(view.run.status, RunStatus::Failed);
    let why = view.run.reason.unwrap_or_default();
    assert!(why.contains("no step before this one has the id `greet`"), "{why}");
    assert!(why.contains("--> .segue/actions/greet/action.yml:14:"), "{why}");
    assert!(why.contains("[broken-action]"), "{why}");
    Ok(())
}
