//! The engines that hosts have on other machines: whether they answer, what they speak, how long their certificates hold, and what time
//! it is there.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt as _, stream};
use segue_schemas::{config::Config, engine::EngineConfig, time::Timestamp};
use segue_worker::engine::docker::{Docker, EngineSeen};

use super::Check;

/// How long one may take for everything that it is asked.
const LIMIT: Duration = Duration::from_secs(20);
/// Engines that are asked at once.
const AT_ONCE: usize = 4;
/// The API must have what services are run with.
const OLDEST: (u32, u32) = (1, 41);
/// A certificate that ends within this is told of.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// Clocks that are further apart make times of logs hard to read together, and certificates begin and end at other times.
const APART: Duration = Duration::from_secs(5);

/// Looks at each engine that is not reached by a socket of this machine.
pub async fn engines(config: &Config, data: &Path) -> Vec<Check> {
    let named = config.hosts.iter().filter_map(|(name, host)| Some((name.as_str(), host, host.docker.as_ref()?)));
    let looks = named.map(|(name, host, engine)| engine_of(name, engine, !host.gpus.is_empty(), data));
    stream::iter(looks).buffered(AT_ONCE).collect::<Vec<_>>().await.into_iter().flatten().collect()
}

async fn engine_of(name: &str, engine: &EngineConfig, has_gpus: bool, data: &Path) -> Vec<Check> {
    let title = format!("engine of {name}");
    let docker = match Docker::at(engine, data) {
        Ok(docker) if docker.is_elsewhere() => docker,
        // that of this machine is looked at with the worker's
        Ok(_) => return Vec::new(),
        Err(why) => return vec![Check::bad(&title, why, format!("mend `hosts.{name}.docker` in segue.yaml"))],
    };
    match tokio::time::timeout(LIMIT, docker.look()).await {
        Ok(Ok(seen)) => {
            let mut checks = seen_of(&title, docker.address(), &seen, now());
            if has_gpus {
                checks.push(gives_gpus(&title, &seen));
            }
            checks
        }
        Ok(Err(error)) => {
            vec![Check::bad(
                &title,
                error.to_string(),
                format!("what stands there says what to do; `hosts.{name}.docker` in segue.yaml"),
            )]
        }
        Err(_) => {
            let found = format!("{} did not answer within {} s", docker.address(), LIMIT.as_secs());
            vec![Check::bad(&title, found, "look whether its machine is overloaded, and the way there")]
        }
    }
}

fn seen_of(title: &str, address: &str, seen: &EngineSeen, now: Timestamp) -> Vec<Check> {
    let found = format!("version {}, API {}, at {address}", seen.version, seen.api);
    let number = seen.api.split_once('.').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
    let mut checks = vec![if number.is_some_and(|number| number >= OLDEST) {
        Check::good(title, found)
    } else {
        Check::bad(title, found, "services in containers need Docker 20.10 or newer (API 1.41)")
    }];
    for end in &seen.ends {
        let left = end.at.since(now);
        let found = format!("{} ends {}", end.whose, end.at);
        checks.push(if left.is_zero() {
            Check::bad(title, format!("{} ended {}", end.whose, end.at), "have it renewed")
        } else if left < SOON {
            Check::remark(title, found, "have it renewed; a host takes up a new one by itself")
        } else {
            Check::good(title, found)
        });
    }
    if let Some(clock) = seen.clock {
        let apart = clock.since(now).max(now.since(clock));
        if apart > APART {
            let found = format!("its machine's clock is {} s apart from this one's", apart.as_secs());
            checks.push(Check::remark(title, found, "have both kept by NTP: apt-get install chrony"));
        }
    }
    checks
}

/// Whether it can give containers GPUs, as far as it tells: of a toolkit that is installed and not configured it says nothing.
fn gives_gpus(title: &str, seen: &EngineSeen) -> Check {
    if seen.knows_nvidia {
        return Check::good(title, "it has the NVIDIA Container Toolkit".to_owned());
    }
    Check::remark(
        title,
        "it tells of no NVIDIA Container Toolkit, without which containers get no GPUs".to_owned(),
        "on its machine install nvidia-container-toolkit, run `nvidia-ctk runtime configure --runtime=docker`, and start the engine again",
    )
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use segue_worker::engine::docker::End;

    use super::{super::State, *};

    #[test]
    fn what_is_old_or_ends_soon_is_told() {
        let now = Timestamp(1_800_000_000_000);
        let day = 24 * 3600 * 1000;
        let check = |api: &str, ends_in_days: i64, clock_ms: i64| {
            let end = End { whose: "the engine's certificate", at: Timestamp(now.0 + ends_in_days * day) };
            let clock = Some(Timestamp(now.0 + clock_ms));
            let seen =
                EngineSeen { version: "20.10".into(), api: api.into(), clock, knows_nvidia: false, ends: vec![end] };
            assert_eq!(gives_gpus("engine of far", &seen).state, State::Remark);
            seen_of("engine of far", "tcp://10.0.0.5:2376", &seen, now).iter().map(|c| c.state).collect::<Vec<_>>()
        };
        assert_eq!(check("1.41", 100, 900), [State::Good, State::Good]);
        assert_eq!(check("1.40", 10, -900), [State::Bad, State::Remark]);
        assert_eq!(check("1.51", -1, 60_000), [State::Good, State::Bad, State::Remark]);
        assert_eq!(check("", 100, -60_000), [State::Bad, State::Good, State::Remark]);
    }
}
