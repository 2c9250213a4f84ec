use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::stand::binary;
use serde_yaml::Value;

fn deploy(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn compose() -> Result<Value> {
    Ok(serde_yaml::from_str(&fs::read_to_string(deploy("compose.yaml"))?)?)
}

fn names(value: &Value) -> BTreeSet<String> {
    let keys = value.as_mapping().into_iter().flat_map(|map| map.keys());
    keys.filter_map(|key| key.as_str().map(str::to_owned)).collect()
}

#[test]
fn its_commands_are_ones_that_the_program_takes() -> Result<()> {
    let mut seen = BTreeSet::new();
    for (name, service) in compose()?["services"].as_mapping().context("no services")? {
        if service["image"] != "segue" {
            continue;
        }
        let words: Vec<&str> =
            service["command"].as_sequence().context("no command")?.iter().filter_map(Value::as_str).collect();
        let output = Command::new(binary()?).args(&words).arg("--help").output()?;
        ensure!(output.status.success(), "{name:?}: {}", String::from_utf8_lossy(&output.stderr));
        seen.insert(words[0].to_owned());
    }
    assert_eq!(seen, ["server", "worker"].map(str::to_owned).into());
    Ok(())
}

#[test]
fn what_a_service_names_is_there() -> Result<()> {
    let compose = compose()?;
    for (kind, defined) in [("secrets", "secrets"), ("networks", "networks"), ("depends_on", "services")] {
        let defined = names(&compose[defined]);
        for (name, service) in compose["services"].as_mapping().context("no services")? {
            let listed =
                service[kind].as_sequence().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned));
            for named in listed.chain(names(&service[kind])) {
                ensure!(defined.contains(&named), "{name:?} names {kind} `{named}`, which is none of {defined:?}");
            }
        }
    }
    let volumes = names(&compose["volumes"]);
    for (name, service) in compose["services"].as_mapping().context("no services")? {
        for volume in service["volumes"].as_sequence().into_iter().flatten().filter_map(Value::as_str) {
            let from = volume.split(':').next().unwrap_or_default();
            ensure!(from.starts_with('.') || volumes.contains(from), "{name:?} names the volume `{from}`");
        }
    }
    Ok(())
}

/// What it says is understood up to the file that only a container has.
#[test]
fn its_configuration_is_one_that_the_server_takes() -> Result<()> {
    let data = tempfile::tempdir()?;
    let output = Command::new(binary()?)
        .args(["server", "--listen", "127.0.0.1:0", "--config"])
        .arg(deploy("segue.example.yaml"))
        .arg("--data")
        .arg(data.path())
        .env("XDG_CONFIG_HOME", data.path().join("configuration"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("/run/secrets/"), "{said}");
    Ok(())
}
