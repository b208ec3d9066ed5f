//! Where an archive's files land, and what a hostile one comes to.

use super::*;

fn archive(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        // As whoever tests: what it may not do is not what is tested.
        header.set_uid(u64::from(rustix::process::getuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getgid().as_raw()));
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.set_size(0);
            builder.append_link(&mut header, path, std::str::from_utf8(data).unwrap()).unwrap();
        } else {
            header.set_size(data.len() as u64);
            // Names that the builder would not write.
            let name = &mut header.as_old_mut().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, *data).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

fn put(dir: &Path, path: &str, what: What, archive: &[u8]) -> Result<Copied, CopyError> {
    let root = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    receive(&root, path, &what, true, &mut &archive[..])
}

fn file(name: &str) -> What {
    What::File { name: name.to_owned() }
}

fn directory(name: &str, contents: bool) -> What {
    What::Directory { name: name.to_owned(), contents }
}

#[test]
fn a_file_lands_where_cp_would_put_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    std::fs::create_dir(at("tmp")).unwrap();
    let one = archive(&[("x", EntryType::Regular, b"new")]);
    for (path, lands) in [("/tmp", "tmp/a"), ("/tmp/", "tmp/a"), ("/tmp/b", "tmp/b"), ("c", "c"), ("/tmp/b", "tmp/b")] {
        let copied = put(dir.path(), path, file("a"), &one).unwrap();
        assert_eq!(copied, Copied { entries: 1, bytes: 3, skipped: 0 });
        assert_eq!(std::fs::read(at(lands)).unwrap(), b"new", "{path}");
    }
    let missing = |path: &str| matches!(put(dir.path(), path, file("a"), &one), Err(CopyError::NotFound(_)));
    assert!(missing("/no/b") && missing("/no/"));
    let refused = |path: &str, what| matches!(put(dir.path(), path, what, &one), Err(CopyError::Refused(_)));
    assert!(refused("/c/", file("a")) && refused("/c", directory("a", false)) && refused("/c", What::Archive));
    assert!(refused("/tmp", file("..")) && refused("/tmp", file("a/b")) && refused("/", file("tmp")));
}

#[test]
fn a_directory_lands_as_itself_or_by_its_contents() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    std::fs::create_dir(at("srv")).unwrap();
    let tree = archive(&[("d", EntryType::Directory, b""), ("d/f", EntryType::Regular, b"1")]);
    put(dir.path(), "/srv", directory("name", false), &tree).unwrap();
    assert!(at("srv/name/f").is_file());
    put(dir.path(), "/srv", directory("name", true), &tree).unwrap();
    assert!(at("srv/f").is_file());
    put(dir.path(), "/new", directory("name", false), &tree).unwrap();
    assert!(at("new/f").is_file() && !at("new/name").exists());
    put(dir.path(), "/srv", What::Archive, &tree).unwrap();
    assert!(at("srv/d/f").is_file());
    std::fs::remove_file(at("new/f")).unwrap();
    std::fs::create_dir(at("new/f")).unwrap();
    assert!(matches!(put(dir.path(), "/new", directory("n", true), &tree), Err(CopyError::Refused(_))));
}

#[test]
fn hostile_archives_stay_inside() {
    let outside = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("tmp")).unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, b"host").unwrap();
    for name in ["../escape", "a/../../escape", ".."] {
        let up = archive(&[(name, EntryType::Regular, b"x")]);
        assert!(matches!(put(dir.path(), "/tmp", What::Archive, &up), Err(CopyError::Refused(_))), "{name}");
    }
    // Through a symlink to the host's files: they are the container's of the same name.
    let target = outside.path().to_str().unwrap();
    let through = archive(&[("l", EntryType::Symlink, target.as_bytes()), ("l/secret", EntryType::Regular, b"mine")]);
    let _ = put(dir.path(), "/tmp", What::Archive, &through);
    assert_eq!(std::fs::read(&secret).unwrap(), b"host");
    let link = secret.to_str().unwrap();
    let linked = archive(&[("h", EntryType::Link, link.as_bytes()), ("h", EntryType::Regular, b"mine")]);
    assert!(matches!(
        put(dir.path(), "/tmp", What::Archive, &linked),
        Err(CopyError::NotFound(_) | CopyError::Refused(_))
    ));
    assert_eq!(std::fs::read(&secret).unwrap(), b"host");
    let whole = archive(&[("a", EntryType::Regular, &[7; 4096])]);
    assert!(matches!(put(dir.path(), "/tmp", What::Archive, &whole[..1024]), Err(CopyError::Refused(_))), "breaks off");
}
