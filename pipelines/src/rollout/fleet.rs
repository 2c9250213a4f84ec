//! Several hosts that carry one service, seen as one.
//!
//! Comes in: what each host reports. Goes out: one report for the [machine](super::RolloutMachine), in the names of the first host, and for each
//! host what an action means in its own names. Never here: calls.
//!
//! Every host has the whole of a service: a route of its own at its own proxy, instances of its own behind it, and on it the same shares as on
//! the others. New instances are called the same everywhere. What served before may be called otherwise on each, because a host that was away was
//! brought up to date by a rollout of its own; so former instances are taken by their place in the route.

use std::collections::BTreeMap;

use segue_schemas::{
    deploy::Release,
    host_api::{Instance, InstanceState, RouteState, Target},
    id::InstanceId,
};

use super::{input::HostFacts, weights::reduce};

/// The hosts of a rollout.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fleet {
    members: Vec<Member>,
}

/// One host of several.
#[derive(Debug, Clone, PartialEq)]
struct Member {
    host: String,
    /// What served before: the name that the machine knows, and those that it stands for here.
    former: Vec<(InstanceId, Vec<Target>)>,
}

/// A host that does not take part, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfStep {
    /// Its name.
    pub host: String,
    /// Why, in words.
    pub reason: String,
}

/// Which of the hosts can take part in a new rollout: those that serve what is on record, or nothing where nothing is; where none does, those that
/// serve what the first one does. The others are brought up to date afterwards, each by a rollout of its own.
#[must_use]
pub fn in_step(facts: &[(String, HostFacts)], previous: Option<&Release>) -> (Vec<String>, Vec<OutOfStep>) {
    let on_record = previous.map(|release| release.id);
    let has = |wanted| facts.iter().any(|(_, facts)| main(facts) == wanted);
    let wanted = if has(on_record) { on_record } else { facts.first().and_then(|(_, facts)| main(facts)) };
    let in_words = |release: Option<_>| release.map_or_else(|| "nothing".to_owned(), |id| format!("release {id}"));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for (host, facts) in facts {
        let serves = main(facts);
        if serves == wanted {
            with.push(host.clone());
        } else {
            let reason = format!("it serves {}, the others {}", in_words(serves), in_words(wanted));
            without.push(OutOfStep { host: host.clone(), reason });
        }
    }
    (with, without)
}

/// The release with the most weight.
fn main(facts: &HostFacts) -> Option<segue_schemas::id::ReleaseId> {
    let route = facts.route.as_ref()?;
    let most = route.targets.iter().filter(|target| target.weight > 0).max_by_key(|target| target.weight)?;
    facts.instances.iter().find(|instance| instance.id == most.instance).map(|instance| instance.release.id)
}

impl Fleet {
    /// The hosts that take part, with what each reports. `former`: what served before, in the machine's names, where a machine knows it
    /// already; `new`: its new instances.
    #[must_use]
    pub fn new(facts: &[(String, HostFacts)], former: Option<&[Target]>, new: &[InstanceId]) -> Self {
        let own = |facts: &HostFacts| own_former(facts, new);
        let first = || facts.first().map(|(_, facts)| own(facts)).unwrap_or_default();
        let logical = former.map_or_else(first, <[Target]>::to_vec);
        let member = |(host, facts): &(String, HostFacts)| Member {
            host: host.clone(),
            former: if is_called_so(&own(facts), &logical) {
                logical.iter().map(|target| (target.instance.clone(), vec![target.clone()])).collect()
            } else {
                by_place(&logical, own(facts))
            },
        };
        Self { members: facts.iter().map(member).collect() }
    }

    /// What the machine is told: everything, in its names. What not every host carries is not carried.
    #[must_use]
    pub fn seen_as_one(&self, facts: &[(String, HostFacts)]) -> HostFacts {
        let mut routes: Vec<RouteState> = Vec::new();
        let mut instances: BTreeMap<InstanceId, (usize, Instance)> = BTreeMap::new();
        for (host, facts) in facts {
            routes.extend(facts.route.as_ref().map(|route| self.route_in_its_names(host, route)));
            for instance in &facts.instances {
                let id = self.logical(host, &instance.id);
                let instance = Instance { id: id.clone(), ..instance.clone() };
                instances
                    .entry(id)
                    .and_modify(|(count, known)| {
                        *count += 1;
                        if rank(&instance.state) > rank(&known.state) {
                            known.state = instance.state.clone();
                        }
                        known.retire_at = known.retire_at.or(instance.retire_at);
                    })
                    .or_insert((1, instance));
            }
        }
        let all = facts.len();
        let instances = instances.into_values().map(|(count, mut instance)| {
            if count < all && rank(&instance.state) < rank(&InstanceState::Stopped) {
                instance.state = InstanceState::Stopped;
            }
            instance
        });
        // the one that has changed its weights by itself last says what has become of all
        let last = (0..routes.len())
            .max_by_key(|at| (routes[*at].restored.as_ref().map(|one| one.at), std::cmp::Reverse(*at)));
        let route = last.map(|at| {
            let epoch = routes.iter().map(|route| route.epoch).max().unwrap_or_default();
            let newest_observation = routes.iter().map(|route| route.newest_observation).sum();
            RouteState { epoch, newest_observation, ..routes.remove(at) }
        });
        let hosts = facts.iter().map(|(host, facts)| {
            let route = facts.route.as_ref().map(|route| self.route_in_its_names(host, route));
            (host.clone(), route.map(|route| route.targets).unwrap_or_default())
        });
        let (hosts, others) = (hosts.collect(), routes);
        HostFacts { route, others, instances: instances.collect(), hosts, apart: facts.to_vec() }
    }

    /// A host's route in the machine's names.
    #[must_use]
    pub fn route_in_its_names(&self, host: &str, route: &RouteState) -> RouteState {
        let named = |targets: &[Target]| {
            let named: Vec<Target> = targets
                .iter()
                .map(|target| Target { instance: self.logical(host, &target.instance), weight: target.weight })
                .collect();
            // several that stand for one have their weight together
            named.into_iter().fold(Vec::new(), |mut all: Vec<Target>, target| {
                match all.iter_mut().find(|known| known.instance == target.instance) {
                    Some(known) => known.weight = known.weight.saturating_add(target.weight),
                    None => all.push(target),
                }
                all
            })
        };
        RouteState { targets: named(&route.targets), fallback: named(&route.fallback), ..route.clone() }
    }

    /// The name that the machine has for a host's instance.
    #[must_use]
    pub fn logical(&self, host: &str, own: &InstanceId) -> InstanceId {
        let former = self.member(host).map(|member| &member.former);
        let found = former.into_iter().flatten().find(|(_, own_ones)| own_ones.iter().any(|one| one.instance == *own));
        found.map_or(own, |(logical, _)| logical).clone()
    }

    /// What an instance of the machine's is called at a host; nothing, where it has none in its place.
    #[must_use]
    pub fn own(&self, host: &str, logical: &InstanceId) -> Vec<InstanceId> {
        match self.stands_for(host, logical) {
            Some(own) => own.iter().map(|target| target.instance.clone()).collect(),
            None => vec![logical.clone()],
        }
    }

    /// Where the traffic goes, in a host's names: the same share of the former release and of the new one. Who has none stays without.
    #[must_use]
    pub fn own_targets(&self, host: &str, targets: &[Target]) -> Vec<Target> {
        let parts = |own: &[Target]| own.iter().map(|target| u64::from(target.weight.max(1))).sum::<u64>().max(1);
        let scale: u64 = self.member(host).map_or(1, |member| {
            member
                .former
                .iter()
                .map(|(_, own)| parts(own))
                .fold(1, |scale: u64, own| scale.saturating_mul(own).min(1 << 20))
        });
        let mut all = Vec::new();
        for target in targets {
            let weight = u64::from(target.weight).saturating_mul(scale);
            match self.stands_for(host, &target.instance) {
                None => all.push((target.instance.clone(), weight)),
                Some(own) => {
                    let of = parts(own);
                    all.extend(
                        own.iter().map(|one| (one.instance.clone(), weight / of * u64::from(one.weight.max(1)))),
                    );
                }
            }
        }
        // one that stands for several has their weight together
        let mut together: Vec<(InstanceId, u64)> = Vec::new();
        for (instance, weight) in all {
            match together.iter_mut().find(|(known, _)| *known == instance) {
                Some((_, known)) => *known = known.saturating_add(weight),
                None => together.push((instance, weight)),
            }
        }
        let idle: Vec<Target> = together
            .iter()
            .filter(|(_, weight)| *weight == 0)
            .map(|(instance, _)| Target { instance: instance.clone(), weight: 0 })
            .collect();
        reduce(within_bounds(together)).into_iter().chain(idle).collect()
    }

    fn stands_for(&self, host: &str, logical: &InstanceId) -> Option<&[Target]> {
        let member = self.member(host)?;
        member.former.iter().find(|(name, _)| name == logical).map(|(_, own)| own.as_slice())
    }

    fn member(&self, host: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.host == host)
    }
}

/// Whole numbers that fit, in the same proportions as nearly as can be; a share stays one.
fn within_bounds(all: Vec<(InstanceId, u64)>) -> Vec<Target> {
    let largest = all.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
    let by = largest.div_ceil(u64::from(u32::MAX)).max(1);
    let fit = |weight: u64| if weight == 0 { 0 } else { u32::try_from((weight / by).max(1)).unwrap_or(u32::MAX) };
    all.into_iter().map(|(instance, weight)| Target { instance, weight: fit(weight) }).collect()
}

/// What served a host before the rollout. Once the new instances have weight there, it is what the host falls back to.
fn own_former(facts: &HostFacts, new: &[InstanceId]) -> Vec<Target> {
    let Some(route) = &facts.route else { return Vec::new() };
    let has_new = route.targets.iter().any(|target| new.contains(&target.instance));
    reduce(if has_new { route.fallback.clone() } else { route.targets.clone() })
}

/// Whether a host has what served before, by the machine's own names, and nothing else; or nothing that could stand for it.
fn is_called_so(own: &[Target], logical: &[Target]) -> bool {
    own.is_empty()
        || (own.len() == logical.len()
            && logical.iter().all(|target| own.iter().any(|one| one.instance == target.instance)))
}

/// The first of a host stands for the first, and so on; the last for all that are left, on either side.
fn by_place(logical: &[Target], own: Vec<Target>) -> Vec<(InstanceId, Vec<Target>)> {
    let last = own.last().cloned();
    let mut own = own.into_iter();
    let mut places: Vec<(InstanceId, Vec<Target>)> = logical
        .iter()
        .map(|target| (target.instance.clone(), own.next().or_else(|| last.clone()).into_iter().collect()))
        .collect();
    if let Some((_, last)) = places.last_mut() {
        last.extend(own);
    }
    places
}

/// How far a state is from carrying traffic.
fn rank(state: &InstanceState) -> u8 {
    match state {
        InstanceState::Running => 0,
        InstanceState::Asleep => 1,
        InstanceState::Preparing => 2,
        InstanceState::BackingOff { .. } => 3,
        InstanceState::Stopped => 4,
        InstanceState::Failed { .. } => 5,
    }
}

/// How many instances each host has of a service that wants so many: its share, and one at least.
#[must_use]
pub fn share(replicas: u32, hosts: usize) -> u32 {
    let hosts = u32::try_from(hosts.max(1)).unwrap_or(u32::MAX);
    replicas.div_ceil(hosts).max(1)
}

#[cfg(test)]
mod tests {
    use segue_schemas::{
        host_api::Restored,
        id::{Epoch, ReleaseId, RunId},
        time::Timestamp,
    };

    use super::*;

    fn release(number: i64) -> Release {
        Release {
            id: ReleaseId(number),
            repository: "acme/shop".into(),
            service: "web".into(),
            digest: format!("sha256:{number:064x}").parse().unwrap(),
            commit: format!("{number:040x}").parse().unwrap(),
            run: RunId(number),
            created_at: Timestamp(0),
            image: None,
        }
    }

    fn target(name: &str, weight: u32) -> Target {
        Target { instance: name.parse().unwrap(), weight }
    }

    fn targets(all: &[(&str, u32)]) -> Vec<Target> {
        all.iter().map(|(name, weight)| target(name, *weight)).collect()
    }

    /// A host with these instances (name, release), that shares its traffic so.
    fn host(
        name: &str,
        instances: &[(&str, i64)],
        shares: &[(&str, u32)],
        fallback: &[(&str, u32)],
    ) -> (String, HostFacts) {
        let instance = |(id, number): &(&str, i64)| Instance {
            id: id.parse().unwrap(),
            environment: "production".into(),
            release: release(*number),
            address: String::new(),
            state: InstanceState::Running,
            pid: None,
            restarts: 0,
            retire_at: None,
            output: String::new(),
            drift: Vec::new(),
            gpu_loss: None,
            gpus: Vec::new(),
        };
        let route = RouteState {
            environment: "production".into(),
            service: "web".into(),
            epoch: Epoch(1),
            rules: Vec::new(),
            targets: targets(shares),
            fallback: targets(fallback),
            dead_man_at: None,
            restored: None,
            in_flight: [].into(),
            newest_observation: 10,
        };
        let facts = HostFacts {
            route: Some(route),
            others: Vec::new(),
            hosts: Vec::new(),
            apart: Vec::new(),
            instances: instances.iter().map(instance).collect(),
        };
        (name.into(), facts)
    }

    #[test]
    fn hosts_that_serve_something_else_than_is_on_record_take_no_part() {
        let nothing = ("c".to_owned(), HostFacts::default());
        let facts = [
            host("a", &[("web-1", 1)], &[("web-1", 1)], &[]),
            host("b", &[("web-9", 2)], &[("web-9", 1)], &[]),
            nothing,
        ];
        let named = |without: Vec<OutOfStep>| without.into_iter().map(|one| (one.host, one.reason)).collect::<Vec<_>>();
        let (with, without) = in_step(&facts, Some(&release(2)));
        assert_eq!(with, ["b"]);
        assert_eq!(
            named(without),
            [
                ("a".to_owned(), "it serves release 1, the others release 2".to_owned()),
                ("c".to_owned(), "it serves nothing, the others release 2".to_owned())
            ]
        );
        assert_eq!(in_step(&facts, None).0, ["c"], "the first release comes where nothing is");
        assert_eq!(
            in_step(&facts[..2], Some(&release(7))).0,
            ["a"],
            "where the record is of no use, the first host is right"
        );
    }

    #[test]
    fn what_served_before_has_a_name_of_its_own_on_each_host() {
        let facts = [
            host("a", &[("web-1", 1), ("web-2", 1)], &[("web-1", 1), ("web-2", 1)], &[]),
            host("b", &[("x-1", 1), ("x-2", 1), ("x-3", 1)], &[("x-1", 1), ("x-2", 1), ("x-3", 1)], &[]),
            host("c", &[("y-1", 1)], &[("y-1", 1)], &[]),
        ];
        let fleet = Fleet::new(&facts, None, &[]);
        let asked = targets(&[("web-1", 9), ("web-2", 9), ("new", 2)]);
        assert_eq!(fleet.own_targets("a", &asked), asked);
        // a tenth for the new one on each, whatever they have
        assert_eq!(
            fleet.own_targets("b", &asked),
            targets(&[("x-1", 18), ("x-2", 9), ("x-3", 9), ("new", 4)]),
            "the last stands for what is left over"
        );
        assert_eq!(fleet.own_targets("c", &asked), targets(&[("y-1", 9), ("new", 1)]), "it stands for both");
        assert_eq!(fleet.own("b", &"web-2".parse().unwrap()), ["x-2".parse().unwrap(), "x-3".parse().unwrap()]);
        assert_eq!(fleet.own("c", &"web-2".parse().unwrap()), ["y-1".parse().unwrap()]);
        assert_eq!(fleet.own("b", &"new".parse().unwrap()), ["new".parse().unwrap()]);
        assert_eq!(fleet.logical("b", &"x-3".parse().unwrap()).as_str(), "web-2");
        assert_eq!(fleet.logical("b", &"new".parse().unwrap()).as_str(), "new");
    }

    #[test]
    fn a_new_owner_finds_in_the_fallback_what_served_before() {
        let shifted = |name: &str, old: &str| host(name, &[(old, 1), ("new", 2)], &[(old, 9), ("new", 1)], &[(old, 1)]);
        let facts = [shifted("b", "x-1"), shifted("a", "web-1")];
        let fleet = Fleet::new(&facts, Some(&targets(&[("web-1", 1)])), &["new".parse().unwrap()]);
        assert_eq!(fleet.own("b", &"web-1".parse().unwrap()), ["x-1".parse().unwrap()]);
        assert_eq!(fleet.own("a", &"web-1".parse().unwrap()), ["web-1".parse().unwrap()]);
        let seen = fleet.seen_as_one(&facts);
        assert_eq!(seen.route.as_ref().unwrap().targets, targets(&[("web-1", 9), ("new", 1)]));
        assert_eq!(seen.route.as_ref().unwrap().newest_observation, 20);
        assert_eq!(seen.others.len(), 1);
        assert_eq!(seen.instances.len(), 2);
        assert!(seen.carries(&"new".parse().unwrap()));
    }

    #[test]
    fn what_one_host_lacks_is_carried_by_none_and_the_newest_way_back_is_told() {
        let mut facts = vec![
            host("a", &[("web-1", 1), ("new", 2)], &[("web-1", 9), ("new", 1)], &[("web-1", 1)]),
            host("b", &[("web-1", 1)], &[("web-1", 1)], &[("web-1", 1)]),
        ];
        let restored = Restored { at: Timestamp(5), reason: "dead-man".into(), epoch: Epoch(1) };
        facts[1].1.route.as_mut().unwrap().restored = Some(restored.clone());
        facts[1].1.route.as_mut().unwrap().epoch = Epoch(4);
        let fleet = Fleet::new(&facts, Some(&targets(&[("web-1", 1)])), &["new".parse().unwrap()]);
        let seen = fleet.seen_as_one(&facts);
        assert!(!seen.carries(&"new".parse().unwrap()) && seen.carries(&"web-1".parse().unwrap()));
        let route = seen.route.unwrap();
        assert_eq!((route.restored, route.epoch), (Some(restored), Epoch(4)));
        assert_eq!(route.targets, targets(&[("web-1", 1)]), "of the host that went back");
    }

    #[test]
    fn each_host_has_its_share_and_one_at_least() {
        for (replicas, hosts, share_of_each) in [(1, 1, 1), (1, 3, 1), (5, 2, 3), (6, 3, 2), (0, 0, 1)] {
            assert_eq!(share(replicas, hosts), share_of_each, "{replicas} on {hosts}");
        }
    }
}
