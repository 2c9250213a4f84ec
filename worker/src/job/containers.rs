//! The container of a job that asks for one: made before its first step, from what the pipeline says, evaluated here.

use std::sync::Arc;

use async_trait::async_trait;
use indexmap::IndexMap;
use segue_pipelines::{container, expr::Contexts};
use segue_schemas::{
    plan::ContainerPlan,
    status::{Conclusion, FailureClass},
    worker_api::JobClaim,
};

use super::{
    context::{self, Standing},
    error::StepError,
    run::{Ended, JobRunner, Running},
    steps::Steps,
};
use crate::{
    engine::{
        EngineJob,
        docker::{ContainerJob, ContainerSpec, Credentials, Docker, Place, Say, ServiceSpec},
    },
    log::JobLog,
    supervisor::client::SupervisorError,
};

#[async_trait]
impl Say for JobLog {
    async fn say(&self, line: String) {
        self.line(line).await;
    }
}

impl JobRunner {
    /// What runs a job's tasks, and the place of its container, if it asks for one.
    pub(super) async fn open(&self, claim: &JobClaim) -> Result<(Box<dyn EngineJob>, Option<Arc<Place>>), StepError> {
        let host = self.engine.open(claim.job).await?;
        let Some(docker) = self.docker.as_ref().filter(|_| claim.plan.asks_for_container()) else {
            return Ok((host, None));
        };
        let holder = self.engine.open(claim.job).await?;
        let place = Arc::new(Place::new(docker.clone(), claim.run, claim.job, claim.epoch, holder));
        Ok((Box::new(ContainerJob::new(host, place.clone()).await), Some(place)))
    }

    /// Removes, beside all else, what jobs of an earlier start left at the engine for containers.
    pub fn sweep_containers(&self) {
        if let Some(docker) = &self.docker {
            tokio::spawn(Docker::keep_sweeping(docker.clone()));
        }
    }
}

impl Steps<'_> {
    /// Makes the job's container, where it asks for one. `Some`: no step is to run.
    pub(super) async fn enter_container(&mut self) -> Option<Ended> {
        let place = self.running.place.clone()?;
        let interrupted = self.interruption();
        let made = tokio::select! {
            biased;
            made = self.make_container(&place) => Ok(made),
            interruption = interrupted => Err(interruption),
        };
        let (outcome, class, reason) = match made {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => {
                let end = self.failed(&error).await;
                (end.outcome, end.class, end.reason)
            }
            Err(interruption) => match self.interrupt(interruption).await {
                Ok(end) => (end.outcome, end.class, end.reason),
                Err(ended) => return Some(ended),
            },
        };
        let running = &mut self.running;
        if outcome != Some(Conclusion::Cancelled) {
            running.standing = Standing::Failure;
            let class = class.unwrap_or(FailureClass::Infrastructure);
            let reason = reason.unwrap_or_else(|| "it could not be made".into());
            running.failure.get_or_insert_with(|| (class, format!("the job's container: {reason}")));
        }
        // not even those that run after a failure: they were written for the container
        Some(Ended::Done)
    }

    async fn make_container(&mut self, place: &Place) -> Result<(), StepError> {
        let running = &mut self.running;
        let Some(plan) = &running.claim.plan.container else { return Ok(()) };
        let spec = running.container_spec(plan)?;
        running.log.line(format!("##[group]Container {}", spec.image)).await;
        let opened = place.open(&spec, &running.log).await;
        running.log.line("##[endgroup]").await;
        opened.map_err(SupervisorError::from)?;
        if let Some(path) = place.opened().and_then(|opened| opened.path.clone()) {
            running.path = path;
        }
        Ok(())
    }
}

impl Running<'_> {
    /// What the container is made with.
    fn container_spec(&self, plan: &ContainerPlan) -> Result<ContainerSpec, StepError> {
        let contexts = self.container_contexts()?;
        let offers_gpus = !self.runner.options.gpus.is_empty();
        let read = |name: &str, plan: &ContainerPlan, has_gpus: bool| {
            let mut one = evaluated(name, plan, &contexts)?;
            if offers_gpus {
                shut_out(&mut one, has_gpus);
            }
            Ok::<_, StepError>(one)
        };
        let own = read("container", plan, !self.claim.gpus.is_empty())?;
        let service = |(name, plan): (&String, &ContainerPlan)| read(name, plan, false);
        let services = self.claim.plan.services.iter().map(service).collect::<Result<_, _>>()?;
        let workspace = &self.workspace;
        Ok(ContainerSpec {
            image: own.image,
            env: own.env,
            settings: own.settings,
            volumes: own.volumes,
            credentials: own.credentials,
            mounts: workspace.for_container(),
            workdir: workspace.work().display().to_string(),
            commands: workspace.commands(),
            host_user: self.user.ids,
            forced_user: forced_user(),
            gpus: self.claim.gpus.clone(),
            services,
        })
    }

    fn container_contexts(&self) -> Result<Contexts, StepError> {
        let mut env = IndexMap::new();
        let steps = serde_json::Map::new();
        let base = context::step_contexts(&self.contexts, &steps, self.standing, &env);
        context::overlay_env(&mut env, &self.claim.pipeline_env, &base)?;
        context::overlay_env(&mut env, &self.claim.plan.env, &base)?;
        Ok(context::step_contexts(&self.contexts, &steps, self.standing, &env))
    }
}

/// A container as it is planned, with its templates evaluated.
fn evaluated(name: &str, plan: &ContainerPlan, contexts: &Contexts) -> Result<ServiceSpec, StepError> {
    let image = context::render(&format!("the image of `{name}`"), &plan.image, contexts)?;
    if image.trim().is_empty() {
        return Err(StepError::Configuration(format!("the image of `{name}` comes to nothing")));
    }
    let mut env = IndexMap::new();
    context::overlay_env(&mut env, &plan.env, contexts)?;
    let credentials = plan.credentials.as_ref().map(|credentials| {
        Ok::<_, StepError>(Credentials {
            username: context::render("`credentials: username`", &credentials.username, contexts)?,
            password: context::render("`credentials: password`", &credentials.password, contexts)?,
        })
    });
    Ok(ServiceSpec {
        name: name.to_owned(),
        image: image.trim().to_owned(),
        env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        settings: container::settings(plan).map_err(StepError::Configuration)?,
        volumes: plan.volumes.clone(),
        credentials: credentials.transpose()?,
    })
}

/// NVIDIA's runtime, where it is the engine's default, hands out whatever this variable names, and images mostly say `all`. A container
/// that has GPUs gets it from the engine, by what is asked for; any other is to have none.
/// <https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html#gpu-enumeration>
fn shut_out(one: &mut ServiceSpec, has_gpus: bool) {
    const VARIABLE: &str = "NVIDIA_VISIBLE_DEVICES=";
    one.env.retain(|variable| !variable.starts_with(VARIABLE));
    one.settings.env.retain(|variable| !variable.starts_with(VARIABLE));
    if !has_gpus {
        one.env.push(format!("{VARIABLE}void"));
    }
}

/// A worker that is not root could not clear away what another user leaves: everything then runs as its own.
fn forced_user() -> Option<String> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    (!uid.is_root()).then(|| format!("{uid}:{gid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_asks_for_no_gpu_gets_none_whatever_it_says() {
        let settings = container::of_options(&["--env".into(), "NVIDIA_VISIBLE_DEVICES=all".into()]).unwrap();
        let env = vec!["A=1".to_owned(), "NVIDIA_VISIBLE_DEVICES=all".to_owned()];
        let one = ServiceSpec {
            name: "db".into(),
            image: "cuda".into(),
            env,
            settings,
            volumes: Vec::new(),
            credentials: None,
        };
        for (has_gpus, wanted) in [(false, vec!["A=1", "NVIDIA_VISIBLE_DEVICES=void"]), (true, vec!["A=1"])] {
            let mut one = one.clone();
            shut_out(&mut one, has_gpus);
            assert_eq!(one.env, wanted);
            assert!(one.settings.env.is_empty());
        }
    }
}
