//! Why a step could not do what it was to do.

use segue_schemas::status::FailureClass;

use crate::{control_plane::ControlPlaneError, supervisor::client::SupervisorError};

/// Why a step could not do what it was to do; a script that ends with another code than 0 is none of these.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The pipeline, or a file of the repository, says something that can't be done.
    #[error("{0}")]
    Configuration(String),
    /// The machine or the network failed.
    #[error("{0}")]
    Infrastructure(String),
    /// The server could not be asked, or refused.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    /// What the step runs could not be run.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
}

impl StepError {
    /// What kind of failure it is.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Supervisor(SupervisorError::Container(error)) => error.class(),
            Self::Configuration(_)
            | Self::ControlPlane(ControlPlaneError::Refused { .. })
            | Self::Supervisor(SupervisorError::NotStarted(_)) => FailureClass::Configuration,
            Self::Infrastructure(_) | Self::ControlPlane(_) | Self::Supervisor(_) => FailureClass::Infrastructure,
        }
    }
}
