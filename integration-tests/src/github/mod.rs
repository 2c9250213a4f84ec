//! A GitHub to test against: a stateful server on the loopback that speaks what Segue uses of GitHub's REST API, keeps its rules
//! (who may do what with which token, what a request must hold, how much may be asked), and fails when it is told to.
//!
//! Comes in: requests as <https://docs.github.com/en/rest> describes them, and from the test what is to go wrong. Goes out:
//! answers, and what people would see on GitHub. Never here: anything that Segue relies on and GitHub does not promise.
//! One file a resource; `access` knows who asks, `limits` how often.

mod access;
mod answer;
mod apps;
mod checks;
mod comments;
mod deployments;
mod hooks;
mod limits;
mod manifest;
pub mod openapi;
mod people;
mod repositories;
mod statuses;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use axum::{Router, body::Bytes, extract::State as Extract, http::HeaderMap, response::Response};
use chrono::{DateTime, TimeDelta, Utc};
use http::{Method, StatusCode, Uri};
use ring::signature::{KeyPair as _, RsaKeyPair};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

use access::Token;
pub use access::{Level, Permissions};
use answer::Answer;
pub use checks::CheckRun;
pub use comments::Comment;
pub use deployments::Deployment;
pub use hooks::Delivery;
use openapi::Description;
use repositories::Repository;
pub use statuses::CommitStatus;

/// The App's number.
pub const APP_ID: u64 = 4711;
/// The name by which the App may call itself as well.
pub const CLIENT_ID: &str = "Iv23liExample";
/// The number of its one installation.
pub const INSTALLATION_ID: u64 = 4242;
/// A token of a person, where the story has one.
pub const PERSONAL_TOKEN: &str = "github_pat_of_a_person";

/// A GitHub with one App, installed for one owner. Dropped, it ends.
pub struct GitHub {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
    folder: tempfile::TempDir,
}

/// One request, as it was answered.
#[derive(Debug, Clone)]
pub struct Request {
    /// When it was answered.
    pub at: Instant,
    /// `GET`, ...
    pub method: Method,
    /// Without the query.
    pub path: String,
    /// What it was answered.
    pub status: StatusCode,
}

/// What goes wrong with the next requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 502, as a load balancer says it, with a page instead of JSON; nothing was done.
    BadGateway,
    /// It is done, and the answer is 502 all the same.
    DoneAndBadGateway,
    /// 403 for a secondary limit, with `retry-after` in seconds.
    SecondaryLimit(u64),
    /// 429 for a secondary limit, without a word on when to come again.
    TooMany,
}

struct State {
    /// Its address, which answers name.
    url: String,
    clock: TimeDelta,
    is_down: bool,
    faults: Vec<(Fault, usize)>,
    /// What goes wrong with the next request to a path that ends so.
    faults_at: Vec<(Method, String, Fault)>,
    requests: Vec<Request>,
    limits: limits::Limits,
    /// The App's public key, as PKCS #1 has it.
    key: Vec<u8>,
    /// What the installation grants.
    granted: Permissions,
    is_suspended: bool,
    /// Whether the App is installed.
    is_installed: bool,
    /// What the App hears of.
    events: Value,
    /// The App's private key.
    pem: String,
    /// Apps that are being made.
    confirmed: Vec<manifest::Confirmed>,
    token_life: Duration,
    tokens: BTreeMap<String, Token>,
    repositories: BTreeMap<String, Repository>,
    /// The numbers of those that were called so once.
    renamed: BTreeMap<String, u64>,
    check_runs: Vec<CheckRun>,
    statuses: Vec<CommitStatus>,
    comments: Vec<Comment>,
    deliveries: Vec<Delivery>,
    deployments: Vec<Deployment>,
    hook_url: Option<String>,
    /// By `organization/team`: who is in it, `active` or `pending`.
    teams: BTreeMap<String, BTreeMap<String, String>>,
    next_id: u64,
    /// What requests and answers are held against, where there is one.
    description: Option<Arc<Description>>,
    /// How they differed from it.
    deviations: BTreeSet<String>,
}

impl State {
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.clock
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// What is asked, once it is known by whom.
struct Asked<'r> {
    method: &'r Method,
    /// The path's parts.
    path: &'r [&'r str],
    query: &'r BTreeMap<String, String>,
    body: &'r Value,
    headers: &'r HeaderMap,
}

impl GitHub {
    /// Starts one that knows a repository; `bare` is where its commits lie.
    ///
    /// # Errors
    /// There is no free port, or no `openssl` to make the App's key with.
    pub async fn start(repository: &str, bare: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("segue-github-").tempdir()?;
        let key = make_key(&folder.path().join("app.pem"))?;
        std::fs::write(folder.path().join("token"), PERSONAL_TOKEN)?;
        private(&folder.path().join("token"))?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut state = State {
            url: format!("http://{address}"),
            clock: TimeDelta::zero(),
            is_down: false,
            faults: Vec::new(),
            faults_at: Vec::new(),
            requests: Vec::new(),
            limits: limits::Limits::default(),
            key,
            granted: access::all_that_segue_asks_for(),
            is_suspended: false,
            is_installed: true,
            events: serde_json::json!(["check_run", "check_suite", "issue_comment", "pull_request", "push"]),
            pem: std::fs::read_to_string(folder.path().join("app.pem"))?,
            confirmed: Vec::new(),
            token_life: Duration::from_secs(3600),
            tokens: BTreeMap::new(),
            repositories: BTreeMap::new(),
            renamed: BTreeMap::new(),
            check_runs: Vec::new(),
            statuses: Vec::new(),
            comments: Vec::new(),
            deliveries: Vec::new(),
            deployments: Vec::new(),
            hook_url: None,
            teams: BTreeMap::new(),
            next_id: 1_000,
            description: Description::named()?,
            deviations: BTreeSet::new(),
        };
        state.tokens.insert(PERSONAL_TOKEN.into(), Token::personal());
        state.repositories.insert(repository.into(), Repository::new(1, bare));
        let state = Arc::new(Mutex::new(state));
        let router = Router::new().fallback(handle).with_state(state.clone());
        let server = tokio::spawn(async move {
            // it ends with the test
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, state, server, folder })
    }

    /// Its address, as `github.api-url` names it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The lines of `segue.yaml` with which Segue is its App; `more` are further keys of `github`, in braces' form.
    #[must_use]
    pub fn as_app(&self, more: &str) -> String {
        let key = self.key_file();
        format!(
            "github: {{api-url: \"{}\", app: {{id: {APP_ID}, private-key-file: {}}}{more}}}\n",
            self.url(),
            key.display()
        )
    }

    /// The lines with which Segue has a person's token.
    #[must_use]
    pub fn as_person(&self, more: &str) -> String {
        let token = self.folder.path().join("token");
        format!("github: {{api-url: \"{}\", token-file: {}{more}}}\n", self.url(), token.display())
    }

    /// The App's private key.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("app.pem")
    }

    /// From now on every connection breaks without an answer, or not.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// The next so many requests go wrong.
    pub fn fail(&self, fault: Fault, times: usize) {
        self.state().faults.push((fault, times));
    }

    /// The next such request to a path that ends so goes wrong.
    pub fn fail_at(&self, method: Method, ending: &str, fault: Fault) {
        self.state().faults_at.push((method, ending.into(), fault));
    }

    /// Puts its clock forward, or back.
    pub fn set_clock(&self, ahead: TimeDelta) {
        self.state().clock = ahead;
    }

    /// How long the installation's tokens live that are made from now on; an hour, if nothing is said.
    pub fn set_token_life(&self, life: Duration) {
        self.state().token_life = life;
    }

    /// The installation's tokens are worth nothing any more.
    pub fn revoke_tokens(&self) {
        self.state().tokens.retain(|_, token| token.is_personal());
    }

    /// What the installation grants from now on; tokens that were made keep what they have.
    pub fn grant(&self, permissions: Permissions) {
        self.state().granted = permissions;
    }

    /// How many writes a minute it takes before it speaks of a secondary limit; 80 if nothing is said.
    pub fn set_writes_a_minute(&self, writes: usize) {
        self.state().limits.writes_a_minute = writes;
    }

    /// How many requests are left of this hour.
    pub fn set_remaining(&self, remaining: u64, reset_in: Duration) {
        let mut state = self.state();
        let reset = state.now() + reset_in;
        state.limits.set_remaining(remaining, reset);
    }

    /// Where the App's webhook goes.
    pub fn set_hook(&self, url: &str) {
        self.state().hook_url = Some(url.into());
    }

    /// What a person may do in the repository: `admin`, `write`, `read`, `none`.
    pub fn set_permission(&self, repository: &str, user: &str, permission: &str) {
        if let Some(known) = self.state().repositories.get_mut(repository) {
            known.people.insert(user.into(), permission.into());
        }
    }

    /// Somebody is in a team (`organization/team`), as `active` member or with an invitation (`pending`).
    pub fn set_membership(&self, team: &str, user: &str, membership: &str) {
        self.state().teams.entry(team.into()).or_default().insert(user.into(), membership.into());
    }

    /// The check runs of a commit, in the order of their making.
    #[must_use]
    pub fn check_runs(&self, commit: &str) -> Vec<CheckRun> {
        self.state().check_runs.iter().filter(|run| run.head_sha == commit).cloned().collect()
    }

    /// The newest check run of a name, which is the one that counts.
    #[must_use]
    pub fn check_run(&self, commit: &str, name: &str) -> Option<CheckRun> {
        self.check_runs(commit).into_iter().rfind(|run| run.name == name)
    }

    /// The statuses of a commit, oldest first.
    #[must_use]
    pub fn statuses(&self, commit: &str) -> Vec<CommitStatus> {
        self.state().statuses.iter().filter(|status| status.sha == commit).cloned().collect()
    }

    /// Every request that was answered, refusals included.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// Holds requests and answers against a description from now on.
    pub fn hold_against(&self, description: Description) {
        self.state().description = Some(Arc::new(description));
    }

    /// How they differed from it; a story that ends with some that were not taken fails.
    #[must_use]
    pub fn take_deviations(&self) -> Vec<String> {
        std::mem::take(&mut self.state().deviations).into_iter().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for GitHub {
    fn drop(&mut self) {
        self.server.abort();
        let deviations = self.take_deviations();
        assert!(
            deviations.is_empty() || std::thread::panicking(),
            "not as GitHub's description has it:\n{}",
            deviations.join("\n")
        );
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn handle(
    Extract(state): Extract<Arc<Mutex<State>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if lock(&state).is_down {
        // what a connection that breaks looks like: a body that is announced and does not come
        return answer::broken();
    }
    let mut state = lock(&state);
    let path: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
    let query = answer::query(uri.query());
    if method == Method::POST
        && let Some(page) = manifest::confirm(&mut state, &path, uri.query(), &body)
    {
        return page;
    }
    let fault = fault_at(&mut state, &method, uri.path()).or_else(|| next_fault(&mut state));
    let answer = match fault {
        Some(Fault::BadGateway) => Answer::page(StatusCode::BAD_GATEWAY),
        Some(Fault::SecondaryLimit(seconds)) => limits::secondary(StatusCode::FORBIDDEN, Some(seconds)),
        Some(Fault::TooMany) => limits::secondary(StatusCode::TOO_MANY_REQUESTS, None),
        Some(Fault::DoneAndBadGateway) => {
            let _ = checked(&mut state, &method, &path, &query, &headers, &body);
            Answer::page(StatusCode::BAD_GATEWAY)
        }
        None => checked(&mut state, &method, &path, &query, &headers, &body),
    };
    state.requests.push(Request { at: Instant::now(), method, path: uri.path().into(), status: answer.status });
    answer.into_response(&state.limits)
}

fn fault_at(state: &mut State, method: &Method, path: &str) -> Option<Fault> {
    let found = state.faults_at.iter().position(|(of, ending, _)| of == method && path.ends_with(ending.as_str()))?;
    Some(state.faults_at.remove(found).2)
}

fn next_fault(state: &mut State) -> Option<Fault> {
    let (fault, left) = state.faults.first_mut()?;
    let fault = *fault;
    *left -= 1;
    if *left == 0 {
        state.faults.remove(0);
    }
    Some(fault)
}

/// What holds for every request, then the resource.
fn checked(
    state: &mut State,
    method: &Method,
    path: &[&str],
    query: &BTreeMap<String, String>,
    headers: &HeaderMap,
    body: &Bytes,
) -> Answer {
    let body = match access::well_formed(headers, body) {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let asked = Asked { method, path, query, body: &body, headers };
    if let Some(refusal) = state.limits.refuse(method, state.now()) {
        return refusal;
    }
    let answer = route(state, &asked).unwrap_or_else(|refusal| refusal);
    if let Some(description) = state.description.clone() {
        state.deviations.extend(description.of_request(method, path, query, asked.body));
        if let Some(body) = answer.body() {
            state.deviations.extend(description.of_answer(method, path, answer.status.as_u16(), body));
        }
    }
    match answer.unless_same(method, headers) {
        Ok(answer) => answer,
        Err(same) => {
            // <https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api#use-conditional-requests-if-appropriate>
            state.limits.give_back();
            same
        }
    }
}

/// The paths, as <https://docs.github.com/en/rest> lists them.
fn route(state: &mut State, asked: &Asked) -> Result<Answer, Answer> {
    match (asked.method.as_str(), asked.path) {
        ("POST", ["app-manifests", code, "conversions"]) => manifest::convert(state, asked, code),
        ("GET", ["app"]) => apps::app(state, asked),
        ("GET", ["user"]) => people::user(state, asked),
        ("GET", ["app", "hook", "config"]) => apps::hook_config(state, asked),
        ("GET", ["app", "hook", "deliveries"]) => hooks::list(state, asked),
        ("POST", ["app", "hook", "deliveries", id, "attempts"]) => hooks::redeliver(state, asked, id),
        ("GET", ["app", "installations"]) => apps::installations(state, asked),
        ("POST", ["app", "installations", id, "access_tokens"]) => apps::access_token(state, asked, id),
        ("GET", ["orgs", organization, "teams", team, "memberships", user]) => {
            people::membership(state, asked, &format!("{organization}/{team}"), user)
        }
        (method, ["repos", owner, name, rest @ ..]) => {
            let name = format!("{owner}/{name}");
            match state.renamed.get(&name) {
                Some(id) if !state.repositories.contains_key(&name) => {
                    Err(repositories::moved(state, asked, *id, rest))
                }
                _ => of_repository(state, asked, method, &name, rest),
            }
        }
        (method, ["repositories", id, rest @ ..]) => {
            let mut known = state.repositories.iter().filter(|(_, known)| known.id.to_string() == **id);
            let name = known.next().map(|(name, _)| name.clone()).ok_or_else(Answer::not_found)?;
            of_repository(state, asked, method, &name, rest)
        }
        _ => Err(Answer::not_found()),
    }
}

fn of_repository(
    state: &mut State,
    asked: &Asked,
    method: &str,
    repository: &str,
    rest: &[&str],
) -> Result<Answer, Answer> {
    match (method, rest) {
        ("GET", []) => repositories::get(state, asked, repository),
        ("GET", ["installation"]) => apps::installation_of(state, asked, repository),
        ("POST", ["check-runs"]) => checks::create(state, asked, repository),
        ("PATCH", ["check-runs", id]) => checks::update(state, asked, repository, id),
        ("GET", ["commits", commit, "check-runs"]) => checks::list(state, asked, repository, commit),
        ("POST", ["statuses", commit]) => statuses::create(state, asked, repository, commit),
        ("GET", ["branches", branch]) => repositories::branch(state, asked, repository, branch),
        ("GET", ["deployments"]) => deployments::list(state, asked, repository),
        ("POST", ["deployments"]) => deployments::create(state, asked, repository),
        ("POST", ["deployments", id, "statuses"]) => deployments::status(state, asked, repository, id),
        ("GET", ["pulls"]) => repositories::pulls(state, asked, repository),
        ("GET", ["pulls", number]) => repositories::pull(state, asked, repository, number),
        ("GET", ["issues", number, "comments"]) => comments::list(state, asked, repository, number),
        ("POST", ["issues", number, "comments"]) => comments::create(state, asked, repository, number),
        ("PATCH", ["issues", "comments", id]) => comments::update(state, asked, repository, id),
        ("POST", ["issues", "comments", id, "reactions"]) => comments::react(state, asked, repository, id),
        ("GET", ["collaborators", user, "permission"]) => people::permission(state, asked, repository, user),
        _ => Err(Answer::not_found()),
    }
}

/// A key as GitHub makes one for an App: RSA, 2048 bits, in PKCS #1. The public half.
fn make_key(file: &Path) -> Result<Vec<u8>> {
    let made = Command::new("openssl").args(["genrsa", "-traditional", "-out"]).arg(file).arg("2048").output();
    let made = made.context("cannot run openssl; install it with `apt-get install openssl`")?;
    ensure!(made.status.success(), "openssl made no key: {}", String::from_utf8_lossy(&made.stderr));
    private(file)?;
    let pair = match PrivateKeyDer::from_pem_file(file)? {
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        other => RsaKeyPair::from_pkcs8(other.secret_der()),
    };
    let pair = pair.map_err(|error| anyhow::anyhow!("the key that openssl made can't be used: {error}"))?;
    Ok(pair.public_key().as_ref().to_vec())
}

fn private(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))?)
}
