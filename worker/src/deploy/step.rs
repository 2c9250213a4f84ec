//! The steps `segue/deploy` and `segue/canary`: from what the pipeline says to the rollout that is asked for.

use indexmap::IndexMap;
use segue_pipelines::{
    container,
    diagnostic::{Style, render},
    service,
};
use segue_schemas::{
    deploy::{ServiceSpec, Strategy},
    gpu::WhenFull,
    id::Digest,
    worker_api::{CreateRollout, JobClaim},
};

use super::inputs::{Inputs, PREVIEW, Source};
use crate::{
    job::{StepError, StepPlace},
    log::mask::Masker,
};

/// The largest service file that is read.
const MAX_SERVICE_FILE: u64 = 256 * 1024;

/// Checks everything, packs and uploads what has to be, and gives the rollout to ask for.
///
/// `action` is [`super::inputs::DEPLOY`] or [`super::inputs::CANARY`], `with` its evaluated inputs. Nothing is changed
/// but that an artifact may have been uploaded; may be repeated.
///
/// # Errors
/// [`StepError::Configuration`] names the input, the file or the artifact, what is wrong with it and what to do.
pub async fn prepare_rollout(
    place: &mut dyn StepPlace,
    action: &str,
    with: &IndexMap<String, String>,
) -> Result<CreateRollout, StepError> {
    let inputs = Inputs::parse(action, with).map_err(|error| StepError::Configuration(error.to_string()))?;
    if let Some(seed) = &inputs.seed
        && let Some(secret) = secret_in(place.claim(), seed)
    {
        return Err(StepError::Configuration(format!(
            "input `seed` of `{action}` holds the value of the secret `{secret}`, and would be stored and shown as it is; have the \
             command read it from a place that only the host knows"
        )));
    }
    let Some(environment) = place.claim().plan.environment.clone() else {
        let key = &place.claim().plan.key;
        return Err(StepError::Configuration(format!(
            "`{action}` needs to know where to: give the job `{key}` an environment, such as `environment: staging`"
        )));
    };
    let (service, digest, image) = match &inputs.source {
        Source::Serving(from) => {
            let Some(serving) = place.serving(from, &inputs.service).await? else {
                return Err(StepError::Configuration(format!(
                    "nothing of `{}` serves in `{from}`, so there is nothing to promote; deploy it there first",
                    inputs.service
                )));
            };
            if let Some(wanted) = inputs.release.filter(|wanted| *wanted != serving.release.id) {
                return Err(StepError::Configuration(format!(
                    "release {wanted} of `{}` was to be promoted, and release {} serves in `{from}` by now: promote that one",
                    inputs.service, serving.release.id
                )));
            }
            (serving.service, serving.release.digest, serving.release.image)
        }
        Source::Image(name) => {
            let service = described(place, &inputs.service, true).await?;
            let (digest, image) = pin(place, action, name).await?;
            (service, digest, Some(image))
        }
        source => (described(place, &inputs.service, false).await?, find_artifact(place, action, source).await?, None),
    };
    check_strategy(&service, &inputs.strategy)?;
    let (epoch, step) = (place.claim().epoch, place.step());
    let preview = action == PREVIEW;
    let Inputs { strategy, seed, .. } = inputs;
    Ok(CreateRollout { epoch, step, service, environment, digest, image, strategy, preview, seed })
}

/// What is compared with what serves runs beside it.
fn check_strategy(service: &ServiceSpec, strategy: &Strategy) -> Result<(), StepError> {
    let recreates = service.gpus.as_ref().is_some_and(|gpus| gpus.when_full == WhenFull::Recreate);
    if !recreates || matches!(strategy, Strategy::HotSwap | Strategy::Rolling(_)) {
        return Ok(());
    }
    Err(StepError::Configuration(format!(
        "service `{}` says `when-full: recreate`, by which what serves may be stopped before the new release is started, and what is \
         watched, as a canary is, runs beside what serves: take `when-full` out of its file, or use `segue/deploy` without a `strategy`, or with \
         `strategy: rolling`",
        service.name
    )))
}

/// The service, which is to be one that is run from an image or one that is not.
async fn described(place: &mut dyn StepPlace, name: &str, from_image: bool) -> Result<ServiceSpec, StepError> {
    let service = read_service(place, name).await?;
    let problem = match (from_image, &service.container) {
        (true, None) => {
            "is described as a process, and an image is given: write `container:` into its file, with at least the `port` \
             that it listens on"
        }
        (false, Some(_)) => {
            "is described as a container, which is made from an image: give `image` in the place of `artifact` or `path`"
        }
        _ => return Ok(service),
    };
    Err(StepError::Configuration(format!("service `{name}` {problem}")))
}

/// The image that a name means now, for good.
async fn pin(place: &mut dyn StepPlace, action: &str, name: &str) -> Result<(Digest, String), StepError> {
    let name = name.trim();
    let image = match container::pinned(name) {
        Some(_) => name.to_owned(),
        None => place.resolve_image(name).await?,
    };
    match container::pinned(&image) {
        Some(digest) => Ok((digest, image)),
        None => Err(StepError::Configuration(format!("input `image` of `{action}`: `{name}` has no digest"))),
    }
}

/// The secret whose value stands in a text, in whatever form.
fn secret_in<'c>(claim: &'c JobClaim, text: &str) -> Option<&'c str> {
    let mut secrets = claim.secrets.iter();
    secrets.find(|(_, value)| Masker::new([value.as_str()]).finds(text)).map(|(name, _)| name.as_str())
}

/// The service's file, from the workspace or from the commit.
async fn read_service(place: &mut dyn StepPlace, name: &str) -> Result<ServiceSpec, StepError> {
    let paths = [format!(".segue/services/{name}.yml"), format!(".segue/services/{name}.yaml")];
    for path in &paths {
        let Some(bytes) = place.read_file(path, MAX_SERVICE_FILE).await? else { continue };
        let text = String::from_utf8(bytes)
            .map_err(|_| StepError::Configuration(format!("{path} is not a text in UTF-8; write it as one")))?;
        return service::parse(path, &text).map_err(|diagnostics| {
            let shown: Vec<String> = diagnostics.iter().map(|found| render(found, &text, Style::Plain)).collect();
            StepError::Configuration(format!("{path} can't be used:\n{}", shown.join("\n")))
        });
    }
    Err(StepError::Configuration(format!(
        "service `{name}` is not described: {} does not exist at this commit; write it, with at least `command:`",
        paths[0]
    )))
}

async fn find_artifact(place: &mut dyn StepPlace, action: &str, source: &Source) -> Result<Digest, StepError> {
    match source {
        Source::Path(path) => place.pack_and_upload(path).await,
        Source::Serving(from) | Source::Image(from) => {
            Err(StepError::Configuration(format!("`{action}` takes no artifact from `{from}`")))
        }
        Source::Artifact(name) => match place.artifact(name).await? {
            Some(artifact) => Ok(artifact.digest),
            None => Err(StepError::Configuration(format!(
                "input `artifact` of `{action}`: this run has no artifact `{name}`; make it with `segue/upload-artifact` in a job \
                 that this one `needs`, or name a directory with `path`"
            ))),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use async_trait::async_trait;
    use segue_schemas::{
        artifact::Artifact,
        deploy::Strategy,
        id::{Epoch, JobId, RunId},
        plan::JobPlan,
        time::Timestamp,
        worker_api::Serving,
    };

    use super::*;
    use crate::deploy::inputs::{CANARY, DEPLOY};

    struct Place {
        claim: JobClaim,
        files: HashMap<&'static str, &'static str>,
        artifacts: HashMap<&'static str, Digest>,
        packed: Vec<String>,
    }

    fn digest(digit: char) -> Digest {
        format!("sha256:{}", digit.to_string().repeat(64)).parse().unwrap()
    }

    fn place(environment: Option<&str>) -> Place {
        let plan = JobPlan {
            key: "ship".into(),
            name: "ship".into(),
            environment: environment.map(str::to_owned),
            timeout_seconds: 60,
            ..JobPlan::default()
        };
        let claim = JobClaim {
            restore: None,
            gpus: Vec::new(),
            debug: false,
            job: JobId(uuid::Uuid::nil()),
            run: RunId(1),
            attempt: 1,
            epoch: Epoch(3),
            plan,
            pipeline: "ship".into(),
            pipeline_env: IndexMap::new(),
            contexts: BTreeMap::new(),
            secrets: BTreeMap::new(),
            repository: "acme/shop".into(),
            clone_url: String::new(),
            mirror: None,
            commit: "1".repeat(40).parse().unwrap(),
            trusted: true,
            log_offset: 0,
            resume: None,
            token: None,
            held_ms: None,
        };
        let files = [
            (".segue/services/web.yml", "command: [./web]\n"),
            (".segue/services/boxed.yml", "container: {port: 80}\n"),
            (".segue/services/large.yml", "command: [./large]\ngpus: { memory: 40GiB, when-full: recreate }\n"),
            (".segue/services/bad.yml", "comand: [./web]\n"),
        ];
        Place { claim, files: files.into(), artifacts: [("app", digest('a'))].into(), packed: Vec::new() }
    }

    #[async_trait]
    impl StepPlace for Place {
        fn claim(&self) -> &JobClaim {
            &self.claim
        }
        fn step(&self) -> usize {
            2
        }
        async fn read_file(&mut self, path: &str, _max_bytes: u64) -> Result<Option<Vec<u8>>, StepError> {
            Ok(self.files.get(path).map(|text| text.as_bytes().to_vec()))
        }
        async fn pack_and_upload(&mut self, path: &str) -> Result<Digest, StepError> {
            self.packed.push(path.into());
            Ok(digest('b'))
        }
        async fn resolve_image(&mut self, image: &str) -> Result<String, StepError> {
            Ok(format!("{}@{}", image.split(':').next().unwrap_or(image), digest('d')))
        }
        async fn serving(&mut self, _: &str, _: &str) -> Result<Option<Serving>, StepError> {
            Ok(None)
        }
        async fn artifact(&mut self, name: &str) -> Result<Option<Artifact>, StepError> {
            let found = self.artifacts.get(name).cloned();
            Ok(found.map(|digest| Artifact { name: name.into(), digest, bytes: 1, created_at: Timestamp(0) }))
        }
    }

    async fn prepare(place: &mut Place, action: &str, pairs: &[(&str, &str)]) -> Result<CreateRollout, String> {
        let with = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        prepare_rollout(place, action, &with).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_artifact_of_the_run_goes_to_the_jobs_environment() {
        let mut place = place(Some("staging"));
        let create = prepare(&mut place, DEPLOY, &[("service", "web"), ("artifact", "app")]).await.unwrap();
        assert_eq!(create.digest, digest('a'));
        assert_eq!((create.environment.as_str(), create.epoch, create.step), ("staging", Epoch(3), 2));
        assert_eq!(create.service.name, "web");
        assert_eq!(create.service.command, ["./web"]);
        assert_eq!(create.strategy, Strategy::HotSwap);
        assert!(place.packed.is_empty());
    }

    #[tokio::test]
    async fn a_directory_is_packed_and_uploaded() {
        let mut place = place(Some("production"));
        let create = prepare(&mut place, CANARY, &[("service", "web"), ("path", "dist")]).await.unwrap();
        assert_eq!(create.digest, digest('b'));
        assert_eq!(place.packed, ["dist"]);
        assert!(matches!(create.strategy, Strategy::Canary(_)));
    }

    #[tokio::test]
    async fn an_image_is_pinned_when_the_release_is_made() {
        let mut place = place(Some("staging"));
        let by_tag = [("service", "boxed"), ("image", "registry.example/web:main")];
        let create = prepare(&mut place, DEPLOY, &by_tag).await.unwrap();
        assert_eq!(create.image, Some(format!("registry.example/web@{}", digest('d'))));
        assert_eq!(create.digest, digest('d'));
        for image in [format!("registry.example/web@{}", digest('e')), digest('e').to_string()] {
            let create = prepare(&mut place, CANARY, &[("service", "boxed"), ("image", &image)]).await.unwrap();
            assert_eq!((create.image, create.digest), (Some(image), digest('e')), "what is pinned stays as it is");
        }
        let error = prepare(&mut place, DEPLOY, &[("service", "web"), ("image", "x:1")]).await.unwrap_err();
        assert!(error.contains("`web` is described as a process"), "{error}");
        let error = prepare(&mut place, DEPLOY, &[("service", "boxed"), ("artifact", "app")]).await.unwrap_err();
        assert!(error.contains("`boxed` is described as a container"), "{error}");
        let both = [("service", "boxed"), ("artifact", "app"), ("image", "x:1")];
        let error = prepare(&mut place, DEPLOY, &both).await.unwrap_err();
        assert!(error.contains("input `image`") && error.contains("`artifact` is given as well"), "{error}");
    }

    #[tokio::test]
    async fn what_takes_the_place_of_what_serves_is_no_canary() {
        let pairs = [("service", "large"), ("artifact", "app")];
        let create = prepare(&mut place(Some("staging")), DEPLOY, &pairs).await.unwrap();
        assert_eq!(create.service.gpus.unwrap().when_full, WhenFull::Recreate);
        let error = prepare(&mut place(Some("staging")), CANARY, &pairs).await.unwrap_err();
        assert!(error.contains("`large`") && error.contains("use `segue/deploy`"), "{error}");
    }

    #[tokio::test]
    async fn what_is_missing_is_named_with_what_to_do() {
        let mut here = place(Some("staging"));
        let app = ("artifact", "app");
        let error = prepare(&mut here, DEPLOY, &[("service", "shop"), app]).await.unwrap_err();
        assert!(error.contains(".segue/services/shop.yml does not exist"), "{error}");
        let error = prepare(&mut here, DEPLOY, &[("service", "bad"), app]).await.unwrap_err();
        assert!(error.contains(".segue/services/bad.yml") && error.contains("command"), "{error}");
        let error = prepare(&mut here, DEPLOY, &[("service", "web"), ("artifact", "ap")]).await.unwrap_err();
        assert!(error.contains("no artifact `ap`") && error.contains("segue/upload-artifact"), "{error}");
        here.claim.secrets.insert("DB_PASSWORD".into(), "hunter22".into());
        let seeded = [("service", "web"), app, ("seed", "./load --password hunter22")];
        let error = prepare(&mut here, PREVIEW, &seeded).await.unwrap_err();
        assert!(error.contains("the secret `DB_PASSWORD`") && !error.contains("hunter22"), "{error}");
        let error = prepare(&mut place(None), DEPLOY, &[("service", "web"), app]).await.unwrap_err();
        assert!(error.contains("job `ship`") && error.contains("environment: staging"), "{error}");
    }
}
