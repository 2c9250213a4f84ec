//! The one place that knows HTTP codes: every error of the API, as status and [`ErrorBody`].

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use segue_schemas::{
    id::JobId,
    worker_api::{ErrorBody, ErrorDetail},
};

use crate::{
    artifact_store::ArtifactError,
    control::contents::KeepError,
    log_store::LogError,
    mirror::{InvalidName, MirrorError},
    planner::PlanError,
    queue::QueueError,
    store::StoreError,
    webhook::{PayloadError, SignatureError},
};

/// An error on its way out.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

/// What handlers answer with.
pub type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// What was asked can't be read.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// The token is missing or another.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// The token opens other things.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// The token of a lease that has ended, or that does not speak for the epoch that was named.
    pub fn stale_lease(job: JobId) -> Self {
        let message =
            format!("job {job} is no longer held under the lease that this token came with: stop working on it");
        Self::new(StatusCode::CONFLICT, "stale_epoch", message)
    }

    /// The body has too many bytes.
    pub fn too_large(limit_bytes: u64) -> Self {
        let message = format!("the body has more than {limit_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// The body's type is not what is read here.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    /// The body did not come in time.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
    }

    /// What was asked can't be done, and why.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", message)
    }

    /// Not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// A fault of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// The status that it is answered with.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, code, message } = self;
        if status.is_server_error() {
            tracing::warn!(%status, code, message, "a request failed");
        }
        let body = Json(ErrorBody { error: ErrorDetail { code: code.into(), message } });
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        } else if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::NotFound { .. } => Self::not_found(message),
            StoreError::StaleEpoch { .. } => Self::new(StatusCode::CONFLICT, "stale_epoch", message),
            StoreError::WouldDeploy(_) => Self::new(StatusCode::CONFLICT, "would_deploy", message),
            StoreError::StaleWorker { .. } => Self::new(StatusCode::CONFLICT, "stale_worker", message),
            StoreError::Refused(_) | StoreError::Outdated(_) => Self::refused(message),
            StoreError::Revoked(_) => Self::new(StatusCode::FORBIDDEN, "revoked", message),
            StoreError::Conflict(_) | StoreError::Illegal(_) => Self::new(StatusCode::CONFLICT, "conflict", message),
            StoreError::Unavailable(_) | StoreError::Files { .. } => Self::unavailable(message),
            StoreError::Secret(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "secret", message),
            StoreError::Corrupt { .. } => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "corrupt", message),
        }
    }
}

impl From<ArtifactError> for ApiError {
    fn from(error: ArtifactError) -> Self {
        let message = error.to_string();
        match error {
            ArtifactError::Digest { .. } => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "digest", message),
            ArtifactError::TooLarge { limit } => Self::too_large(limit),
            ArtifactError::Io { .. } | ArtifactError::Bucket { .. } => Self::unavailable(message),
            ArtifactError::Configuration(_) => Self::internal(message),
        }
    }
}

impl From<KeepError> for ApiError {
    fn from(error: KeepError) -> Self {
        match error {
            KeepError::Artifact(error) => error.into(),
            KeepError::Store(error) => error.into(),
        }
    }
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        let message = error.to_string();
        match error {
            LogError::Stale { .. } => Self::new(StatusCode::CONFLICT, "stale_epoch", message),
            LogError::Io { .. } | LogError::Unavailable(_) => Self::unavailable(message),
        }
    }
}

impl From<SignatureError> for ApiError {
    fn from(error: SignatureError) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "bad_signature", error.to_string())
    }
}

impl From<PayloadError> for ApiError {
    fn from(error: PayloadError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_payload", error.to_string())
    }
}

impl From<InvalidName> for ApiError {
    fn from(error: InvalidName) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<MirrorError> for ApiError {
    fn from(error: MirrorError) -> Self {
        let message = error.to_string();
        match error {
            MirrorError::NoCommit { .. } | MirrorError::NoRef { .. } => Self::not_found(message),
            MirrorError::TooManyFiles { .. } => Self::refused(message),
            _ => Self::new(StatusCode::BAD_GATEWAY, "repository", message),
        }
    }
}

impl From<PlanError> for ApiError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Mirror(error) => error.into(),
            PlanError::Name(error) => error.into(),
            PlanError::Store(error) => error.into(),
            PlanError::NoSource { .. } | PlanError::NothingMatches(_) => Self::refused(error.to_string()),
        }
    }
}
