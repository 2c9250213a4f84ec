//! The files that `validate` and `explain` look at: which they are, what each is, and its text.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use segue_pipelines::document::MAX_BYTES;

use super::ending::{Explain as _, Failure};

/// What a file is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A pipeline.
    Pipeline,
    /// A service.
    Service,
    /// The operator's file.
    Config,
    /// A composite action.
    Action,
    /// A workflow of GitHub's.
    Workflow,
}

/// A file with its text.
#[derive(Debug)]
pub struct SourceFile {
    /// As it is named to people.
    pub name: String,
    /// What it is read as.
    pub kind: Kind,
    /// Its text; bytes that are no UTF-8 are replaced. One byte more than the largest file that is read, at most.
    pub text: String,
}

/// The files that a path stands for: itself, or in a folder those below `.segue/` and `segue.yaml`, or else those below
/// `.github/workflows`, or every YAML file that lies in it.
///
/// # Errors
/// A path that does not exist, cannot be read, or stands for nothing (exit code 2).
pub fn collect(path: &Path) -> Result<Vec<SourceFile>, Failure> {
    let shown = path.display();
    let metadata = fs::metadata(path).map_err(|error| Failure::usage(format_args!("cannot read {shown}: {error}")))?;
    if !metadata.is_dir() {
        return Ok(vec![read(path)?]);
    }
    let mut paths = paths_in(path)?;
    if paths.is_empty()
        && let Some(root) = repository_above(path)
    {
        paths = paths_in(&root)?;
    }
    if paths.is_empty() {
        let failure = Failure::usage(format_args!("{shown} holds no file that Segue reads"));
        return Err(failure.remedy("pipelines lie in `.segue/pipelines/*.yml`, services in `.segue/services/*.yml`"));
    }
    paths.iter().map(|path| read(path)).collect()
}

/// The root of the repository that a folder lies in, as one goes there from the folder.
fn repository_above(folder: &Path) -> Option<PathBuf> {
    let whole = folder.canonicalize().ok()?;
    let up = whole.ancestors().position(|above| above.join(".git").exists())?;
    let up: PathBuf = std::iter::repeat_n("..", up).collect();
    (up != Path::new("")).then(|| if folder == Path::new(".") { up } else { folder.join(up) })
}

/// The files of a folder that Segue reads.
fn paths_in(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    let own = if path.file_name().is_some_and(|name| name == ".segue") { path.to_owned() } else { path.join(".segue") };
    for folder in ["pipelines", "services"].map(|name| own.join(name)) {
        if folder.is_dir() {
            paths.extend(yaml_files(&folder)?);
        }
    }
    paths.extend(action_files(&own)?);
    let config = path.join("segue.yaml");
    if config.is_file() {
        paths.push(config);
    }
    let workflows = path.join(".github/workflows");
    if paths.is_empty() && workflows.is_dir() {
        paths = yaml_files(&workflows)?;
    }
    if paths.is_empty() {
        paths = yaml_files(path)?;
    }
    Ok(paths)
}

/// The actions that these files may use and the pipelines that they may call, those among them and those that lie beside them.
///
/// # Errors
/// A file that cannot be read (exit code 2).
pub fn beside(files: &[SourceFile]) -> Result<Vec<SourceFile>, Failure> {
    let mut roots: Vec<&Path> = files
        .iter()
        .filter(|file| matches!(file.kind, Kind::Pipeline | Kind::Action))
        .filter_map(|file| Path::new(&file.name).ancestors().find(|above| above.ends_with(".segue")))
        .collect();
    roots.sort_unstable();
    roots.dedup();
    let mut found = Vec::new();
    for root in roots {
        found.extend(usable(root)?);
    }
    Ok(found)
}

/// The actions of a repository, and its pipelines.
///
/// # Errors
/// As [`beside`].
pub fn usable_of(repository: &Path) -> Result<Vec<SourceFile>, Failure> {
    usable(&repository.join(".segue"))
}

fn usable(own: &Path) -> Result<Vec<SourceFile>, Failure> {
    let mut paths = action_files(own)?;
    let pipelines = own.join("pipelines");
    if pipelines.is_dir() {
        paths.extend(yaml_files(&pipelines)?);
    }
    paths.iter().map(|path| read(path)).collect()
}

/// `actions/NAME/action.yml` (or `.yaml`) below a folder `.segue`.
fn action_files(own: &Path) -> Result<Vec<PathBuf>, Failure> {
    let folder = own.join("actions");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let doing = format!("cannot list {}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(&folder).explain(&doing)? {
        let action = entry.explain(&doing)?.path();
        paths.extend(
            ["action.yml", "action.yaml"].map(|name| action.join(name)).into_iter().find(|path| path.is_file()),
        );
    }
    paths.sort();
    Ok(paths)
}

fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let doing = format!("cannot list {}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).explain(&doing)? {
        let path = entry.explain(&doing)?.path();
        if path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml") && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<SourceFile, Failure> {
    let name = path.strip_prefix("./").unwrap_or(path).display().to_string();
    let unreadable = |error| Failure::usage(format_args!("cannot read {name}: {error}"));
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(unreadable)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let kind = kind(path, &text);
    Ok(SourceFile { name, kind, text })
}

/// By its name and folder; elsewhere, a file with `command:` and without `jobs:` is a service.
fn kind(path: &Path, text: &str) -> Kind {
    if path.file_name().is_some_and(|name| name == "segue.yaml" || name == "segue.yml") {
        return Kind::Config;
    }
    if path.file_name().is_some_and(|name| name == "action.yml" || name == "action.yaml") {
        return Kind::Action;
    }
    let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let above = path.parent().and_then(Path::parent).and_then(Path::file_name).and_then(|name| name.to_str());
    match folder {
        Some("workflows") if above == Some(".github") => Kind::Workflow,
        Some("services") => Kind::Service,
        Some("pipelines") => Kind::Pipeline,
        _ => {
            let has = |key: &str| text.lines().any(|line| line.starts_with(key));
            if has("command:") && !has("jobs:") { Kind::Service } else { Kind::Pipeline }
        }
    }
}
