//! What the machine brings along: git, bash, the user that jobs run as.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use nix::unistd::{Group, User, geteuid};
use segue_schemas::config::Config;
use segue_worker::engine::user;

use super::Check;

/// The oldest git whose fetches by commit and cat-file batches are relied on.
const OLDEST_GIT: (u32, u32) = (2, 30);

pub async fn git() -> Check {
    const NAME: &str = "git";
    let remedy = "install git 2.30 or newer (apt-get install git)";
    let output = match tokio::process::Command::new("git").arg("--version").output().await {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(output) => return Check::bad(NAME, format!("`git --version` ended with {}", output.status), remedy),
        Err(error) => return Check::bad(NAME, format!("can't be run: {error}"), remedy),
    };
    match version(&output) {
        Some(found) if found >= OLDEST_GIT => Check::good(NAME, output),
        Some(_) => Check::bad(NAME, format!("{output} is too old"), remedy),
        None => Check::remark(NAME, format!("`{output}` names no version that is understood"), remedy),
    }
}

/// `(2, 47)` of `git version 2.47.3`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(2)?.split('.').map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

pub fn shell() -> Check {
    let places = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&places).map(|dir| dir.join("bash")).find(|file| file.is_file()) {
        Some(file) => Check::good("bash", file.display().to_string()),
        None => Check::bad(
            "bash",
            "is not in PATH, and steps run in it",
            "apt-get install bash, or `shell: sh` in each step",
        ),
    }
}

/// Whether there is a user for jobs, and whether that user can come to the workspaces.
pub fn job_user(config: &Config, data: &Path) -> Check {
    const NAME: &str = "job user";
    if !geteuid().is_root() {
        return Check::remark(
            NAME,
            "the worker is not root: jobs run as its own user, without secrets, and pull requests are refused",
            "run the worker as root to have jobs run as another user",
        );
    }
    let names = config.worker.job_user.as_deref().map_or(vec![user::NAME, "nobody"], |name| vec![name]);
    let Some(user) = names.iter().find_map(|name| User::from_name(name).ok().flatten()) else {
        let remedy = format!("useradd --system --no-create-home --shell /usr/sbin/nologin {}", names[0]);
        return Check::bad(NAME, format!("there is no user {}", names.join(" or ")), remedy);
    };
    if user.uid.is_root() {
        return Check::bad(NAME, "is root: jobs could do anything here", "name another user in worker.job-user");
    }
    match closed_to(&user, data) {
        Some(dir) => Check::bad(
            NAME,
            format!("{} can't pass through {}, so jobs can't reach their workspaces", user.name, dir.display()),
            format!("chmod o+x {}, or take another data directory", dir.display()),
        ),
        None => own_users(config, &user),
    }
}

/// Whether each job that runs beside others has a user of its own.
fn own_users(config: &Config, shared: &User) -> Check {
    const NAME: &str = "job user";
    let configured = config.worker.job_user.as_deref();
    let name = configured.unwrap_or(user::NAME);
    let found = user::job_users(configured).map_or(0, |users| users.own.len());
    let (slots, found) = (config.worker.capacity, u32::try_from(found).unwrap_or(u32::MAX));
    let shared = format!("{} (uid {})", shared.name, shared.uid);
    if slots < 2 || found >= slots {
        let own = if found > 0 { format!(", and {found} of {name}-1 and on, one for each job") } else { String::new() };
        return Check::good(NAME, format!("{shared}{own}"));
    }
    Check::remark(
        NAME,
        format!(
            "{shared}; {slots} jobs run at once, {found} of them with a user of their own: those that share one can look into each other"
        ),
        format!(
            "for n in $(seq {}); do useradd --system --no-create-home --shell /usr/sbin/nologin {name}-$n; done, then restart the worker",
            slots.saturating_mul(2)
        ),
    )
}

/// The first directory on the way to `data` that a user can't pass through.
fn closed_to<'a>(user: &User, data: &'a Path) -> Option<&'a Path> {
    let mut dirs: Vec<&Path> = data.ancestors().filter(|dir| !dir.as_os_str().is_empty()).collect();
    dirs.reverse();
    dirs.into_iter().find(|dir| fs::metadata(dir).is_ok_and(|metadata| !may_pass(user, &metadata)))
}

fn may_pass(user: &User, metadata: &fs::Metadata) -> bool {
    let mode = metadata.permissions().mode();
    if metadata.uid() == user.uid.as_raw() {
        return mode & 0o100 != 0;
    }
    let is_member = metadata.gid() == user.gid.as_raw()
        || Group::from_gid(metadata.gid().into()).ok().flatten().is_some_and(|group| group.mem.contains(&user.name));
    if is_member { mode & 0o010 != 0 } else { mode & 0o001 != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_git_are_compared_as_numbers() {
        assert_eq!(version("git version 2.47.3"), Some((2, 47)));
        assert_eq!(version("git version 2.39.5 (Apple Git-154)"), Some((2, 39)));
        assert!(version("git version 2.9.0").unwrap() < OLDEST_GIT);
        assert_eq!(version("zsh: command not found"), None);
    }

    #[test]
    fn a_closed_directory_on_the_way_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        let data = closed.join("data");
        fs::create_dir_all(&data).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let Some(nobody) = User::from_name("nobody").unwrap() else { return };
        if nobody.uid == geteuid() {
            return;
        }
        assert_eq!(closed_to(&nobody, &data), Some(closed.as_path()));
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o711)).unwrap();
        assert_ne!(closed_to(&nobody, &data), Some(closed.as_path()));
    }
}
