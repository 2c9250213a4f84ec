//! Whom jobs run as.

use nix::unistd::{Uid, User};

use super::UserIds;

/// The user for jobs where none is configured.
pub const NAME: &str = "segue-job";
/// The most users that are looked for beside it.
const MAX_NUMBERED: usize = 256;

/// A user that jobs run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobUser {
    /// Its name.
    pub name: String,
    /// Its numbers; `None`: it is the worker's own, so that a job can do what the worker can.
    pub ids: Option<UserIds>,
}

/// The users that a worker's jobs run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobUsers {
    /// Whom jobs share that have none of their own.
    pub shared: JobUser,
    /// Those that one job has at a time.
    pub own: Vec<JobUser>,
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

/// The users that jobs run as. As root: `NAME-1`, `NAME-2` and so on, each for one job at a time, and `NAME` for jobs that find
/// none free; `NAME` is the configured one, else `segue-job`, and where that does not exist, `nobody` is shared. Otherwise
/// the worker's own alone.
///
/// # Errors
/// [`NoJobUser`] where the configured one does not exist, or can't be taken.
pub fn job_users(configured: Option<&str>) -> Result<JobUsers, NoJobUser> {
    let shared = job_user(configured)?;
    let own = if shared.ids.is_some() { numbered(configured.unwrap_or(NAME)) } else { Vec::new() };
    Ok(JobUsers { shared, own })
}

/// `name-1`, `name-2` and so on, up to the first that there is not.
fn numbered(name: &str) -> Vec<JobUser> {
    let find = |n: usize| User::from_name(&format!("{name}-{n}")).ok().flatten();
    (1..=MAX_NUMBERED).map_while(find).filter(|user| !user.uid.is_root()).map(JobUser::from).collect()
}

impl From<User> for JobUser {
    fn from(user: User) -> Self {
        Self { ids: Some(UserIds { uid: user.uid.as_raw(), gid: user.gid.as_raw() }), name: user.name }
    }
}

fn job_user(configured: Option<&str>) -> Result<JobUser, NoJobUser> {
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
        None => find(NAME).or_else(|| find("nobody")).ok_or_else(|| NoJobUser {
            name: NAME.into(),
            reason: format!("does not exist, and neither does `nobody`; make it: useradd --system {NAME}"),
        })?,
    };
    if user.uid.is_root() {
        return Err(NoJobUser { name: user.name, reason: "is root; name another one".into() });
    }
    Ok(user.into())
}
