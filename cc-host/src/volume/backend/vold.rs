//! Volumes in an object store, an experiment: for each that is in use, a process of its own, `cc-vold`, shows it as a file, of which a loop device is
//! made. Refuses to make one larger or to copy it, and to keep a process for one that nobody has.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::super::loop_device::LoopDevice;
use super::files::{failed, is_attached};
use super::{Attached, Backend, BackendError, Room};
use crate::config::ObjectStore;
use crate::ids::VolumeId;

const IMAGE: &str = "image";
/// From a process's start until it serves: it asks the store for half a minute at most.
const SERVED_WITHIN: Duration = Duration::from_secs(60);
/// From the end of the last use until its process has ended.
const ENDED_WITHIN: Duration = Duration::from_secs(60);
/// A request for each object that it has; what is left then goes at the next try.
const REMOVED_WITHIN: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Of what a process has said, as it is told.
const SAID_BYTES_MAX: u64 = 600;
/// Some lines; more is something else.
const CREDENTIALS_BYTES_MAX: u64 = 16 << 10;
const CREDENTIALS: [&str; 5] =
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"];

#[derive(Debug)]
pub struct Vold {
    /// A directory for each volume that is served, and what its process says beside it.
    dir: PathBuf,
    program: PathBuf,
    store: ObjectStore,
}

impl Vold {
    pub fn new(dir: PathBuf, program: PathBuf, store: ObjectStore) -> Self {
        Vold { dir, program, store }
    }

    fn place(&self, id: &VolumeId) -> PathBuf {
        self.dir.join(id.as_str())
    }

    fn log(&self, id: &VolumeId) -> PathBuf {
        self.dir.join(format!("{id}.log"))
    }

    fn refused(&self, operation: &'static str, id: &VolumeId, why: String) -> BackendError {
        let store = self.store.url.clone();
        BackendError::ObjectStore { operation, volume: id.to_string(), store, why }
    }

    fn command(&self, id: &VolumeId, operation: &'static str, verb: &str) -> Result<Command, BackendError> {
        let file = &self.store.credentials;
        let environment = credentials(file).map_err(|why| self.refused(operation, id, why))?;
        let mut command = Command::new(&self.program);
        command.args(["--experimental", verb, "--store", &self.store.url, "--volume", id.as_str()]);
        if let Some(endpoint) = &self.store.endpoint {
            command.args(["--endpoint", endpoint]);
        }
        // It outlives this daemon, as containers do.
        command.env_clear().envs(environment).current_dir("/").process_group(0).stdin(Stdio::null());
        Ok(command)
    }

    /// Asked of the process: what a look says, the kernel may remember.
    fn is_served(&self, id: &VolumeId) -> bool {
        File::open(self.image(id)).is_ok()
    }

    /// Of one that has a size, it is made if it is not there.
    fn serve(&self, id: &VolumeId, operation: &'static str, bytes: Option<u64>) -> Result<(), BackendError> {
        if self.is_served(id) {
            return Ok(());
        }
        let mut command = self.command(id, operation, "serve")?;
        // One that a former daemon has started may come to serve it meanwhile.
        let Some((says, also)) = self.listen(id, operation, || self.is_served(id))? else { return Ok(()) };
        let place = self.place(id);
        // Of a process that is gone: who had it has the lock no more.
        let _ = rustix::mount::unmount(&place, UnmountFlags::DETACH);
        private_dir(&place)?;
        command.arg("--mount").arg(&place).stdout(says).stderr(also);
        if let Some(bytes) = bytes {
            command.args(["--size", &bytes.to_string()]);
        }
        let mut child = self.start(id, operation, &mut command)?;
        // What it was given is its alone.
        drop(command);
        let served = self.wait(id, operation, &mut child);
        if served.is_err() {
            let _ = child.kill();
        }
        std::thread::spawn(move || child.wait());
        served
    }

    fn start(&self, id: &VolumeId, operation: &'static str, command: &mut Command) -> Result<Child, BackendError> {
        let why = |error: io::Error| {
            format!("cannot run {}, which volumes.object_store.program names: {error}", self.program.display())
        };
        command.spawn().map_err(|error| self.refused(operation, id, why(error)))
    }

    fn wait(&self, id: &VolumeId, operation: &'static str, child: &mut Child) -> Result<(), BackendError> {
        let began = Instant::now();
        loop {
            if self.is_served(id) {
                return Ok(());
            }
            let why = match child.try_wait() {
                Ok(Some(status)) => format!("cc-vold has ended ({status}): {}", self.said(id)),
                Ok(None) if began.elapsed() < SERVED_WITHIN => {
                    std::thread::sleep(LOOK_EVERY);
                    continue;
                }
                Ok(None) => {
                    format!("cc-vold does not serve it within {} s: {}", SERVED_WITHIN.as_secs(), self.said(id))
                }
                Err(error) => error.to_string(),
            };
            return Err(self.refused(operation, id, why));
        }
    }

    /// Of one that has something to do and then ends.
    fn ends_well(&self, id: &VolumeId, child: &mut Child) -> Result<(), BackendError> {
        let began = Instant::now();
        let why = loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => break format!("cc-vold has ended ({status}): {}", self.said(id)),
                Ok(None) if began.elapsed() < REMOVED_WITHIN => std::thread::sleep(LOOK_EVERY),
                Ok(None) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break format!(
                        "cc-vold was ended: it took more than {} s: {}",
                        REMOVED_WITHIN.as_secs(),
                        self.said(id)
                    );
                }
                Err(error) => break error.to_string(),
            }
        };
        Err(self.refused("remove", id, why))
    }

    /// For what a process says, to either of its outputs. It is locked as long as the process lives, whoever has started it: so one comes after
    /// the other. `None` if there is no need to any more.
    fn listen(
        &self,
        id: &VolumeId,
        operation: &'static str,
        is_needless: impl Fn() -> bool,
    ) -> Result<Option<(File, File)>, BackendError> {
        private_dir(&self.dir)?;
        let log = self.log(id);
        let opened = File::options().write(true).create(true).truncate(false).mode(0o600).open(&log);
        let says = opened.map_err(failed("make", log.clone()))?;
        let began = Instant::now();
        while let Err(error) = rustix::fs::flock(&says, FlockOperation::NonBlockingLockExclusive) {
            if error != Errno::WOULDBLOCK || began.elapsed() > ENDED_WITHIN {
                let why = format!("another cc-vold has it, and does not end: {}", self.said(id));
                return Err(self.refused(operation, id, why));
            }
            if is_needless() {
                return Ok(None);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        says.set_len(0).map_err(failed("empty", log.clone()))?;
        let also = says.try_clone().map_err(failed("open", log))?;
        Ok(Some((says, also)))
    }

    /// Its last words.
    fn said(&self, id: &VolumeId) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(self.log(id))?;
            let bytes = file.metadata()?.len();
            file.seek(SeekFrom::Start(bytes.saturating_sub(SAID_BYTES_MAX)))?;
            let mut said = Vec::new();
            file.take(SAID_BYTES_MAX).read_to_end(&mut said)?;
            Ok(said)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).trim().replace('\n', "; ")
    }
}

impl Backend for Vold {
    fn name(&self) -> &'static str {
        "object-store"
    }

    fn store(&self) -> Option<&str> {
        Some(&self.store.url)
    }

    fn room(&self) -> Result<Room, BackendError> {
        Ok(Room { free_bytes: u64::MAX, reserve_bytes: 0 })
    }

    fn prepare(&self, id: &VolumeId) -> Result<(), BackendError> {
        self.serve(id, "open", None)
    }

    fn create(&self, id: &VolumeId, bytes: u64) -> Result<(), BackendError> {
        self.serve(id, "create", Some(bytes))
    }

    fn grow(&self, _: &VolumeId, _: u64) -> Result<(), BackendError> {
        Err(BackendError::NotYet { operation: "resize" })
    }

    fn shrink_back(&self, _: &VolumeId, _: u64) -> Result<(), BackendError> {
        Err(BackendError::NotYet { operation: "resize" })
    }

    fn copies_what_is_still(&self) -> bool {
        true
    }

    fn copy(&self, _: &VolumeId, _: &VolumeId, _: &dyn Fn() -> bool) -> Result<bool, BackendError> {
        Err(BackendError::NotYet { operation: "copy" })
    }

    fn remove(&self, id: &VolumeId) -> Result<(), BackendError> {
        self.let_go(id)?;
        let mut command = self.command(id, "remove", "remove")?;
        if let Some((says, also)) = self.listen(id, "remove", || false)? {
            command.stdout(says).stderr(also);
        }
        let mut child = self.start(id, "remove", &mut command)?;
        drop(command);
        self.ends_well(id, &mut child)?;
        match std::fs::remove_file(self.log(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", self.log(id))(error)),
            _ => Ok(()),
        }
    }

    fn sync(&self, id: &VolumeId) -> Result<(), BackendError> {
        let image = self.image(id);
        let synced = File::options().write(true).open(&image).and_then(|file| file.sync_all());
        synced.map_err(failed("sync", image))
    }

    fn image(&self, id: &VolumeId) -> PathBuf {
        self.place(id).join(IMAGE)
    }

    fn size(&self, id: &VolumeId) -> Result<u64, BackendError> {
        let image = self.image(id);
        Ok(std::fs::metadata(&image).map_err(failed("look at", image))?.len())
    }

    fn attach(&self, id: &VolumeId) -> Result<Box<dyn Attached>, BackendError> {
        self.prepare(id)?;
        let image = self.image(id);
        Ok(Box::new(LoopDevice::of(&image).map_err(failed("make a loop device of", image))?))
    }

    fn is_attached(&self, id: &VolumeId) -> Result<bool, BackendError> {
        if !self.is_served(id) {
            return Ok(false);
        }
        is_attached(self.image(id))
    }

    fn list(&self) -> Result<Vec<VolumeId>, BackendError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", self.dir.clone())(error)),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| VolumeId::parse(&name)).collect())
    }

    /// Its process ends when it is unmounted, and with all of it in the store.
    fn let_go(&self, id: &VolumeId) -> Result<(), BackendError> {
        let place = self.place(id);
        // Of a process that is gone there is another error.
        if std::fs::symlink_metadata(&place).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        if self.is_attached(id)? {
            return Err(BackendError::Busy { path: self.image(id) });
        }
        match rustix::mount::unmount(&place, UnmountFlags::NOFOLLOW) {
            // It is not mounted.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(Errno::BUSY) => return Err(BackendError::Busy { path: self.image(id) }),
            Err(source) => return Err(failed("unmount", place)(source.into())),
        }
        // Until its process has ended.
        drop(self.listen(id, "close", || false)?);
        match std::fs::remove_dir(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", place)(error)),
            _ => Ok(()),
        }
    }
}

fn private_dir(dir: &Path) -> Result<(), BackendError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(failed("make", dir.to_owned()))
}

/// `NAME=VALUE` lines of a file that root alone reads.
fn credentials(path: &Path) -> Result<Vec<(String, String)>, String> {
    use std::os::unix::fs::MetadataExt as _;
    let shown = path.display();
    let cannot = |error: io::Error| format!("cannot read {shown}: {error}");
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(cannot)?;
    let about = file.metadata().map_err(cannot)?;
    if about.uid() != rustix::process::geteuid().as_raw() || about.permissions().mode() & 0o077 != 0 {
        return Err(format!("{shown} can be read by others: chown root and chmod 600 it"));
    }
    let mut text = String::new();
    file.take(CREDENTIALS_BYTES_MAX).read_to_string(&mut text).map_err(cannot)?;
    parse(&text).map_err(|line| format!("line {line} of {shown} is none of {}=…", CREDENTIALS.join("=…, ")))
}

/// Or the number of the line that is something else.
fn parse(text: &str) -> Result<Vec<(String, String)>, usize> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let said = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let pair = |(at, line): (usize, &str)| match line.split_once('=') {
        Some((name, value)) if CREDENTIALS.contains(&name) && !value.contains('\0') => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(at),
    };
    said.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_lines_of_known_names() {
        let all = parse("# of the store\n\nAWS_ACCESS_KEY_ID=a\n AWS_SECRET_ACCESS_KEY=b=c \n").unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(all, [pair("AWS_ACCESS_KEY_ID", "a"), pair("AWS_SECRET_ACCESS_KEY", "b=c")]);
        assert_eq!(parse("AWS_REGION=x\nLD_PRELOAD=/tmp/x.so"), Err(2));
        assert_eq!(parse("secret"), Err(1));
    }

    #[test]
    fn credentials_that_others_can_read_are_refused_and_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials");
        std::fs::write(&file, "AWS_SECRET_ACCESS_KEY=secret\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let why = credentials(&file).unwrap_err();
        assert!(why.contains("chmod 600") && !why.contains("secret"), "{why}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(credentials(&file).unwrap().len(), 1);
    }
}
