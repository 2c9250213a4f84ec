use super::{files::Extent, *};

fn job() -> JobId {
    JobId(uuid::Uuid::now_v7())
}

fn store() -> (tempfile::TempDir, Files) {
    let directory = tempfile::tempdir().unwrap();
    let store = Files::open(directory.path().join("logs")).unwrap();
    (directory, store)
}

const PATH: &str = "2026-01-02/run-1/1-test.log";

#[tokio::test]
async fn a_chunk_twice_is_written_once_and_a_gap_is_refused_with_the_wanted_offset() {
    let (_directory, store) = store();
    let job = job();
    assert_eq!(store.begin(job, Epoch(1), PATH, 0).await.unwrap(), 0);
    let append =
        |offset, text: &'static str| store.append(job, Epoch(1), PATH, offset, Bytes::from_static(text.as_bytes()));
    assert_eq!(append(0, "hello ").await.unwrap(), 6);
    assert_eq!(append(0, "hello ").await.unwrap(), 6);
    assert_eq!(append(9, "world").await.unwrap(), 6, "a gap");
    assert_eq!(append(3, "lo world\n").await.unwrap(), 12, "an overlap");
    assert_eq!(&store.read(PATH, 0, 100).unwrap()[..], b"hello world\n");
    assert_eq!(&store.read(PATH, 6, 3).unwrap()[..], b"wor");
    assert!(store.read(PATH, 12, 3).unwrap().is_empty());
}

#[tokio::test]
async fn an_older_epoch_writes_nothing_once_a_newer_one_has_the_log() {
    let (_directory, store) = store();
    let job = job();
    store.append(job, Epoch(1), PATH, 0, Bytes::from_static(b"one\n")).await.unwrap();
    assert_eq!(store.begin(job, Epoch(2), PATH, 0).await.unwrap(), 4);
    let late = store.append(job, Epoch(1), PATH, 4, Bytes::from_static(b"late\n")).await;
    assert!(matches!(late, Err(LogError::Stale { current: Epoch(2), .. })));
    assert_eq!(store.append(job, Epoch(2), PATH, 4, Bytes::from_static(b"two\n")).await.unwrap(), 8);
    assert_eq!(&store.read(PATH, 0, 100).unwrap()[..], b"one\ntwo\n");
}

#[tokio::test]
async fn what_a_crash_took_is_a_line_of_the_same_length() {
    let (directory, store) = store();
    let job = job();
    store.append(job, Epoch(1), PATH, 0, Bytes::from(vec![b'x'; 1000])).await.unwrap();
    drop(store);
    let file = std::fs::File::options().write(true).open(directory.path().join("logs").join(PATH)).unwrap();
    file.set_len(100).unwrap();
    let store = Files::open(directory.path().join("logs")).unwrap();
    assert_eq!(store.begin(job, Epoch(2), PATH, 1000).await.unwrap(), 1000);
    let text = String::from_utf8(store.read(PATH, 0, 2000).unwrap().to_vec()).unwrap();
    assert!(text.contains("\n[segue] 900 bytes of this log were lost"), "{text}");
    for missing in [1, 40, 80, 81, 82, 83, 5000] {
        assert_eq!(LogStore::gap_line(missing).len() as u64, missing);
    }
}

#[tokio::test]
async fn a_follower_is_told_of_more_and_of_the_end() {
    let (_directory, store) = store();
    let job = job();
    let mut follower = store.follow(job, PATH).unwrap();
    store.append(job, Epoch(1), PATH, 0, Bytes::from_static(b"a line\n")).await.unwrap();
    follower.changed().await.unwrap();
    assert_eq!(*follower.borrow_and_update(), Extent { bytes: 7, ended: false });
    store.release(job, false);
    store.append(job, Epoch(2), PATH, 7, Bytes::from_static(b"more\n")).await.unwrap();
    follower.changed().await.unwrap();
    store.release(job, true);
    follower.changed().await.unwrap();
    assert_eq!(*follower.borrow_and_update(), Extent { bytes: 12, ended: true });
}

#[test]
fn a_path_holds_nothing_of_a_key_that_a_file_system_would_mind() {
    let job = job();
    let path = LogStore::path_for(RunId(7), 2, "test (../a, b)", job, Timestamp(0));
    assert_eq!(path, format!("1970-01-01/run-7/2-test--..-a--b--{job}.log"));
}

#[tokio::test]
async fn removing_the_last_log_of_a_day_removes_the_day() {
    let (directory, store) = store();
    let job = job();
    store.append(job, Epoch(1), PATH, 0, Bytes::from_static(b"bytes")).await.unwrap();
    assert_eq!(store.remove(PATH).unwrap(), 5);
    assert_eq!(store.remove(PATH).unwrap(), 0);
    assert_eq!(std::fs::read_dir(directory.path().join("logs")).unwrap().count(), 0);
}
