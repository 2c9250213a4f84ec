//! What is stated of an image: an in-toto Statement with SLSA's provenance, and what of one is to be believed.
//!
//! Comes in: what the store knows of the run, what a worker says that it has built, a statement that somebody shows. Goes out: the
//! statement, the bytes that are signed, what is wrong. Never here: keys, signing, files.
//! <https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>, <https://slsa.dev/spec/v1.0/provenance>,
//! <https://github.com/secure-systems-lab/dsse/blob/master/protocol.md>.

use indexmap::IndexMap;
use segue_schemas::{
    id::{CommitSha, Digest, JobId, RunId},
    plan::{BUILD_IMAGE, StepAction, StepPlan},
    provenance::{NamedImage, StatedFile},
    time::Timestamp,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    container::with_tag,
    image::{check_tag, list, repository},
};

/// What a payload is.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://slsa.dev/provenance/v1";
/// Where it is written what `externalParameters` hold.
const BUILD_TYPE: &str = "https://github.com/segue-ci/segue/blob/main/docs/containers.md#provenance";
/// The most images of one statement, and the most that they are built from.
const MAX_IMAGES: usize = 100;
/// Inputs that may hold what nobody is to read.
const UNTOLD: [&str; 2] = ["password", "secrets"];

/// What is known of a build.
#[derive(Debug)]
pub struct Origin<'a> {
    /// Where people reach the server that vouches: `https://ci.example.com`.
    pub builder: &'a str,
    /// Its version.
    pub version: &'a str,
    /// `owner/name`.
    pub repository: &'a str,
    /// Where it is fetched from, as [`crate::image::source`] has it.
    pub source: Option<&'a str>,
    /// The ref.
    pub git_ref: &'a str,
    /// The commit.
    pub commit: &'a CommitSha,
    /// What happened: `push`.
    pub event: &'a str,
    /// The pipeline's file.
    pub file: &'a str,
    /// The run, its attempt, and the job.
    pub run: RunId,
    /// Which attempt.
    pub attempt: u32,
    /// The job.
    pub job: JobId,
    /// The job's key.
    pub key: &'a str,
    /// The step, from 0.
    pub step: usize,
    /// Its `with`, as the pipeline has it.
    pub inputs: &'a IndexMap<String, String>,
    /// When the job was claimed.
    pub started: Timestamp,
    /// When the images were there.
    pub finished: Timestamp,
}

/// Why nothing is stated of these images.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfounded {
    /// The step builds no image.
    #[error("step {0} of the job does not use `{BUILD_IMAGE}`: nothing is stated of what it makes")]
    Step(usize),
    /// It pushes none of that name.
    #[error("step {step} has no tag that can be `{image}`: nothing is stated of it")]
    Name {
        /// Which, from 1.
        step: usize,
        /// The name.
        image: String,
    },
    /// There are none, or too many.
    #[error("a statement is about 1 to {MAX_IMAGES} images")]
    Count,
}

/// The `with` of the step that may have pushed these images: every name must be one of its tags, as far as the pipeline says which.
///
/// # Errors
/// [`Unfounded`].
pub fn founded<'a>(
    steps: &'a [StepPlan],
    step: usize,
    images: &[NamedImage],
) -> Result<&'a IndexMap<String, String>, Unfounded> {
    let builds = steps.get(step).map(builds_of).unwrap_or_default();
    if builds.is_empty() {
        return Err(Unfounded::Step(step + 1));
    }
    if images.is_empty() || images.len() > MAX_IMAGES {
        return Err(Unfounded::Count);
    }
    let strange = |with: &IndexMap<String, String>| {
        let tags = with.get("tags").map(String::as_str).unwrap_or_default();
        let may_push = with.get("push").is_some_and(|push| push.trim() != "false");
        images.iter().find(|image| !may_push || !may_be(tags, &image.name))
    };
    match builds.iter().copied().find(|with| strange(with).is_none()) {
        Some(with) => Ok(with),
        None => {
            let image = strange(builds[0]).map(|image| image.name.clone()).unwrap_or_default();
            Err(Unfounded::Name { step: step + 1, image })
        }
    }
}

/// The inputs of each build of a step: an action may hold several.
fn builds_of(step: &StepPlan) -> Vec<&IndexMap<String, String>> {
    match &step.action {
        StepAction::Uses { uses, with } if uses.split('@').next() == Some(BUILD_IMAGE) => vec![with],
        StepAction::Composite(composite) => composite.steps.iter().flat_map(builds_of).collect(),
        _ => Vec::new(),
    }
}

/// Whether a list of tags, in which expressions stand, can mean this image.
fn may_be(tags: &str, image: &str) -> bool {
    const ANYTHING: char = '\0';
    let mut pattern = String::new();
    let mut rest = tags;
    while let Some((before, after)) = rest.split_once("${{") {
        pattern.push_str(before);
        pattern.push(ANYTHING);
        rest = after.split_once("}}").map_or("", |(_, rest)| rest);
    }
    pattern.push_str(rest);
    check_tag(image).is_ok()
        && list(&pattern).any(|tag| {
            // an expression may be several tags, or bring its own version
            let whole = if tag.contains(ANYTHING) { tag.to_owned() } else { with_tag(tag) };
            fits(&whole.split(ANYTHING).collect::<Vec<_>>(), image)
                || (tag.contains(ANYTHING)
                    && image
                        .strip_suffix(":latest")
                        .is_some_and(|name| fits(&tag.split(ANYTHING).collect::<Vec<_>>(), name)))
        })
}

/// Whether a text is these parts, with anything between them.
fn fits(parts: &[&str], text: &str) -> bool {
    let [first, middle @ .., last] = parts else { return parts.first().is_some_and(|part| *part == text) };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// The statement about images.
#[must_use]
pub fn statement(origin: &Origin<'_>, images: &[NamedImage], bases: &[NamedImage], sboms: &[StatedFile]) -> Value {
    let mut subjects: Vec<Value> = images.iter().map(|image| subject(repository(&image.name), &image.digest)).collect();
    subjects.dedup();
    let at = match origin.source {
        Some(source) => format!("git+{source}@{}", origin.git_ref),
        None => format!("git:{}@{}", origin.repository, origin.git_ref),
    };
    let mut made_of = vec![json!({"uri": at, "digest": {"gitCommit": origin.commit}})];
    made_of.extend(
        bases.iter().take(MAX_IMAGES).map(
            |base| json!({"uri": format!("docker-image://{}", base.name), "digest": {"sha256": base.digest.hex()}}),
        ),
    );
    let inputs: IndexMap<&String, &String> =
        origin.inputs.iter().filter(|(name, _)| !UNTOLD.contains(&name.as_str())).collect();
    let builder = origin.builder.trim_end_matches('/');
    let made_beside: Vec<Value> = sboms.iter().take(MAX_IMAGES).map(|file| subject(&file.name, &file.digest)).collect();
    json!({
        "_type": STATEMENT,
        "subject": subjects,
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "repository": origin.source.unwrap_or(origin.repository),
                    "ref": origin.git_ref,
                    "event": origin.event,
                    "pipeline": origin.file,
                    "job": origin.key,
                    "step": origin.step + 1,
                    "inputs": inputs,
                },
                "resolvedDependencies": made_of,
            },
            "runDetails": {
                "builder": {"id": builder, "version": {"segue": origin.version}},
                "metadata": {
                    "invocationId": format!("{builder}/api/v1/runs/{}?attempt={}#{}", origin.run, origin.attempt, origin.job),
                    "startedOn": origin.started.to_string(),
                    "finishedOn": origin.finished.to_string(),
                },
                "byproducts": made_beside,
            },
        },
    })
}

fn subject(name: &str, digest: &Digest) -> Value {
    json!({"name": name, "digest": {"sha256": digest.hex()}})
}

/// The bytes that a signature is of.
#[must_use]
pub fn signed_bytes(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// What a statement says, of which it is known who vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// The images: names and digests.
    pub images: Vec<(String, String)>,
    /// Who built them.
    pub builder: String,
    /// From what: the first of what they are made of.
    pub source: String,
    /// The commit.
    pub commit: String,
    /// Which run.
    pub invocation: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Resource>,
    predicate_type: String,
    predicate: Value,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    name: String,
    digest: IndexMap<String, String>,
}

/// What a statement must say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// What it is about: `NAME@sha256:...` or `sha256:...`.
    pub image: Option<&'a str>,
    /// The repository that it is built from: `https://github.com/acme/shop`; with `@` and a ref behind it, that ref of it.
    pub source: Option<&'a str>,
    /// The commit.
    pub commit: Option<&'a CommitSha>,
}

/// Reads a statement, which must say what is wanted.
///
/// # Errors
/// What is wrong with it.
pub fn read(payload_type: &str, payload: &[u8], wanted: Wanted<'_>) -> Result<Stated, String> {
    if payload_type != PAYLOAD_TYPE {
        return Err(format!("what is signed is `{payload_type}`, and no statement (`{PAYLOAD_TYPE}`)"));
    }
    let shown: Shown = serde_json::from_slice(payload).map_err(|error| format!("it is no statement: {error}"))?;
    if shown.kind != STATEMENT || shown.predicate_type != PREDICATE {
        return Err(format!(
            "it is `{}` about `{}`, and not SLSA's provenance ({PREDICATE})",
            shown.kind, shown.predicate_type
        ));
    }
    let images: Vec<(String, String)> = shown
        .subject
        .into_iter()
        .filter_map(|mut image| Some((image.name, format!("sha256:{}", image.digest.swap_remove("sha256")?))))
        .collect();
    if let Some(image) = wanted.image {
        let (name, digest) = image.rsplit_once('@').map_or((None, image), |(name, digest)| (Some(name), digest));
        let is_it = |(known, of): &&(String, String)| of == digest && name.is_none_or(|name| repository(name) == known);
        if !images.iter().any(|one| is_it(&one)) {
            let known: Vec<String> = images.iter().map(|(name, digest)| format!("{name}@{digest}")).collect();
            return Err(format!("it is about {}, and not about {image}", known.join(", ")));
        }
    }
    let text = |pointer: &str| shown.predicate.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let stated = Stated {
        images,
        builder: text("/runDetails/builder/id"),
        source: text("/buildDefinition/resolvedDependencies/0/uri"),
        commit: text("/buildDefinition/resolvedDependencies/0/digest/gitCommit"),
        invocation: text("/runDetails/metadata/invocationId"),
    };
    let git_ref = text("/buildDefinition/externalParameters/ref");
    if let Some(source) = wanted.source.filter(|source| !is_from(&stated.source, &git_ref, source)) {
        return Err(format!("the image is from {}, and not from {source}", told(&stated.source)));
    }
    if let Some(commit) = wanted.commit.filter(|commit| commit.to_string() != stated.commit) {
        return Err(format!("the image is of the commit {}, and not of {commit}", told(&stated.commit)));
    }
    Ok(stated)
}

/// Whether a source, as it is stated, is the repository that somebody means, or that ref of it.
fn is_from(stated: &str, git_ref: &str, wanted: &str) -> bool {
    fn bare(source: &str) -> &str {
        let source = source.strip_prefix("git+").or_else(|| source.strip_prefix("git:")).unwrap_or(source);
        let source = source.trim_end_matches('/');
        source.strip_suffix(".git").unwrap_or(source)
    }
    let without = |source: &str| source.strip_suffix(git_ref)?.strip_suffix('@').map(str::to_owned);
    let Some(repository) = without(stated).filter(|_| !git_ref.is_empty()) else { return false };
    // the ref counts only where it is asked for
    let wanted = without(wanted).unwrap_or_else(|| wanted.to_owned());
    !bare(&wanted).is_empty() && bare(&repository) == bare(&wanted)
}

fn told(stated: &str) -> &str {
    if stated.is_empty() { "what it does not say" } else { stated }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    /// The vector of the protocol's own page.
    #[test]
    fn what_is_signed_is_what_dsse_says() {
        let bytes = signed_bytes("http://example.com/HelloWorld", b"hello world");
        assert_eq!(bytes, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
        assert_eq!(signed_bytes("\u{e9}", b""), "DSSEv1 2 \u{e9} 0 ".as_bytes(), "bytes are counted");
    }

    #[test]
    fn an_image_is_named_by_its_own_step_alone() {
        for (tags, image, may) in [
            ("a.io/shop/app:1", "a.io/shop/app:1", true),
            ("a.io/shop/app:1", "a.io/shop/app:2", false),
            ("a.io/shop/app", "a.io/shop/app:latest", true),
            ("a.io/shop/app", "a.io/shop/app-other:latest", false),
            ("a.io/x:1, a.io/shop/app:${{ github.sha }}", "a.io/shop/app:123abc", true),
            ("a.io/shop/app:${{ github.sha }}", "b.io/shop/app:123abc", false),
            ("a.io/${{ inputs.name }}/app:${{ format('{0},{1}', a, b) }}-x", "a.io/shop/app:1-x", true),
            ("a.io/${{ inputs.name }}/app:${{ github.sha }}-x", "a.io/shop/app:1-y", false),
            ("${{ inputs.tags }}", "anywhere.io/x:latest", true),
            ("${{ inputs.tags }}", "Not an image", false),
            ("a.io/${{ inputs.name }}", "a.io/app:latest", true),
            ("", "a:1", false),
        ] {
            assert_eq!(may_be(tags, image), may, "{tags} {image}");
        }
    }

    fn step(uses: &str, with: &[(&str, &str)]) -> StepPlan {
        let with: IndexMap<&str, &str> = with.iter().copied().collect();
        serde_json::from_value(json!({"name": "x", "line": 1, "action": {"uses": {"uses": uses, "with": with}}}))
            .unwrap()
    }

    fn named(name: &str) -> NamedImage {
        NamedImage { name: name.into(), digest: DIGEST.parse().unwrap() }
    }

    #[test]
    fn nothing_is_stated_of_what_the_step_does_not_push() {
        let steps = [
            step("segue/checkout", &[]),
            step("segue/build-image", &[("tags", "a.io/app:1"), ("push", "true")]),
            step("segue/build-image", &[("tags", "a.io/app:1")]),
        ];
        let image = [named("a.io/app:1")];
        assert_eq!(founded(&steps, 1, &image).unwrap()["tags"], "a.io/app:1");
        assert_eq!(founded(&steps, 0, &image), Err(Unfounded::Step(1)));
        assert_eq!(founded(&steps, 9, &image), Err(Unfounded::Step(10)));
        assert_eq!(founded(&steps, 2, &image), Err(Unfounded::Name { step: 3, image: "a.io/app:1".into() }));
        let other = [named("a.io/app:1"), named("a.io/other:1")];
        assert_eq!(founded(&steps, 1, &other), Err(Unfounded::Name { step: 2, image: "a.io/other:1".into() }));
        assert_eq!(founded(&steps, 1, &[]), Err(Unfounded::Count));
    }

    #[test]
    fn what_is_stated_can_be_read_and_names_no_secret() {
        let inputs: IndexMap<String, String> =
            [("tags", "a.io/app:1"), ("password", "hidden"), ("secrets", "x=hidden")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        let commit: CommitSha = "1234567890123456789012345678901234567890".parse().unwrap();
        let origin = Origin {
            builder: "https://ci.example.org/",
            version: "1.2.3",
            repository: "acme/shop",
            source: Some("https://github.com/acme/shop"),
            git_ref: "refs/heads/main",
            commit: &commit,
            event: "push",
            file: ".segue/pipelines/ci.yml",
            run: RunId(7),
            attempt: 2,
            job: "0197a3b0-0000-7000-8000-000000000000".parse().unwrap(),
            key: "image",
            step: 1,
            inputs: &inputs,
            started: Timestamp(0),
            finished: Timestamp(1500),
        };
        let images = [named("a.io/app:1"), named("a.io/app:latest")];
        let sbom = StatedFile { name: "sbom-image-2/sbom.cdx.json".into(), digest: DIGEST.parse().unwrap() };
        let statement = statement(&origin, &images, &[named("docker.io/library/debian:13")], &[sbom]);
        let text = statement.to_string();
        assert!(!text.contains("hidden"), "{text}");
        assert_eq!(statement["subject"], json!([{"name": "a.io/app", "digest": {"sha256": &DIGEST[7..]}}]));
        let made_of = &statement["predicate"]["buildDefinition"]["resolvedDependencies"];
        assert_eq!(made_of[0]["uri"], "git+https://github.com/acme/shop@refs/heads/main");
        assert_eq!(made_of[1]["uri"], "docker-image://docker.io/library/debian:13");
        assert_eq!(statement["predicate"]["runDetails"]["metadata"]["finishedOn"], "1970-01-01T00:00:01.500Z");
        let beside = &statement["predicate"]["runDetails"]["byproducts"];
        assert_eq!(*beside, json!([{"name": "sbom-image-2/sbom.cdx.json", "digest": {"sha256": &DIGEST[7..]}}]));
        for image in
            [None, Some(DIGEST.to_owned()), Some(format!("a.io/app@{DIGEST}")), Some(format!("a.io/app:1@{DIGEST}"))]
        {
            let wanted = Wanted { image: image.as_deref(), ..Wanted::default() };
            let stated = read(PAYLOAD_TYPE, text.as_bytes(), wanted).unwrap();
            assert_eq!(
                (stated.builder.as_str(), stated.commit.as_str()),
                ("https://ci.example.org", &*commit.to_string())
            );
        }
        let other = DIGEST.replace('a', "b");
        for image in [other.clone(), format!("a.io/app@{other}"), format!("a.io/other@{DIGEST}")] {
            let wanted = Wanted { image: Some(&image), ..Wanted::default() };
            assert!(read(PAYLOAD_TYPE, text.as_bytes(), wanted).unwrap_err().contains("not about"), "{image}");
        }
        let anything = Wanted::default();
        assert!(read("text/plain", text.as_bytes(), anything).is_err());
        assert!(read(PAYLOAD_TYPE, text.replace("slsa.dev", "slsa.example").as_bytes(), anything).is_err());
        let other: CommitSha = "0000000000000000000000000000000000000001".parse().unwrap();
        for (wanted, wrong) in [
            (Wanted { source: Some("https://github.com/acme/shop"), commit: Some(&commit), ..anything }, None),
            (Wanted { source: Some("https://github.com/acme/other"), ..anything }, Some("not from https")),
            (Wanted { commit: Some(&other), ..anything }, Some("not of 00000")),
        ] {
            let seen = read(PAYLOAD_TYPE, text.as_bytes(), wanted).err();
            assert_eq!(seen.is_some(), wrong.is_some(), "{seen:?}");
            assert!(seen.unwrap_or_default().contains(wrong.unwrap_or_default()), "{wanted:?}");
        }
    }

    #[test]
    fn a_source_is_the_whole_repository_and_no_part_of_one() {
        const STATED: &str = "git+https://github.com/acme/shop@refs/heads/main";
        for (wanted, is_it) in [
            ("https://github.com/acme/shop", true),
            ("https://github.com/acme/shop.git", true),
            ("https://github.com/acme/shop/", true),
            ("git+https://github.com/acme/shop", true),
            (STATED, true),
            ("https://github.com/acme/shop@refs/heads/main", true),
            ("https://github.com/acme/shop@refs/heads/other", false),
            ("https://github.com/acme/shop@", false),
            ("https://github.com/acme/sho", false),
            ("https://github.com/acme", false),
            ("github.com/acme/shop", false),
            ("http://github.com/acme/shop", false),
            ("", false),
        ] {
            assert_eq!(is_from(STATED, "refs/heads/main", wanted), is_it, "{wanted}");
        }
        assert!(is_from("git:acme/shop@refs/heads/main", "refs/heads/main", "acme/shop"));
        assert!(!is_from("", "", "") && !is_from("", "", "acme/shop"));
        assert!(!is_from(STATED, "", "https://github.com/acme/shop"), "it must say of which ref it is");
        assert!(!is_from(STATED, "main", "https://github.com/acme/shop"));
    }
}
