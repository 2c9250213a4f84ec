//! Other inputs for a run that is run again: they are read as those of its beginning were.

use indexmap::IndexMap;
use segue_schemas::{id::RunId, trigger::Event};
use serde_json::Value;

use super::{PlanError, Planner};
use crate::{
    mirror::{RefName, RepositoryName, Wanted},
    store::{NewRun, Planning, StoreError},
};

impl Planner {
    /// The inputs that a rerun is given, and with them the context `inputs` of its attempt.
    ///
    /// # Errors
    /// [`PlanError`], [`StoreError::Refused`] among them where the run takes no inputs or these do not fit its pipeline.
    pub async fn changed_inputs(
        &self,
        run: RunId,
        changed: IndexMap<String, String>,
    ) -> Result<(IndexMap<String, String>, IndexMap<String, Value>), PlanError> {
        let (record, mut trigger) = self.store.run_with_trigger(run).await?;
        let refused = |reason: String| PlanError::Store(StoreError::Refused(reason));
        let Event::WorkflowDispatch { inputs, pipeline, r#ref, .. } = &mut trigger.event else {
            return Err(refused(format!(
                "run {run} takes no inputs: it came of a `{}`, and inputs are for what is started by hand",
                record.event
            )));
        };
        inputs.extend(changed.clone());
        *pipeline = Some(record.pipeline.clone());
        let wanted = Wanted { commit: record.commit.clone(), git_ref: RefName::parse(r#ref)? };
        let name = RepositoryName::parse(&record.repository)?;
        let source = self.source(&trigger)?;
        self.mirrors.ensure(&name, &source, &[wanted]).await?;
        let runs = match self.read(&name, &trigger).await? {
            Planning::Runs(runs) | Planning::Located(_, runs) => runs,
            Planning::Ignored(reason) | Planning::Failed(reason) => return Err(refused(reason)),
        };
        let of_file = runs.into_iter().find_map(|run| match run {
            NewRun::Planned(plan) if plan.file == record.file => Some(plan.inputs),
            _ => None,
        });
        let gone = || refused(format!("{} is not planned for this event any more", record.file));
        Ok((changed, of_file.ok_or_else(gone)?))
    }
}
