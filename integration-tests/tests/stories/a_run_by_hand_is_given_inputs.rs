use anyhow::Result;
use segue_integration_tests::stand::Stand;

const PIPELINE: &str = r#"on:
  workflow_dispatch:
    inputs:
      version: { description: what to build, type: number, required: true }
      level: { type: choice, options: [info, debug], default: info }
      dry: { type: boolean }
jobs:
  build:
    if: inputs.version > 9 && !inputs.dry
    steps:
      - run: echo "version $VERSION at $LEVEL, as text $TEXT"
        env:
          VERSION: ${{ inputs.version }}
          LEVEL: ${{ inputs.level }}
          TEXT: ${{ toJSON(github.event.inputs) }}
"#;

#[tokio::test]
async fn they_are_checked_before_anything_starts_and_have_their_types() -> Result<()> {
    let stand = Stand::start("").await?;
    stand.repository.commit("first", &[(".segue/pipelines/build.yml", PIPELINE)])?;
    stand.repository.push("main")?;
    let run = |inputs: &[&str]| {
        let given = inputs.iter().flat_map(|input| ["--input", input]);
        stand.segue(&["run", "--repository", "acme/shop", "--watch"].into_iter().chain(given).collect::<Vec<_>>())
    };

    let refused = run(&["vesion=12", "level=loud", "dry=perhaps"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for words in [
        "there is no input `vesion`: did you mean `version`?",
        "input `version` (what to build) is required: give a number",
        "input `level`: `loud` is not among its options",
        "input `dry`: `perhaps` is not `true` or `false`",
    ] {
        assert!(said.contains(words), "`{words}` is not in:\n{said}");
    }
    assert!(stand.api()?.runs().await?.items.is_empty(), "nothing has started");

    // 12 is more than 9, which `'12' > '9'` would be as well, and 100 too, which texts would deny
    let done = run(&["version=100"])?;
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stdout));
    let api = stand.api()?;
    let newest = api.runs().await?.items[0].id;
    let view: segue_schemas::api::RunView = api.get(&format!("/runs/{newest}")).await?;
    let log = api.log(&view.jobs[0].id).await?;
    assert!(log.contains("version 100 at info, as text {"), "{log}");
    assert!(log.contains(r#""version": "100""#) && log.contains(r#""dry": "false""#), "{log}");
    Ok(())
}
