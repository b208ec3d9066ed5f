//! A real OCI registry on loopback, in the network namespace of whoever starts it, gone with its guard. Refuses to be
//! installed: its package would start a service.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{TAG, build, debs, images_dir};

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// What a registry that asks for a password accepts.
#[derive(Debug, Clone, Copy)]
pub struct Credentials {
    pub user: &'static str,
    pub password: &'static str,
    /// The same, as a line of an htpasswd file: the registry takes bcrypt only.
    htpasswd: &'static str,
}

impl Credentials {
    pub const TEST: Credentials = Credentials {
        user: "tester",
        password: "secret-for-tests",
        htpasswd: "tester:$2y$05$abcdefghijklmnopqrstuuuBKGpQmEc7Ao1b0BNmNlIdhvjcW.gAy\n",
    };
}

#[derive(Debug)]
pub struct Registry {
    // Declared first: the process must be gone before its directory is.
    process: Process,
    address: SocketAddr,
    credentials: Option<Credentials>,
    dir: tempfile::TempDir,
}

#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Registry {
    pub fn start() -> Result<Registry> {
        Registry::start_with(None)
    }

    /// With credentials, every request needs them.
    pub fn start_with(credentials: Option<Credentials>) -> Result<Registry> {
        let program = program()?;
        let dir = tempfile::Builder::new().prefix("cct-registry-").tempdir().context("cannot make a directory")?;
        let address = free_address()?;
        let auth = match &credentials {
            None => String::new(),
            Some(credentials) => {
                let file = dir.path().join("htpasswd");
                std::fs::write(&file, credentials.htpasswd).context("cannot write htpasswd")?;
                format!("auth:\n  htpasswd:\n    realm: tests\n    path: {}\n", file.display())
            }
        };
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  delete:\n    enabled: true\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {address}\n{auth}",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).context("cannot write the registry's configuration")?;
        let log = File::create(dir.path().join("log")).context("cannot make the registry's log")?;
        let child = Command::new(&program)
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the registry's log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut registry = Registry { process: Process(child), address, credentials, dir };
        registry.wait_until_it_answers()?;
        Ok(registry)
    }

    /// `127.0.0.1:PORT`, the first part of a reference.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the blobs lie, for tests that damage one.
    pub fn storage(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Builds the image, pushes it, and gives back its reference here.
    pub fn push(&self, image: &str) -> Result<String> {
        self.push_layout(&build(image)?, &format!("{image}:{TAG}"))
    }

    /// Pushes the layout's `latest` under `name:tag`.
    pub fn push_layout(&self, layout: &Path, name: &str) -> Result<String> {
        let reference = format!("{}/{name}", self.address);
        let mut copy = Command::new("skopeo");
        copy.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        if let Some(Credentials { user, password, .. }) = &self.credentials {
            copy.arg(format!("--dest-creds={user}:{password}"));
        }
        copy.arg(format!("oci:{}:{TAG}", layout.display())).arg(format!("docker://{reference}"));
        let out = copy.stdin(Stdio::null()).output().context("cannot start skopeo (Debian package skopeo)")?;
        ensure!(out.status.success(), "skopeo to {reference}: {}", String::from_utf8_lossy(&out.stderr).trim());
        Ok(reference)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < START_TIMEOUT {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.process.0.try_wait().context("cannot look at the registry")? {
                bail!("the registry ended: {status}: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the registry did not listen within {START_TIMEOUT:?}: {}", self.log())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

/// docker-registry from its package, unpacked beside the images. `make-image` fetches it with them.
pub fn program() -> Result<PathBuf> {
    debs::program(&images_dir(), "docker-registry", "registry.root")
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback (is it up?)")?;
    listener.local_addr().context("cannot read the address of a socket")
}
