//! The GPUs of a machine, as `nvidia-smi` tells of them. Comes in: who runs it. Goes out: facts, or why there are none. What they mean is
//! `segue_pipelines::gpu`'s to say.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use segue_pipelines::gpu::{Facts, PROCESS_QUERY, Query, SmiFault, Version, add_details, fault, offered, processes};
use segue_schemas::gpu::GpuOffer;
use tokio::{io::AsyncReadExt as _, process::Command};

/// How long the program may take: on a machine with eight GPUs and no persistence daemon it takes seconds.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// How much of its output is read; with `-q -x` and eight GPUs it is below a megabyte.
pub(crate) const MOST_BYTES: usize = 8 << 20;

/// Where `nvidia-smi` is looked for when nothing is said.
const PROGRAM: &str = "nvidia-smi";

/// Whoever runs `nvidia-smi`: the program on this machine, or a container at an engine elsewhere. Asked by several at once, each has its answer.
#[async_trait]
pub(crate) trait Tool: Send + Sync + std::fmt::Debug {
    /// Its exit code and what it printed, on whichever stream.
    async fn run(&self, arguments: &[String]) -> Result<(i32, String), SmiFault>;

    /// What it answered last.
    fn asked(&self) -> &Asked;

    /// Nobody is about to ask again: what is kept for that can go. The next question is answered all the same.
    async fn rest(&self) {}
}

/// The question that a tool answered last, so that what it does not know is not asked at each look, and the driver that it told of: another one may
/// know more.
#[derive(Debug, Default)]
pub(crate) struct Asked(Mutex<Option<(Query, Option<Version>)>>);

impl Asked {
    fn query(&self) -> Query {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().map(|(query, _)| query.clone()).unwrap_or_default()
    }

    fn note(&self, query: Query, driver: Option<Version>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_another = known.as_ref().is_some_and(|(_, before)| *before != driver);
        *known = (!is_another).then_some((query, driver));
    }
}

/// The program on this machine.
#[derive(Debug)]
pub(crate) struct Program(PathBuf, Asked);

impl Program {
    /// That one, or where it is looked for when nothing is said.
    pub(crate) fn at(program: Option<&Path>) -> Self {
        Self(program.unwrap_or(Path::new(PROGRAM)).to_owned(), Asked::default())
    }
}

#[async_trait]
impl Tool for Program {
    async fn run(&self, arguments: &[String]) -> Result<(i32, String), SmiFault> {
        run(&self.0, arguments).await
    }

    fn asked(&self) -> &Asked {
        &self.1
    }
}

/// Looks at this machine's GPUs.
///
/// # Errors
/// Why nothing is known of them.
pub async fn look(program: Option<&Path>) -> Result<Facts, SmiFault> {
    look_by(&Program::at(program)).await
}

/// Looks at the GPUs of the machine that this tool tells of.
pub(crate) async fn look_by(tool: &dyn Tool) -> Result<Facts, SmiFault> {
    let mut facts = look_at_health(tool).await?;
    // it is not there with every driver, and GPUs can be placed without
    let apps = [format!("--query-compute-apps={PROCESS_QUERY}"), "--format=csv,noheader,nounits".into()];
    if let (0, said) = tool.run(&apps).await? {
        facts.processes = processes(&said);
    }
    Ok(facts)
}

/// The same, but for who uses them.
pub(crate) async fn look_at_health(tool: &dyn Tool) -> Result<Facts, SmiFault> {
    let mut query = tool.asked().query();
    let mut tries = 0;
    let mut facts = loop {
        tries += 1;
        match tool.run(&query.arguments()).await? {
            (0, said) => break query.read(&said)?,
            (code, said) => match query.after(&said).filter(|_| tries < Query::most_tries()) {
                Some(next) => query = next,
                None => return Err(fault(code, &said)),
            },
        }
    };
    tool.asked().note(query, facts.driver.clone());
    // what older tools tell there alone; GPUs can be placed without
    if let (0, said) = tool.run(&["-q".into(), "-x".into()]).await? {
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
        let most = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX);
        let (mut out, mut errors) = (out.take(most), errors.take(most));
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Knows no `gpu_recovery_action` before driver 565.
    #[derive(Debug, Default)]
    struct Old {
        driver: AtomicUsize,
        questions: AtomicUsize,
        asked: Asked,
    }

    #[async_trait]
    impl Tool for Old {
        async fn run(&self, arguments: &[String]) -> Result<(i32, String), SmiFault> {
            let Some(fields) = arguments[0].strip_prefix("--query-gpu=") else { return Ok((2, String::new())) };
            self.questions.fetch_add(1, Ordering::Relaxed);
            let driver = self.driver.load(Ordering::Relaxed);
            if driver < 565 && fields.contains("gpu_recovery_action") {
                return Ok((2, "Field \"gpu_recovery_action\" is not a valid field to query.".into()));
            }
            let cell = |field: &str| match field {
                "uuid" => "GPU-a".to_owned(),
                "driver_version" => format!("{driver}.1"),
                "gpu_recovery_action" => "Reset".to_owned(),
                _ => "[N/A]".to_owned(),
            };
            Ok((0, fields.split(',').map(cell).collect::<Vec<_>>().join(", ")))
        }

        fn asked(&self) -> &Asked {
            &self.asked
        }
    }

    #[tokio::test]
    async fn what_a_tool_does_not_know_is_asked_again_only_of_another_driver() {
        let tool = Old::default();
        // the second look at a new driver asks for what the one before did not know
        for (driver, questions, is_told) in
            [(550, 2, false), (550, 1, false), (570, 1, false), (570, 1, true), (570, 1, true), (550, 2, false)]
        {
            tool.driver.store(driver, Ordering::Relaxed);
            tool.questions.store(0, Ordering::Relaxed);
            let facts = look_at_health(&tool).await.unwrap();
            assert_eq!(tool.questions.load(Ordering::Relaxed), questions, "{driver}");
            assert_eq!(facts.gpus[0].recovery.is_some(), is_told, "{driver}");
        }
    }
}
