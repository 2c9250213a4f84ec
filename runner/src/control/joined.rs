//! Hosts on other machines: who may join, what vouches for them and for the workers that reach them, and what they tell. A token is a
//! key of which the public half alone is kept; it lets one machine join, once, under one name, for a while. Certificates live shortly
//! and are taken back by a list that the authority signs; hosts hold a request open and so hear of a newer list at once.

use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
    time::Duration,
};

use indexmap::IndexMap;
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use segue_schemas::{
    config::HostConfig,
    deploy::Strategy,
    host_api::HostState,
    host_join::{Certified, HostAccess, HostHeard, JoinHost, JoinToken, RenewHost, TLS, is_host_name, join_text},
    id::{Epoch, RolloutId, WorkerId},
    time::Timestamp,
};

use super::{reaper::lose_rollout, rollouts::with_givers};
use crate::{
    auth::AuthError,
    authority::{Authority, AuthorityError, Issued},
    store::{
        Bell, Result, RolloutFilter, SecretScope, Store, StoreError, Tx,
        sql::{Conn, args},
        tables::{
            hosts::{self, JoinedHost, ToldState},
            releases,
            rollouts::{self, StoredRollout},
        },
    },
};

/// Under which name the authority's key is sealed.
const SEALED_AS: &str = "authority of hosts";
/// How often it is written down that a host was heard that has nothing new to tell.
const HEARD_EVERY: Duration = Duration::from_secs(20);
/// The longest address, and the longest version.
const LONGEST: usize = 300;
/// Emergency rollbacks that a host may have seen since its server heard of it.
const EMERGENCIES_AT_ONCE: u32 = 16;

/// To which owner of a rollout certificates were given last, and when.
pub(crate) type AccessGiven = HashMap<RolloutId, (Epoch, Timestamp)>;

/// A token that was made.
#[derive(Debug)]
pub struct Invited {
    /// The token; it is given once.
    pub token: JoinToken,
    /// Until when it may be used.
    pub expires_at: Timestamp,
}

impl Store {
    /// Makes a token by which one machine may join under a name. An earlier one for that name holds no more.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the name can't be a host's, [`StoreError::Conflict`] where one of that name has joined.
    pub async fn invite_host(&self, name: &str) -> Result<Invited> {
        if !is_host_name(name) {
            let problem = "take 1 to 63 small letters, digits and `-`";
            return Err(StoreError::Refused(format!(
                "`{}` can't name a host that joins: {problem}",
                name.escape_debug()
            )));
        }
        let is_here = |host: &HostConfig| host.socket.is_some() || host.is_started_here(name);
        if name == "local" || self.config().hosts.get(name).is_some_and(is_here) {
            return Err(StoreError::Conflict(format!("the host `{name}` is one of this machine: take another name")));
        }
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| AuthError::Random)?;
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| AuthError::Random)?;
        let key = hex::encode(key.public_key());
        // of servers that share a database, each must be able to open what any of them seals
        if self.server().is_some() {
            self.check_key().await?;
        }
        let (store, name) = (self.clone(), name.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                if hosts::find(&mut tx.conn, &name).await?.is_some_and(|host| host.revoked_at.is_none()) {
                    return Err(StoreError::Conflict(format!(
                        "a host `{name}` has joined: revoke it first (`segue host revoke {name}`), or take another name"
                    )));
                }
                let (authority, _) = authority(&store, tx).await?;
                let expires_at = tx.now + store.config().timing.host_invitation.0;
                hosts::invite(&mut tx.conn, &key, &name, tx.now, expires_at).await?;
                Ok(Invited { token: JoinToken { seed, authority: authority.fingerprint() }, expires_at })
            })
        })
        .await
    }

    /// A machine joins. The same key with the same token gets another certificate: its answer may have been lost.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the token is not, no more or not for this one good.
    pub async fn join_host(&self, join: JoinHost) -> Result<Certified> {
        let token = hex::decode(&join.token).unwrap_or_default();
        let signature = hex::decode(&join.signature).unwrap_or_default();
        let text = join_text(&join.name, &join.address, &join.version, &join.request);
        if UnparsedPublicKey::new(&ED25519, token).verify(&text, &signature).is_err() {
            return Err(StoreError::Refused(
                "the request to join is not signed by its token: it was changed on its way".into(),
            ));
        }
        check_address(&join.address)?;
        let store = self.clone();
        self.write(move |tx| Box::pin(async move { self::join(&store, tx, join).await })).await
    }

    /// A host's next certificate, for the key that it joined with.
    ///
    /// # Errors
    /// [`StoreError::Revoked`], or [`StoreError::Refused`] where the request is for another key.
    pub async fn renew_host(&self, name: &str, renew: RenewHost) -> Result<Certified> {
        let (store, name) = (self.clone(), name.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let mut host = joined(&mut tx.conn, &name).await?;
                let (certified, key, ends_at) = certify(&store, tx, &name, &renew.request).await?;
                if key != host.key {
                    let problem = format!("the host `{name}` joined with another key: have it join anew");
                    return Err(StoreError::Refused(problem));
                }
                host.ends_at = ends_at;
                hosts::save(&mut tx.conn, &host).await?;
                Ok(certified)
            })
        })
        .await
    }

    /// Of what a host on another machine tells, what is its own to tell: of environments that it carries, releases that were made here, and
    /// epochs that it can have seen.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn believable(&self, host: &str, told: &HostState) -> Result<HostState> {
        let mut conn = self.read().await?;
        let carries = |environment: &str| self.environment(environment).hosts.iter().any(|name| name == host);
        let mut state = told.clone();
        let mut unknown = HashSet::new();
        for release in state.instances.iter().map(|instance| &instance.release) {
            let known = releases::find(&mut conn, release.id).await?;
            let is_known =
                known.is_some_and(|known| known.service == release.service && known.digest == release.digest);
            if !is_known {
                unknown.insert(release.id);
            }
        }
        state.instances.retain(|one| carries(&one.environment) && !unknown.contains(&one.release.id));
        let mut routes = Vec::new();
        for route in std::mem::take(&mut state.routes) {
            let seen = rollouts::highest_epoch(&mut conn, &route.environment, &route.service).await?;
            // some emergencies may have come to pass there meanwhile
            let most = (0..EMERGENCIES_AT_ONCE).fold(seen, |epoch, _| epoch.after_emergency());
            if carries(&route.environment) && route.epoch <= most {
                routes.push(route);
            } else {
                let (environment, service) = (&route.environment, &route.service);
                tracing::warn!(host, environment, service, "a host tells of what is not its own; left out");
            }
        }
        state.routes = routes;
        Ok(state)
    }

    /// Takes a host's certificates back, at once: nobody reaches it any more. Gives the rollouts that were driven there.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where none of that name has joined, or it was revoked already.
    pub async fn revoke_host(&self, name: &str) -> Result<Vec<RolloutId>> {
        let missing = StoreError::not_found("joined host", name);
        let name = name.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let found = hosts::find(&mut tx.conn, &name).await?.filter(|host| host.revoked_at.is_none());
                let Some(mut host) = found else {
                    // kept although there is no such host: what fails is undone
                    hosts::withdraw(&mut tx.conn, &name).await?;
                    return Ok(None);
                };
                host.revoked_at = Some(tx.now);
                hosts::save(&mut tx.conn, &host).await?;
                hosts::withdraw(&mut tx.conn, &name).await?;
                hosts::revoke(&mut tx.conn, "host", &name, tx.now).await?;
                let mut driven = Vec::new();
                // whoever drives a rollout there stops: its lease is gone
                for rollout in rollouts::driven(&mut tx.conn).await? {
                    if rollout.record.rollout.spec.hosts.contains(&name) {
                        driven.push(rollout.id());
                        lose_rollout(tx, rollout).await?;
                    }
                }
                tx.ring(Bell::Hosts);
                Ok(Some(driven))
            })
        })
        .await?
        .ok_or(missing)
    }

    /// A host that joined and was not revoked, and whose certificate has not ended.
    ///
    /// # Errors
    /// [`StoreError::Revoked`] with what to do.
    pub async fn joined_host(&self, name: &str) -> Result<JoinedHost> {
        let host = joined(&mut self.read().await?, name).await?;
        if host.ends_at < self.now() {
            return Err(StoreError::Revoked(format!(
                "the certificate of the host `{name}` has ended: `segue host revoke {name}`, then invite it and have it join anew"
            )));
        }
        Ok(host)
    }

    /// The hosts that joined, revoked or not.
    pub async fn joined_hosts(&self) -> Result<Vec<JoinedHost>> {
        hosts::list(&mut self.read().await?).await
    }

    /// What every host carries, as it was last told.
    pub async fn host_states(&self) -> Result<Vec<ToldState>> {
        hosts::states(&mut self.read().await?).await
    }

    /// Since when each service's release has served, by environment and service.
    pub async fn serving_since(&self) -> Result<HashMap<(String, String), Timestamp>> {
        let sql = "SELECT environment, service, since FROM current_releases LIMIT 100000";
        let rows = self.read().await?.all(sql, args![]).await?;
        rows.iter().map(|row| Ok(((row.text("environment")?, row.text("service")?), row.time("since")?))).collect()
    }

    /// Whether a host's word of that time is of after the end of the service's newest rollout: one of before tells what that has changed since.
    pub async fn is_heard_since_rollouts(&self, environment: &str, service: &str, heard_at: Timestamp) -> Result<bool> {
        let newest = RolloutFilter {
            environment: Some(environment.to_owned()),
            service: Some(service.to_owned()),
            limit: 1,
            ..RolloutFilter::default()
        };
        let newest = self.rollouts(newest).await?;
        Ok(newest.first().is_none_or(|one| one.rollout.ended_at.is_some_and(|ended| ended < heard_at)))
    }

    /// Whether there is a host of this name.
    pub async fn is_host(&self, name: &str) -> Result<bool> {
        if name == "local" || self.config().hosts.contains_key(name) {
            return Ok(true);
        }
        Ok(hosts::find(&mut self.read().await?, name).await?.is_some_and(|host| host.revoked_at.is_none()))
    }

    /// Keeps what a host carries.
    pub async fn keep_host_state(&self, name: &str, state: &HostState) -> Result<()> {
        let text = serde_json::to_string(state).map_err(|e| StoreError::corrupt("host_states.state", e))?;
        self.hosts_heard().insert(name.to_owned(), self.now());
        self.host_answers(name);
        let name = name.to_owned();
        self.write(move |tx| Box::pin(async move { hosts::save_state(&mut tx.conn, &name, &text, tx.now).await })).await
    }

    /// Notes that a host was heard that carries what it did.
    pub async fn host_heard(&self, name: &str) -> Result<()> {
        self.host_answers(name);
        let now = self.now();
        let is_new = {
            let mut heard = self.hosts_heard();
            let is_new = heard.get(name).is_none_or(|at| now.since(*at) >= HEARD_EVERY);
            if is_new {
                heard.insert(name.to_owned(), now);
            }
            is_new
        };
        if !is_new {
            return Ok(());
        }
        let name = name.to_owned();
        self.write(move |tx| Box::pin(async move { hosts::heard(&mut tx.conn, &name, tx.now).await })).await
    }

    fn hosts_heard(&self) -> std::sync::MutexGuard<'_, HashMap<String, Timestamp>> {
        self.inner.hosts_heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list of certificates that hold no more, where `known` is not its number. A host takes no list with a lower number than it has, so
    /// that a store which was restored from a backup, and knows less than its hosts, goes on behind what they know.
    pub async fn host_news(&self, known: u64) -> Result<HostHeard> {
        let is_behind = |revision: u64| known > revision && known - revision <= FURTHEST_BEHIND;
        let revision = hosts::authority(&mut self.read().await?).await?.map_or(known, |(_, _, revision)| revision);
        if is_behind(revision) {
            tracing::warn!(
                known,
                revision,
                "a host knows of a newer list of revoked certificates than this server: a newer one is made"
            );
            self.write(move |tx| Box::pin(async move { hosts::revise_behind(&mut tx.conn, known).await })).await?;
        }
        let mut conn = self.read().await?;
        let Some((certificate, sealed, revision)) = hosts::authority(&mut conn).await? else {
            return Err(StoreError::not_found("authority for hosts", ""));
        };
        let revocations = if revision == known {
            None
        } else {
            let authority = open(self, &certificate, &sealed)?;
            Some(authority.revocations(revision, &hosts::revoked(&mut conn).await?, self.now())?)
        };
        Ok(HostHeard { revision, revocations })
    }
}

/// How many lists a restored store may have missed; who tells of more is not believed.
const FURTHEST_BEHIND: u64 = 1_000_000;

impl From<AuthorityError> for StoreError {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Request(_) => Self::Refused(error.to_string()),
            AuthorityError::Stored(_) => Self::corrupt("host_authority", error),
            AuthorityError::Signing(_) => Self::Unavailable(error.to_string()),
        }
    }
}

async fn join(store: &Store, tx: &mut Tx, join: JoinHost) -> Result<Certified> {
    let again = format!("`segue host invite {}` makes another", join.name.escape_debug());
    let Some(invitation) = hosts::invitation(&mut tx.conn, &join.token).await? else {
        return Err(StoreError::Refused(format!(
            "this token is not known, or a later one has taken its place: {again}"
        )));
    };
    if invitation.name != join.name {
        return Err(StoreError::Refused(format!("this token was made for the host `{}`", invitation.name)));
    }
    if invitation.expires_at <= tx.now {
        return Err(StoreError::Refused(format!("this token's time is over: {again}")));
    }
    let (certified, key, ends_at) = certify(store, tx, &join.name, &join.request).await?;
    if invitation.used_by.as_ref().is_some_and(|used_by| *used_by != key) {
        return Err(StoreError::Refused(format!("this token was used already, by another machine: {again}")));
    }
    hosts::use_up(&mut tx.conn, &join.token, &key, tx.now).await?;
    let JoinHost { name, address, .. } = join;
    let host = JoinedHost { name, address, key, ends_at, joined_at: tx.now, revoked_at: None };
    hosts::save(&mut tx.conn, &host).await?;
    tx.ring(Bell::Rollouts);
    Ok(certified)
}

/// A certificate for a host, the key that it is for, and when it ends.
async fn certify(store: &Store, tx: &mut Tx, name: &str, request: &str) -> Result<(Certified, String, Timestamp)> {
    let life = store.config().timing.host_certificate.0;
    let (authority, revision) = authority(store, tx).await?;
    let (Issued { certificate, serial, ends }, key) = authority.host(name, request, tx.now, life)?;
    hosts::issued(&mut tx.conn, &serial, "host", name, ends, tx.now).await?;
    let revocations = authority.revocations(revision, &hosts::revoked(&mut tx.conn).await?, tx.now)?;
    let renew_after_ms = u64::try_from(renewed_after(life).as_millis()).unwrap_or(u64::MAX);
    let certified = Certified { certificate, authority: authority.certificate(), revocations, renew_after_ms };
    Ok((certified, key, ends))
}

/// When the next one is asked for: when a third of its life is left.
fn renewed_after(life: Duration) -> Duration {
    life * 2 / 3
}

/// The authority and the number of its list; made where there is none.
async fn authority(store: &Store, tx: &mut Tx) -> Result<(Authority, u64)> {
    if let Some((certificate, sealed, revision)) = hosts::authority(&mut tx.conn).await? {
        return Ok((open(store, &certificate, &sealed)?, revision));
    }
    let (authority, certificate, key) = Authority::make(tx.now)?;
    let sealed = store.inner.secrets.seal(&SecretScope::default(), SEALED_AS, &key)?;
    hosts::make_authority(&mut tx.conn, &certificate, &sealed, tx.now).await?;
    tracing::info!(fingerprint = hex::encode(authority.fingerprint()), "an authority for hosts was made");
    Ok((authority, 0))
}

fn open(store: &Store, certificate: &str, sealed: &str) -> Result<Authority> {
    let key = store.inner.secrets.open(&SecretScope::default(), SEALED_AS, sealed)?;
    Ok(Authority::open(certificate, &key)?)
}

async fn joined(conn: &mut Conn, name: &str) -> Result<JoinedHost> {
    match hosts::find(conn, name).await? {
        Some(host) if host.revoked_at.is_none() => Ok(host),
        Some(_) => Err(StoreError::Revoked(format!(
            "the host `{name}` was revoked: `segue host invite {name}` lets it join anew"
        ))),
        None => Err(StoreError::Revoked(format!("no host `{}` has joined here", name.escape_debug()))),
    }
}

fn check_address(address: &str) -> Result<()> {
    let well = address.len() <= LONGEST
        && address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
        && !address.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/');
    if well { Ok(()) } else { Err(StoreError::Refused(format!("`{}` is no HOST:PORT", address.escape_debug()))) }
}

/// The addresses of those hosts that there are; of several, those that are not there any more keep the others from nothing.
pub(super) async fn reachable(store: &Store, conn: &mut Conn, names: &[String]) -> Result<IndexMap<String, String>> {
    let (mut found, mut refused) = (IndexMap::new(), None);
    for name in names {
        match addresses(store, conn, std::slice::from_ref(name)).await {
            Ok(address) => found.extend(address),
            Err(error @ StoreError::Refused(_)) => refused = refused.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    match refused {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// Where hosts are reached, by name: the path of a unix socket, or `tls://HOST:PORT` of one that joined.
///
/// # Errors
/// [`StoreError::Refused`] where there is no such host, or it was revoked.
pub(super) async fn addresses(store: &Store, conn: &mut Conn, names: &[String]) -> Result<IndexMap<String, String>> {
    let mut found = IndexMap::new();
    for name in names {
        let configured = store.config().hosts.get(name);
        let own = || store.inner.data.join("host/host.sock").to_string_lossy().into_owned();
        let here = configured.filter(|host| host.socket.is_some() || host.is_started_here(name));
        let address = match here {
            Some(host) => host.socket_in(name, &store.inner.data).to_string_lossy().into_owned(),
            None if name == "local" => own(),
            None => match (hosts::find(conn, name).await?, configured) {
                (Some(host), _) if host.revoked_at.is_some() => {
                    return Err(StoreError::Refused(format!(
                        "the host `{name}` was revoked: name another for the environment, or have it join anew (`segue host invite {name}`)"
                    )));
                }
                (Some(host), configured) => {
                    let configured = configured.and_then(|host| host.address.clone());
                    format!("{TLS}{}", configured.unwrap_or(host.address))
                }
                (None, Some(configured)) if configured.address.is_none() && !configured.join => own(),
                (None, Some(_)) => {
                    return Err(StoreError::Refused(format!(
                        "the host `{name}` has not joined: `segue host invite {name}` makes a token for it"
                    )));
                }
                (None, None) => {
                    return Err(StoreError::Refused(format!(
                        "there is no host `{name}`: add it under `hosts` in segue.yaml, with `join: true` where it is another machine's"
                    )));
                }
            },
        };
        found.insert(name.clone(), address);
    }
    Ok(found)
}

/// What opens the joined ones among these hosts for the worker that a rollout is given to; `None`: none of them joined.
pub(super) async fn access(
    store: &Store,
    tx: &mut Tx,
    worker: &WorkerId,
    (rollout, epoch): (RolloutId, Epoch),
    addresses: &IndexMap<String, String>,
) -> Result<Option<HostAccess>> {
    let names: Vec<String> =
        addresses.iter().filter(|(_, address)| address.starts_with(TLS)).map(|(name, _)| name.clone()).collect();
    if names.is_empty() {
        return Ok(None);
    }
    let life = store.config().timing.worker_certificate.0;
    let (authority, revision) = authority(store, tx).await?;
    let (Issued { certificate, serial, ends }, key) = authority.worker(worker, &names, tx.now, life)?;
    hosts::issued(&mut tx.conn, &serial, "worker", worker.as_str(), ends, tx.now).await?;
    let revocations = authority.revocations(revision, &hosts::revoked(&mut tx.conn).await?, tx.now)?;
    let mut given = store.inner.access_given.lock().unwrap_or_else(PoisonError::into_inner);
    given.retain(|_, (_, at)| tx.now.since(*at) < life);
    given.insert(rollout, (epoch, tx.now));
    Ok(Some(HostAccess { authority: authority.certificate(), certificate, key, revocations }))
}

/// What opens them from now on, where what the rollout's owner has is about to end, as far as this server knows.
pub(super) async fn next_access(store: &Store, tx: &mut Tx, held: &StoredRollout) -> Result<Option<HostAccess>> {
    let (id, epoch) = (held.id(), held.record.epoch);
    let Some(worker) = held.record.worker.clone() else { return Ok(None) };
    let names = &held.record.rollout.spec.hosts;
    let givers: &[String] = match &held.record.rollout.spec.strategy {
        Strategy::Sync(sync) => &sync.hosts,
        _ => &[],
    };
    if names.iter().chain(givers).all(|name| name == "local") || !is_access_due(store, id, epoch, tx.now) {
        return Ok(None);
    }
    match reachable(store, &mut tx.conn, names).await {
        Ok(addresses) => {
            let addresses = with_givers(store, tx, held, addresses).await?;
            access(store, tx, &worker, (id, epoch), &addresses).await
        }
        // it is lost by its lease
        Err(StoreError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_access_due(store: &Store, rollout: RolloutId, epoch: Epoch, now: Timestamp) -> bool {
    let given = store.inner.access_given.lock().unwrap_or_else(PoisonError::into_inner);
    let life = store.config().timing.worker_certificate.0;
    given.get(&rollout).is_none_or(|(to, at)| *to != epoch || now.since(*at) >= life / 3)
}

/// Takes back what a worker reaches hosts with.
pub(super) async fn revoke_worker(tx: &mut Tx, worker: &WorkerId) -> Result<()> {
    if hosts::revoke(&mut tx.conn, "worker", worker.as_str(), tx.now).await? {
        tx.ring(Bell::Hosts);
    }
    Ok(())
}
