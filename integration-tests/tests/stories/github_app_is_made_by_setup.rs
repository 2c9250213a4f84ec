use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use reqwest::Url;
use segue_integration_tests::{
    github::GitHub,
    stand::{Stand, binary},
    webhook::Webhook,
};
use serde_json::Value;

use crate::check_shown;

const LIMIT: Duration = Duration::from_secs(60);
const PIPELINE: &str = "on: [push]\njobs:\n  one:\n    runs-on: [linux]\n    steps:\n      - run: echo hello\n";

/// `segue github setup` at work, and the address of its page. Dropped, it is ended.
struct Setup {
    child: Child,
    said: BufReader<std::process::ChildStderr>,
    page: String,
}

impl Setup {
    fn start(github: &GitHub, folder: &Path, more: &[&str]) -> Result<Self> {
        let mut child = Command::new(binary()?)
            .args(["github", "setup", "--url", "https://ci.example.com", "--api-url", &github.url(), "--no-browser"])
            .args(more)
            .env("NO_COLOR", "1")
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut said = BufReader::new(child.stderr.take().context("no error output")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        let page =
            line.split_whitespace().find_map(|word| word.strip_suffix(',').filter(|word| word.starts_with("http://")));
        let page = page.with_context(|| format!("it names no page: {line}"))?.to_owned();
        Ok(Self { child, said, page })
    }

    /// Exit code, standard output and what is left of the error output.
    async fn ended(mut self) -> Result<(Option<i32>, String, String)> {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(begun.elapsed() < LIMIT, "it does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let (mut output, mut errors) = (String::new(), String::new());
        self.child.stdout.take().context("no output")?.read_to_string(&mut output)?;
        self.said.read_to_string(&mut errors)?;
        Ok((status.code(), output, errors))
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A browser that shows a page's form, presses its button, and goes where it is led; nowhere by itself.
async fn confirmed(page: &str) -> Result<Url> {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let attribute = |name: &str| -> Result<String> {
        let (_, rest) = page.split_once(&format!("{name}=\"")).with_context(|| format!("no {name} in {page}"))?;
        let text = rest.split_once('"').map_or(rest, |(text, _)| text);
        let text = text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'");
        Ok(text.replace("&amp;", "&"))
    };
    let mut form = Url::parse("http://localhost/")?;
    form.query_pairs_mut().append_pair("manifest", &attribute("value")?);
    let request = client.post(attribute("action")?).header("content-type", "application/x-www-form-urlencoded");
    let answer = request.body(form.query().unwrap_or_default().to_owned()).send().await?;
    ensure!(answer.status() == 302, "GitHub answers {}: {}", answer.status(), answer.text().await?);
    Ok(Url::parse(answer.headers()["location"].to_str()?)?)
}

async fn get(url: impl AsRef<str>) -> Result<(u16, String)> {
    let answer = reqwest::get(url.as_ref()).await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

// commands are waited for while GitHub answers them
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_is_made_written_down_verified_and_speaks_for_the_first_push() -> Result<()> {
    let mut stand = Stand::prepare("")?;
    let github = GitHub::start(&stand.repository.name, stand.repository.bare()).await?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("segue.yaml");
    std::fs::write(&config, "# ours\nrepositories: {acme/shop: {}}\n")?;
    let arguments = ["--organization", "acme", "--teams", "--config", "segue.yaml", "--write", "--json"];
    let setup = Setup::start(&github, folder.path(), &arguments)?;

    // somebody else's page leads the browser here, with a code of theirs
    let root = Url::parse(&setup.page)?.join("/")?;
    let (status, said) = get(root.join("back?code=0123456789abcdef&state=guessed")?).await?;
    assert!(status == 400 && said.contains("not what was begun here"), "{status} {said}");
    // the page holds what the way back is known by, and who did not read the terminal does not find it
    let (status, _) = get(root).await?;
    assert_eq!(status, 404);
    let (_, page) = get(&setup.page).await?;
    assert!(page.contains("/organizations/acme/settings/apps/new?state="), "{page}");
    let (status, said) = get(confirmed(&page).await?).await?;
    assert!(status == 200 && said.contains("The App is there"), "{status} {said}");
    let (code, output, errors) = setup.ended().await?;
    assert_eq!(code, Some(0), "{output}{errors}");

    let made: Value = serde_json::from_str(&output)?;
    assert_eq!((&made["client_id"], &made["is_written"]), (&"Iv23liExample".into(), &true.into()), "{made:#}");
    assert!(
        made["checks"].as_array().is_some_and(|checks| checks.iter().all(|check| check["state"] == "good")),
        "{made:#}"
    );
    assert!(!output.contains("PRIVATE KEY") && !output.contains("the secret of the webhook"), "{output}");
    for file in ["private_key_file", "webhook_secret_file"] {
        let mode = std::fs::metadata(made[file].as_str().unwrap_or_default())?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let written = std::fs::read_to_string(&config)?;
    assert!(written.starts_with("# ours\n") && written.contains("webhook-secret-file: "), "{written}");

    // it is not installed yet, which is told with where to do so
    let verify = || stand.segue(&["github", "verify", "--config", &config.display().to_string()]);
    let seen = verify()?;
    let text = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.status.code() == Some(1) && text.contains("not installed for acme/shop"), "{text}");
    github.set_installed(true);
    let seen = verify()?;
    assert_eq!(seen.status.code(), Some(0), "{}", String::from_utf8_lossy(&seen.stdout));

    // one App is enough
    let again = stand.segue(&[
        "github",
        "setup",
        "--url",
        "https://ci.example.com",
        "--config",
        &config.display().to_string(),
    ])?;
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.code() == Some(1) && said.contains("names a GitHub App already"), "{said}");

    stand.add_settings(made["configuration"].as_str().unwrap_or_default());
    stand.start_server().await?;
    let commit = stand.repository.commit("first", &[(".segue/pipelines/one.yml", PIPELINE)])?;
    let pushed = stand.repository.push("main")?;
    let webhook = Webhook::new(&format!("http://{}/webhooks/github", stand.listen), "the secret of the webhook");
    webhook.push(&stand.repository, &pushed).await?;
    check_shown(&github, &commit, "one", "success", LIMIT).await?;
    assert!(github.requests().iter().all(|request| request.status.is_success() || request.status == 404));
    Ok(())
}

// commands are waited for while GitHub answers them
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_is_pasted_where_the_browser_is_elsewhere() -> Result<()> {
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let there = tempfile::tempdir()?;
    let github = GitHub::start("acme/shop", there.path()).await?;
    let folder = tempfile::tempdir()?;
    let mut setup = Setup::start(&github, folder.path(), &["--output", "keys", "--page", "make.html"])?;
    // the page was copied to a machine from which 127.0.0.1 is another one
    let back = confirmed(&std::fs::read_to_string(folder.path().join("make.html"))?).await?;
    let mut input = setup.child.stdin.take().context("no input")?;
    let other = back.as_str().replace("state=", "state=x");
    writeln!(input, "what now?\n\n{other}\n{back}")?;
    let (code, output, errors) = setup.ended().await?;
    assert_eq!(code, Some(0), "{output}{errors}");
    assert!(
        errors.contains("neither an address nor a code") && errors.contains("belongs to another attempt"),
        "{errors}"
    );
    assert!(output.contains("private-key-file: ") && output.contains("/apps/segue-test/installations/new"), "{output}");
    assert_eq!(names(&folder.path().join("keys"))?, ["github-app.pem", "github-webhook-secret"]);

    // a code is good once; what was not made leaves nothing, and what is there is never written over
    let again = Setup::start(&github, folder.path(), &["--output", "others"])?;
    let mut back = confirmed(&get(&again.page).await?.1).await?;
    let state = back.query_pairs().find(|(name, _)| name == "state").map(|(_, state)| state.into_owned());
    back.query_pairs_mut()
        .clear()
        .append_pair("code", &"0".repeat(32))
        .append_pair("state", &state.context("no state")?);
    get(&back).await?;
    let (code, _, errors) = again.ended().await?;
    assert!(code == Some(1) && errors.contains("used before, or is older than an hour"), "{errors}");
    assert!(names(&folder.path().join("others"))?.is_empty());
    let late = Setup::start(&github, folder.path(), &["--output", "others", "--wait", "1s"])?;
    let (code, _, errors) = late.ended().await?;
    assert!(code == Some(1) && errors.contains("did not come within 1 s"), "{errors}");
    assert!(names(&folder.path().join("others"))?.is_empty());

    let refused = |arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let output = Command::new(binary()?)
            .args(["github", "setup", "--no-browser"])
            .args(arguments)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let url = ["--url", "https://ci.example.com"];
    let cases: [(&[&str], i32, &str); 5] = [
        (&["--url", "http://localhost:8321", "--output", "others"], 2, "where GitHub reaches nothing"),
        (&[&url[..], &["--wait", "2h"]].concat(), 2, "from 1s to 1h"),
        (&[&url[..], &["--organization", "a/b"]].concat(), 2, "letters, digits"),
        (&[&url[..], &["--write"]].concat(), 2, "--config"),
        (&[&url[..], &["--output", "keys"]].concat(), 1, "is there already"),
    ];
    for (arguments, wanted, word) in cases {
        let (code, said) = refused(arguments)?;
        assert!(code == Some(wanted) && said.contains(word), "{arguments:?}: {code:?} {said}");
    }
    Ok(())
}
