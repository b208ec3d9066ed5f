//! What lies in the state directory, and whose it is: each block once, as `du` counts. Refuses to follow a symlink, since containers make
//! what lies there, and to go across file systems.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Levels of directories, each with a descriptor while it is read; what lies deeper is not counted.
const DEPTH_MAX: usize = 512;
/// What the kernel counts blocks in, whatever the file system's are.
const BLOCK_BYTES: u64 = 512;

/// What the daemon knows of what lies there.
#[derive(Debug, Default)]
pub struct Known {
    pub state_dir: PathBuf,
    /// Names of directories of layers, and of files of blobs, that an image needs which a container was made from.
    pub needed: HashSet<String>,
    pub images: [u32; 2],
    /// Of each container, and whether it runs.
    pub containers: Vec<(String, bool)>,
    /// The file of each container's disk, and whether the container runs. Those of nobody are not to be had by removing containers.
    pub disks: Vec<(String, bool)>,
    /// How many volumes there are, and how many of them containers have.
    pub volumes: [u32; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Part {
    pub count: u32,
    pub active: u32,
    pub bytes: u64,
    pub reclaimable_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub images: Part,
    pub containers: Part,
    pub logs: Part,
    pub volumes: Part,
    /// The daemon's own: records, keys, prefix lists.
    pub store: Part,
}

impl Usage {
    pub fn parts(&self) -> [(&'static str, Part); 5] {
        [
            ("images", self.images),
            ("containers", self.containers),
            ("logs", self.logs),
            ("volumes", self.volumes),
            ("store", self.store),
        ]
    }

    pub fn total_bytes(&self) -> u64 {
        self.parts().iter().map(|(_, part)| part.bytes).sum()
    }
}

/// Where in the tree a file or directory is: what it belongs to.
#[derive(Debug, Clone, Copy)]
enum Place {
    Top,
    Images,
    /// Of `layers` or `blobs/sha256`: its children are what is needed or not.
    ImageParts,
    Image {
        needed: bool,
    },
    Containers,
    Container {
        runs: bool,
    },
    Log {
        runs: bool,
    },
    Disks,
    /// Nobody's but who deletes one: a prune takes none.
    Volumes,
    Store,
}

struct Walk<'k> {
    known: &'k Known,
    running: HashSet<&'k str>,
    stopped_disks: HashSet<&'k str>,
    usage: Usage,
    /// By device and inode: those with more than one name.
    seen: HashSet<(u64, u64)>,
    device: u64,
}

/// Blocks.
pub fn usage(known: &Known) -> io::Result<Usage> {
    let stat = rustix::fs::stat(&known.state_dir)?;
    let running = known.containers.iter().filter(|(_, runs)| *runs).map(|(id, _)| id.as_str()).collect();
    let stopped_disks = known.disks.iter().filter(|(_, runs)| !runs).map(|(name, _)| name.as_str()).collect();
    let mut walk =
        Walk { known, running, stopped_disks, usage: Usage::default(), seen: HashSet::new(), device: stat.st_dev };
    let [count, active] = known.images;
    (walk.usage.images.count, walk.usage.images.active) = (count, active);
    [walk.usage.volumes.count, walk.usage.volumes.active] = known.volumes;
    let containers = u32::try_from(known.containers.len()).unwrap_or(u32::MAX);
    walk.usage.containers.count = containers;
    walk.usage.containers.active = u32::try_from(walk.running.len()).unwrap_or(u32::MAX);
    (walk.usage.logs.count, walk.usage.logs.active) = (containers, walk.usage.containers.active);
    let name = known.state_dir.as_os_str();
    walk.one(CWD, name, Place::Top, 0)?;
    Ok(walk.usage)
}

impl Walk<'_> {
    fn one(&mut self, dir: BorrowedFd<'_>, name: &OsStr, place: Place, depth: usize) -> io::Result<()> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It was removed since its directory was read.
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_dev != self.device || (!is_dir && stat.st_nlink > 1 && !self.seen.insert((stat.st_dev, stat.st_ino)))
        {
            return Ok(());
        }
        self.count(place, u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES);
        if !is_dir || depth == DEPTH_MAX {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(inner) => inner,
            // It was replaced meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let mut entries = Dir::new(inner)?;
        while let Some(entry) = entries.read() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::NOENT) => break,
                Err(e) => return Err(e.into()),
            };
            let child = OsStr::from_bytes(entry.file_name().to_bytes());
            if child != "." && child != ".." {
                let inner = entries.fd()?;
                self.one(inner.as_fd(), child, self.below(place, child), depth + 1)?;
            }
        }
        Ok(())
    }

    fn below(&self, place: Place, child: &OsStr) -> Place {
        let name = child.to_str().unwrap_or_default();
        match (place, name) {
            (Place::Top, "images") => Place::Images,
            (Place::Top, "containers") => Place::Containers,
            (Place::Top, "volumes") => Place::Volumes,
            // Where volumes have a place of their own, disks are in it.
            (Place::Top | Place::Volumes, "disks") => Place::Disks,
            (Place::Top, _) => Place::Store,
            (Place::Images, "layers" | "sha256") => Place::ImageParts,
            (Place::Images, _) => Place::Images,
            (Place::ImageParts, _) => Place::Image { needed: self.known.needed.contains(name) },
            (Place::Containers, _) => Place::Container { runs: self.running.contains(name) },
            (Place::Disks, _) => Place::Container { runs: !self.stopped_disks.contains(name) },
            (Place::Container { runs }, "log") => Place::Log { runs },
            (same, _) => same,
        }
    }

    fn count(&mut self, place: Place, bytes: u64) {
        let (part, reclaimable) = match place {
            Place::Images | Place::ImageParts => (&mut self.usage.images, false),
            Place::Image { needed } => (&mut self.usage.images, !needed),
            Place::Containers | Place::Disks => (&mut self.usage.containers, false),
            Place::Container { runs } => (&mut self.usage.containers, !runs),
            Place::Log { runs } => (&mut self.usage.logs, !runs),
            Place::Volumes => (&mut self.usage.volumes, false),
            Place::Top | Place::Store => (&mut self.usage.store, false),
        };
        part.bytes += bytes;
        if reclaimable {
            part.reclaimable_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn each_block_is_somebodys_and_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in [
            "images/layers/aa/fs",
            "images/layers/bb/fs",
            "images/blobs/sha256",
            "containers/c1/upper",
            "containers/c2/log",
            "disks",
            "volumes",
        ] {
            fs::create_dir_all(at(path)).unwrap();
        }
        let fill = |path: &str, bytes: usize| fs::write(at(path), vec![1; bytes]).unwrap();
        fill("images/layers/aa/fs/f", 1 << 20);
        fill("images/layers/bb/fs/f", 2 << 20);
        fill("containers/c1/upper/f", 3 << 20);
        fs::hard_link(at("containers/c1/upper/f"), at("containers/c1/upper/g")).unwrap();
        fill("containers/c2/log/f", 4 << 20);
        fill("store.sqlite", 5 << 20);
        fill("volumes/vol-1.img", 6 << 20);
        fill("disks/c1.img", 7 << 20);
        fill("disks/c2.img", 8 << 20);
        fill("disks/ready-1.img", 9 << 20);
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("large"), vec![1; 64 << 20]).unwrap();
        std::os::unix::fs::symlink(outside.path(), at("containers/c1/upper/link")).unwrap();
        let known = Known {
            state_dir: dir.path().to_owned(),
            needed: ["aa".to_owned()].into(),
            images: [2, 1],
            containers: vec![("c1".to_owned(), true), ("c2".to_owned(), false)],
            disks: vec![("c1.img".to_owned(), true), ("c2.img".to_owned(), false)],
            volumes: [1, 1],
        };
        let usage = usage(&known).unwrap();
        let mib = |bytes: u64| bytes >> 20;
        assert_eq!((mib(usage.images.bytes), mib(usage.images.reclaimable_bytes)), (3, 2));
        assert_eq!((mib(usage.containers.bytes), mib(usage.containers.reclaimable_bytes)), (3 + 7 + 8 + 9, 8));
        assert_eq!((mib(usage.logs.bytes), mib(usage.logs.reclaimable_bytes)), (4, 4));
        assert_eq!(mib(usage.store.bytes), 5);
        assert_eq!((mib(usage.volumes.bytes), usage.volumes.reclaimable_bytes, usage.volumes.count), (6, 0, 1));
        assert_eq!((usage.images.count, usage.containers.count, usage.containers.active), (2, 2, 1));
        let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(dir.path()).output().unwrap();
        let du = String::from_utf8(du.stdout).unwrap();
        assert_eq!(du.split('\t').next().unwrap().parse::<u64>().unwrap(), usage.total_bytes());
    }
}
