//! What an App of Segue's is: its name, its webhook, and no more permissions and events than Segue uses.

use reqwest::Url;
use serde_json::{Map, Value, json};

use crate::cli::{
    doctor::{HEARD, NEEDED, WEBHOOK_PATH},
    ending::Failure,
};

/// The longest name that GitHub takes.
const NAME_CHARS: usize = 34;

/// Where a GitHub is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its API, without a slash at its end.
    pub api: String,
    /// Where people look at it.
    pub web: String,
}

impl Place {
    /// By the address of its API, as `github.api-url` has it: of github.com, of a `ghe.com` domain, or of an Enterprise Server.
    ///
    /// # Errors
    /// It is no address.
    pub fn of(api: &str) -> Result<Self, Failure> {
        let api = api.trim_end_matches('/').to_owned();
        let url = address("--api-url", &api)?;
        let web = match url.host_str().and_then(|host| host.strip_prefix("api.")) {
            Some(host) if host == "github.com" || host.ends_with(".ghe.com") => format!("{}://{host}", url.scheme()),
            _ => api.strip_suffix("/api/v3").unwrap_or(&api).to_owned(),
        };
        Ok(Self { api, web })
    }

    /// Where a manifest is posted to.
    pub fn new_app(&self, organization: Option<&str>, state: &str) -> String {
        let owner = organization.map(|name| format!("/organizations/{name}")).unwrap_or_default();
        format!("{}{owner}/settings/apps/new?state={state}", self.web)
    }
}

/// An address of http or https.
///
/// # Errors
/// It is none.
pub fn address(argument: &str, text: &str) -> Result<Url, Failure> {
    let url = Url::parse(text).map_err(|error| Failure::usage(format_args!("{argument} `{text}`: {error}")))?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() {
        return Ok(url);
    }
    Err(Failure::usage(format_args!("{argument} `{text}` is no http or https address")))
}

/// Where the server's webhook is, as GitHub reaches it.
///
/// # Errors
/// The address is none, or one that only this machine knows.
pub fn hook(url: &str) -> Result<String, Failure> {
    let remedy = "name the address at which GitHub reaches this server, as https://ci.example.com";
    let parsed = address("--url", url).map_err(|failure| failure.remedy(remedy))?;
    let is_own = match parsed.host() {
        Some(host) => {
            let host = host.to_string();
            let host = host.trim_matches(['[', ']']);
            host == "localhost"
                || host.ends_with(".localhost")
                || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback() || ip.is_unspecified())
        }
        None => true,
    };
    if is_own {
        return Err(Failure::usage(format_args!("--url {url} is this machine's own, where GitHub reaches nothing"))
            .remedy(remedy));
    }
    let base = url.trim_end_matches('/');
    Ok(if base.ends_with(WEBHOOK_PATH) { base.to_owned() } else { format!("{base}{WEBHOOK_PATH}") })
}

/// The name of an organization, which becomes part of an address.
pub fn organization(text: &str) -> Result<String, String> {
    let is_name =
        (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if is_name { Ok(text.into()) } else { Err("an organization's name is of letters, digits and `-`".into()) }
}

/// The name of an App.
pub fn name(text: &str) -> Result<String, String> {
    let chars = text.trim().chars().count();
    if chars == 0 || chars > NAME_CHARS || text.chars().any(char::is_control) {
        return Err(format!("an App's name has 1 to {NAME_CHARS} characters"));
    }
    Ok(text.trim().into())
}

/// <https://docs.github.com/en/apps/sharing-github-apps/registering-a-github-app-from-a-manifest#github-app-manifest-parameters>
///
/// `reads_teams`: whether it reads who is in the organization's teams, where those are reviewers of environments.
pub fn manifest(name: &str, home: &str, hook: &str, back: &str, reads_teams: bool) -> Value {
    let needed = NEEDED.into_iter().chain(reads_teams.then_some(("members", "read")));
    let permissions: Map<String, Value> = needed.map(|(name, level)| (name.to_owned(), json!(level))).collect();
    json!({
        "name": name, "url": home, "description": "From push to production: checks, deployments and commands of Segue",
        "hook_attributes": {"url": hook, "active": true}, "redirect_url": back, "public": false,
        "default_permissions": permissions, "default_events": HEARD,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_programs_find_each_kind_of_github() {
        let cases = [
            ("https://api.github.com", "https://github.com"),
            ("https://api.github.com/", "https://github.com"),
            ("https://api.acme.ghe.com", "https://acme.ghe.com"),
            ("https://github.example.com/api/v3", "https://github.example.com"),
            ("http://127.0.0.1:4000", "http://127.0.0.1:4000"),
            ("https://api.example.com/api/v3/", "https://api.example.com"),
        ];
        for (api, web) in cases {
            assert_eq!(Place::of(api).unwrap().web, web, "{api}");
        }
        let place = Place::of("https://github.example.com/api/v3").unwrap();
        assert_eq!(place.new_app(None, "s"), "https://github.example.com/settings/apps/new?state=s");
        let of = place.new_app(Some("acme"), "s");
        assert_eq!(of, "https://github.example.com/organizations/acme/settings/apps/new?state=s");
        for wrong in ["github.com", "ftp://github.com", ""] {
            assert_eq!(Place::of(wrong).unwrap_err().exit(), crate::cli::ending::Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_webhook_is_where_github_reaches_it() {
        let wanted = "https://ci.example.com/webhooks/github";
        for url in ["https://ci.example.com", "https://ci.example.com/", wanted] {
            assert_eq!(hook(url).unwrap(), wanted);
        }
        for url in
            ["http://localhost:8321", "http://127.0.0.1", "http://[::1]:80", "https://a.localhost", "ci", "file:///x"]
        {
            assert!(hook(url).is_err(), "{url}");
        }
    }

    #[test]
    fn names_that_github_would_refuse_are_refused_before() {
        assert!(name("Segue of acme").is_ok() && organization("acme-2").is_ok());
        for wrong in ["", "  ", "a\nb", &"x".repeat(35)] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "acme/shop", "../x", "a b", "a?b"] {
            assert!(organization(wrong).is_err(), "{wrong}");
        }
    }
}
