//! Whom jobs run as.

use nix::unistd::{Uid, User};

use super::UserIds;

/// A user that jobs run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobUser {
    /// Its name.
    pub name: String,
    /// Its numbers; `None`: it is the worker's own, so that a job can do what the worker can.
    pub ids: Option<UserIds>,
}

/// There is no such user.
#[derive(Debug, thiserror::Error)]
#[error("the user `{name}`, which jobs are to run as, {reason}")]
pub struct NoJobUser {
    name: String,
    reason: String,
}

/// The worker's own user, whoever that is.
#[must_use]
pub fn own() -> JobUser {
    let own = Uid::effective();
    let name = User::from_uid(own).ok().flatten().map_or_else(|| own.to_string(), |user| user.name);
    JobUser { name, ids: None }
}

/// The user that jobs run as: as root, the configured one, else `segue-job`, else `nobody`; otherwise the worker's own.
///
/// # Errors
/// [`NoJobUser`] where the configured one does not exist, or can't be taken.
pub fn job_user(configured: Option<&str>) -> Result<JobUser, NoJobUser> {
    if !Uid::effective().is_root() {
        let JobUser { name, .. } = own();
        if let Some(configured) = configured.filter(|configured| *configured != name) {
            let reason =
                format!("can't be taken, because the worker runs as `{name}`; start it as root, or leave the user out");
            return Err(NoJobUser { name: configured.into(), reason });
        }
        return Ok(JobUser { name, ids: None });
    }
    let find = |name: &str| User::from_name(name).ok().flatten();
    let user = match configured {
        Some(name) => find(name).ok_or_else(|| NoJobUser {
            name: name.into(),
            reason: format!("does not exist; make it: useradd --system {name}"),
        })?,
        None => find("segue-job").or_else(|| find("nobody")).ok_or_else(|| NoJobUser {
            name: "segue-job".into(),
            reason: "does not exist, and neither does `nobody`; make it: useradd --system segue-job".into(),
        })?,
    };
    if user.uid.is_root() {
        return Err(NoJobUser { name: user.name, reason: "is root; name another one".into() });
    }
    Ok(JobUser { name: user.name, ids: Some(UserIds { uid: user.uid.as_raw(), gid: user.gid.as_raw() }) })
}
