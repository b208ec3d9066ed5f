//! Layouts made on the spot, good and hostile.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use super::*;

struct Made {
    dir: tempfile::TempDir,
    layer: String,
    manifest: String,
}

fn put(dir: &Path, bytes: &[u8]) -> String {
    let digest = hex(&Sha256::digest(bytes));
    fs::write(dir.join("blobs/sha256").join(&digest), bytes).unwrap();
    digest
}

fn made(names: &[&str]) -> Made {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("blobs/sha256")).unwrap();
    put(root, b"unreachable");
    let (config, layer) = (put(root, b"{}"), put(root, b"layer"));
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": {"digest": format!("sha256:{config}"), "size": 2},
        "layers": [{"digest": format!("sha256:{layer}"), "size": 5}, {"digest": format!("sha256:{layer}"), "size": 5}],
    })
    .to_string();
    let digest = put(root, manifest.as_bytes());
    let entry = |name: &&str| serde_json::json!({"digest": format!("sha256:{digest}"), "size": manifest.len(), "annotations": {REF_NAME: name}});
    let index = serde_json::json!({"manifests": names.iter().map(entry).collect::<Vec<_>>()});
    fs::write(root.join("index.json"), index.to_string()).unwrap();
    fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    Made { dir, layer, manifest: digest }
}

#[test]
fn only_reachable_blobs_are_sent_and_once() {
    let made = made(&["v1", "r.io/x:v2"]);
    let layout = Layout::open(made.dir.path(), Some("v2")).unwrap();
    assert_eq!(layout.digest(), format!("sha256:{}", made.manifest));
    let mut bytes = Vec::new();
    layout.write_tar(&mut bytes).unwrap();
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut body = Vec::new();
        entry.read_to_end(&mut body).unwrap();
        assert!(files.insert(entry.path().unwrap().display().to_string(), body).is_none());
    }
    assert_eq!(files.len(), 5, "{:?}", files.keys());
    assert_eq!(files[&format!("blobs/sha256/{}", made.layer)], b"layer");
    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(ref_name(&index["manifests"][0]), Some("r.io/x:v2"));
}

#[test]
fn tags_are_needed_only_where_they_decide() {
    let open = |names: &[&str], tag| Layout::open(made(names).dir.path(), tag).map(|_| ());
    assert!(open(&["v1"], None).is_ok() && open(&["v1", "latest"], None).is_ok());
    assert!(matches!(open(&["v1", "v2"], None), Err(LayoutError::Ambiguous(known)) if known == "v1, v2"));
    assert!(matches!(open(&["v1"], Some("no")), Err(LayoutError::NoSuchTag { .. })));
    assert!(matches!(open(&[], None), Err(LayoutError::Empty)));
}

#[test]
fn a_link_out_of_the_layout_is_refused() {
    let made = made(&["v1"]);
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), b"layer").unwrap();
    let blob = made.dir.path().join("blobs/sha256").join(&made.layer);
    fs::remove_file(&blob).unwrap();
    symlink(outside.path(), &blob).unwrap();
    let sent = Layout::open(made.dir.path(), None).unwrap().write_tar(io::sink());
    assert!(matches!(sent, Err(LayoutError::Open { .. })), "{sent:?}");
}

#[test]
fn blobs_that_lie_are_refused() {
    let made = made(&["v1"]);
    fs::write(made.dir.path().join("blobs/sha256").join(&made.layer), b"longer layer").unwrap();
    let sent = Layout::open(made.dir.path(), None).unwrap().write_tar(io::sink());
    assert!(matches!(sent, Err(LayoutError::Size { expected: 5, found: 12, .. })), "{sent:?}");
    fs::write(made.dir.path().join("blobs/sha256").join(&made.manifest), b"{}").unwrap();
    assert!(matches!(Layout::open(made.dir.path(), None), Err(LayoutError::Contents(_))));
}

#[test]
fn a_digest_is_not_a_path() {
    for bad in ["sha256:../../etc/passwd", "sha512:00", "sha256:AA", ""] {
        assert!(matches!(blob_path(bad), Err(LayoutError::Digest(_))), "{bad}");
    }
}
