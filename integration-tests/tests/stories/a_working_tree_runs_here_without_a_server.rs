use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use segue_integration_tests::{processes, repository::Repository, stand::binary};

const PIPELINE: &str = r#"
name: ci
on: { push: { branches: [main], paths: [src/**] } }
jobs:
  test:
    runs-on: [special]
    outputs: { answer: "${{ steps.say.outputs.answer }}" }
    steps:
      - uses: segue/checkout
      - run: cat notes.txt
      - id: say
        run: |
          echo "answer=42" >> "$SEGUE_OUTPUT"
          echo "the token is $TOKEN, the colour $COLOUR"
        env: { TOKEN: "${{ secrets.TOKEN }}", COLOUR: "${{ vars.COLOUR }}" }
  build:
    needs: test
    steps:
      - run: echo "the answer is $ANSWER"
        env: { ANSWER: "${{ needs.test.outputs.answer }}" }
      - run: exit 3
  staging: { needs: build, environment: staging, steps: [{ run: touch /tmp/segue-must-not-be }] }
"#;

const MULTIPLIED: &str = r#"on: push
concurrency: ci-${{ github.ref_name }}
jobs:
  test:
    strategy: { matrix: { os: [linux, mac] } }
    runs-on: ${{ matrix.os }}
    outputs: { os: "${{ matrix.os }}" }
    steps: [{ run: "true" }]
  lint:
    continue-on-error: true
    steps: [{ run: exit 7 }]
  flaky:
    needs: [test, lint]
    retry: { max: 1, backoff: 1s }
    steps:
      - run: echo "tested $OS" && ! mkdir "$MARK"
        env: { OS: "${{ join(needs.test.matrix.*.outputs.os, ' and ') }}", MARK: "${{ vars.MARK }}" }
"#;

/// `segue run --local` in a folder, with its own place for temporary files.
fn command(folder: &Path, temporary: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(["run", "--local"]).args(arguments).current_dir(folder);
    command.env("NO_COLOR", "1").env("TMPDIR", temporary).env("TOKEN", "hush-hush-hush").stdin(Stdio::null());
    Ok(command)
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn tree(folder: &Path) -> Result<(Repository, std::path::PathBuf)> {
    let repository = Repository::create(&folder.join("git"), "acme/shop")?;
    repository.commit("first", &[(".segue/pipelines/ci.yml", PIPELINE), ("notes.txt", "committed\n")])?;
    let work = repository.work().to_owned();
    std::fs::write(work.join("notes.txt"), "not committed yet\n")?;
    Ok((repository, work))
}

#[test]
fn what_is_not_committed_yet_is_run_and_its_exit_code_tells_how_it_went() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (_repository, work) = tree(place.path())?;
    let temporary = place.path().join("tmp");
    std::fs::create_dir(&temporary)?;
    let arguments = [".", "--secret", "TOKEN", "--var", "COLOUR=red"];

    let failed = command(&work, &temporary, &arguments)?.output()?;
    let (out, err) = said(&failed);
    assert_eq!(failed.status.code(), Some(1), "{out}{err}");
    for expected in [
        "not committed yet",
        "the token is ***, the colour red",
        "the answer is 42",
        "exit code 3",
        "staging                  not run here: it changes the environment `staging`",
    ] {
        assert!(out.contains(expected), "`{expected}` is not in:\n{out}{err}");
    }
    assert!(!out.contains("hush-hush-hush"), "{out}");

    let one = [&arguments[..], &["--job", "test", "--json"]].concat();
    let succeeded = command(&work, &temporary, &one)?.output()?;
    let (out, err) = said(&succeeded);
    assert_eq!(succeeded.status.code(), Some(0), "{out}{err}");
    let json: serde_json::Value = serde_json::from_str(&out)?;
    assert_eq!(json["runs"][0]["jobs"].as_array().map(Vec::len), Some(1), "{out}");
    assert_eq!(json["runs"][0]["jobs"][0]["outputs"]["answer"], "42");
    assert!(err.contains("not committed yet"), "{err}");

    let unknown = command(&work, &temporary, &[".", "--job", "tset"])?.output()?;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(said(&unknown).1.contains("its jobs are test, build, staging"));
    let other_event = command(&work, &temporary, &[".", "--event", "pull_request"])?.output()?;
    assert_eq!(other_event.status.code(), Some(1));
    assert!(said(&other_event).1.contains("started by push, not by `pull_request`"));

    let left: Vec<_> = std::fs::read_dir(&temporary)?.collect();
    assert!(left.is_empty(), "{left:?} is left over");
    Ok(())
}

#[test]
fn it_is_all_of_the_tree_wherever_one_stands_in_it() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (_repository, work) = tree(place.path())?;
    let below = work.join("src/deep");
    std::fs::create_dir_all(&below)?;
    let arguments = ["--secret", "TOKEN", "--var", "COLOUR=red", "--job", "test"];
    let ended = command(&below, place.path(), &arguments)?.output()?;
    let (out, err) = said(&ended);
    assert_eq!(ended.status.code(), Some(0), "{out}{err}");
    assert!(out.contains("not committed yet"), "{out}{err}");
    let validated = Command::new(binary()?).arg("validate").current_dir(&below).output()?;
    assert_eq!(validated.status.code(), Some(0), "{validated:?}");
    assert!(said(&validated).1.contains("1 file: 0 errors"), "{validated:?}");
    Ok(())
}

#[test]
fn a_matrix_a_retry_and_an_allowed_failure_run_here_as_anywhere() -> Result<()> {
    let place = tempfile::tempdir()?;
    let repository = Repository::create(&place.path().join("git"), "acme/shop")?;
    repository.commit("first", &[(".segue/pipelines/ci.yml", MULTIPLIED)])?;
    let mark = format!("MARK={}", place.path().join("mark").display());
    let ended = command(repository.work(), place.path(), &[".", "--var", &mark])?.output()?;
    let (out, err) = said(&ended);
    assert_eq!(ended.status.code(), Some(0), "{out}{err}");
    for expected in [
        "test (linux)             succeeded",
        "test (mac)               succeeded",
        "lint                     failed, allowed",
    ] {
        assert!(out.contains(expected), "`{expected}` is not in:\n{out}{err}");
    }
    assert_eq!(out.matches("\ntested linux and mac\n").count(), 2, "it failed once, and began again:\n{out}");
    Ok(())
}

#[test]
fn an_interrupted_run_leaves_no_process_behind() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (repository, work) = tree(place.path())?;
    let sleeper = "on: push\njobs:\n  long: { steps: [{ run: 'sleep 4321 & echo begun; sleep 4321' }] }\n";
    repository.commit("sleeper", &[(".segue/pipelines/ci.yml", sleeper)])?;
    let mut child = command(&work, place.path(), &["."])?.stdout(Stdio::piped()).spawn()?;
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().context("no output")?));
    lines.find(|line| line.as_ref().is_ok_and(|line| line == "begun")).context("the step never began")??;
    processes::signal(child.id(), nix::sys::signal::Signal::SIGINT)?;
    assert_eq!(child.wait()?.code(), Some(1));
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(rest.iter().any(|line| line.contains("cancelled")), "{rest:?}");
    let left = Command::new("pgrep").args(["-f", "sleep 4321"]).output()?;
    assert_eq!(said(&left).0, "", "a process was left");
    Ok(())
}

/// `script` gives it a terminal, as a person has one.
#[test]
fn a_failed_step_is_opened_in_a_shell_at_its_place() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (_repository, work) = tree(place.path())?;
    let line = format!("{} run --local . --shell-on-failure", binary()?.display());
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(&work);
    script.env("TMPDIR", place.path()).env("SHELL", "/bin/sh").env("PS1", "$ ");
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut keys = child.stdin.take().context("no input")?;
    let mut screen = child.stdout.take().context("no output")?;
    let (mut shown, mut piece) = (String::new(), [0; 4096]);
    let begun = std::time::Instant::now();
    while !shown.contains("This is a shell at its place") {
        let read = std::io::Read::read(&mut screen, &mut piece)?;
        anyhow::ensure!(read > 0 && begun.elapsed() < Duration::from_secs(60), "no shell was opened:\n{shown}");
        shown.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    assert!(shown.contains("exit code 3"), "{shown}");
    keys.write_all(b"echo here: $SEGUE_JOB $(basename $PWD)\nexit\n")?;
    std::io::Read::read_to_string(&mut screen, &mut shown)?;
    let status = child.wait()?;
    assert_eq!(status.code(), Some(1), "{shown}");
    assert!(shown.contains("here: build work"), "{shown}");
    Ok(())
}
