//! Debian packages as files: found with their libraries, downloaded once, unpacked. Refuses to install any.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// Wanted by maintainer scripts and by people at a shell, not by the programs themselves.
const LEFT_OUT: &[&str] = &[
    "adduser",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "install-info",
    "iproute2",
    "lsb-base",
    "mime-support",
    "media-types",
    "passwd",
    "perl",
    "perl-base",
    "readline-common",
    "sysvinit-utils",
    "tar",
    "ucf",
    "usrmerge",
    "usr-is-merged",
    "libnginx-mod-http-echo",
    "cdebconf",
    "debconf-2.0",
];

/// The packages' files and those of all they need, in a fixed order; downloaded if they are not in `dir`/debs yet.
pub fn closure(dir: &Path, packages: &[&str]) -> Result<Vec<PathBuf>> {
    let store = dir.join("debs");
    std::fs::create_dir_all(&store).with_context(|| format!("cannot make {}", store.display()))?;
    let names = needed(packages)?;
    let missing: Vec<&String> = names.iter().filter(|name| stored(&store, name).is_none()).collect();
    if !missing.is_empty() {
        let mut get = Command::new("apt-get");
        get.current_dir(&store).args(["download", "-q", "-o", "APT::Sandbox::User=root"]).args(&missing);
        let out = get.stdin(Stdio::null()).output().context("cannot start apt-get")?;
        ensure!(
            out.status.success(),
            "apt-get download {missing:?}: {}; if the lists are old, apt-get update",
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    names.iter().map(|name| stored(&store, name).with_context(|| format!("apt-get gave no file for {name}"))).collect()
}

/// The program of a package's own name, from that package alone, unpacked into `dir`/`root`: the host's own libraries do for it, and
/// nothing is installed that would be started.
pub fn program(dir: &Path, package: &str, root: &str) -> Result<PathBuf> {
    let root = dir.join(root);
    let program = root.join("usr/bin").join(package);
    if !program.is_file() {
        std::fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        let prefix = format!("{package}_");
        for deb in closure(dir, &[package])? {
            if deb.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)) {
                extract(&deb, &root)?;
            }
        }
        ensure!(program.is_file(), "the package {package} holds no {}", program.display());
    }
    Ok(program)
}

fn stored(store: &Path, name: &str) -> Option<PathBuf> {
    let prefix = format!("{name}_");
    let entries = std::fs::read_dir(store).ok()?.flatten();
    let found = entries.filter(|entry| {
        let file = entry.file_name();
        let file = file.to_string_lossy();
        file.starts_with(&prefix) && file.ends_with(".deb")
    });
    found.map(|entry| entry.path()).max()
}

fn needed(packages: &[&str]) -> Result<BTreeSet<String>> {
    let mut ask = Command::new("apt-cache");
    ask.args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks"]);
    ask.args(["--no-replaces", "--no-enhances"]).args(packages);
    let Ok(out) = ask.stdin(Stdio::null()).output() else {
        bail!("there is no apt here, and the images are made of Debian packages: {}", packages.join(", "));
    };
    ensure!(out.status.success(), "apt-cache depends {packages:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
    let graph = parse(&String::from_utf8_lossy(&out.stdout));
    let mut names = BTreeSet::new();
    let mut ahead: Vec<String> = packages.iter().map(|&name| name.to_owned()).collect();
    while let Some(name) = ahead.pop() {
        if LEFT_OUT.contains(&name.as_str()) || name.ends_with("-base") && name.starts_with("gcc-") {
            continue;
        }
        if names.insert(name.clone()) {
            ahead.extend(graph.get(&name).into_iter().flatten().cloned());
        }
    }
    Ok(names)
}

/// Of alternatives the first is taken; of a virtual package, in angle brackets, the first that provides it.
fn parse(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut graph: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut package = String::new();
    let (mut or_else, mut virtual_one) = (false, false);
    for line in text.lines() {
        if !line.starts_with(' ') {
            package = line.to_owned();
            graph.entry(package.clone()).or_default();
            (or_else, virtual_one) = (false, false);
            continue;
        }
        let add = |graph: &mut BTreeMap<String, Vec<String>>, name: &str| {
            let name = name.split(':').next().unwrap_or(name);
            graph.entry(package.clone()).or_default().push(name.to_owned());
        };
        let alternative = line.starts_with(" |");
        let Some((_, name)) = line.split_once("Depends: ") else {
            if virtual_one && line.starts_with("    ") {
                add(&mut graph, line.trim());
                virtual_one = false;
            }
            continue;
        };
        if !or_else {
            virtual_one = name.starts_with('<');
            if !virtual_one {
                add(&mut graph, name.trim());
            }
        }
        or_else = alternative;
    }
    graph
}

/// A package that says /lib means /usr/lib: the links of the root are kept, not replaced by directories.
pub fn extract(deb: &Path, root: &Path) -> Result<()> {
    let mut unpack = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let out = unpack.stdout.take().context("dpkg-deb's output was not piped")?;
    let tar = Command::new("tar")
        .args(["-x", "-p", "--numeric-owner", "--keep-directory-symlink", "-C"])
        .arg(root)
        .stdin(out)
        .status()
        .context("cannot start tar")?;
    let done = unpack.wait().context("cannot wait for dpkg-deb")?;
    ensure!(tar.success() && done.success(), "cannot unpack {}: dpkg-deb {done}, tar {tar}", deb.display());
    Ok(())
}

pub fn strip_documents(root: &Path) -> Result<()> {
    for path in ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/bug"] {
        let place = root.join(path);
        if place.exists() {
            std::fs::remove_dir_all(&place).with_context(|| format!("cannot remove {path}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_and_virtual_packages_are_resolved_to_one() {
        let text = "a\n |Depends: b\n  Depends: c\n  Depends: <v>\n    provider\n    other\n  PreDepends: d:any\nb\n";
        let graph = parse(text);
        assert_eq!(graph["a"], ["b", "provider", "d"]);
        assert!(graph["b"].is_empty());
    }
}
