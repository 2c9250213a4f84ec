//! Writes down what GitHub tells once. The files are made before anything is asked, so that nothing fails when the key is there; they are
//! taken away again where none comes.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret as _, SecretString};
use segue_pipelines::config;

use super::{convert::Made, manifest::Place};
use crate::cli::ending::{Explain as _, Failure};

/// Files that are there and empty.
pub struct Reserved {
    key: PathBuf,
    secret: PathBuf,
    is_kept: bool,
}

/// What was written.
pub struct Kept {
    /// The App's private key.
    pub key: PathBuf,
    /// The webhook's secret.
    pub secret: PathBuf,
    /// The lines of segue.yaml.
    pub lines: String,
}

impl Reserved {
    /// Makes both files, for their owner alone.
    ///
    /// # Errors
    /// One is there, or can't be made.
    pub fn make(folder: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(folder).explain(format_args!("cannot make {}", folder.display()))?;
        // as segue.yaml is to name them, whatever directory the server is started in
        let folder = folder.canonicalize().explain(format_args!("cannot find {}", folder.display()))?;
        let (key, secret) = (folder.join("github-app.pem"), folder.join("github-webhook-secret"));
        make(&key)?;
        if let Err(failure) = make(&secret) {
            let _it_is_empty = fs::remove_file(&key);
            return Err(failure);
        }
        Ok(Self { key, secret, is_kept: false })
    }

    /// Fills them.
    ///
    /// # Errors
    /// The disk takes nothing; then the App's settings at GitHub can make another key.
    pub fn keep(mut self, made: &Made, place: &Place) -> Result<Kept, Failure> {
        self.is_kept = true;
        fill(&self.key, &made.pem)?;
        let secret = made.webhook_secret.as_ref().ok_or_else(|| {
            Failure::new("GitHub made no secret for the App's webhook, whose events are refused without one").remedy(
                format!("set one in the App's settings ({}), and put it into {}", made.html_url, self.secret.display()),
            )
        })?;
        fill(&self.secret, secret)?;
        let lines = lines(made, place, &self.key, &self.secret);
        Ok(Kept { key: self.key.clone(), secret: self.secret.clone(), lines })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.is_kept {
            let _they_are_empty = (fs::remove_file(&self.key), fs::remove_file(&self.secret));
        }
    }
}

fn make(path: &Path) -> Result<(), Failure> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::new(format_args!(
            "{} is there already, and may be the key of an App that is in use",
            path.display()
        ))
        .remedy("move it away, or name another folder with --output")),
        Err(error) => Err(error).explain(format_args!("cannot write {}", path.display())),
    }
}

fn fill(path: &Path, value: &SecretString) -> Result<(), Failure> {
    let written = fs::OpenOptions::new().write(true).truncate(true).open(path).and_then(|mut file| {
        file.write_all(value.expose_secret().trim_end().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    });
    written.explain(format_args!("cannot write {}", path.display())).map_err(|failure| {
        failure.remedy("the App is there: have GitHub make another key in its settings, under \"Private keys\"")
    })
}

fn lines(made: &Made, place: &Place, key: &Path, secret: &Path) -> String {
    let id = made.client_id.clone().unwrap_or_else(|| made.id.to_string());
    let quoted = |path: &Path| serde_json::Value::from(path.display().to_string()).to_string();
    let mut lines = format!(
        "github:\n  app: {{ id: {}, private-key-file: {} }}\n  webhook-secret-file: {}\n",
        serde_json::Value::from(id),
        quoted(key),
        quoted(secret)
    );
    if place.api != "https://api.github.com" {
        lines.push_str(&format!("  api-url: {}\n", serde_json::Value::from(place.api.clone())));
    }
    lines
}

/// Adds the lines to a configuration that says nothing of GitHub; `false`: it says something already.
///
/// # Errors
/// It can't be read or written, or would be none with them.
pub fn add(config: &Path, lines: &str) -> Result<bool, Failure> {
    let name = config.display().to_string();
    let doing = format_args!("cannot write {name}");
    let (text, mode) = match fs::read_to_string(config) {
        Ok(text) => (text, fs::metadata(config).explain(doing)?.permissions()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (String::new(), fs::Permissions::from_mode(0o644)),
        Err(error) => return Err(error).explain(format_args!("cannot read {name}")),
    };
    if text.lines().any(|line| line.trim_end().starts_with("github:")) {
        return Ok(false);
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let whole = format!("{text}{gap}{lines}");
    if config::parse(&name, &whole).is_err() {
        return Ok(false);
    }
    // beside it and in its place, so that a crash leaves the one or the other
    let config = fs::canonicalize(config).unwrap_or_else(|_| config.to_owned());
    let beside = config.with_extension(format!("yaml.{}", std::process::id()));
    let written = write_beside(&beside, &whole, mode).and_then(|()| fs::rename(&beside, &config));
    if written.is_err() {
        let _may_not_be_there = fs::remove_file(&beside);
    }
    written.explain(doing)?;
    Ok(true)
}

/// Nobody else reads it before it has the mode that it is to have: it may hold passwords.
fn write_beside(path: &Path, text: &str, mode: fs::Permissions) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(mode)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Made {
        serde_json::from_value(serde_json::json!({
            "id": 5, "slug": "segue", "name": "Segue", "client_id": "Iv1", "html_url": "https://github.com/apps/segue",
            "pem": "KEY\n", "webhook_secret": "S",
        }))
        .unwrap()
    }

    #[test]
    fn what_is_kept_is_for_its_owner_alone_and_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::of("https://github.example.com/api/v3").unwrap();
        drop(Reserved::make(folder.path()).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "what did not come leaves nothing");

        let kept = Reserved::make(folder.path()).unwrap().keep(&made(), &place).unwrap();
        for (file, text) in [(&kept.key, "KEY\n"), (&kept.secret, "S\n")] {
            assert_eq!(fs::read_to_string(file).unwrap(), text);
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(Reserved::make(folder.path()).is_err(), "it may be in use");
        assert_eq!(fs::read_to_string(&kept.key).unwrap(), "KEY\n");
        assert!(config::parse("x", &kept.lines).is_ok(), "{}", kept.lines);
        assert!(
            kept.lines.contains("id: \"Iv1\"") && kept.lines.contains("api-url: \"https://github.example.com/api/v3\"")
        );
    }

    #[test]
    fn a_configuration_is_added_to_and_one_that_has_it_or_is_wrong_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("segue.yaml");
        let lines = "github:\n  app: { id: \"Iv1\", private-key-file: \"/k\" }\n";
        assert!(add(&file, lines).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), lines);
        assert!(!add(&file, lines).unwrap(), "once");
        for (text, is_added) in [("# mine\nworker: {capacity: 3}", true), ("wrong: [", false), ("github: {}\n", false)]
        {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
            assert_eq!(add(&file, lines).unwrap(), is_added, "{text}");
            let now = fs::read_to_string(&file).unwrap();
            assert!(now.starts_with(text) && (now == text) != is_added, "{now}");
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
