//! The commands that need no server: exit codes (0 done, 1 the thing asked about failed, 2 usage), errors on standard error,
//! `--json` where a script reads, and no colour where none is wanted.

use std::{
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result};
use segue_integration_tests::stand::binary;
use serde_json::Value;

const GOOD: &str = "on: [push]\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: 'true'\n";
const BROKEN: &str = "on: [push]\njobs:\n  one:\n    runs-on: [linux]\n    step:\n      - run: 'true'\n";

fn segue(folder: &Path, arguments: &[&str]) -> Result<Output> {
    Command::new(binary()?)
        .args(arguments)
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .env("SEGUE_DATA", folder.join("data"))
        .env("XDG_CONFIG_HOME", folder.join("configuration"))
        .env_remove("SEGUE_SERVER")
        .output()
        .with_context(|| format!("cannot run `segue {}`", arguments.join(" ")))
}

fn repository(pipeline: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let pipelines = folder.path().join(".segue/pipelines");
    std::fs::create_dir_all(&pipelines)?;
    std::fs::write(pipelines.join("ci.yml"), pipeline)?;
    Ok(folder)
}

#[test]
fn every_exit_code_means_what_is_documented() -> Result<()> {
    let (good, broken) = (repository(GOOD)?, repository(BROKEN)?);
    let (good, broken) = (good.path(), broken.path());
    // folder, arguments, exit code, what is on standard output, what is on standard error
    let cases: &[(&Path, &[&str], i32, &str, &str)] = &[
        (good, &["validate"], 0, "", ""),
        (good, &["validate", "."], 0, "", ""),
        (broken, &["validate"], 1, "ci.yml:5:5", "2 errors"),
        (good, &["validate", "nowhere.yml"], 2, "", "nowhere.yml"),
        (good, &["validate", "--nonsense"], 2, "", "--nonsense"),
        (good, &["explain"], 0, "one", ""),
        (broken, &["explain"], 1, "the file is broken", ""),
        (good, &["explain", "--event", "earthquake"], 2, "", "earthquake"),
        (good, &["eval", "1 == '1'"], 0, "true", ""),
        (good, &["eval", "format('{0}-{1}', 'a', 2)"], 0, "a-2", ""),
        (good, &["eval", "1 +"], 1, "", "1 +"),
        (good, &["eval", "--contexts", "nowhere.json", "github.ref"], 2, "", "nowhere.json"),
        (good, &["completions", "bash"], 0, "segue", ""),
        (good, &["completions", "zsh"], 0, "#compdef segue", ""),
        (good, &["completions", "csh"], 2, "", "csh"),
        (good, &["doctor", "--config", "nowhere.yaml"], 1, "nowhere.yaml", ""),
        (good, &["doctor", "--nonsense"], 2, "", "--nonsense"),
        (good, &["no-such-command"], 2, "", "no-such-command"),
    ];
    for (folder, arguments, code, said, complained) in cases {
        let output = segue(folder, arguments)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let shown = format!("`segue {}`\n--- out\n{out}\n--- err\n{err}", arguments.join(" "));
        assert_eq!(output.status.code(), Some(*code), "{shown}");
        assert!(out.contains(said) && err.contains(complained), "{said:?}, {complained:?} in {shown}");
        assert!(!out.contains('\x1b') && !err.contains('\x1b'), "colour although NO_COLOR is set: {shown:?}");
        assert!(!err.contains("panicked"), "{shown}");
    }
    Ok(())
}

#[test]
fn what_a_script_reads_is_json_and_nothing_else() -> Result<()> {
    let (good, broken) = (repository(GOOD)?, repository(BROKEN)?);
    let json = |folder: &Path, arguments: &[&str]| -> Result<(Value, Option<i32>)> {
        let output = segue(folder, arguments)?;
        let value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stdout)))?;
        Ok((value, output.status.code()))
    };
    assert_eq!(json(good.path(), &["validate", "--json"])?, (Value::Array(Vec::new()), Some(0)));

    let (found, code) = json(broken.path(), &["validate", "--json"])?;
    let found = found.as_array().context("an array")?;
    let unknown = found.iter().find(|one| one["line"] == 5).context("nothing about line 5")?;
    assert_eq!((code, &unknown["severity"]), (Some(1), &"error".into()), "{found:#?}");
    assert!(unknown["file"].as_str().is_some_and(|file| file.ends_with("ci.yml")), "{found:#?}");
    assert!(unknown["message"].as_str().is_some_and(|message| message.contains("step")), "{found:#?}");

    let (explained, code) = json(good.path(), &["explain", "--json"])?;
    let pipeline = &explained["pipelines"][0];
    assert_eq!((code, pipeline["matches"].as_bool()), (Some(0), Some(true)), "{explained}");
    assert_eq!(pipeline["jobs"][0]["id"], "one", "{explained}");

    let (checks, code) = json(good.path(), &["doctor", "--json"])?;
    let checks = checks.as_array().context("an array")?.clone();
    assert!(!checks.is_empty() && checks.iter().all(|check| check["name"].is_string() && check["found"].is_string()));
    let is_bad = checks.iter().any(|check| check["state"] == "bad");
    assert_eq!(code, Some(i32::from(is_bad)), "{checks:#?}");
    assert!(checks.iter().all(|check| check["state"] == "good" || check["remedy"].is_string()), "{checks:#?}");
    Ok(())
}

#[test]
fn a_reader_that_goes_early_ends_a_command_quietly() -> Result<()> {
    let jobs: String = (0..2000).map(|n| format!("  job-{n}: {{ steps: [{{ run: 'true' }}] }}\n")).collect();
    let folder = repository(&format!("on: [push]\njobs:\n{jobs}"))?;
    for arguments in [&["explain"][..], &["explain", "--json"], &["validate", "--json"], &["eval", "1"]] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let output = Command::new(binary()?).args(arguments).current_dir(folder.path()).stdout(writer).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(141), "{arguments:?}: {said}");
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full")?;
    let output = Command::new(binary()?).args(["eval", "1"]).stdout(full).output()?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: cannot write to standard output"));
    Ok(())
}
