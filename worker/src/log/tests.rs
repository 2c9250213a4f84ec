use std::{
    io::Write,
    sync::{Mutex, atomic::AtomicUsize},
    time::Instant,
};

use super::*;

/// A server in memory, that can be away or forgetful.
#[derive(Debug, Default)]
struct Store {
    log: Mutex<Vec<u8>>,
    calls: AtomicUsize,
    fail_calls: AtomicUsize,
    stale: AtomicBool,
}

#[async_trait]
impl LogSink for Arc<Store> {
    async fn append(&self, offset: u64, chunk: Bytes) -> Result<LogAck, ControlPlaneError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.stale.load(Ordering::Relaxed) {
            return Err(ControlPlaneError::StaleEpoch { call: "logs".into(), message: "2".into() });
        }
        let call = || "logs".to_owned();
        if self.fail_calls.load(Ordering::Relaxed) > 0 {
            self.fail_calls.fetch_sub(1, Ordering::Relaxed);
            return Err(ControlPlaneError::Unreachable { call: call(), server: String::new(), reason: "away".into() });
        }
        let mut log = self.log.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        if offset <= log.len() {
            log.truncate(offset);
            log.extend_from_slice(&chunk);
        }
        Ok(LogAck { offset: log.len() as u64 })
    }
}

impl Store {
    fn text(&self) -> String {
        String::from_utf8(self.log.lock().unwrap().clone()).unwrap()
    }
}

fn start(store: &Arc<Store>, directory: &std::path::Path, secrets: &[&str]) -> JobLog {
    let limits = OutboxLimits {
        spool: directory.join("spool"),
        max_spool_bytes: 8 * 1024 * 1024,
        max_chunk_bytes: 1024 * 1024,
        patience_before_spool: Duration::from_millis(50),
        patience_before_gap: Duration::from_millis(100),
    };
    let masker = Masker::new(secrets.iter().copied());
    JobLog::start(store.clone(), LogStart { offset: 0, masker, user: None, limits, linger: Duration::from_millis(10) })
        .unwrap()
}

fn pipe_of(log: &JobLog) -> std::fs::File {
    log.writer().try_clone_to_owned().unwrap().into()
}

#[tokio::test]
async fn output_and_the_runners_lines_come_in_order_and_masked() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::default());
    let log = start(&store, directory.path(), &["hunter2"]);
    let mut pipe = pipe_of(&log);
    log.line("Run login hunter2").await;
    pipe.write_all(b"with hun").unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(store.text(), "Run login ***\nwith ", "what may be a secret is held back, the rest is not");
    pipe.write_all(b"ter2\n::add-mask::other\nother, no line's end").unwrap();
    let mark = log.mark().await;
    assert_eq!(mark.found.masks, ["other"]);
    assert_eq!(mark.masker.mask("other hunter2"), "*** ***");
    log.line("done").await;
    let (end, _) = log.finish(Duration::from_secs(5), 0).await.unwrap();
    assert_eq!(store.text(), "Run login ***\nwith ***\n***, no line's end\ndone\n");
    assert_eq!(end, store.text().len() as u64);
    assert!(mark.offset < end);
}

#[tokio::test]
async fn a_short_end_is_left_to_the_caller_where_it_is_a_text() {
    for (printed, most, tail) in [
        ("short\n", 100, "short\n"),
        ("too long for that\n", 10, ""),
        ("a NUL \0\n", 100, ""),
        ("hunter2\n", 100, "***\n"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::default());
        let log = start(&store, directory.path(), &["hunter2"]);
        pipe_of(&log).write_all(printed.as_bytes()).unwrap();
        let (sent, left) = log.finish(Duration::from_secs(5), most).await.unwrap();
        assert_eq!(left, tail, "{printed:?}");
        assert_eq!(sent, store.text().len() as u64);
        assert_eq!(store.text() + &left, printed.replace("hunter2", "***"));
    }
    // what cannot be a text by itself
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::default());
    let log = start(&store, directory.path(), &[]);
    pipe_of(&log).write_all(&[b'a', 0xff, b'\n']).unwrap();
    assert_eq!(log.finish(Duration::from_secs(5), 100).await, Some((3, String::new())));
}

#[tokio::test]
async fn a_server_that_is_away_for_a_while_gets_everything_in_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::default());
    store.fail_calls.store(3, Ordering::Relaxed);
    let log = start(&store, directory.path(), &[]);
    let mut pipe = pipe_of(&log);
    let text = "0123456789abcdef\n".repeat(300_000);
    let written = text.clone();
    tokio::task::spawn_blocking(move || pipe.write_all(written.as_bytes()).unwrap()).await.unwrap();
    assert_eq!(log.finish(Duration::from_secs(20), 0).await, Some((text.len() as u64, String::new())));
    assert!(store.text() == text);
    assert!(!directory.path().join("spool").exists());
}

#[tokio::test]
async fn what_finds_no_room_is_named_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::default());
    store.fail_calls.store(usize::MAX, Ordering::Relaxed);
    let log = start(&store, directory.path(), &[]);
    let mut pipe = pipe_of(&log);
    let text = "0123456789abcdef\n".repeat(1_500_000);
    tokio::task::spawn_blocking(move || pipe.write_all(text.as_bytes()).unwrap()).await.unwrap();
    store.fail_calls.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    log.line("the end").await;
    let (end, _) = log.finish(Duration::from_secs(20), 0).await.unwrap();
    let stored = store.text();
    assert_eq!(end, stored.len() as u64);
    let (before, after) = stored.split_once("\n[segue: ").expect("a gap is visible");
    let missing: usize = after.split_once(' ').unwrap().0.parse().unwrap();
    let rest = after.split_once("]\n").unwrap().1;
    assert_eq!(before.len() + missing + rest.len(), 1_500_000 * 17 + "the end\n".len());
    assert!(stored.ends_with("the end\n"));
}

#[tokio::test]
async fn a_lost_lease_ends_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::default());
    store.stale.store(true, Ordering::Relaxed);
    let log = start(&store, directory.path(), &[]);
    log.line("anything").await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(log.lease_lost());
    let mut pipe = pipe_of(&log);
    let block = vec![b'x'; 16 * 1024 * 1024];
    tokio::task::spawn_blocking(move || pipe.write_all(&block).unwrap()).await.unwrap();
    assert_eq!(log.finish(Duration::from_secs(5), 0).await, None);
}

/// Prints how fast it is; run with `--release --run-ignored all --no-capture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("text");
    let line = format!("{}\n", "0123456789".repeat(9) + "012345678");
    std::fs::write(&file, line.repeat(2_000_000)).unwrap();
    let secrets = ["hunter2-and-more", "another-secret-token", "-----BEGIN\nabcdefghijklmnop\nqrstuvwxyz0123"];
    for secrets in [&[][..], &secrets[..]] {
        let store = Arc::new(Store::default());
        store.log.lock().unwrap().reserve(210_000_000);
        let log = start(&store, directory.path(), secrets);
        let writer = log.writer().try_clone_to_owned().unwrap();
        let begun = Instant::now();
        let mut cat = std::process::Command::new("cat").arg(&file).stdout(writer).spawn().unwrap();
        tokio::task::spawn_blocking(move || cat.wait().unwrap()).await.unwrap();
        let (end, _) = log.finish(Duration::from_secs(60), 0).await.unwrap();
        let seconds = begun.elapsed().as_secs_f64();
        eprintln!("{} secrets: {:.0} MB/s", secrets.len(), end as f64 / 1e6 / seconds);
    }
}
