//! Which user each job runs as: one that no other job has, where the machine has such users, so that a job can neither read
//! what another holds in memory or on disk, nor end its processes; else the one that all share.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use segue_schemas::id::JobId;

use crate::engine::{
    UserIds,
    user::{JobUser, JobUsers},
};

/// The first of the user numbers for jobs that run in a container, which name nobody: those from 2^31 - 2^28 on are given to no
/// user by any convention (<https://systemd.io/UIDS-GIDS/>). What their containers leave on the machine belongs to no process of it.
const APART: u32 = 1_879_048_192;

/// How many of those numbers a worker may come to.
const MAX_APART: u32 = 65_536;

fn apart(uid: u32) -> JobUser {
    JobUser { name: format!("container-{}", uid - APART), ids: Some(UserIds { uid, gid: uid }) }
}

/// The users of a worker's jobs, and who has which. A job has its user for as long as anything of it is here.
#[derive(Debug)]
pub struct Users {
    users: JobUsers,
    taken: Mutex<HashMap<JobId, JobUser>>,
}

impl Users {
    /// All are free.
    #[must_use]
    pub fn new(users: JobUsers) -> Self {
        Self { users, taken: Mutex::default() }
    }

    /// Whom jobs run as that find no user of their own.
    #[must_use]
    pub const fn shared(&self) -> &JobUser {
        &self.users.shared
    }

    /// How many jobs can have one of their own.
    #[must_use]
    pub const fn own(&self) -> usize {
        self.users.own.len()
    }

    /// The user numbers that jobs run as.
    pub fn uids(&self) -> impl Iterator<Item = u32> {
        std::iter::once(&self.users.shared).chain(&self.users.own).filter_map(|user| user.ids).map(|ids| ids.uid)
    }

    /// The user of a job: the one that it has, else a free one, else the shared one.
    pub fn take(&self, job: JobId) -> JobUser {
        let mut taken = self.taken();
        if let Some(user) = taken.get(&job) {
            return user.clone();
        }
        let free = self.users.own.iter().find(|user| !taken.values().any(|other| other == *user));
        if free.is_none() && !self.users.own.is_empty() {
            tracing::warn!(
                %job, users = self.users.own.len(), shared = self.users.shared.name,
                "every user for jobs is taken: this job runs as the shared one; make more, as `segue doctor` says"
            );
        }
        let user = free.unwrap_or(&self.users.shared).clone();
        taken.insert(job, user.clone());
        user
    }

    /// The user of a job that runs in a container: a number that nobody on this machine has, for what the worker does for it; the
    /// worker's own where it can't take another.
    pub fn take_apart(&self, job: JobId) -> JobUser {
        let mut taken = self.taken();
        if let Some(user) = taken.get(&job) {
            return user.clone();
        }
        if self.users.shared.ids.is_none() {
            return self.users.shared.clone();
        }
        let is_free = |uid: &u32| !taken.values().any(|user| user.ids.is_some_and(|ids| ids.uid == *uid));
        let uid = (APART..).find(is_free).unwrap_or(APART);
        let user = apart(uid);
        taken.insert(job, user.clone());
        user
    }

    /// Notes that files of a job that is to go on belong to this user number, as a worker finds them at its start.
    pub fn keep(&self, job: JobId, uid: u32) {
        let is_it = |user: &&JobUser| user.ids.is_some_and(|ids| ids.uid == uid);
        if let Some(user) = self.users.own.iter().chain([&self.users.shared]).find(is_it) {
            self.taken().insert(job, user.clone());
        } else if (APART..APART + MAX_APART).contains(&uid) && self.users.shared.ids.is_some() {
            self.taken().insert(job, apart(uid));
        }
    }

    /// Nothing of the job is here any more.
    pub fn give_back(&self, job: JobId) {
        self.taken().remove(&job);
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<JobId, JobUser>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::UserIds;

    fn user(uid: u32) -> JobUser {
        JobUser { name: format!("job-{uid}"), ids: Some(UserIds { uid, gid: uid }) }
    }

    fn job(n: u128) -> JobId {
        JobId(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn no_two_jobs_have_the_same_user_while_there_are_enough() {
        let users = Users::new(JobUsers { shared: user(1), own: vec![user(11), user(12)] });
        assert_eq!((users.take(job(1)), users.take(job(2))), (user(11), user(12)));
        assert_eq!(users.take(job(1)), user(11), "it keeps the one that it has");
        assert_eq!((users.take(job(3)), users.take(job(4))), (user(1), user(1)), "the others share");
        users.give_back(job(1));
        assert_eq!(users.take(job(5)), user(11));
    }

    #[test]
    fn what_is_kept_over_a_restart_stays_its_users() {
        let users = Users::new(JobUsers { shared: user(1), own: vec![user(11), user(12)] });
        users.keep(job(1), 11);
        users.keep(job(2), 1);
        users.keep(job(3), 99);
        assert_eq!((users.take(job(1)), users.take(job(2)), users.take(job(3))), (user(11), user(1), user(12)));
    }

    #[test]
    fn a_job_in_a_container_has_a_number_that_is_nobodys() {
        let users = Users::new(JobUsers { shared: user(1), own: vec![user(11)] });
        let numbers = [1, 2].map(|n| users.take_apart(job(n)).ids.unwrap().uid);
        assert_eq!(numbers, [APART, APART + 1]);
        assert_eq!(users.take_apart(job(1)).ids.unwrap().uid, APART, "it keeps the one that it has");
        assert_eq!(users.take(job(3)), user(11), "and takes none from others");
        users.give_back(job(1));
        users.keep(job(4), APART);
        assert_eq!(users.take_apart(job(5)).ids.unwrap().uid, APART + 2, "one that was kept is not free");
        let own = Users::new(JobUsers { shared: JobUser { name: "own".into(), ids: None }, own: Vec::new() });
        assert_eq!(own.take_apart(job(1)).ids, None);
    }

    #[test]
    fn without_users_of_their_own_all_share() {
        let users = Users::new(JobUsers { shared: user(1), own: Vec::new() });
        assert_eq!((users.take(job(1)), users.take(job(2))), (user(1), user(1)));
        assert_eq!(users.uids().collect::<Vec<_>>(), [1]);
    }
}
