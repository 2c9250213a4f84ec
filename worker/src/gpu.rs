//! The GPUs of this machine, as `nvidia-smi` tells of them. Comes in: the program. Goes out: facts, or why there are none. What they mean is
//! `segue_pipelines::gpu`'s to say.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use segue_pipelines::gpu::{Facts, PROCESS_QUERY, Query, SmiFault, add_details, fault, offered, processes};
use segue_schemas::gpu::GpuOffer;
use tokio::{io::AsyncReadExt as _, process::Command};

/// How long the program may take: on a machine with eight GPUs and no persistence daemon it takes seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// How much of its output is read; with `-q -x` and eight GPUs it is below a megabyte.
const MOST_BYTES: u64 = 8 << 20;

/// Where `nvidia-smi` is looked for when nothing is said.
const PROGRAM: &str = "nvidia-smi";

/// Looks at the machine's GPUs.
///
/// # Errors
/// Why nothing is known of them.
pub async fn look(program: Option<&Path>) -> Result<Facts, SmiFault> {
    let mut facts = look_at_health(program).await?;
    // it is not there with every driver, and GPUs can be placed without
    let apps = [format!("--query-compute-apps={PROCESS_QUERY}"), "--format=csv,noheader,nounits".into()];
    if let (0, said) = run(program.unwrap_or(Path::new(PROGRAM)), &apps).await? {
        facts.processes = processes(&said);
    }
    Ok(facts)
}

/// The same, but for who uses them.
///
/// # Errors
/// Why nothing is known of them.
pub async fn look_at_health(program: Option<&Path>) -> Result<Facts, SmiFault> {
    let program = program.unwrap_or(Path::new(PROGRAM));
    let mut query = Query::default();
    let mut tries = 0;
    let mut facts = loop {
        tries += 1;
        match run(program, &query.arguments()).await? {
            (0, said) => break query.read(&said)?,
            (code, said) => match query.after(&said).filter(|_| tries < Query::most_tries()) {
                Some(next) => query = next,
                None => return Err(fault(code, &said)),
            },
        }
    };
    // what older tools tell there alone; GPUs can be placed without
    if let (0, said) = run(program, &["-q".into(), "-x".into()]).await? {
        add_details(&mut facts, &said);
    }
    Ok(facts)
}

/// What a worker offers of what its operator chose. What is not offered is told to the log, with what to do.
pub async fn offer(chosen: &[String], program: Option<&PathBuf>) -> Vec<GpuOffer> {
    if chosen.is_empty() {
        return Vec::new();
    }
    match look(program.map(PathBuf::as_path)).await {
        Ok(facts) => {
            let (gpus, reasons) = offered(&facts, chosen);
            for reason in reasons {
                tracing::error!(%reason, "a GPU is not offered to jobs");
            }
            gpus
        }
        Err(fault) => {
            tracing::error!(error = %fault, remedy = fault.remedy(), "no GPU is offered to jobs, though `worker.gpus` names some");
            Vec::new()
        }
    }
}

/// Its exit code and what it printed. What it says goes to either stream, depending on what it is.
async fn run(program: &Path, arguments: &[String]) -> Result<(i32, String), SmiFault> {
    let absent = || SmiFault::NoTool { program: program.display().to_string() };
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|_| absent())?;
    let (Some(out), Some(errors)) = (child.stdout.take(), child.stderr.take()) else { return Err(absent()) };
    let read = async {
        let (mut said, mut complaint) = (Vec::new(), Vec::new());
        let (mut out, mut errors) = (out.take(MOST_BYTES), errors.take(MOST_BYTES));
        let both = tokio::join!(out.read_to_end(&mut said), errors.read_to_end(&mut complaint));
        let _ = both;
        let status = child.wait().await;
        said.extend(complaint);
        (status, said)
    };
    let (status, said) =
        tokio::time::timeout(LIMIT, read).await.map_err(|_| SmiFault::Hangs { seconds: LIMIT.as_secs() })?;
    let said = String::from_utf8_lossy(&said).into_owned();
    let code = status.map_err(|_| absent())?.code();
    Ok((code.unwrap_or(255), said))
}
