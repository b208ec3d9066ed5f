//! A hostile layer is refused, or stays inside its own directory: traversal, links, bombs, lies about sizes and digests.
//! Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod image_support;
use image_support::*;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

async fn refused(entries: &[Entry]) -> String {
    let world = world();
    let error = world.layer(entries).await.expect_err("the layer was taken");
    assert!(world.names("layers").is_empty(), "a refused layer was put in place");
    assert!(world.names("tmp").is_empty(), "a refused layer left something behind");
    why(error)
}

#[tokio::test]
async fn upward_names_are_refused() {
    for name in ["../x", "a/../../b", "a/..", "/../x", ".."] {
        let why = refused(&[file(name, b"x")]).await;
        assert!(why.starts_with("image.layer_refused") && why.contains("holds .."), "{name}: {why}");
    }
    let why = refused(&[hard_link("a", "../../etc/shadow")]).await;
    assert!(why.contains("holds .."), "{why}");
    for name in [".wh..", ".wh...", ".wh."] {
        let why = refused(&[file(name, b"")]).await;
        assert!(why.contains("names nothing"), "{why}");
    }
}

#[tokio::test]
async fn absolute_names_are_below_the_root() {
    let world = world();
    let root = world.layer(&[file("/abs/file", b"inside")]).await.unwrap();
    assert_eq!(std::fs::read(root.join("abs/file")).unwrap(), b"inside");
    assert!(!exists(std::path::Path::new("/abs/file")));
}

#[tokio::test]
async fn a_hard_link_to_a_file_of_the_host_finds_nothing() {
    let why = refused(&[hard_link("shadow", "/etc/shadow")]).await;
    assert!(why.contains("this layer has not"), "{why}");
    // Nor through a symlink that points out.
    let why = refused(&[symlink("etc", "/etc"), hard_link("shadow", "etc/shadow")]).await;
    assert!(why.starts_with("image.layer_refused"), "{why}");
    let world = world();
    let root = world.layer(&[symlink("out", "/etc/passwd"), hard_link("linked", "out")]).await.unwrap();
    assert!(root.join("linked").symlink_metadata().unwrap().is_symlink(), "the symlink itself is linked");
}

#[tokio::test]
async fn writing_through_symlinks_stays_inside() {
    let world = world();
    let outside = world.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let target = outside.to_str().unwrap();
    let why1 = why(world.layer(&[symlink("door", target), file("door/x", b"escaped")]).await.unwrap_err());
    assert!(why1.contains("symlink to nothing"), "{why1}");
    // With the target present inside, that is where it goes.
    let inside = format!("{}/keep", &target[1..]);
    let root = world.layer(&[file(&inside, b""), symlink("door", target), file("door/x", b"inside")]).await.unwrap();
    assert_eq!(std::fs::read(root.join(&target[1..]).join("x")).unwrap(), b"inside");
    let up = "../".repeat(20);
    let root = world.layer(&[dir("b"), symlink("a", &format!("{up}b")), file("a/x", b"1")]).await.unwrap();
    assert_eq!(std::fs::read(root.join("b/x")).unwrap(), b"1");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    let why2 = why(world.layer(&[symlink("l", "l"), file("l/x", b"")]).await.unwrap_err());
    assert!(why2.contains("loop"), "{why2}");
}

/// A file that replaces a symlink is a new file: its target is not written.
#[tokio::test]
async fn a_file_replaces_a_symlink_and_does_not_follow_it() {
    let world = world();
    let victim = world.dir.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let entries = [symlink("f", victim.to_str().unwrap()), file("f", b"new")];
    let root = world.layer(&entries).await.unwrap();
    assert_eq!(std::fs::read(root.join("f")).unwrap(), b"new");
    assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
}

/// CVE-2026-33056: a directory entry over a symlink must not change the mode of what the symlink leads to.
#[tokio::test]
async fn a_directory_entry_does_not_chmod_through_a_symlink() {
    let world = world();
    let victim = world.dir.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::set_permissions(&victim, PermissionsExt::from_mode(0o700)).unwrap();
    let open = Entry { mode: 0o777, ..dir("d") };
    let root = world.layer(&[symlink("d", victim.to_str().unwrap()), open]).await.unwrap();
    assert_eq!(victim.metadata().unwrap().mode() & 0o7777, 0o700);
    assert!(root.join("d").symlink_metadata().unwrap().is_dir());
    // And inside: the symlink's target keeps its mode too.
    let open = Entry { mode: 0o777, ..dir("d") };
    let root = world.layer(&[Entry { mode: 0o700, ..dir("real") }, symlink("d", "real"), open]).await.unwrap();
    assert_eq!(root.join("real").metadata().unwrap().mode() & 0o7777, 0o700);
}

/// CVE-2025-62518: where a PAX size and the header's size differ, the PAX size counts; data must not be read as headers.
#[tokio::test]
async fn a_pax_size_rules_over_the_headers() {
    let hidden = tar_of(&[file("smuggled", b"evil")]);
    let outer = Entry { size: Some(0), ..file("archive", &hidden) };
    let size = hidden.len().to_string();
    let world = world();
    let root = world.layer(&[pax(&[("size", size.as_bytes())]), outer, file("after", b"")]).await.unwrap();
    assert!(!exists(&root.join("smuggled")), "data was read as entries");
    assert_eq!(std::fs::read(root.join("archive")).unwrap(), hidden);
    assert!(exists(&root.join("after")));
}

#[tokio::test]
async fn owners_that_fit_no_container_are_refused() {
    let why = refused(&[Entry { uid: 65_536, ..file("f", b"") }]).await;
    assert!(why.contains("65536 ids"), "{why}");
    let why = refused(&[pax(&[("uid", b"4294967296")]), file("f", b"")]).await;
    assert!(why.contains("65536 ids"), "{why}");
    let world = world();
    let root = world.layer(&[Entry { uid: 65_535, mode: 0o6755, ..file("f", b"") }]).await.unwrap();
    let meta = root.join("f").metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (65_535, 65_535, 0o6755));
}

#[tokio::test]
async fn devices_are_left_out_and_fifos_made() {
    let world = world();
    let root = world.layer(&[entry("sda", b'4'), entry("zero", b'3'), entry("pipe", b'6')]).await.unwrap();
    assert!(!exists(&root.join("sda")) && !exists(&root.join("zero")));
    assert!(root.join("pipe").symlink_metadata().unwrap().file_type().is_fifo());
}

#[tokio::test]
async fn attributes_that_speak_to_overlayfs_or_the_host_are_dropped() {
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"label"),
        ("SCHILY.xattr.user.kept", b"yes"),
        ("mtime", b"1500000000.5"),
    ];
    let world = world();
    let root = world.layer(&[pax(records), file("f", b"")]).await.unwrap();
    let mut names = [0u8; 512];
    let n = rustix::fs::listxattr(root.join("f"), &mut names).unwrap();
    assert_eq!(&names[..n], b"user.kept\0");
    let meta = root.join("f").metadata().unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_500_000_000, 500_000_000));
}

#[tokio::test]
async fn file_capabilities_survive() {
    // Version 2, cap_net_raw permitted and effective.
    let value: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let world = world();
    let root = world
        .layer(&[pax(&[("SCHILY.xattr.security.capability", value)]), Entry { uid: 7, ..file("ping", b"x") }])
        .await
        .unwrap();
    let mut found = [0u8; 64];
    let n = rustix::fs::getxattr(root.join("ping"), "security.capability", &mut found).unwrap();
    assert_eq!(&found[..n], value);
}

#[tokio::test]
async fn long_names_and_sparse_files() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let mut zeros = vec![0u8; 8 << 20];
    zeros[0] = 1;
    let world = world();
    let root =
        world.layer(&[pax(&[("path", long.as_bytes())]), file("short", b"long"), file("disk", &zeros)]).await.unwrap();
    assert_eq!(std::fs::read(root.join(&long)).unwrap(), b"long");
    let meta = root.join("disk").metadata().unwrap();
    assert_eq!(meta.len(), 8 << 20);
    assert!(meta.blocks() * 512 < 1 << 20, "zeros take disk: {} blocks", meta.blocks());
    let why = refused(&[pax(&[("GNU.sparse.major", b"1")]), file("f", b"")]).await;
    assert!(why.contains("sparse"), "{why}");
}

#[tokio::test]
async fn a_truncated_archive_is_refused() {
    let mut bytes = tar_of(&[file("f", &[7; 4000])]);
    bytes.truncate(2000);
    let world = world();
    let error = world.load("test", &Layout::plain(&[bytes])).await.unwrap_err();
    assert!(why(error).contains("breaks off after"));
    let error = world.load("test", &Layout::plain(&[b"not a tar at all".repeat(64)])).await.unwrap_err();
    assert!(why(error).contains("archive is broken"));
}

/// 300 MiB of zeros in less than two: the ratio stops it.
#[tokio::test]
async fn bombs_are_refused() {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let head = Entry { size: Some(300 << 20), ..file("zeros", b"") };
    let mut start = tar_of(&[head]);
    start.truncate(512);
    encoder.write_all(&start).unwrap();
    let zeros = vec![0u8; 1 << 20];
    for _ in 0..300 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let world = world();
    let layout = Layout {
        blobs: vec![bomb],
        diff_ids: vec![sha256(b"whatever")],
        run: serde_json::json!({}),
        layer_digests: None,
    };
    let why1 = why(world.load("test", &layout).await.unwrap_err());
    assert!(why1.starts_with("image.limit") && why1.contains("per compressed byte"), "{why1}");
    assert!(world.names("layers").is_empty() && world.names("tmp").is_empty());
    assert_eq!(std::process::Command::new("true").status().unwrap().code(), Some(0));
}

#[tokio::test]
async fn digests_and_diff_ids_are_checked() {
    let layer = tar_of(&[file("f", b"x")]);
    let world = world();
    let wrong_id = Layout { diff_ids: vec![sha256(b"other")], ..Layout::plain(std::slice::from_ref(&layer)) };
    let why1 = why(world.load("test", &wrong_id).await.unwrap_err());
    assert!(why1.starts_with("image.digest_mismatch") && why1.contains("uncompressed layer"), "{why1}");
    let wrong_blob =
        Layout { layer_digests: Some(vec![sha256(b"other")]), ..Layout::plain(std::slice::from_ref(&layer)) };
    let why2 = why(world.load("test", &wrong_blob).await.unwrap_err());
    assert!(why2.starts_with("image.digest_mismatch") && why2.contains("blob"), "{why2}");
    // Bytes after the compressed stream count as well.
    let mut padded = gzip(&layer);
    let honest = sha256(&padded);
    padded.extend_from_slice(&[0; 100]);
    let trailing = Layout { blobs: vec![padded], layer_digests: Some(vec![honest]), ..Layout::plain(&[layer]) };
    let why3 = why(world.load("test", &trailing).await.unwrap_err());
    assert!(why3.starts_with("image.digest_mismatch") || why3.starts_with("image.layer_refused"), "{why3}");
    assert!(world.names("layers").is_empty());
}

#[tokio::test]
async fn hostile_configs_are_refused() {
    let world = world();
    for (run, word) in [
        (serde_json::json!({"Env": ["PATH"]}), "NAME=VALUE"),
        (serde_json::json!({"Env": ["A=\u{0}"]}), "NUL"),
        (serde_json::json!({"WorkingDir": "relative"}), "not absolute"),
        (serde_json::json!({"WorkingDir": "/a/../../b"}), ".."),
        (serde_json::json!({"User": "root\nadmin"}), "user"),
        (serde_json::json!({"StopSignal": "TERM; rm"}), "stop signal"),
        (serde_json::json!({"Cmd": ["x".repeat(200_000)]}), "larger"),
    ] {
        let layout = Layout { run, ..Layout::plain(&[tar_of(&[file("f", b"")])]) };
        let why = why(world.load("test", &layout).await.unwrap_err());
        assert!(why.starts_with("image.malformed") && why.contains(word), "{word}: {why}");
    }
    let many = Layout::plain(&vec![tar_of(&[file("f", b"")]); 129]);
    assert!(why(world.load("test", &many).await.unwrap_err()).contains("layers"));
    assert!(world.names("layers").is_empty());
}

/// CVE-2022-23648: a volume of an image is a path that names files of the host, for whoever copies what is there. Nobody does here.
#[tokio::test]
async fn cve_2022_23648_volumes_of_an_image_mean_nothing() {
    let world = world();
    let run = serde_json::json!({"Volumes": {"/../../../../../../etc": {}, "/proc/self/root/etc": {}, "x\u{0}": {}}});
    let layout = Layout { run, ..Layout::plain(&[tar_of(&[file("f", b"x")])]) };
    let record = world.load("test", &layout).await.unwrap();
    let kept = serde_json::to_string(&record).unwrap();
    assert!(!kept.contains("..") && !kept.contains("/etc"), "{kept}");
}
