//! HAProxy's runtime API: one line of commands over its admin socket, and what it answers (HAProxy Management Guide, section 9.3).

use std::{collections::HashMap, io, net::SocketAddr, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{clients::is_share, config::is_of_one};

/// One question and its answer.
const LIMIT: Duration = Duration::from_secs(2);

/// An answer is read up to here.
const MAX_ANSWER: u64 = 32 << 20;

/// A line of commands at most; HAProxy takes one of its buffer's size, 16 KiB.
const MAX_LINE: usize = 8 << 10;

/// Maintenance, by whatever word (`SRV_ADMF_MAINT` of HAProxy's `include/haproxy/server-t.h`).
const MAINTENANCE: u32 = 0x23;

/// Drained, by whatever word (`SRV_ADMF_DRAIN`).
const DRAINED: u32 = 0x18;

/// Why HAProxy gives no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// Nobody is there, or not any more.
    #[error("{socket}: {source}; is HAProxy running, with `stats socket {socket} level admin`?")]
    Silent {
        /// The socket.
        socket: String,
        /// What the system said.
        source: io::Error,
    },
    /// The answer is not one.
    #[error("HAProxy's answer to `{question}` can't be read: {answer}")]
    Unreadable {
        /// What was asked.
        question: &'static str,
        /// What came, its beginning.
        answer: String,
    },
}

/// A running HAProxy as far as it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Info {
    /// The process that answers.
    pub(super) pid: u32,
    /// Its version: 2.6.12 is (2, 6).
    pub(super) version: (u32, u32),
    /// Lines of its log that it could not send so far.
    pub(super) dropped_logs: u64,
}

/// A server as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// Its backend.
    pub(super) backend: String,
    /// Its name.
    pub(super) name: String,
    /// Where it is.
    pub(super) address: Option<SocketAddr>,
    /// Its weight.
    pub(super) weight: u32,
    /// Whether it is out of the way.
    pub(super) in_maintenance: bool,
    /// Whether it gets nothing although it has a weight.
    pub(super) is_drained: bool,
}

/// What a server has counted (section 9.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Requests that it has now.
    pub(super) current: u64,
    /// Tries at it that failed and were made again, there or elsewhere; of requests that were drawn by weight.
    pub(super) tried_again: u64,
}

/// Has one line of commands answered.
pub(super) async fn ask(socket: &Path, commands: &str) -> Result<String, CliError> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("{commands}\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = match tokio::time::timeout(LIMIT, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {LIMIT:?}"))),
    };
    answer.map_err(|source| CliError::Silent { socket: socket.display().to_string(), source })
}

/// Has commands carried out, as few lines as can be; what was said to them.
pub(super) async fn tell(socket: &Path, commands: &[String]) -> Result<String, CliError> {
    let mut said = String::new();
    let mut line = String::new();
    for command in commands {
        if !line.is_empty() && line.len() + command.len() >= MAX_LINE {
            said += &ask(socket, &line).await?;
            line.clear();
        }
        if !line.is_empty() {
            line.push(';');
        }
        line += command;
    }
    if !line.is_empty() {
        said += &ask(socket, &line).await?;
    }
    Ok(said.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// `show info`.
pub(super) fn info(answer: &str) -> Result<Info, CliError> {
    let value = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim);
    let version = value("Version").and_then(|text| {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    let pid = value("Pid").and_then(|pid| pid.parse().ok());
    let dropped_logs = value("DroppedLogs").and_then(|count| count.parse().ok()).unwrap_or(0);
    match (pid, version) {
        (Some(pid), Some(version)) => Ok(Info { pid, version, dropped_logs }),
        _ => Err(unreadable("show info", answer)),
    }
}

/// `show backend`: names of backends.
pub(super) fn backends(answer: &str) -> Vec<String> {
    answer.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(Into::into).collect()
}

/// `show servers state`. The columns are found by their names.
pub(super) fn servers(answer: &str) -> Result<Vec<Known>, CliError> {
    const QUESTION: &str = "show servers state";
    let head =
        answer.lines().find_map(|line| line.strip_prefix("# be_id")).ok_or_else(|| unreadable(QUESTION, answer))?;
    let names: Vec<&str> = std::iter::once("be_id").chain(head.split_whitespace()).collect();
    let column = |name: &str| names.iter().position(|n| *n == name).ok_or_else(|| unreadable(QUESTION, answer));
    let (backend, name, address) = (column("be_name")?, column("srv_name")?, column("srv_addr")?);
    let (admin, weight, port) = (column("srv_admin_state")?, column("srv_uweight")?, column("srv_port")?);
    let rows = answer.lines().skip_while(|line| !line.starts_with("# be_id")).skip(1);
    let rows = rows.take_while(|line| !line.trim().is_empty());
    rows.map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let word = |at: usize| words.get(at).copied().ok_or_else(|| unreadable(QUESTION, line));
        let number = |at: usize| word(at)?.parse::<u32>().map_err(|_| unreadable(QUESTION, line));
        let flags = number(admin)?;
        Ok(Known {
            backend: word(backend)?.to_owned(),
            name: word(name)?.to_owned(),
            address: word(address)?
                .parse()
                .ok()
                .zip(word(port)?.parse().ok())
                .map(|(ip, port)| SocketAddr::new(ip, port)),
            weight: number(weight)?,
            in_maintenance: flags & MAINTENANCE != 0,
            is_drained: flags & DRAINED != 0,
        })
    })
    .collect()
}

/// `show stat`: what each server has counted in all backends that it is in, by its name. Names of instances are a host's own, so that those of backends are not needed.
pub(super) fn counts(answer: &str) -> Result<HashMap<String, Counts>, CliError> {
    const QUESTION: &str = "show stat";
    let head =
        answer.lines().find_map(|line| line.strip_prefix("# pxname")).ok_or_else(|| unreadable(QUESTION, answer))?;
    let names: Vec<&str> = std::iter::once("pxname").chain(head.trim_start_matches(',').split(',')).collect();
    let column = |name: &str| names.iter().position(|n| *n == name).ok_or_else(|| unreadable(QUESTION, answer));
    let (current, retried, redispatched) = (column("scur")?, column("wretr")?, column("wredis")?);
    let mut all: HashMap<String, Counts> = HashMap::new();
    for line in answer.lines().filter(|line| line.starts_with("segue:")) {
        let words: Vec<&str> = line.split(',').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0);
        let Some(name) = words.get(1).filter(|name| **name != "BACKEND") else { continue };
        if words.first().is_some_and(|backend| is_share(backend)) {
            continue;
        }
        let counts = all.entry((*name).to_owned()).or_default();
        counts.current += number(current);
        // what was no draw is no evidence for or against who was drawn
        if !words.first().is_some_and(|backend| is_of_one(backend)) {
            counts.tried_again += number(retried) + number(redispatched);
        }
    }
    Ok(all)
}

/// `show servers conn`: connections to each server, in use and idle, by its name.
pub(super) fn connections(answer: &str) -> Result<HashMap<String, u64>, CliError> {
    const QUESTION: &str = "show servers conn";
    let mut rows = answer.lines().skip_while(|line| !line.starts_with("# bkname"));
    let head = rows.next().ok_or_else(|| unreadable(QUESTION, answer))?;
    let names: Vec<&str> = head.trim_start_matches("# ").split_whitespace().collect();
    let column = |name: &str| names.iter().position(|n| *n == name).ok_or_else(|| unreadable(QUESTION, answer));
    let (used, idle) = (column("used_cur")?, column("idle_cur")?);
    let mut all: HashMap<String, u64> = HashMap::new();
    for line in rows {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        let Some((_, name)) = words.first().and_then(|word| word.split_once('/')) else { continue };
        *all.entry(name.to_owned()).or_default() += number(used).unwrap_or(0) + number(idle).unwrap_or(0);
    }
    Ok(all)
}

fn unreadable(question: &'static str, answer: &str) -> CliError {
    CliError::Unreadable { question, answer: answer.trim().chars().take(200).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_and_a_process_are_read_from_info() {
        let answer = "Name: HAProxy\nVersion: 2.6.12-1+deb12u4\nRelease_date: 2026/10/17\nPid: 4242\nUptime: 0d\nDroppedLogs: 3\n";
        assert_eq!(info(answer).unwrap(), Info { pid: 4242, version: (2, 6), dropped_logs: 3 });
        let refused = info("Permission denied\n").unwrap_err().to_string();
        assert!(refused.contains("Permission denied"), "{refused}");
    }

    #[test]
    fn servers_are_read_by_the_names_of_columns() {
        let answer = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
                      srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state \
                      srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl\n\
                      4 segue:p:web 1 web-1 127.0.0.1 2 0 252 252 12 1 0 1 0 0 0 0 - 4001 - 0\n\
                      4 segue:p:web 2 web-2 127.0.0.1 0 1 28 28 12 1 0 1 0 0 0 0 - 4002 - 0\n\
                      4 segue:p:web 3 web-3 127.0.0.1 2 8 28 28 12 1 0 1 0 0 0 0 - 4003 - 0\n\n";
        let known = servers(answer).unwrap();
        let shown: Vec<_> = known.iter().map(|k| (k.name.as_str(), k.weight, k.in_maintenance, k.is_drained)).collect();
        assert_eq!(shown, [("web-1", 252, false, false), ("web-2", 28, true, false), ("web-3", 28, false, true)]);
        assert_eq!(known[1].address, Some("127.0.0.1:4002".parse().unwrap()));
        assert!(servers("Unknown command\n").is_err());
    }

    #[test]
    fn counters_are_read_by_the_names_of_columns() {
        let answer = "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,\n\
                      segue:p:web,web-1,0,0,3,5,,10,0,0,,0,,2,0,1,4,UP,\n\
                      segue:p:web:rule:canary,web-1,0,0,2,5,,10,0,0,,0,,2,0,1,4,UP,\n\
                      segue:p:web:client:stable,web-1,0,0,1,5,,10,0,0,,0,,2,0,1,4,UP,\n\
                      segue:p:web:share,halves,0,0,0,0,,0,0,0,,0,,0,0,0,0,UP,\n\
                      segue:p:web,BACKEND,0,0,3,5,,10,0,0,,0,,2,0,1,4,UP,\nother,web-1,0,0,9,,,,,,,,,,,,,UP,\n";
        let all = counts(answer).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all["web-1"], Counts { current: 6, tried_again: 5 });
        let answer = "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb safe_nb idle_lim idle_cur \
                      idle_per_thr[1]\nsegue:p:web/web-1 4/1 127.0.0.1 4001 - 5000 2 3 3 0 1 -1 1 1\n";
        assert_eq!(connections(answer).unwrap()["web-1"], 3);
        assert_eq!(backends("# name\nsegue::shape:1\nMASTER\n"), ["segue::shape:1", "MASTER"]);
    }
}
