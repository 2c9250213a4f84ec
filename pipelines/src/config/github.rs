//! What can be wrong with the section `github`, apart from what only GitHub itself can tell.

use segue_schemas::config::GitHubConfig;

use super::is_loopback_endpoint;

/// A key of `github` with a value that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitHubFault {
    /// The key.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
    /// What to write.
    pub help: String,
}

/// Everything that is wrong with the section; in no other order than that of its keys.
#[must_use]
pub fn github_faults(github: &GitHubConfig) -> Vec<GitHubFault> {
    let mut faults = Vec::new();
    match (&github.app.id, &github.app.private_key_file) {
        (Some(_), None) => faults.push(fault(
            "app",
            "`app` has an `id`, and no key to speak as it".into(),
            "name `private-key-file`: the file that GitHub gives out under \"Private keys\" in the App's settings",
        )),
        (None, Some(_)) => faults.push(fault(
            "app",
            "`private-key-file` is the key of an App, and nothing says of which".into(),
            "name its `id`: the client ID or the App ID in the App's settings",
        )),
        _ => {}
    }
    if github.app.id.is_some() && github.token_file.is_some() {
        faults.push(fault(
            "token-file",
            "`app` and `token-file` both say as whom to speak".into(),
            "remove `token-file`: an App can do all that a token can",
        ));
    }
    faults.extend(of_address(&github.api_url));
    for (key, number) in [("writes-per-minute", github.writes_per_minute), ("writes-per-hour", github.writes_per_hour)]
    {
        if number == 0 {
            faults.push(fault(
                key,
                format!("`{key}` cannot be 0"),
                "remove it: GitHub takes 80 in a minute and 500 in an hour",
            ));
        }
    }
    for (key, span) in [
        ("first-pause", github.first_pause),
        ("longest-pause", github.longest_pause),
        ("sweep-every", github.sweep_every),
    ] {
        if span.0.is_zero() {
            faults.push(fault(key, format!("`{key}` cannot be 0"), "write a duration such as `2s`"));
        }
    }
    faults
}

fn of_address(url: &str) -> Option<GitHubFault> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/:[]".contains(c);
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split('/').next().unwrap_or_default();
    if !matches!(scheme, "http" | "https") || host.is_empty() || !rest.chars().all(is_plain) {
        return Some(fault(
            "api-url",
            format!("`{url}` is no address of an API"),
            "write `https://api.github.com`, or `https://HOST/api/v3` for GitHub Enterprise Server",
        ));
    }
    (scheme == "http" && !is_loopback_endpoint(&format!("http://{host}")))
        .then(|| fault("api-url", format!("`{url}` is not encrypted, and not on this machine"), "write `https://`"))
}

fn fault(key: &'static str, message: String, help: &str) -> GitHubFault {
    GitHubFault { key, message, help: help.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_is_elsewhere_only_with_encryption() {
        for (url, wanted) in [
            ("https://api.github.com", true),
            ("https://github.example.com/api/v3", true),
            ("http://127.0.0.1:4000", true),
            ("http://[::1]:4000/api/v3", true),
            ("http://github.example.com/api/v3", false),
            ("https://", false),
            ("https://user:secret@github.example.com", false),
            ("https://api.github.com/?token=1", false),
            ("api.github.com", false),
            ("ftp://api.github.com", false),
        ] {
            assert_eq!(of_address(url).is_none(), wanted, "{url}");
        }
    }
}
