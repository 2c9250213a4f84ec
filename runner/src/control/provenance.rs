//! States where images are from, in the server's name. What a worker says is which images a step has pushed, and from which others they are
//! built; everything else is what the store knows.

use segue_pipelines::{
    image::source,
    provenance::{Origin, founded, statement},
};
use segue_schemas::{
    id::JobId,
    provenance::{AskProvenance, Envelope},
};

use crate::{
    provenance::{ProvenanceError, Signer, default_key_file},
    store::{
        Result, Store, StoreError,
        tables::{jobs, runs},
    },
};

impl Store {
    /// A signed statement about images of a job that is held under the epoch.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the code is a fork's, the step pushes no such image, or this server vouches for nothing.
    pub async fn state_provenance(&self, job: JobId, ask: AskProvenance) -> Result<Envelope> {
        let mut conn = self.read().await?;
        let held = jobs::load_held(&mut conn, job, ask.epoch).await?.record;
        let run = runs::load(&mut conn, held.run).await?;
        drop(conn);
        let refused = |error: &dyn std::fmt::Display| StoreError::Refused(error.to_string());
        if !run.record.trusted {
            return Err(refused(&"the code is of a fork: nothing is stated of what it builds"));
        }
        let inputs = founded(&held.plan.steps, ask.step, &ask.images).map_err(|error| refused(&error))?;
        let signer = self.signer().map_err(|error| refused(&error))?;
        let Some(builder) = &self.config().public_url else {
            return Err(refused(&"this server has no name to vouch with: set `public-url` in segue.yaml"));
        };
        let named = self.config().repositories.get(&run.record.repository).and_then(|named| named.clone_url.as_deref());
        let source = named.or(run.trigger.clone_url.as_deref()).and_then(source);
        let now = self.now();
        let origin = Origin {
            builder,
            version: env!("CARGO_PKG_VERSION"),
            repository: &run.record.repository,
            source: source.as_deref(),
            git_ref: &run.record.git_ref,
            commit: &run.record.commit,
            event: &run.record.event,
            file: &run.record.file,
            run: held.run,
            attempt: held.attempt,
            job,
            key: &held.plan.key,
            step: ask.step,
            inputs,
            started: held.started_at.unwrap_or(now),
            finished: now,
        };
        let sboms: Vec<_> = ask.sbom.into_iter().chain(ask.more_sboms).collect();
        Ok(signer.sign(&statement(&origin, &ask.images, &ask.bases, &sboms)))
    }

    /// The key is read each time: one that is made while the server runs is there with the next image.
    fn signer(&self) -> std::result::Result<Signer, ProvenanceError> {
        let path = self.config().provenance.key_file.clone().or_else(default_key_file);
        let path = path.ok_or(crate::secrets::SecretError::NoKeyFile)?;
        let no_key = || ProvenanceError::NoKey { path: path.clone(), what: "PRIVATE KEY" };
        Signer::find(&path, &self.inner.data)?.ok_or_else(no_key)
    }
}
