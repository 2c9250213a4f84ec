use std::time::Duration;

use anyhow::Result;

use crate::{check_shown, with_github};

const PIPELINE: &str = "on: [push]\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: sleep 3\n";
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_token_that_ends_or_is_taken_back_in_the_middle_of_a_run_is_renewed() -> Result<()> {
    let (stand, github) = with_github(", gather: 50ms").await?;
    github.set_token_life(Duration::from_secs(2));
    let commit = stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    stand.push("main").await?;
    check_shown(&github, &commit, "one / one", "in_progress", LIMIT).await?;
    check_shown(&github, &commit, "one / one", "success", LIMIT).await?;
    check_shown(&github, &commit, "one", "success", LIMIT).await?;
    let refused = |status: u16| github.requests().iter().filter(|request| request.status == status).count();
    assert_eq!(refused(401), 0, "it is renewed before its end: {:#?}", github.requests());

    github.set_token_life(Duration::from_secs(3600));
    github.revoke_tokens();
    let commit = stand.repository.commit("second", &[])?;
    stand.push("main").await?;
    check_shown(&github, &commit, "one / one", "in_progress", LIMIT).await?;
    let before = refused(401);
    github.revoke_tokens();
    check_shown(&github, &commit, "one / one", "success", LIMIT).await?;
    check_shown(&github, &commit, "one", "success", LIMIT).await?;
    assert_eq!(refused(401), before + 1, "one is refused, and another made: {:#?}", github.requests());
    Ok(())
}
