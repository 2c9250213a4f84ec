//! Where traffic goes: the table that the host writes and the proxy carries, and the form in which it is looked up.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use rand::Rng as _;
use segue_schemas::{
    assignment::{Assignment, Side, Sticky},
    deploy::RouteRule,
    id::InstanceId,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{
    assign::{Client, first_match},
    observations::ObservationLog,
};

/// Every route of a host, as it is sent to the proxy and lies in the file that a proxy reads when it starts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteTable {
    /// The routes, one for each pair of environment and service.
    pub routes: Vec<TableRoute>,
}

/// One service in one environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableRoute {
    /// The environment.
    pub environment: String,
    /// The service.
    pub service: String,
    /// Which requests; at least one rule.
    pub rules: Vec<RouteRule>,
    /// How they are assigned to the releases among the targets, where there are two.
    #[serde(default)]
    pub assignment: Assignment,
    /// Where to.
    pub targets: Vec<TableTarget>,
    /// Whether all of them sleep, or are on their way there or back: its requests wait.
    #[serde(default)]
    pub asleep: bool,
}

/// One instance of a route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableTarget {
    /// The instance.
    pub instance: InstanceId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share, relative to the sum over the route's targets.
    pub weight: u32,
    /// What the weights of several instances are added up by when a probability is recorded: the release's number.
    pub release: i64,
}

impl TableRoute {
    /// Which of two releases a target is of.
    #[must_use]
    pub fn side_of(&self, target: &TableTarget) -> Side {
        let is_canary = self.assignment.canary.is_some_and(|canary| canary.0 == target.release);
        if is_canary { Side::Canary } else { Side::Stable }
    }

    /// Whether there are two releases to choose from: the new one may have no share yet, and what rules send to it reaches it all the same.
    /// Where the new one has all traffic, or is not there, nothing is to be assigned.
    #[must_use]
    pub fn has_both(&self) -> bool {
        let of = |side| self.targets.iter().filter(move |target| self.side_of(target) == side);
        of(Side::Canary).next().is_some() && of(Side::Stable).any(|target| target.weight > 0)
    }

    /// The new release's share, while both have some: what there is to be drawn for a client.
    #[must_use]
    pub fn share(&self) -> Option<Share> {
        let weight_of = |target: &TableTarget| u64::from(target.weight);
        let of = |side| self.targets.iter().filter(|target| self.side_of(target) == side).map(weight_of).sum();
        let (canary, stable): (u64, u64) = (of(Side::Canary), of(Side::Stable));
        (canary > 0 && stable > 0).then_some(Share { canary, all: canary + stable })
    }

    /// How clients are kept at a release, while there is something to be drawn for them.
    #[must_use]
    pub fn kept(&self) -> Option<(&Sticky, Share)> {
        self.assignment.sticky.as_ref().zip(self.share())
    }

    /// The targets of one release, with the weights by which what rules send to it is drawn among them: equal ones, where it has no share of
    /// the rest.
    #[must_use]
    pub fn of_side(&self, side: Side) -> Vec<(&TableTarget, u32)> {
        let of_side = || self.targets.iter().filter(|target| self.side_of(target) == side);
        let has_share = of_side().any(|target| target.weight > 0);
        let weighed = of_side().map(|target| (target, if has_share { target.weight } else { 1 }));
        weighed.filter(|(_, weight)| *weight > 0).collect()
    }
}

/// The new release's part of all weights: neither none nor all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Its weight.
    pub canary: u64,
    /// That of both together.
    pub all: u64,
}

impl Share {
    /// The weight of one of them.
    #[must_use]
    pub const fn of(self, side: Side) -> u64 {
        match side {
            Side::Canary => self.canary,
            Side::Stable => self.all - self.canary,
        }
    }

    /// The same of so many parts, rounded; neither none nor all of them.
    #[must_use]
    pub fn in_parts(self, whole: u64) -> u64 {
        ((self.canary.saturating_mul(whole) + self.all / 2) / self.all).clamp(1, whole - 1)
    }

    /// Whether it includes what was drawn, a number spread evenly over all that there are: a larger share includes whatever a smaller one does.
    #[must_use]
    pub fn includes(self, draw: u64) -> bool {
        (u128::from(draw) * u128::from(self.all)) >> 64 < u128::from(self.canary)
    }
}

/// The table in the form that requests are looked up in. What outlives a table (observations, counts of what is in
/// flight) is carried over from the one before.
#[derive(Debug, Default)]
pub struct Routing {
    by_host: HashMap<String, Vec<Place>>,
    any_host: Vec<Place>,
    /// Every route, for the control side.
    pub routes: Vec<Arc<Route>>,
    in_flight: HashMap<InstanceId, Arc<InFlight>>,
}

/// A path of a rule and the route behind it.
#[derive(Debug)]
struct Place {
    path: String,
    route: Arc<Route>,
}

/// One route, ready to choose from.
#[derive(Debug)]
pub struct Route {
    /// The environment.
    pub environment: String,
    /// The service.
    pub service: String,
    /// Its targets with weight; and those without it that rules send requests to.
    targets: Vec<Arc<Upstream>>,
    /// How requests are assigned to the releases among them.
    assignment: Assignment,
    /// Whether there are two releases, see [`TableRoute::has_both`]. Where one is alone, it is only told which rule a request goes by.
    has_both: bool,
    /// The new one's share, while both have some.
    share: Option<Share>,
    asleep: bool,
    /// What was observed of it.
    pub log: Arc<ObservationLog>,
}

/// An instance that gets traffic.
#[derive(Debug)]
pub struct Upstream {
    /// The instance.
    pub instance: InstanceId,
    /// Where it listens.
    pub address: SocketAddr,
    weight: u32,
    /// The same among those of its release, for what a rule sends there.
    weight_by_rule: u32,
    release: i64,
    side: Side,
    in_flight: Arc<InFlight>,
}

/// How many requests an instance has in flight, and word of when there are none.
#[derive(Debug, Default)]
pub struct InFlight {
    count: AtomicU64,
    none: Notify,
}

/// One request in flight at one instance; ends when dropped.
#[derive(Debug)]
pub struct InFlightGuard(Arc<InFlight>);

/// What a request was given to.
#[derive(Debug)]
pub struct Choice {
    /// The route.
    pub route: Arc<Route>,
    /// The instance.
    pub upstream: Arc<Upstream>,
    /// The probability with which the instance's release was chosen.
    pub probability: f64,
    /// The rule of the service's by which it was.
    pub rule: Option<u8>,
    /// The client, where each keeps its release and one was drawn for it.
    pub client: Option<Client>,
    /// The release that it may go to alone.
    side: Option<Side>,
    /// Keeps the instance's count up.
    pub guard: InFlightGuard,
}

/// Why a request can't be given to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoChoice {
    /// No rule matches.
    NoRoute,
    /// What is to answer sleeps.
    Asleep {
        /// The environment.
        environment: String,
        /// The service.
        service: String,
    },
    /// The route has no target with weight.
    NoTarget {
        /// The environment.
        environment: String,
        /// The service.
        service: String,
    },
}

impl Routing {
    /// The form of `table` for look-ups, keeping what `before` has observed and counted. `generation` numbers the proxy
    /// processes of a host; observation sequences of a later one lie above those of an earlier one.
    #[must_use]
    pub fn new(table: &RouteTable, before: &Self, generation: u64) -> Self {
        let mut routing = Self { in_flight: before.in_flight.clone(), ..Self::default() };
        for route in &table.routes {
            let log = before.route(&route.environment, &route.service).map(|r| r.log.clone());
            let by_side = |side| if route.has_both() { route.of_side(side) } else { Vec::new() };
            let by_rule: Vec<_> = [Side::Canary, Side::Stable].into_iter().flat_map(by_side).collect();
            let targets = route.targets.iter().filter_map(|target| {
                let drawn = by_rule.iter().find(|(known, _)| *known == target).map(|(_, weight)| *weight);
                let by_rule = drawn.unwrap_or(0);
                (target.weight > 0 || by_rule > 0).then(|| routing.upstream(target, route.side_of(target), by_rule))
            });
            let targets = targets.collect();
            let built = Arc::new(Route {
                environment: route.environment.clone(),
                service: route.service.clone(),
                targets,
                assignment: route.assignment.clone(),
                has_both: route.has_both(),
                share: route.share(),
                asleep: route.asleep,
                log: log.unwrap_or_else(|| Arc::new(ObservationLog::new(generation))),
            });
            for rule in &route.rules {
                let place = Place { path: rule.path.clone(), route: built.clone() };
                match &rule.host {
                    Some(host) => routing.by_host.entry(host.to_ascii_lowercase()).or_default().push(place),
                    None => routing.any_host.push(place),
                }
            }
            routing.routes.push(built);
        }
        let longest_first = |places: &mut Vec<Place>| places.sort_by_key(|p| std::cmp::Reverse(p.path.len()));
        routing.by_host.values_mut().for_each(longest_first);
        longest_first(&mut routing.any_host);
        // An instance that left the table is counted for as long as anything of it is in flight.
        let routed: HashSet<&InstanceId> = table.routes.iter().flat_map(|r| &r.targets).map(|t| &t.instance).collect();
        routing.in_flight.retain(|id, count| routed.contains(id) || count.count() > 0);
        routing
    }

    fn upstream(&mut self, target: &TableTarget, side: Side, weight_by_rule: u32) -> Arc<Upstream> {
        Arc::new(Upstream {
            instance: target.instance.clone(),
            address: target.address,
            weight: target.weight,
            weight_by_rule,
            release: target.release,
            side,
            in_flight: self.in_flight.entry(target.instance.clone()).or_default().clone(),
        })
    }

    /// The route of a pair.
    #[must_use]
    pub fn route(&self, environment: &str, service: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|r| r.environment == environment && r.service == service)
    }

    /// An instance's count, if it has or lately had traffic.
    #[must_use]
    pub fn in_flight(&self, instance: &str) -> Option<Arc<InFlight>> {
        self.in_flight.iter().find(|(id, _)| id.as_str() == instance).map(|(_, count)| count.clone())
    }

    /// All counts.
    pub fn all_in_flight(&self) -> impl Iterator<Item = (&InstanceId, u64)> {
        self.in_flight.iter().map(|(id, count)| (id, count.count()))
    }

    /// Gives a request for `host` (with or without a port) and `path` with these headers to an instance, at random by weight, leaving
    /// out `tried` where there is another. A rule with the request's host goes before one for any host; then the longest path
    /// wins. What a rule of the service's sends to a release, and the client that keeps to one, goes to its instances alone.
    /// `client`: who it was, where one was drawn for this request before.
    pub fn choose(
        &self,
        client: Option<Client>,
        host: &str,
        path: &str,
        headers: &HeaderMap,
        tried: &[InstanceId],
    ) -> Result<Choice, NoChoice> {
        let route = self.find(host, path).ok_or(NoChoice::NoRoute)?;
        if route.asleep {
            return Err(NoChoice::Asleep { environment: route.environment.clone(), service: route.service.clone() });
        }
        let by_rule = first_match(&route.assignment.rules, headers);
        let (rule, side) =
            by_rule.map_or((None, None), |(rule, side)| (Some(rule), Some(side).filter(|_| route.has_both)));
        let drawn = route.share.filter(|_| rule.is_none());
        let client = drawn.zip(route.assignment.sticky.as_ref()).map(|(share, sticky)| {
            let client = client.unwrap_or_else(|| Client::of(sticky, headers));
            (client, share)
        });
        let side = side.or_else(|| client.map(|(client, share)| route.side_for(client, share)));
        let all_tried = !route.has_other_than(side, tried);
        let is_open = |u: &&Arc<Upstream>| u.may_have(side) && (all_tried || !tried.contains(&u.instance));
        let open = || route.targets.iter().filter(is_open);
        let total: u64 = open().map(|u| u.weight_for(side)).sum();
        if total == 0 {
            return Err(NoChoice::NoTarget { environment: route.environment.clone(), service: route.service.clone() });
        }
        let mut ticket = rand::rng().random_range(0..total);
        let mut upstream = None;
        for candidate in open() {
            let weight = candidate.weight_for(side);
            if ticket < weight {
                upstream = Some(candidate.clone());
                break;
            }
            ticket -= weight;
        }
        let Some(upstream) = upstream else {
            return Err(NoChoice::NoTarget { environment: route.environment.clone(), service: route.service.clone() });
        };
        let of_release: u64 = open().filter(|u| u.release == upstream.release).map(|u| u.weight_for(side)).sum();
        let (part, whole) = match client {
            // drawn among all, once for all of the client's requests
            Some((_, share)) => (share.of(upstream.side), share.all),
            None => (of_release, total),
        };
        #[allow(clippy::cast_precision_loss)]
        let probability = if rule.is_some() { 1.0 } else { part as f64 / whole as f64 };
        let guard = InFlightGuard::new(upstream.in_flight.clone());
        let client = client.map(|(client, _)| client);
        Ok(Choice { route: route.clone(), upstream, probability, rule, client, side, guard })
    }

    fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let host = without_port(host);
        let named = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            self.by_host.get(&host.to_ascii_lowercase())
        } else {
            self.by_host.get(host)
        };
        let longest = |places: &'_ [Place]| places.iter().position(|p| begins_at_boundary(path, &p.path));
        if let Some(places) = named
            && let Some(i) = longest(places)
        {
            return Some(&places[i].route);
        }
        longest(&self.any_host).map(|i| &self.any_host[i].route)
    }
}

impl Route {
    fn has_other_than(&self, side: Option<Side>, tried: &[InstanceId]) -> bool {
        self.targets.iter().any(|u| u.may_have(side) && !tried.contains(&u.instance))
    }

    /// The release of a client: the same for as long as the shares are, and the new one's once its share has come to include the client.
    fn side_for(&self, client: Client, share: Share) -> Side {
        let draw = client.draw(self.assignment.canary.map_or(0, |release| release.0));
        if share.includes(draw) { Side::Canary } else { Side::Stable }
    }
}

impl Choice {
    /// The `Set-Cookie` by which a new client is to be known from now on; `None`: there is nothing to keep, or it has come with its key.
    #[must_use]
    pub fn cookie(&self, is_secure: bool) -> Option<String> {
        let client = self.client.filter(|client| client.is_new)?;
        let sticky = self.route.assignment.sticky.as_ref()?;
        Some(format!("{}={}; {}", sticky.cookie, client.key(), sticky.attributes(is_secure)))
    }

    /// Whether there is an instance with weight that the request may go to, and that is not in `tried`.
    #[must_use]
    pub fn has_other_than(&self, tried: &[InstanceId]) -> bool {
        self.route.has_other_than(self.side, tried)
    }
}

impl Upstream {
    fn may_have(&self, side: Option<Side>) -> bool {
        side.is_none_or(|side| side == self.side) && self.weight_for(side) > 0
    }

    fn weight_for(&self, side: Option<Side>) -> u64 {
        u64::from(if side.is_some() { self.weight_by_rule } else { self.weight })
    }
}

impl InFlight {
    /// How many there are now.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until there are none, at most `limit`; how many there are then.
    pub async fn wait_for_none(&self, limit: Duration) -> u64 {
        let wait = async {
            loop {
                let none = self.none.notified();
                tokio::pin!(none);
                none.as_mut().enable();
                if self.count() == 0 {
                    return;
                }
                none.await;
            }
        };
        let _ = tokio::time::timeout(limit, wait).await;
        self.count()
    }
}

impl InFlightGuard {
    fn new(in_flight: Arc<InFlight>) -> Self {
        in_flight.count.fetch_add(1, Ordering::AcqRel);
        Self(in_flight)
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

/// Whether two rules would take the same requests with the same right, so that neither can win.
#[must_use]
pub fn collide(a: &RouteRule, b: &RouteRule) -> bool {
    let host = |r: &RouteRule| r.host.as_deref().map(str::to_ascii_lowercase);
    host(a) == host(b) && a.path.trim_end_matches('/') == b.path.trim_end_matches('/')
}

fn begins_at_boundary(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => {
            if name.contains(':') && !name.starts_with('[') {
                host
            } else {
                name
            }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(host: Option<&str>, path: &str) -> RouteRule {
        RouteRule { environment: None, host: host.map(Into::into), path: path.into() }
    }

    fn target(instance: &str, weight: u32, release: i64) -> TableTarget {
        let address = "127.0.0.1:1".parse().unwrap();
        TableTarget { instance: instance.parse().unwrap(), address, weight, release }
    }

    fn routing(routes: &[(&str, Vec<RouteRule>, Vec<TableTarget>)]) -> Routing {
        let routes = routes.iter().map(|(service, rules, targets)| TableRoute {
            environment: "production".into(),
            service: (*service).into(),
            rules: rules.clone(),
            assignment: Assignment::default(),
            targets: targets.clone(),
            asleep: false,
        });
        Routing::new(&RouteTable { routes: routes.collect() }, &Routing::default(), 1)
    }

    #[test]
    fn the_host_goes_before_any_host_and_the_longest_path_wins() {
        let routing = routing(&[
            ("any", vec![rule(None, "/")], vec![target("any", 1, 1)]),
            ("shop", vec![rule(Some("Shop.test"), "/")], vec![target("shop", 1, 1)]),
            ("api", vec![rule(Some("shop.test"), "/api/")], vec![target("api", 1, 1)]),
            ("deep", vec![rule(None, "/api/v1")], vec![target("deep", 1, 1)]),
        ]);
        let cases = [
            ("shop.test", "/", "shop"),
            ("SHOP.TEST:8080", "/x", "shop"),
            ("shop.test", "/api", "api"),
            ("shop.test", "/api/v1/x", "api"),
            ("shop.test", "/apix", "shop"),
            ("other.test", "/api/v1", "deep"),
            ("other.test", "/api/v2", "any"),
            ("[::1]:8080", "/", "any"),
        ];
        for (host, path, expected) in cases {
            let choice = routing.choose(None, host, path, &HeaderMap::new(), &[]).unwrap();
            assert_eq!(choice.route.service, expected, "{host}{path}");
        }
    }

    #[test]
    fn weights_are_kept_and_the_releases_probability_is_recorded() {
        let targets = vec![target("new", 10, 2), target("old-a", 45, 1), target("old-b", 45, 1), target("idle", 0, 3)];
        let routing = routing(&[("web", vec![rule(None, "/")], targets)]);
        let mut new = 0_u32;
        for _ in 0..20_000 {
            let choice = routing.choose(None, "x", "/", &HeaderMap::new(), &[]).unwrap();
            match choice.upstream.instance.as_str() {
                "new" => {
                    assert!((choice.probability - 0.1).abs() < 1e-9);
                    new += 1;
                }
                "idle" => panic!("an instance without weight was chosen"),
                _ => assert!((choice.probability - 0.9).abs() < 1e-9),
            }
        }
        // 2,000 expected, the standard deviation is 42: a miss by 300 does not happen by chance.
        assert!((1_700..2_300).contains(&new), "{new} of 20,000");
    }

    #[test]
    fn a_second_try_goes_elsewhere_while_there_is_an_elsewhere() {
        let routing = routing(&[("web", vec![rule(None, "/")], vec![target("a", 99, 1), target("b", 1, 2)])]);
        let tried = ["a".parse().unwrap()];
        for _ in 0..50 {
            let choice = routing.choose(None, "x", "/", &HeaderMap::new(), &tried).unwrap();
            assert_eq!((choice.upstream.instance.as_str(), choice.probability), ("b", 1.0));
        }
        let all = ["a".parse().unwrap(), "b".parse().unwrap()];
        assert!(routing.choose(None, "x", "/", &HeaderMap::new(), &all).is_ok());
    }

    #[test]
    fn no_route_and_no_target_are_told_apart() {
        let routing = routing(&[("web", vec![rule(Some("a.test"), "/")], vec![target("a", 0, 1)])]);
        assert_eq!(routing.choose(None, "b.test", "/", &HeaderMap::new(), &[]).unwrap_err(), NoChoice::NoRoute);
        let none = NoChoice::NoTarget { environment: "production".into(), service: "web".into() };
        assert_eq!(routing.choose(None, "a.test", "/", &HeaderMap::new(), &[]).unwrap_err(), none);
    }

    #[test]
    fn what_is_in_flight_outlives_the_table_that_sent_it() {
        let before = routing(&[("web", vec![rule(None, "/")], vec![target("a", 1, 1)])]);
        let choice = before.choose(None, "x", "/", &HeaderMap::new(), &[]).unwrap();
        let after = Routing::new(&RouteTable::default(), &before, 1);
        drop(before);
        assert_eq!(after.in_flight("a").unwrap().count(), 1);
        drop(choice);
        let later = Routing::new(&RouteTable::default(), &after, 1);
        assert!(later.in_flight("a").is_none());
    }

    #[test]
    fn rules_that_take_the_same_requests_collide() {
        assert!(collide(&rule(Some("A.test"), "/x/"), &rule(Some("a.test"), "/x")));
        assert!(!collide(&rule(Some("a.test"), "/x"), &rule(Some("a.test"), "/")));
        assert!(!collide(&rule(Some("a.test"), "/"), &rule(None, "/")));
    }
}
