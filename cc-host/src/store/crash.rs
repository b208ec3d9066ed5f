//! A process that acknowledges writes is killed at random moments; whatever it acknowledged must be there. Refuses to
//! simulate: the process and the signal are real.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Op, SqliteStore, Store};

const PATH_VARIABLE: &str = "CC_STORE_CRASH_PATH";
const ROUNDS: u32 = 8;

/// The child's part, in this same program: writes one number after the other and acknowledges each, until it is killed.
async fn write(path: &Path) {
    let store = SqliteStore::open(path).unwrap();
    let first = store.range("n/").await.unwrap().0.len();
    for i in first.. {
        let op = Op::Put { key: format!("n/{i:08}"), value: i.to_string().into_bytes(), lease: None };
        let _committed = store.txn(vec![], vec![op]).await.unwrap();
        // Standard error is not captured by the test harness, and not buffered.
        rustix::io::write(rustix::stdio::stderr(), format!("ack {i}\n").as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn every_acknowledged_write_survives_sigkill() {
    if let Some(path) = std::env::var_os(PATH_VARIABLE) {
        return write(Path::new(&path)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut last = None;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::crash::every_acknowledged_write_survives_sigkill", "--nocapture"])
            .env(PATH_VARIABLE, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // So many bytes of acknowledgements, then the signal: it hits anywhere within the next write.
        let wanted = 1 + (seed.rotate_left(round * 7) % 400) as usize;
        let mut pipe = child.stderr.take().unwrap();
        let mut text = vec![0; wanted];
        pipe.read_exact(&mut text).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        pipe.read_to_end(&mut text).unwrap();
        let text = String::from_utf8_lossy(&text);
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        last =
            whole.lines().filter_map(|l| l.strip_prefix("ack ")).filter_map(|n| n.parse::<usize>().ok()).max().or(last);

        let store = SqliteStore::open(&path).unwrap();
        let (kvs, revision) = store.range("n/").await.unwrap();
        let last = last.expect("a write was acknowledged");
        assert!(kvs.len() > last, "round {round}: {last} was acknowledged, {} are there", kvs.len());
        assert!(kvs.len() <= last + 2, "no more than the one that was not acknowledged");
        assert_eq!(revision, kvs.len() as u64);
        for (i, kv) in kvs.iter().enumerate() {
            assert_eq!(kv.value, i.to_string().into_bytes());
        }
    }
}
