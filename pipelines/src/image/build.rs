//! The inputs of `segue/build-image`, understood.

use indexmap::IndexMap;

use super::{
    index::{MAX_PLATFORMS, platform_tag},
    reference::{check_tag, list},
};
use crate::{
    container::{registry, with_tag},
    sbom::Form,
};

/// The most tags, arguments, labels or secrets of one build.
const MAX_ENTRIES: usize = 100;

/// Names and values, in order.
pub type Pairs = Vec<(String, String)>;

/// What a Dockerfile from beside the context is called in it.
const FILE_BESIDE: &str = ".segue.Dockerfile";

/// An image that is to be built.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Build {
    /// The directory of the workspace that the build sees.
    pub context: String,
    /// The Dockerfile, from the workspace; `None`: `Dockerfile` of the context.
    pub file: Option<String>,
    /// The stage to build; `None`: the last one.
    pub target: Option<String>,
    /// Arguments, by name.
    pub args: Pairs,
    /// Secrets, by the ids that `RUN --mount=type=secret,id=...` names.
    pub secrets: Pairs,
    /// Labels, beside those that say where it is from.
    pub labels: Pairs,
    /// What it is called, each with its tag.
    pub tags: Vec<String>,
    /// Whether it goes to the registries that its tags name.
    pub push: bool,
    /// Images whose layers may be used again.
    pub cache_from: Vec<String>,
    /// Whether the image itself says what its layers were made from, so that it can be another build's `cache-from`.
    pub cache_inline: bool,
    /// What it is for, each once; none: the engine's own.
    pub platforms: Vec<String>,
    /// Who pushes, and pulls from the same registry.
    pub login: Option<Login>,
    /// What its steps reach.
    pub network: Network,
    /// Whether the same commit and inputs give the same image wherever and whenever they are built.
    pub reproducible: bool,
    /// Whether it is stated, signed, where it is from; `None`: where it is pushed, and the server has a key.
    pub provenance: Option<bool>,
    /// As what the packages that are in it are listed; `None`: they are not.
    pub sbom: Option<Form>,
}

/// Who asks a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// As images name it; `None`: Docker Hub.
    pub registry: Option<String>,
    /// The user.
    pub username: String,
    /// Its password or token.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({} at {:?})", self.username, self.registry)
    }
}

/// What the steps of a build reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// What the engine lets them.
    #[default]
    Engine,
    /// Nothing.
    None,
}

/// What is wrong with an input. Never holds the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("input `{input}`: {problem}")]
pub struct WrongInput {
    /// Which.
    pub input: &'static str,
    /// What, and what to write.
    pub problem: String,
}

impl Build {
    /// What these evaluated inputs ask for.
    ///
    /// # Errors
    /// [`WrongInput`].
    pub fn of(with: &IndexMap<String, String>) -> Result<Self, WrongInput> {
        let get = |name: &str| with.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let flag = |input: &'static str, default: bool| match get(input) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(wrong(input, format!("`{other}` is neither `true` nor `false`"))),
        };
        let tags: Vec<String> = list(get("tags").unwrap_or_default()).map(with_tag).collect();
        tags.iter().try_for_each(|tag| check_tag(tag)).map_err(|problem| wrong("tags", problem))?;
        let push = flag("push", false)?;
        if push && tags.is_empty() {
            return Err(wrong("push", "without `tags` nobody knows where to; add them".into()));
        }
        let provenance = get("provenance").map(|_| flag("provenance", true)).transpose()?;
        if provenance == Some(true) && !push {
            return Err(wrong("provenance", "it is about what a registry has; add `push: true`".into()));
        }
        let sbom = match get("sbom") {
            None | Some("false") => None,
            Some("true" | "cyclonedx") => Some(Form::CycloneDx),
            Some("spdx") => Some(Form::Spdx),
            Some(other) => {
                let problem = format!("`{other}` is none of `true`, `false`, `cyclonedx` and `spdx`");
                return Err(wrong("sbom", problem));
            }
        };
        let cache_inline = get("cache-to")
            .map(cache_to)
            .transpose()
            .map_err(|problem| wrong("cache-to", problem))?
            .unwrap_or_default();
        let network = match get("network") {
            None | Some("default") => Network::Engine,
            Some("none") => Network::None,
            Some(other) => return Err(wrong("network", format!("`{other}` is neither `default` nor `none`"))),
        };
        let platforms = get("platforms").map(platforms).transpose().map_err(|problem| wrong("platforms", problem))?;
        let platforms = platforms.unwrap_or_default();
        if platforms.len() > 1 {
            check_several(&platforms, &tags, push).map_err(|problem| wrong("platforms", problem))?;
        }
        let login = login(get("username"), get("password"), &tags)?;
        let build = Self {
            context: get("context").unwrap_or(".").to_owned(),
            file: get("file").map(str::to_owned),
            target: get("target").map(str::to_owned),
            args: entries("build-args", get("build-args"), build_args)?,
            secrets: entries("secrets", get("secrets"), secrets)?,
            labels: entries("labels", get("labels"), pairs)?,
            tags,
            push,
            cache_from: list(get("cache-from").unwrap_or_default()).map(|image| with_tag(of_registry(image))).collect(),
            cache_inline,
            platforms,
            login,
            network,
            reproducible: flag("reproducible", true)?,
            provenance,
            sbom,
        };
        match build.tags.len().max(build.cache_from.len()) {
            0..=MAX_ENTRIES => Ok(build),
            many => Err(wrong("tags", format!("there are {many} images; {MAX_ENTRIES} are the most"))),
        }
    }
}

impl Build {
    /// Where the Dockerfile lies in what is sent, and whether it is brought there from beside the context.
    #[must_use]
    pub fn dockerfile(&self) -> (String, bool) {
        let plain =
            |path: &str| path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/");
        let Some(file) = self.file.as_deref().map(plain) else { return ("Dockerfile".into(), false) };
        let context = plain(&self.context);
        let inside = match context.as_str() {
            "" => Some(file.as_str()),
            context => file.strip_prefix(context).and_then(|rest| rest.strip_prefix('/')),
        };
        inside.map_or_else(|| (FILE_BESIDE.into(), true), |inside| (inside.to_owned(), false))
    }
}

/// Seconds since 1970 as RFC 3339 has them.
#[must_use]
pub fn rfc3339(seconds: i64) -> Option<String> {
    let time = chrono::DateTime::from_timestamp(seconds, 0)?;
    Some(time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}

/// Where people find what is cloned from an address: that address, if it is one of the web, without whatever opens it.
#[must_use]
pub fn source(clone_url: &str) -> Option<String> {
    let (scheme, rest) = clone_url.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))?;
    let (host, path) = rest.split_once('/')?;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    (!host.is_empty() && !path.is_empty()).then(|| format!("{scheme}://{host}/{path}"))
}

/// Whether a time as RFC 3339 has it, with or without a fraction, is after `seconds` since 1970. What is no time is not.
#[must_use]
pub fn is_after(text: &str, seconds: i64) -> bool {
    let (Ok(then), Some(limit)) =
        (chrono::DateTime::parse_from_rfc3339(text), chrono::DateTime::from_timestamp(seconds, 0))
    else {
        return false;
    };
    then > limit
}

/// Lines of `NAME=VALUE`.
///
/// # Errors
/// The line that is none.
pub fn pairs(text: &str) -> Result<Pairs, String> {
    let pair = |line: &str| match line.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err(format!("`{line}` is no `NAME=VALUE`; write one a line")),
    };
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(pair).collect()
}

/// The same, of names that a Dockerfile's `ARG` takes.
fn build_args(text: &str) -> Result<Pairs, String> {
    let args = pairs(text)?;
    let is_name = |name: &str| {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.as_bytes()[0].is_ascii_digit()
    };
    match args.iter().find(|(name, _)| !is_name(name)) {
        Some((name, _)) => Err(format!("`{name}` can't be an argument; use letters, digits and `_`")),
        None => Ok(args),
    }
}

/// Where layers are kept for another build: whether the image itself says what they were made from, which is all that there is.
///
/// # Errors
/// It is something else.
pub fn cache_to(text: &str) -> Result<bool, String> {
    match text {
        "inline" | "type=inline" => Ok(true),
        other => Err(format!(
            "`{other}` is not `inline`: the BuildKit that is part of an engine keeps its cache in the image, or nowhere; `registry`, `local`, \
             `gha` and `s3` take a builder of its own"
        )),
    }
}

/// `OS/ARCHITECTURE[/VARIANT]`, one or several.
///
/// # Errors
/// What is none, or named twice, or too many.
pub fn platforms(text: &str) -> Result<Vec<String>, String> {
    let is_word =
        |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let mut platforms: Vec<String> = Vec::new();
    for platform in list(text) {
        let parts: Vec<&str> = platform.split('/').collect();
        if !matches!(parts.len(), 2 | 3) || !parts.iter().all(is_word) {
            return Err(format!("`{platform}` is no platform; write it like `linux/amd64`"));
        }
        if platforms.iter().any(|known| known == platform) {
            return Err(format!("`{platform}` is named twice"));
        }
        platforms.push(platform.to_owned());
    }
    match platforms.len() {
        1..=MAX_PLATFORMS => Ok(platforms),
        0 => Err("there is none; write one like `linux/amd64`, or leave it out".into()),
        many => Err(format!("there are {many}; {MAX_PLATFORMS} are the most")),
    }
}

/// Several platforms make an index, which registries alone keep, and each one's image has a tag of its own there.
fn check_several(platforms: &[String], tags: &[String], push: bool) -> Result<(), String> {
    if !push {
        return Err(
            "several make an index, which a registry can keep and an engine can't: add `tags` and `push: true`, or make a job for each, \
             with a matrix"
                .into(),
        );
    }
    let mut names = tags.iter().flat_map(|tag| platforms.iter().map(|platform| platform_tag(tag, platform)));
    names.try_for_each(|name| check_tag(&name))
}

/// Lines of `ID=VALUE`. What is wrong is told without the line: it may hold a part of a secret.
fn secrets(text: &str) -> Result<Pairs, String> {
    let mut secrets = Pairs::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let is_id =
            |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        match line.split_once('=').map(|(id, value)| (id.trim(), value)) {
            Some((id, _)) if secrets.iter().any(|(known, _)| known == id) => {
                return Err(format!("the secret `{id}` is named twice"));
            }
            Some((id, value)) if is_id(id) => secrets.push((id.to_owned(), value.to_owned())),
            _ => {
                return Err(format!(
                    "line {} is no `ID=VALUE`; a value of several lines can't be given so: store it in base64, and decode it in the Dockerfile",
                    at + 1
                ));
            }
        }
    }
    Ok(secrets)
}

fn entries(
    input: &'static str,
    text: Option<&str>,
    parse: fn(&str) -> Result<Pairs, String>,
) -> Result<Pairs, WrongInput> {
    let found = parse(text.unwrap_or_default()).map_err(|problem| wrong(input, problem))?;
    match found.len() {
        0..=MAX_ENTRIES => Ok(found),
        many => Err(wrong(input, format!("there are {many}; {MAX_ENTRIES} are the most"))),
    }
}

/// Credentials go to one registry: that of all tags.
fn login(username: Option<&str>, password: Option<&str>, tags: &[String]) -> Result<Option<Login>, WrongInput> {
    let (username, password) = match (username, password) {
        (None, None) => return Ok(None),
        (Some(username), Some(password)) => (username.to_owned(), password.to_owned()),
        (Some(_), None) => return Err(wrong("password", "it is missing, and `username` is given".into())),
        (None, Some(_)) => return Err(wrong("username", "it is missing, and `password` is given".into())),
    };
    let Some(first) = tags.first() else {
        return Err(wrong("username", "without `tags` nobody knows which registry it is for; add them".into()));
    };
    let of_first = registry(first);
    if let Some(other) = tags.iter().find(|tag| registry(tag) != of_first) {
        let problem =
            format!("`{first}` and `{other}` are of two registries, and `password` is for one; push them in two steps");
        return Err(wrong("tags", problem));
    }
    Ok(Some(Login { registry: of_first.map(str::to_owned), username, password }))
}

/// `type=registry,ref=IMAGE`, as other tools write it, or the image alone.
fn of_registry(text: &str) -> &str {
    text.strip_prefix("type=registry").map_or(text, |rest| rest.trim_start_matches(',').trim_start_matches("ref="))
}

const fn wrong(input: &'static str, problem: String) -> WrongInput {
    WrongInput { input, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(with: &[(&str, &str)]) -> Result<Build, WrongInput> {
        Build::of(&with.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn what_is_asked_for_is_understood() {
        let build = of(&[
            ("tags", "localhost:5000/app:1, localhost:5000/app\n"),
            ("push", "true"),
            ("build-args", "VERSION=1=2\n\n EMPTY=\n"),
            ("secrets", "token= kept as it is \nother=x=y"),
            ("username", "who"),
            ("password", "word"),
            ("platforms", "linux/arm64/v8"),
        ])
        .unwrap();
        assert_eq!(build.tags, ["localhost:5000/app:1", "localhost:5000/app:latest"]);
        assert_eq!(build.context, ".");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(build.args, [pair("VERSION", "1=2"), pair("EMPTY", "")]);
        assert_eq!(build.secrets, [pair("token", " kept as it is "), pair("other", "x=y")]);
        assert_eq!(build.login.unwrap().registry.as_deref(), Some("localhost:5000"));
        assert!(build.push);
        assert_eq!(build.platforms, ["linux/arm64/v8"]);
        let several = of(&[("platforms", "linux/amd64, linux/arm/v7\n"), ("tags", "a.io/b"), ("push", "true")]);
        assert_eq!(several.unwrap().platforms, ["linux/amd64", "linux/arm/v7"]);
        let long = format!("a.io/b:{}", "1".repeat(120));
        let wrong = of(&[("platforms", "linux/amd64,linux/arm64"), ("tags", &long), ("push", "true")]).unwrap_err();
        assert!(wrong.to_string().contains("-linux-amd64` has a tag that can't be one"), "{wrong}");
    }

    #[test]
    fn a_source_holds_nothing_that_opens_it() {
        for (clone_url, expected) in [
            ("https://github.com/acme/shop.git", Some("https://github.com/acme/shop")),
            ("https://user:word@git.example.org:8443/a/b/?x=y", Some("https://git.example.org:8443/a/b")),
            ("git@github.com:acme/shop.git", None),
            ("/srv/git/shop.git", None),
            ("https://github.com/", None),
        ] {
            assert_eq!(source(clone_url).as_deref(), expected, "{clone_url}");
        }
    }

    #[test]
    fn a_time_is_after_another_by_its_fraction_and_zone() {
        for (text, is) in [
            ("2023-11-14T22:13:20Z", false),
            ("2023-11-14T22:13:20.000000001Z", true),
            ("2023-11-15T00:13:20+02:00", false),
            ("2023-11-15T00:13:21+02:00", true),
            ("0001-01-01T00:00:00Z", false),
            ("soon", false),
        ] {
            assert_eq!(is_after(text, 1_700_000_000), is, "{text}");
        }
    }

    #[test]
    fn a_dockerfile_is_found_within_its_context_or_brought_there() {
        for (context, file, expected) in [
            (".", "", ("Dockerfile", false)),
            ("./app/", "", ("Dockerfile", false)),
            ("app", "./app/docker/File", ("docker/File", false)),
            (".", "docker/File", ("docker/File", false)),
            ("app", "application/File", (FILE_BESIDE, true)),
        ] {
            let (name, beside) = of(&[("context", context), ("file", file)]).unwrap().dockerfile();
            assert_eq!((name.as_str(), beside), expected, "{context} {file}");
        }
    }

    #[test]
    fn what_is_wrong_names_its_input_and_no_secret() {
        for (with, input) in [
            (vec![("push", "true")], "push"),
            (vec![("push", "yes"), ("tags", "a")], "push"),
            (vec![("tags", "Upper")], "tags"),
            (vec![("tags", "a.io/x,b.io/x"), ("username", "u"), ("password", "secret")], "tags"),
            (vec![("username", "u"), ("tags", "a")], "password"),
            (vec![("username", "u"), ("password", "secret")], "username"),
            (vec![("secrets", "-----secret-----\nAAA")], "secrets"),
            (vec![("secrets", "a=secret\na=secret")], "secrets"),
            (vec![("build-args", "1A=x")], "build-args"),
            (vec![("labels", "=x")], "labels"),
            (vec![("platforms", "linux/amd64,linux/arm64")], "platforms"),
            (vec![("platforms", "linux")], "platforms"),
            (vec![("platforms", "linux/amd64,linux/amd64")], "platforms"),
            (vec![("platforms", "linux/amd64,linux/arm64"), ("tags", "a.io/b")], "platforms"),
            (vec![("platforms", ",")], "platforms"),
            (vec![("cache-to", "type=gha")], "cache-to"),
            (vec![("network", "host")], "network"),
            (vec![("provenance", "true"), ("tags", "a")], "provenance"),
            (vec![("provenance", "maybe")], "provenance"),
            (vec![("sbom", "yes")], "sbom"),
        ] {
            let wrong = of(&with).unwrap_err();
            assert_eq!(wrong.input, input, "{with:?}: {wrong}");
            assert!(!wrong.to_string().contains("-----secret"), "{wrong}");
        }
    }
}
