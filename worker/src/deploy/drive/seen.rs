//! What came of what was asked for, as the machine takes it in, and as the journal shows it.

use segue_pipelines::rollout::Input;
use segue_schemas::{
    deploy::JournalKind,
    duration::Span,
    gpu_health::GpuReport,
    host_api::{Instance, InstanceState, ObservationBatch, RouteState},
    id::InstanceId,
    worker_api::RolloutReport,
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    super::{
        group::Answers,
        hosts::HostTrouble,
        ladder::Climb,
        perform::{Act, Done, Seen, named},
        server::ServerError,
    },
    Driver,
    leave::{Leave, left_by, lost_by},
    micros,
};

impl Driver {
    pub(super) fn on_performed(&mut self, done: Done) -> Result<(), Leave> {
        self.is_busy = false;
        if let Some(report) = &done.reported {
            self.journal.sent(report);
        }
        let at = done.at;
        match done.seen {
            Seen::NotBegun(error) => return Err(lost_by(error)),
            Seen::Left => {
                if let Act::Quarantine { host, .. } = done.act {
                    let message = format!("host `{host}` is left to itself, told to go back if it could be");
                    self.journal.note_of(JournalKind::Quarantined, Some(host), json!({ "message": message }));
                }
            }
            Seen::Trouble(trouble) => return self.on_trouble(at, done.act, trouble),
            Seen::Instance(instances) => match &done.act {
                Act::Start(start) => self.on_started(at, &start.instance, instances),
                Act::Retire(id, retire) => {
                    let retire_at = instances.iter().find_map(|(_, instance)| instance.retire_at);
                    let after = Span::millis(retire.after_ms);
                    let message = format!("instance {id} stays warm for {after}; then its host drains and stops it");
                    let detail = json!({ "message": message, "instance": id, "retire_at": retire_at });
                    self.note_at(at.as_ref(), JournalKind::Retired, detail);
                    self.feed_at(at, Input::Retired { instance: id.clone() });
                }
                Act::Stop(id, _) => {
                    let detail = json!({ "message": format!("instance {id} is stopped"), "instance": id });
                    self.note_at(at.as_ref(), JournalKind::Retired, detail);
                    self.feed_at(at, Input::Stopped { instance: id.clone() });
                }
                Act::Shift { .. } | Act::StandBy(_) | Act::Interrupt(_) | Act::Quarantine { .. } => {}
            },
            Seen::Route(routes) => {
                if let Act::Interrupt(_) = &done.act {
                    let who =
                        at.as_ref().map_or_else(|| "nobody has".to_owned(), |at| format!("host `{at}` gives nobody"));
                    let message = format!("{who} traffic now, and requests are answered with 503");
                    let numbers = json!({ "took_us": micros(done.took) });
                    let detail = json!({ "message": message, "weight": 0, "targets": [], "numbers": numbers });
                    self.note_at(at.as_ref(), JournalKind::Shifted, detail);
                    self.feed_at(at, Input::Interrupted);
                    return Ok(());
                }
                if let Act::StandBy(apply) = &done.act {
                    self.renew_at = None;
                    let message = if apply.fallback.is_empty() {
                        format!("release {} stands ready, and nobody answers requests", self.release())
                    } else {
                        format!("release {} stands beside what serves", self.release())
                    };
                    let targets = routes.first().map(|(_, route)| route.targets.clone()).unwrap_or_default();
                    let numbers = json!({ "took_us": micros(done.took) });
                    let detail = json!({ "message": message, "weight": 0, "targets": targets, "numbers": numbers });
                    self.journal.note(JournalKind::Shifted, detail);
                    self.feed(Input::StandingBy);
                    return Ok(());
                }
                if let Act::Shift { number, percent, apply, only } = &done.act {
                    let is_meant = |host: &String| only.as_ref().is_none_or(|only| only.contains(host));
                    let meant = routes.iter().find(|(host, _)| is_meant(host));
                    let targets = meant.map(|(_, route)| route.targets.clone()).unwrap_or_default();
                    let (number, percent) = (*number, *percent);
                    if at.is_none() {
                        self.renew_at = apply.dead_man_ms.map(|_| Instant::now() + self.dead_man / 3);
                    }
                    let back_us = self
                        .going_back_since
                        .filter(|_| percent == 0 && at.is_none())
                        .map(|since| micros(since.elapsed()));
                    let message = match (back_us, only) {
                        _ if percent == 0 && at.is_some() => "what served before has this host's traffic".to_owned(),
                        (Some(us), _) => format!("traffic is back {:.1} ms after the decision", us as f64 / 1000.0),
                        (None, Some(hosts)) => {
                            format!("all traffic of {} goes to release {}", named(hosts), self.release())
                        }
                        (None, None) => format!("{percent} % of the traffic goes to release {}", self.release()),
                    };
                    let detail = json!({ "message": message, "weight": percent, "targets": targets, "hosts": only,
                        "numbers": { "took_us": micros(done.took), "traffic_back_us": back_us } });
                    self.note_at(at.as_ref(), JournalKind::Shifted, detail);
                    self.feed_at(at, Input::Shifted { number, percent });
                }
            }
        }
        Ok(())
    }

    /// An instance was started at each host, or at one it could not be.
    fn on_started(&mut self, at: Option<String>, id: &InstanceId, instances: Answers<Instance>) {
        let failed = instances.iter().find_map(|(host, instance)| match &instance.state {
            InstanceState::Failed { reason } => Some((host, reason)),
            _ => None,
        });
        let Some((_, first)) = instances.first() else {
            let reason = "no host has an instance in its place".to_owned();
            return self.feed_at(at, Input::NotReady { instance: id.clone(), reason });
        };
        if let Some((host, reason)) = failed {
            let there = if instances.len() > 1 { format!(" on host `{host}`") } else { String::new() };
            let reason = format!("it could not be started{there}: {reason}");
            return self.feed_at(at, Input::NotReady { instance: id.clone(), reason });
        }
        let places: Vec<String> = match &instances[..] {
            [(_, only)] => vec![only.address.clone()],
            all => all.iter().map(|(host, instance)| format!("{} of `{host}`", instance.address)).collect(),
        };
        let gpus: Vec<&String> = instances.iter().flat_map(|(_, instance)| &instance.gpus).collect();
        let mut message = format!("instance {id} is started on {}", places.join(", "));
        if let Some(first) = gpus.first() {
            let others = gpus.iter().skip(1).map(|gpu| format!(", {gpu}")).collect::<String>();
            message += &format!(", with {first}{others}");
        }
        let detail = json!({ "message": message, "instance": id, "address": places.join(", "), "pid": first.pid,
            "output": first.output, "gpus": gpus });
        self.note_at(at.as_ref(), JournalKind::Started, detail);
        self.feed_at(at, Input::Started { instance: id.clone() });
    }

    /// The host could not or would not.
    fn on_trouble(&mut self, at: Option<String>, act: Act, trouble: HostTrouble) -> Result<(), Leave> {
        let by_router = matches!(trouble, HostTrouble::Router(_));
        let reason = match (&act, trouble) {
            (Act::Start(start), HostTrouble::Full(reason)) => {
                self.feed_at(at, Input::NoRoom { instance: start.instance.clone(), reason });
                return Ok(());
            }
            // of several hosts the one that is broken takes no part any more
            (_, HostTrouble::Faulty(why)) if self.leaves_out(at.as_ref(), &why) => return Ok(()),
            (
                _,
                HostTrouble::Refused(reason)
                | HostTrouble::Router(reason)
                | HostTrouble::Full(reason)
                | HostTrouble::Faulty(reason),
            ) => reason,
            (_, trouble) => return self.left_at(at, trouble),
        };
        let input = match act {
            Act::Start(start) => Input::NotReady { instance: start.instance, reason },
            Act::Shift { number, percent, .. } => Input::ShiftFailed { number, percent, by_router, reason },
            Act::StandBy(_) => Input::StandByFailed { reason },
            Act::Interrupt(_) => Input::InterruptFailed { reason },
            Act::Quarantine { .. } => return Ok(()),
            Act::Retire(instance, _) | Act::Stop(instance, _) => Input::CleanUpFailed { instance, reason },
        };
        self.feed_at(at, input);
        Ok(())
    }

    pub(super) fn on_reported(&mut self, report: &RolloutReport, result: Result<(), ServerError>) -> Result<(), Leave> {
        match result {
            Ok(()) => {
                self.journal.sent(report);
                Ok(())
            }
            Err(error) => Err(lost_by(error)),
        }
    }

    pub(super) fn on_climbed(
        &mut self,
        at: Option<String>,
        instance: InstanceId,
        climb: Result<Climb, HostTrouble>,
    ) -> Result<(), Leave> {
        match climb {
            Ok(Ok(ready)) => {
                let ms = ready.latency_us as f64 / 1000.0;
                let message =
                    format!("instance {instance} is ready after {:.1?}; it answers in {ms:.1} ms", ready.took);
                let numbers =
                    json!({ "took_us": micros(ready.took), "tries": ready.tries, "latency_us": ready.latency_us });
                let detail = json!({ "message": message, "instance": instance, "numbers": numbers });
                self.note_at(at.as_ref(), JournalKind::Ready, detail);
                self.feed_at(at, Input::Ready { instance });
            }
            Ok(Err(fell)) => {
                self.fallen.insert(instance.clone(), fell.seen);
                self.feed_at(at, Input::NotReady { instance, reason: fell.message });
            }
            Err(HostTrouble::Refused(reason)) => self.feed_at(at, Input::NotReady { instance, reason }),
            Err(trouble) => return self.left_at(at, trouble),
        }
        Ok(())
    }

    pub(super) fn on_observed(&mut self, after: u64, batch: Result<ObservationBatch, HostTrouble>) {
        self.is_polling = false;
        match batch {
            Ok(batch) if after == self.machine.observed_until() => {
                let ObservationBatch { observations, next, lost } = batch;
                self.feed(Input::Observations { observations, lost, next });
            }
            Ok(_) => {}
            // the acts and renewals tell what a host that is away means; here it only means that nothing is seen
            Err(trouble) => tracing::warn!(rollout = %self.claim.rollout.id, %trouble, "no observations"),
        }
    }

    pub(super) fn on_gpus(&mut self, host: String, report: Result<GpuReport, HostTrouble>) {
        match report {
            Ok(report) => {
                self.gpus_asked.remove(&host);
                if self.gpus_seen.insert(host.clone(), report.revision) != Some(report.revision) {
                    let hosts = self.hosts.names();
                    self.feed(Input::Gpus { reports: vec![(host, report)], hosts, is_asked: false });
                }
            }
            // one that does not know this, or takes no part, is not asked again
            Err(HostTrouble::Refused(why)) => tracing::warn!(host, why, "it does not say how its GPUs are"),
            Err(_) => drop(self.gpus_asked.remove(&host)),
        }
    }

    pub(super) fn on_renewed(&mut self, renewed: Result<Answers<RouteState>, HostTrouble>) -> Result<(), Leave> {
        match renewed {
            Ok(routes) => {
                self.renew_at = self.renew_at.map(|_| self.renewing_since + self.dead_man / 3);
                for (_, route) in routes {
                    self.feed(Input::Route { route });
                }
                Ok(())
            }
            Err(trouble @ HostTrouble::Stale(_)) => Err(left_by(trouble)),
            Err(trouble) => {
                tracing::warn!(rollout = %self.claim.rollout.id, %trouble, "the dead-man's deadline can't be put off");
                self.renew_at = self.renew_at.map(|_| Instant::now() + self.dead_man / 10);
                Ok(())
            }
        }
    }
}
