//! Which engine has what this host runs in containers. It is recorded when it first answers: another one that answers later, as after a change of
//! the settings, has neither the containers nor the volumes, and would be given services that begin with nothing.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::state::{Recorded, RunSpec, Store};
use crate::engine::docker::Met;

/// The engine that has what is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineRecord {
    /// Its own number (`ID` of `GET /info`), which it keeps for as long as its data.
    pub id: String,
    /// By what this host is known there: its containers, networks and volumes have names of it.
    pub owner: String,
    /// Where it was reached last.
    pub address: String,
}

/// Has the engine that answers recorded, or refused. `owner`: by what this host is to be known at one that knows nothing of it yet; `anew`: the
/// number of one that is taken although services have data at another.
pub(super) fn met(store: &Arc<Store>, owner: &str, address: &str, anew: Option<&str>) -> Met {
    let (store, owner, address) = (store.clone(), owner.to_owned(), address.to_owned());
    let anew = anew.map(str::to_owned);
    Met::by(move |id| {
        let is_anew = anew.as_ref() == Some(&id);
        let engine = EngineRecord { id, owner: owner.clone(), address: address.clone() };
        let store = store.clone();
        Box::pin(async move {
            let mut known = store.current().as_ref().clone();
            known.meet(engine.clone(), is_anew)?;
            if known.engine == store.current().engine {
                return Ok(());
            }
            let noted = store.change(move |recorded| Ok(recorded.meet(engine, is_anew))).await;
            noted.map_err(|error| error.message)?
        })
    })
}

impl Recorded {
    /// Takes note of the engine that answers. `is_anew`: this host's operator says of it that what was at the one before is lost.
    fn meet(&mut self, engine: EngineRecord, is_anew: bool) -> Result<(), String> {
        let Some(known) = &mut self.engine else {
            self.engine = Some(engine);
            return Ok(());
        };
        if known.id == engine.id {
            known.address = engine.address;
            return Ok(());
        }
        let known = known.clone();
        // one that was set up anew in its place has taken the containers with it, and they can begin again; what data were there is missed
        let held = self.held_at_engine(known.address == engine.address);
        if !held.is_empty() && !is_anew {
            return Err(format!(
                "{} is another engine (ID {}) than the one at {} (ID {}), which has the containers and volumes of {}: nothing is started. \
                 Name that engine again in `docker` of this host; to move, give the other engine to a host of another name; where it was set \
                 up anew and what was kept there is lost, say so with `anew` (`hosts.NAME.docker: {{ address: {}, anew: \"{}\" }}` in segue.yaml), start `segue up` again and end this host (process {}) by TERM: what it carries goes on (docs/hosts.md, \
                 \"To another engine\")",
                engine.address,
                engine.id,
                known.address,
                known.id,
                held.join(", "),
                engine.address,
                engine.id,
                std::process::id()
            ));
        }
        self.leave_engine();
        self.engine = Some(engine);
        Ok(())
    }

    /// Nothing of what was at an engine is at the next one: no data, and the GPUs that were chosen there are another machine's.
    fn leave_engine(&mut self) {
        self.volumes.clear();
        let furnished = std::mem::take(&mut self.furnished);
        let (left, apart): (Vec<_>, Vec<_>) = furnished.into_iter().partition(|(e, s)| self.is_container(e, s));
        self.furnished = apart;
        self.missed.retain(|pair| !left.contains(pair));
        self.missed.extend(left);
        for instance in self.instances.values_mut().filter(|i| i.run.is_container() && !i.is_stopped()) {
            instance.gpus.clear();
        }
    }

    /// The services that have something at the engine that would be missed at another one: a container, or data. `data_alone`: these only.
    fn held_at_engine(&self, data_alone: bool) -> Vec<String> {
        let has_volumes = |run: &RunSpec| {
            let container = run.container.as_ref().map(|run| &run.container);
            // one without a name goes with its container
            run.data.is_some() || container.is_some_and(|it| it.volumes.iter().any(|volume| volume.contains(':')))
        };
        let named = |environment: &str, service: &str| format!("{service} in {environment}");
        // one that is being prepared was nowhere yet
        let begun = self.instances.values().filter(|i| i.run.is_container() && i.prepared && !i.is_stopped());
        let instances =
            begun.filter(|i| !data_alone || has_volumes(&i.run)).map(|i| named(&i.environment, &i.release.service));
        let furnished = self.furnished.iter().filter(|(environment, service)| self.is_container(environment, service));
        let mut held: Vec<String> = instances.chain(furnished.map(|(e, s)| named(e, s))).collect();
        held.sort_unstable();
        held.dedup();
        held
    }

    /// Whether a service runs as containers, by what was kept of it last.
    fn is_container(&self, environment: &str, service: &str) -> bool {
        let kept = self.kept.iter().filter(|k| k.environment == environment && k.release.service == service);
        kept.map(|kept| &kept.run).next_back().is_some_and(RunSpec::is_container)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(id: &str, owner: &str) -> EngineRecord {
        EngineRecord { id: id.into(), owner: owner.into(), address: format!("tcp://{id}:2376") }
    }

    /// With an instance of `web`, a container at the engine `old`.
    fn recorded(change: impl Fn(&mut serde_json::Value)) -> Recorded {
        let image = format!("acme/web@sha256:{}", "a".repeat(64));
        let release = serde_json::json!({
            "id": 1, "repository": "acme/shop", "service": "web", "digest": format!("sha256:{}", "a".repeat(64)), "image": image,
            "commit": "1".repeat(40), "run": 1, "created_at": "2026-01-01T00:00:00Z",
        });
        let run = serde_json::json!({
            "command": [], "container": {"container": {"port": 8080}, "resources": {}}, "env": {}, "stop_timeout_ms": 1, "health": {},
        });
        let mut all = serde_json::json!({
            "version": 1, "boot_id": "", "generation": 0, "proxy_control": null, "proxy_process": null, "listen": {}, "lives": 1,
            "instances": {"web-1": {
                "life": 1, "environment": "production", "release": release, "run": run, "port": 20001, "prepared": true, "stopping": false,
                "process": null, "restarts": 0, "last_exit": null, "failed": null, "retire": null,
            }},
            "routes": [],
            "kept": [{"environment": "production", "release": release, "run": run, "good": true, "used_at": "2026-01-01T00:00:00Z"}],
            "engine": engine("old", "word:/data"),
        });
        change(&mut all);
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn another_engine_is_refused_what_the_first_one_has() {
        for (what, held, change) in [
            ("a container", true, (|_| {}) as fn(&mut serde_json::Value)),
            ("one that is started for the first time", false, |all| {
                all["instances"]["web-1"]["prepared"] = false.into()
            }),
            ("one that has stopped", false, |all| all["instances"]["web-1"]["stopping"] = true.into()),
            ("data alone", true, |all| {
                all["instances"]["web-1"]["stopping"] = true.into();
                all["furnished"] = serde_json::json!([["production", "web"]]);
            }),
            ("data of a process", false, |all| {
                all["instances"]["web-1"]["stopping"] = true.into();
                all["furnished"] = serde_json::json!([["production", "web"]]);
                all["kept"][0]["run"]["container"] = serde_json::Value::Null;
            }),
        ] {
            let mut all = recorded(change);
            let answer = all.meet(engine("new", "other:/data"), false);
            if held {
                let words = answer.unwrap_err();
                assert!(words.contains("web in production") && words.contains("tcp://old:2376"), "{what}: {words}");
                assert_eq!(all.engine, Some(engine("old", "word:/data")), "{what}");
            } else {
                assert_eq!((answer, all.engine), (Ok(()), Some(engine("new", "other:/data"))), "{what}");
            }
        }
    }

    #[test]
    fn one_that_was_set_up_anew_in_its_place_is_refused_what_had_data_there() {
        for (what, volumes, is_refused) in
            [("no data", vec![], false), ("what goes with it", vec!["/tmp"], false), ("data", vec!["kept:/kept"], true)]
        {
            let mut all = recorded(|all| {
                all["instances"]["web-1"]["run"]["container"]["container"]["volumes"] = serde_json::json!(volumes);
            });
            let anew = EngineRecord { address: "tcp://old:2376".into(), ..engine("new", "word:/data") };
            assert_eq!(all.clone().meet(anew.clone(), false).is_err(), is_refused, "{what}");
            assert_eq!(all.meet(anew, true), Ok(()), "{what}: its operator says that they are lost");
        }
    }

    #[test]
    fn what_begins_again_at_another_engine_has_neither_the_data_nor_the_gpus_of_the_one_before() {
        let with_both = |all: &mut serde_json::Value| {
            let mut process = all["instances"]["web-1"].clone();
            process["run"]["container"] = serde_json::Value::Null;
            process["release"]["service"] = "tool".into();
            let mut kept = all["kept"][0].clone();
            (kept["run"], kept["release"]) = (process["run"].clone(), process["release"].clone());
            all["kept"].as_array_mut().unwrap().push(kept);
            all["instances"]["tool-1"] = process;
            for one in ["web-1", "tool-1"] {
                all["instances"][one]["gpus"] = serde_json::json!(["GPU-old"]);
            }
            all["furnished"] = serde_json::json!([["production", "web"], ["production", "tool"]]);
        };
        // by name: of the process, and of the container
        let gpus = |all: &Recorded| all.instances.values().map(|i| i.gpus.len()).collect::<Vec<_>>();
        let mut all = recorded(with_both);
        let same = EngineRecord { address: "ssh://old".into(), ..engine("old", "word:/data") };
        assert_eq!((all.meet(same, false), gpus(&all), all.furnished.len()), (Ok(()), vec![1, 1], 2));
        assert!(all.meet(engine("new", "word:/data"), false).is_err());
        assert_eq!((gpus(&all), all.furnished.len()), (vec![1, 1], 2), "what is refused changes nothing");
        assert_eq!((all.meet(engine("new", "word:/data"), true), gpus(&all)), (Ok(()), vec![1, 0]));
        assert_eq!(all.furnished, [("production".to_owned(), "tool".to_owned())], "a process has its own here");
        assert_eq!(
            all.missed,
            [("production".to_owned(), "web".to_owned())],
            "what is there nevertheless is not emptied"
        );
    }

    #[test]
    fn one_that_is_reached_in_another_way_knows_the_host_by_the_same_word() {
        let mut all = recorded(|_| {});
        let other_way = EngineRecord { address: "ssh://old".into(), ..engine("old", "/data") };
        assert_eq!(all.meet(other_way, false), Ok(()));
        assert_eq!(all.engine, Some(EngineRecord { address: "ssh://old".into(), ..engine("old", "word:/data") }));
        let mut unknown = recorded(|all| all["engine"] = serde_json::Value::Null);
        assert_eq!(unknown.meet(engine("new", "word:/data"), false), Ok(()), "of an older host's, nothing is known");
    }
}
