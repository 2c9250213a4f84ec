//! Containers beside a job's own, in its network: reached by their names, waited for until they are healthy, their last words kept.

use std::{collections::HashMap, time::Duration};

use bollard::{
    Docker as Client,
    models::{ContainerState, HealthStatusEnum},
    query_parameters::CreateContainerOptionsBuilder,
};
use futures_util::future::try_join_all;
use segue_pipelines::container::Settings;
use tokio::time::{Instant, sleep};

use super::{
    DockerError,
    call::call,
    create::{self, Ceiling},
    images::Wanted,
    job::last_words,
    place::{Credentials, Place, Say},
};

/// Which service of its job a container is.
const LABEL_SERVICE: &str = "segue.service";
/// Pauses between two looks at the health of a service grow from the first to the second of these.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a service may take until it is healthy, whatever its own settings allow.
const HEALTHY_LIMIT: Duration = Duration::from_secs(600);
/// Lines and bytes of a service's log that are kept.
const KEPT_LINES: usize = 500;
const KEPT_BYTES: usize = 64 * 1024;

/// A container beside a job's own, evaluated.
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    /// Its key under `services`, by which the job reaches it.
    pub name: String,
    /// The image, as the pipeline names it.
    pub image: String,
    /// Its variables, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Limits, user, health and the like.
    pub settings: Settings,
    /// As those of the job's container.
    pub volumes: Vec<String>,
    /// Who pulls the image.
    pub credentials: Option<Credentials>,
}

impl ServiceSpec {
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted { image: &self.image, settings: &self.settings, credentials: self.credentials.as_ref() }
    }
}

/// A service that was started.
#[derive(Debug)]
pub(super) struct Started {
    name: String,
    id: String,
}

/// What the engine refuses, with whose it is: a job may have several.
fn of_service(service: &ServiceSpec, image: &str, error: DockerError) -> DockerError {
    match error {
        DockerError::Refused { doing, status, message } => {
            let message = format!("`{}` of image `{image}`: {message}", service.name);
            DockerError::Refused { doing, status, message }
        }
        other => other,
    }
}

impl Place {
    /// Starts the services, side by side, and waits until each is healthy.
    pub(super) async fn start_services(
        &self,
        services: &[(&ServiceSpec, String)],
        labels: &HashMap<String, String>,
        ceiling: Ceiling,
        say: &dyn Say,
    ) -> Result<(), DockerError> {
        let (client, limit) = (self.docker.client().await?, self.docker.config.patience.0);
        let network = self.name();
        let start = async |service: &ServiceSpec, image: &str| {
            let mut labels = labels.clone();
            labels.insert(LABEL_SERVICE.into(), service.name.clone());
            let body = create::service_container(service, image, &network, labels, ceiling);
            let options = CreateContainerOptionsBuilder::default().name(&format!("{network}-{}", service.name)).build();
            let make = move |client: Client| async move { client.create_container(Some(options), body).await };
            let made = self.make("make a service", make).await.map_err(|error| of_service(service, image, error))?;
            let begun = call("start a service", limit, client.start_container(&made.id, None)).await;
            begun.map_err(|error| of_service(service, image, error))?;
            Ok::<_, DockerError>(Started { name: service.name.clone(), id: made.id })
        };
        let started = try_join_all(services.iter().map(|(service, image)| start(service, image))).await?;
        let waiting = self.services.get_or_init(|| started).iter().map(|service| self.until_healthy(service, say));
        try_join_all(waiting).await.map(drop)
    }

    /// Waits until a service is healthy, or runs where it has no health check.
    async fn until_healthy(&self, service: &Started, say: &dyn Say) -> Result<(), DockerError> {
        let (client, limit) = (self.docker.client().await?, self.docker.config.patience.0);
        let begun = Instant::now();
        let mut pause = LOOKS.0;
        loop {
            let seen = call("look at a service", limit, client.inspect_container(&service.id, None)).await?;
            let stand = stand(seen.state.unwrap_or_default());
            let too_late = begun.elapsed() > HEALTHY_LIMIT;
            let problem = match stand {
                Stand::Healthy => {
                    say.say(format!("Service {} is ready", service.name)).await;
                    return Ok(());
                }
                Stand::Starting if !too_late => None,
                Stand::Starting => Some(format!("was not healthy after {} s", HEALTHY_LIMIT.as_secs())),
                Stand::Unhealthy => Some("is not healthy".to_owned()),
                Stand::Ended(code) => Some(format!("has ended with exit code {code}")),
            };
            if let Some(problem) = problem {
                let said = last_words(client, &service.id, 20, limit).await;
                let said = if said.trim().is_empty() { "it said nothing".into() } else { format!("it said:\n{said}") };
                return Err(DockerError::Asked(format!("the service `{}` {problem}; {said}", service.name)));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOKS.1);
        }
    }

    /// Writes what the services said into the job's log: their ends, before they are removed.
    pub async fn keep_words(&self, say: &dyn Say) {
        let Ok(client) = self.docker.client().await else { return };
        for service in self.services.get().map_or(&[][..], Vec::as_slice) {
            let mut said = last_words(client, &service.id, KEPT_LINES, self.docker.config.patience.0).await;
            if said.len() > KEPT_BYTES {
                let from = said.ceil_char_boundary(said.len() - KEPT_BYTES);
                said.drain(..from);
            }
            say.say(format!("##[group]Service {}\n{}\n##[endgroup]", service.name, said.trim_end())).await;
        }
    }
}

/// How a service stands.
#[derive(Debug, PartialEq, Eq)]
enum Stand {
    Healthy,
    Starting,
    Unhealthy,
    Ended(i64),
}

fn stand(state: ContainerState) -> Stand {
    if state.running != Some(true) {
        return Stand::Ended(state.exit_code.unwrap_or_default());
    }
    match state.health.and_then(|health| health.status) {
        Some(HealthStatusEnum::STARTING) => Stand::Starting,
        Some(HealthStatusEnum::UNHEALTHY) => Stand::Unhealthy,
        Some(HealthStatusEnum::HEALTHY | HealthStatusEnum::NONE | HealthStatusEnum::EMPTY) | None => Stand::Healthy,
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::Health;

    use super::*;

    #[test]
    fn what_the_engine_refuses_names_the_service_and_its_image() {
        let service = ServiceSpec {
            name: "db".into(),
            image: "scratch".into(),
            env: Vec::new(),
            settings: Settings::default(),
            volumes: Vec::new(),
            credentials: None,
        };
        let refused =
            DockerError::Refused { doing: "make a service", status: 400, message: "No command specified".into() };
        let told = of_service(&service, "scratch@sha256:1", refused).to_string();
        assert!(told.contains("make a service: `db` of image `scratch@sha256:1`: No command specified"), "{told}");
    }

    #[test]
    fn a_service_is_ready_when_its_check_says_so_and_without_one_when_it_runs() {
        let check = |running, status: Option<HealthStatusEnum>| {
            let health = status.map(|status| Health { status: Some(status), ..Health::default() });
            stand(ContainerState { running: Some(running), exit_code: Some(3), health, ..ContainerState::default() })
        };
        assert_eq!(check(true, None), Stand::Healthy);
        assert_eq!(check(true, Some(HealthStatusEnum::NONE)), Stand::Healthy);
        assert_eq!(check(true, Some(HealthStatusEnum::STARTING)), Stand::Starting);
        assert_eq!(check(true, Some(HealthStatusEnum::HEALTHY)), Stand::Healthy);
        assert_eq!(check(true, Some(HealthStatusEnum::UNHEALTHY)), Stand::Unhealthy);
        assert_eq!(check(false, Some(HealthStatusEnum::HEALTHY)), Stand::Ended(3));
    }
}
