use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::stand::binary;

/// Where the units say that the program is.
const INSTALLED: &str = "/usr/local/bin/segue";

fn units() -> Result<BTreeMap<String, String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut units = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().context("no name")?.to_string_lossy().into_owned();
        units.insert(name, fs::read_to_string(&path)?);
    }
    ensure!(units.len() >= 3, "server, worker and host have a unit each: {:?}", units.keys());
    Ok(units)
}

#[test]
fn systemd_finds_nothing_wrong_with_them() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut files = Vec::new();
    for (name, text) in units()? {
        let file = folder.path().join(&name);
        // the program is not installed where tests run
        fs::write(&file, text.replace(INSTALLED, &binary()?.display().to_string()))?;
        files.push(file);
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(&files)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
        .output()
        .context("cannot run systemd-analyze")?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("segue-")).collect();
    assert!(about_ours.is_empty(), "{about_ours:#?}");
    Ok(())
}

#[test]
fn their_commands_are_ones_that_the_program_takes() -> Result<()> {
    let mut seen = Vec::new();
    for (name, text) in units()? {
        let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).context("no ExecStart")?;
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some(INSTALLED), "{name}");
        let arguments: Vec<&str> = words.collect();
        // a flag that is not known is an error before the help is reached
        let output = Command::new(binary()?).args(&arguments).arg("--help").output()?;
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        seen.push(arguments[0].to_owned());
    }
    seen.sort_unstable();
    assert_eq!(seen, ["host", "server", "worker"]);
    Ok(())
}

#[test]
fn systemd_can_make_the_users_that_jobs_run_as() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/sysusers.d/segue.conf").canonicalize()?;
    let output = Command::new("systemd-sysusers").arg("--dry-run").arg(&file).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = fs::read_to_string(&file)?;
    let users: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("u ")?.split_whitespace().next()).collect();
    // one that is missing hides those after it
    let own: Vec<String> = (1..users.len() - 1).map(|n| format!("segue-job-{n}")).collect();
    assert_eq!(users[..2], ["segue", "segue-job"]);
    assert_eq!(users[2..], own);
    Ok(())
}
