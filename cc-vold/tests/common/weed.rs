//! A SeaweedFS in one process, with an S3 door on this host, in a directory that goes with it. Refuses to be found by anybody else: its ports are
//! those that were free, and its keys are made up here.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use cc_vold::store::StoreUrl;
use object_store::{ObjectStore, ObjectStoreExt as _};

use super::eventually;

const KEY: &str = "cc-vold-tests";
const SECRET: &str = "cc-vold-tests-secret";
const BUCKET: &str = "volumes";
/// Of its log, when a test has failed.
const LOG_LINES: usize = 40;

pub struct Weed {
    child: Option<Child>,
    directory: tempfile::TempDir,
    ports: Vec<u16>,
}

impl Weed {
    pub fn start() -> Weed {
        let directory = tempfile::tempdir().expect("a directory");
        // Held until all are known, so that none is given twice.
        let free: Vec<TcpListener> =
            (0..8).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free")).collect();
        let ports = free.iter().map(|port| port.local_addr().expect("it is bound").port()).collect();
        drop(free);
        let identities = serde_json::json!({"identities": [{
            "name": "tests",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        std::fs::write(directory.path().join("s3.json"), identities.to_string()).expect("it is written");
        let mut weed = Weed { child: None, directory, ports };
        weed.resume();
        weed
    }

    /// As it was when it was killed.
    pub fn resume(&mut self) {
        let program = std::env::var_os("CC_VOLD_WEED")
            .map(PathBuf::from)
            .expect("CC_VOLD_WEED names it: run cargo xtask vold test");
        let data = self.directory.path().join("data");
        std::fs::create_dir_all(&data).expect("a directory");
        let mut command = Command::new(program);
        command.args([
            "-logtostderr",
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            "-s3.iam=false",
        ]);
        command.args([
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-volume.max=0",
            "-volume.preStopSeconds=0",
        ]);
        command.args(["-master.volumeSizeLimitMB=1024", "-filer.maxMB=16", "-volume.minFreeSpacePercent=0"]);
        command.arg(format!("-dir={}", data.display()));
        command.arg(format!("-s3.config={}", self.directory.path().join("s3.json").display()));
        for (name, port) in ["master", "volume", "filer", "s3"].into_iter().zip(self.ports.chunks_exact(2)) {
            command.arg(format!("-{name}.port={}", port[0])).arg(format!("-{name}.port.grpc={}", port[1]));
        }
        let log = std::fs::File::create(self.directory.path().join("log")).expect("a log");
        command.current_dir(self.directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("weed starts"));
        self.wait_until_it_keeps_something();
    }

    /// At once, as power does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it is gone");
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn url(&self) -> String {
        format!("s3://{BUCKET}/tests")
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[6])
    }

    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", self.endpoint()),
        ]
    }

    /// As the program opens it.
    pub fn store(&self) -> std::sync::Arc<dyn ObjectStore> {
        let builder = object_store::aws::AmazonS3Builder::new()
            .with_bucket_name(BUCKET)
            .with_access_key_id(KEY)
            .with_secret_access_key(SECRET)
            .with_region("us-east-1")
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_retry(object_store::RetryConfig { max_retries: 0, ..Default::default() });
        std::sync::Arc::new(builder.build().expect("all is given"))
    }

    fn wait_until_it_keeps_something(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let store = self.store();
        let at = StoreUrl::parse(&self.url()).expect("an address").of_volume("ready");
        eventually("SeaweedFS keeps an object", || runtime.block_on(store.put(&at, "ready".into())).ok());
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.len().saturating_sub(LOG_LINES);
            eprintln!("the last of SeaweedFS:\n{}", lines[last..].join("\n"));
        }
        self.kill();
        // Its sockets are not in its directory, wherever that is; they have its ports in their names.
        for entry in std::fs::read_dir("/tmp").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_ours = |port: &u16| name.starts_with("seaweedfs-") && name.ends_with(&format!("-{port}.sock"));
            if self.ports.iter().any(is_ours) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
