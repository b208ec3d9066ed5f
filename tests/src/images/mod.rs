//! The images of the tests, the demo and the benchmarks, made from Debian packages because no container registry can be
//! counted on. Made once and kept in target/images. Refuses to run a package's own scripts.

mod debs;
mod layout;
mod registry;

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Uid, chown};

pub use layout::Config;
pub use registry::{Credentials, Registry, program as registry_program};

/// containerd from its package, with its tools beside it. Installed, it would be a running service.
pub fn containerd_program() -> Result<PathBuf> {
    debs::program(&images_dir(), "containerd", "containerd.root")
}

/// The one tag in every layout.
pub const TAG: &str = "latest";

/// Changed when the way of making them changes, so that older ones are made anew.
const RECIPE_VERSION: u32 = 1;

/// What the layers of `layered` must come to, as a shell script that ends with 0 when they do.
pub const LAYERED_CHECK: &str = "set -e; test -f /data/kept; test -L /data/link; cat /data/link; test ! -e /data/removed; \
    test ! -e /data/sub; test -d /data/was-file; test -f /data/was-file/visible; test -f /data/.hidden; \
    test -f /opaque/visible; test ! -e /opaque/hidden; test ! -e /opaque/deep";

/// Every image, the ones they are made from first.
pub const ALL: &[&str] = &["busybox", "net-tools", "nginx", "redis", "layered", "libcs", "calls"];

/// An image beyond busybox: a layer of packages over it, and files of ours in that layer.
struct Recipe {
    packages: &'static [&'static str],
    /// Path in the image, text, owner.
    files: &'static [(&'static str, &'static str, u32)],
    /// Directories that must exist, and their owner.
    dirs: &'static [(&'static str, u32)],
    config: Config,
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const WWW_DATA: u32 = 33;
const REDIS: u32 = 999;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    app:x:1000:1000:app:/home/app:/bin/sh\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\n\
    redis:x:999:999:redis:/var/lib/redis:/bin/false\n\
    nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\napp:x:1000:\nextra:x:2000:app\nwww-data:x:33:\nredis:x:999:\nnogroup:x:65534:\n";

const NGINX_CONF: &str = "user www-data;\nworker_processes 1;\npid /run/nginx.pid;\nerror_log stderr;\n\
    events { worker_connections 256; }\n\
    http {\n    access_log /dev/stdout;\n    server {\n        listen 80;\n        root /var/www/html;\n    }\n}\n";

fn recipe(name: &str) -> Option<Recipe> {
    let with = |entrypoint: &[&str], cmd: &[&str]| Config {
        entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
        cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
        env: vec![PATH.to_owned()],
        ..Config::default()
    };
    Some(match name {
        "net-tools" => Recipe { packages: &["iperf3"], files: &[], dirs: &[], config: with(&[], &["/bin/sh"]) },
        "nginx" => Recipe {
            packages: &["nginx-light"],
            files: &[
                ("etc/nginx/nginx.conf", NGINX_CONF, 0),
                ("var/www/html/index.html", "<h1>served by nginx in a container</h1>\n", 0),
            ],
            dirs: &[("var/log/nginx", WWW_DATA), ("var/lib/nginx", 0), ("run", 0)],
            config: Config { ports: vec!["80/tcp".into()], ..with(&["/usr/sbin/nginx"], &["-g", "daemon off;"]) },
        },
        "redis" => Recipe {
            packages: &["redis-server"],
            files: &[],
            dirs: &[("var/lib/redis", REDIS)],
            config: Config {
                ports: vec!["6379/tcp".into()],
                user: "redis".into(),
                working_dir: "/var/lib/redis".into(),
                ..with(&["/usr/bin/redis-server"], &["--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""])
            },
        },
        _ => return None,
    })
}

/// The OCI layout of the image of that name, made now if it is not there yet.
pub fn build(name: &str) -> Result<PathBuf> {
    let dir = images_dir();
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let layout = dir.join(name);
    let stamp = dir.join(format!("{name}.made"));
    let wanted = RECIPE_VERSION.to_string();
    // Tests of several processes may ask at once: the first one makes it.
    let file = std::fs::File::create(dir.join(format!("{name}.lock"))).context("cannot open an image's lock")?;
    let _lock =
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("cannot lock an image")?;
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(layout);
    }
    if layout.exists() {
        std::fs::remove_dir_all(&layout).with_context(|| format!("cannot remove {}", layout.display()))?;
    }
    match (name, recipe(name)) {
        ("busybox", _) => busybox(&dir, &layout),
        ("layered", _) => layered(&dir, &layout),
        ("libcs", _) => libcs(&dir, &layout),
        ("calls", _) => calls(&dir, &layout),
        (_, Some(recipe)) => packaged(&dir, &layout, &recipe),
        (_, None) => bail!("there is no image {name}; there are {}", ALL.join(", ")),
    }
    .with_context(|| format!("cannot make the image {name}"))?;
    std::fs::write(&stamp, wanted).context("cannot write an image's stamp")?;
    Ok(layout)
}

/// `oci:DIR:TAG`, as `--image` takes it.
pub fn reference(name: &str) -> Result<String> {
    Ok(format!("oci:{}:{TAG}", build(name)?.display()))
}

/// Below the build directory, so that `cargo clean` is all there is to know; CC_IMAGES_DIR moves it.
pub fn images_dir() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/images");
    let dir = std::env::var_os("CC_IMAGES_DIR").map_or_else(default, PathBuf::from);
    std::fs::canonicalize(&dir).unwrap_or(dir)
}

fn busybox(dir: &Path, layout: &Path) -> Result<()> {
    let root = base_root(dir)?;
    let config = Config { cmd: vec!["/bin/sh".into()], env: vec![PATH.to_owned()], ..Config::default() };
    layout::write(layout, &[&root], &config, TAG)
}

fn packaged(dir: &Path, layout: &Path, recipe: &Recipe) -> Result<()> {
    let base = base_root(dir)?;
    let root = fresh_root(dir, layout)?;
    for deb in debs::closure(dir, recipe.packages)? {
        debs::extract(&deb, &root)?;
    }
    debs::strip_documents(&root)?;
    for &(path, owner) in recipe.dirs {
        std::fs::create_dir_all(root.join(path)).with_context(|| format!("cannot make {path}"))?;
        own(&root.join(path), owner)?;
    }
    for &(path, text, owner) in recipe.files {
        put(&root, path, text, owner)?;
    }
    layout::write(layout, &[&base, &root], &recipe.config, TAG)
}

/// What unpacking must get right, in layers that another tool made: a removed file, a directory whose older content is
/// hidden, a file that becomes a directory, and names that only look special.
fn layered(dir: &Path, layout: &Path) -> Result<()> {
    let lower = dir.join("layered.root");
    remake(&lower)?;
    for path in ["data/kept", "data/removed", "data/sub/removed-too", "opaque/hidden", "opaque/deep/hidden"] {
        put(&lower, path, "lower\n", 0)?;
    }
    put(&lower, "data/was-file", "lower\n", 0)?;
    put(&lower, "data/.hidden", "lower\n", 1000)?;
    symlink("kept", lower.join("data/link")).context("cannot make a link")?;
    let base = base_root(dir)?;
    let config = Config { cmd: vec!["/bin/sh".into()], env: vec![PATH.to_owned()], ..Config::default() };
    layout::write(layout, &[&base, &lower], &config, TAG)?;

    let upper = dir.join("layered.upper");
    remake(&upper)?;
    put(&upper, "visible", "upper\n", 0)?;
    let image = format!("{}:{TAG}", layout.display());
    let umoci = |args: &[&str]| {
        let out = Command::new("umoci").arg("insert").args(["--image", &image]).args(args).output();
        let out = out.context("cannot start umoci (Debian package umoci)")?;
        ensure!(out.status.success(), "umoci insert {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    };
    let upper = upper.to_string_lossy();
    umoci(&["--whiteout", "/data/removed"])?;
    umoci(&["--whiteout", "/data/sub"])?;
    umoci(&["--whiteout", "/data/was-file"])?;
    umoci(&[&upper, "/data/was-file"])?;
    umoci(&["--opaque", &upper, "/opaque"])
}

/// Both C libraries, each with a program that asks it for the addresses of a name: glibc's `getent`, and `getent-musl`.
fn libcs(dir: &Path, layout: &Path) -> Result<()> {
    let base = base_root(dir)?;
    let root = fresh_root(dir, layout)?;
    for deb in debs::closure(dir, &["libc-bin"])? {
        debs::extract(&deb, &root)?;
    }
    debs::strip_documents(&root)?;
    compile("getent.c", &root.join("usr/bin/getent-musl"))?;
    let config = Config { cmd: vec!["/bin/sh".into()], env: vec![PATH.to_owned()], ..Config::default() };
    layout::write(layout, &[&base, &root], &config, TAG)
}

/// busybox, and a program that makes any system call and says what the kernel answers.
fn calls(dir: &Path, layout: &Path) -> Result<()> {
    let base = base_root(dir)?;
    let root = fresh_root(dir, layout)?;
    compile("call.c", &root.join("usr/bin/call"))?;
    let config = Config { cmd: vec!["/bin/sh".into()], env: vec![PATH.to_owned()], ..Config::default() };
    layout::write(layout, &[&base, &root], &config, TAG)
}

/// A source beside this one, with nothing that it would have to find in an image.
fn compile(source: &str, program: &Path) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/images").join(source);
    let mut compile = Command::new("musl-gcc");
    compile.args(["-static", "-O1", "-o"]).arg(program).arg(source);
    let out = compile.output().context("cannot start musl-gcc (Debian package musl-tools)")?;
    ensure!(out.status.success(), "musl-gcc: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// busybox with its applets as links, and the few files that programs look for.
fn base_root(dir: &Path) -> Result<PathBuf> {
    let root = fresh_root(dir, &dir.join("base"))?;
    for deb in debs::closure(dir, &["busybox-static"])? {
        debs::extract(&deb, &root)?;
    }
    debs::strip_documents(&root)?;
    let busybox = root.join("usr/bin/busybox");
    let list = Command::new(&busybox).arg("--list-full").output().context("cannot run busybox")?;
    for applet in String::from_utf8_lossy(&list.stdout).lines() {
        let place = root.join(applet);
        if place.symlink_metadata().is_err() && applet != "linuxrc" {
            symlink("/bin/busybox", &place).with_context(|| format!("cannot link {applet}"))?;
        }
    }
    for (path, mode, owner) in
        [("tmp", 0o1777, 0), ("var/tmp", 0o1777, 0), ("root", 0o700, 0), ("home/app", 0o755, 1000), ("run", 0o755, 0)]
    {
        let place = root.join(path);
        std::fs::create_dir_all(&place).with_context(|| format!("cannot make {path}"))?;
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {path}"))?;
        own(&place, owner)?;
    }
    for path in ["dev", "proc", "sys", "etc"] {
        std::fs::create_dir_all(root.join(path)).with_context(|| format!("cannot make {path}"))?;
    }
    put(&root, "etc/passwd", PASSWD, 0)?;
    put(&root, "etc/group", GROUP, 0)?;
    put(&root, "etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", 0)?;
    Ok(root)
}

/// An empty root with Debian's merged /usr, so that packages of either kind land in one place.
fn fresh_root(dir: &Path, layout: &Path) -> Result<PathBuf> {
    let name = layout.file_name().context("an image has no name")?.to_string_lossy();
    let root = dir.join(format!("{name}.root"));
    remake(&root)?;
    for merged in layout::MERGED {
        std::fs::create_dir_all(root.join("usr").join(merged)).with_context(|| format!("cannot make usr/{merged}"))?;
        symlink(format!("usr/{merged}"), root.join(merged)).with_context(|| format!("cannot link {merged}"))?;
    }
    Ok(root)
}

fn remake(dir: &Path) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

fn put(root: &Path, path: &str, text: &str, owner: u32) -> Result<()> {
    let place = root.join(path);
    let parent = place.parent().context("a file has no directory")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    std::fs::write(&place, text).with_context(|| format!("cannot write {path}"))?;
    own(&place, owner)
}

fn own(place: &Path, owner: u32) -> Result<()> {
    chown(place, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))
        .with_context(|| format!("cannot give {} to uid {owner}", place.display()))
}
