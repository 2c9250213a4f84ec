//! What the tests of several modules stand on: a real git repository, and a whole server. Not in the product.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use reqwest::{Method, RequestBuilder};
use segue_schemas::{
    config::{Config, RepositoryConfig},
    id::CommitSha,
};
use serde_json::{Value, json};

use crate::{mirror::Source, up::ServerOptions};

/// A bare repository, as a git server has it, and a working copy that pushes to it.
pub struct Upstream {
    bare: PathBuf,
    work: PathBuf,
}

impl Upstream {
    /// Makes both in a folder.
    pub fn new(folder: &Path) -> Self {
        let upstream = Self { bare: folder.join("upstream.git"), work: folder.join("work") };
        git(folder, &["init", "-q", "--bare", "-b", "main", "upstream.git"]);
        git(folder, &["init", "-q", "-b", "main", "work"]);
        upstream
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.bare
    }

    /// Where it is, as an address.
    pub fn source(&self) -> Source {
        Source::parse(self.bare.to_str().unwrap()).unwrap()
    }

    /// Writes files, commits them on top of whatever was committed last, and pushes that to a branch.
    pub fn commit(&self, branch: &str, files: &[(&str, &str)]) -> CommitSha {
        self.commit_saying(&format!("Change {} files", files.len()), branch, files)
    }

    /// The same with a message.
    pub fn commit_saying(&self, message: &str, branch: &str, files: &[(&str, &str)]) -> CommitSha {
        for (path, text) in files {
            let path = self.work.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        git(&self.work, &["add", "-A"]);
        git(&self.work, &["commit", "-q", "--allow-empty", "-m", message]);
        let bare = self.bare.to_str().unwrap();
        git(&self.work, &["push", "-q", "--force", bare, &format!("HEAD:refs/heads/{branch}")]);
        // as GitHub keeps the head of a pull request
        git(&self.work, &["push", "-q", "--force", bare, "HEAD:refs/pull/7/head"]);
        git(&self.work, &["rev-parse", "HEAD"]).trim().parse().unwrap()
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(folder)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs([("GIT_AUTHOR_NAME", "Ada"), ("GIT_AUTHOR_EMAIL", "ada@example.com")])
        .envs([("GIT_COMMITTER_NAME", "Ada"), ("GIT_COMMITTER_EMAIL", "ada@example.com")])
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A whole server on a temporary directory, with a repository that it may fetch, spoken to over real connections.
pub struct Stand {
    /// The repository.
    pub upstream: Upstream,
    /// The server; `None` after [`Stand::stop`].
    pub running: Option<crate::up::Running>,
    client: reqwest::Client,
    folder: tempfile::TempDir,
}

/// The repository's name.
pub const REPOSITORY: &str = "acme/shop";
const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

/// A pipeline of one job that runs on every push and by hand.
pub const PIPELINE: &str =
    "on: [push, workflow_dispatch]\njobs:\n  test:\n    runs-on: linux\n    steps:\n      - run: 'true'\n";

impl Stand {
    /// Starts one.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts one whose configuration is changed before.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let upstream = Upstream::new(folder.path());
        let client = reqwest::Client::new();
        let mut stand = Self { upstream, running: None, client, folder };
        let mut config = Config::default();
        config.secrets.key_file = Some(stand.folder.path().join("secret.key"));
        let clone_url = Some(stand.upstream.path().to_str().unwrap().to_owned());
        config.repositories.insert(REPOSITORY.into(), RepositoryConfig { clone_url, ..RepositoryConfig::default() });
        change(&mut config);
        stand.serve(config).await;
        stand
    }

    /// Starts the server, once more after it was stopped.
    pub async fn serve(&mut self, config: Config) {
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = ServerOptions { config, data: self.data(), listen, schedules: true };
        self.running = Some(crate::up::serve(options).await.unwrap());
    }

    /// Stops the server and gives the configuration that it had.
    pub async fn stop(&mut self) -> Config {
        let running = self.running.take().unwrap();
        let config = running.reach.config.as_ref().clone();
        running.stop().await;
        config
    }

    /// The store of the server.
    pub fn store(&self) -> crate::store::Store {
        self.running.as_ref().unwrap().reach.planner.store().clone()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.as_ref().unwrap().address)
    }

    /// A request with the admin's token.
    pub fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path)).bearer_auth(self.secret("admin-token"))
    }

    /// A request with the worker's token.
    pub fn worker(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path)).bearer_auth(self.secret("worker-token"))
    }

    /// A request without a token.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// What a GET with the admin's token answers.
    pub async fn get(&self, path: &str) -> Value {
        let response = self.admin(Method::GET, path).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "GET {path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The content of a secret's file in the data directory.
    pub fn secret(&self, name: &str) -> String {
        std::fs::read_to_string(self.data().join(name)).unwrap().trim().to_owned()
    }

    /// A webhook as GitHub sends it, signed.
    pub fn webhook(&self, guid: &str, event: &str, body: impl Into<Vec<u8>>) -> RequestBuilder {
        let body = body.into();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.secret("webhook-secret").as_bytes());
        let signature = format!("sha256={}", hex::encode(ring::hmac::sign(&key, &body)));
        self.anonymous(Method::POST, "/webhooks/github")
            .header("content-type", "application/json")
            .header("x-github-event", event)
            .header("x-github-delivery", guid)
            .header("x-hub-signature-256", signature)
            .body(body)
    }

    /// Commits files, pushes them to `main`, and tells the server.
    pub async fn push(&self, guid: &str, files: &[(&str, &str)]) -> CommitSha {
        let commit = self.upstream.commit("main", files);
        let body = push_payload("refs/heads/main", &commit);
        let response = self.webhook(guid, "push", body).send().await.unwrap();
        assert_eq!(response.status(), 202, "{}", response.text().await.unwrap());
        commit
    }

    /// The delivery once the planner has settled it.
    pub async fn settled(&self, guid: &str) -> Value {
        for _ in 0..1000 {
            let delivery = self.get(&format!("/api/v1/deliveries/{guid}")).await;
            if delivery["status"] != "pending" {
                return delivery;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("delivery {guid} was not settled: {}", self.get(&format!("/api/v1/deliveries/{guid}")).await);
    }

    /// Registers a worker and claims one job; `None` where there is none at once.
    pub async fn claim(&self) -> Option<Value> {
        let register =
            json!({"worker": "w1", "incarnation": "1", "labels": ["linux"], "capacity": 1000, "version": "0"});
        let answer = self.worker(Method::POST, "/api/v1/worker/register").json(&register).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        let claim = json!({"worker": "w1", "incarnation": "1", "labels": ["linux"], "wait_ms": 0});
        let answer = self.worker(Method::POST, "/api/v1/worker/jobs/claim").json(&claim).send().await.unwrap();
        if answer.status() == 204 {
            return None;
        }
        assert_eq!(answer.status(), 200);
        Some(answer.json().await.unwrap())
    }
}

/// The body of a push webhook.
pub fn push_payload(git_ref: &str, commit: &CommitSha) -> String {
    let payload = json!({
        "ref": git_ref, "before": NO_COMMIT, "after": commit, "forced": false, "head_commit": {"message": "Sell more"},
        "repository": {"full_name": REPOSITORY, "clone_url": "https://github.invalid/acme/shop.git"},
        "sender": {"login": "ada"},
    });
    payload.to_string()
}

/// The body of a webhook of pull request 7, from a branch of the same repository to `main`.
pub fn pull_request_payload(action: &str, branch: &str, head: &CommitSha, base: &CommitSha) -> String {
    let payload = json!({
        "action": action, "number": 7,
        "pull_request": {
            "number": 7, "title": "Sell more",
            "head": {"ref": branch, "sha": head, "repo": {"full_name": REPOSITORY}},
            "base": {"ref": "main", "sha": base},
        },
        "repository": {"full_name": REPOSITORY, "clone_url": "https://github.invalid/acme/shop.git"},
        "sender": {"login": "ada"},
    });
    payload.to_string()
}

/// Resident memory of this process in KiB, at its highest.
pub fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
