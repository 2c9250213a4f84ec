//! What can be wrong with the settings of previews.

use segue_schemas::{config::EnvironmentConfig, size::Size};

use crate::{
    container::{is_memory, millis},
    preview::LONGEST_NAME,
    service::is_host,
};

/// The longest host name.
const LONGEST_HOST: usize = 253;

/// Something wrong with one of the keys of an environment.
pub(super) struct PreviewFault {
    /// The key.
    pub(super) key: &'static str,
    /// What is wrong.
    pub(super) message: String,
    /// What to write.
    pub(super) help: String,
}

/// What is wrong with what the environment `preview` says of previews.
pub(super) fn preview_faults(environment: &EnvironmentConfig) -> Vec<PreviewFault> {
    let mut faults = Vec::new();
    for (key, domain) in [("domain", &environment.domain), ("fork-domain", &environment.fork_domain)] {
        let Some(domain) = domain else { continue };
        if !is_host(domain) || domain.starts_with('.') || domain.len() > LONGEST_HOST - LONGEST_NAME - 1 {
            let message = format!("`{domain}` is no domain below which previews can be");
            let help = "write a host name that all names below it lead to: `preview.example.com`".into();
            faults.push(PreviewFault { key, message, help });
        }
    }
    let settings = environment.previews();
    let fork = settings.fork_domain.as_deref().unwrap_or_default();
    let is_within = |inner: &str, outer: &str| inner == outer || inner.ends_with(&format!(".{outer}"));
    if !fork.is_empty() && (is_within(fork, &settings.domain) || is_within(&settings.domain, fork)) {
        let message = format!(
            "`{fork}` is not apart from `{}`: a page of a fork could set cookies for the others",
            settings.domain
        );
        let help = "name a domain that shares no part with it which cookies may be set for".into();
        faults.push(PreviewFault { key: "fork-domain", message, help });
    }
    if !(1..=10_000).contains(&settings.at_most) {
        let message = format!("`at-most` is {}, and 1 to 10000 are allowed", settings.at_most);
        faults.push(PreviewFault { key: "at-most", message, help: "write how many there may be".into() });
    }
    if settings.time_to_live.0.is_zero() {
        let message = "previews would go as soon as they are there".into();
        faults.push(PreviewFault { key: "time-to-live", message, help: "write a duration such as `14d`".into() });
    }
    if let Some(memory) = settings.memory.filter(|Size(bytes)| !is_memory(*bytes)) {
        let message = format!("{memory} of memory are not enough for anything, or too much");
        faults.push(PreviewFault { key: "memory", message, help: "write a size such as `512MiB`".into() });
    }
    if let Some(cpus) = settings.cpus.filter(|cpus| millis(&cpus.to_string()).is_none()) {
        let message = format!("`{cpus}` is no number of processors");
        faults.push(PreviewFault { key: "cpus", message, help: "write a number above 0, such as `0.5`".into() });
    }
    faults
}

/// The keys that mean nothing in an environment of another name, as far as they are written.
pub(super) fn keys_of_previews(environment: &EnvironmentConfig) -> Vec<&'static str> {
    [
        ("domain", environment.domain.is_some()),
        ("fork-domain", environment.fork_domain.is_some()),
        ("https", environment.https.is_some()),
        ("at-most", environment.at_most.is_some()),
        ("time-to-live", environment.time_to_live.is_some()),
        ("sleep-after", environment.sleep_after.is_some()),
        ("remove-unknown", environment.remove_unknown.is_some()),
        ("memory", environment.memory.is_some()),
        ("cpus", environment.cpus.is_some()),
    ]
    .into_iter()
    .filter_map(|(key, is_written)| is_written.then_some(key))
    .collect()
}
