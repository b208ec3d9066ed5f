//! A layer's archive, unpacked as the confined child does it, but without what confines that: still nothing outside the root changes. An
//! input is a list of entries, so that their headers are right more often than not, or the
//! archive itself. Refuses to run where there is more to lose than a directory of its own.

use std::fs;
use std::os::fd::OwnedFd;

use cc_host::image::fuzzing::{Report, unpack_layer};

use crate::input::Input;

const ENTRIES_MAX: usize = 24;
/// Types, of which the last is unknown.
const TYPES: [u8; 12] = *b"0\x0051234672xq";
/// Names that meet each other.
const NAMES: [&[u8]; 16] = [
    b"a",
    b"a/b",
    b"a/b/c",
    b"b",
    b"../outside",
    b"/a/../../outside",
    b".wh.a",
    b"a/.wh..wh..opq",
    b"a/.wh.b",
    b"./",
    b"l",
    b"l/x",
    b"l/outside",
    b".wh..wh.plnk",
    b"a/",
    b"l/../../outside",
];
const TARGETS: [&[u8]; 8] = [b"a", b"..", b"../outside", b"/", b"/a", b"../../../../../../../../tmp", b"l", b"."];
const OUTSIDE: &str = "nobody has written here";

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let archive = if input.flag() { input.rest().to_vec() } else { build(&mut input) };
    // A sparse file of 64 GiB is read to its end: long, and nothing else.
    if claims_much(&archive) {
        return;
    }
    let base = tempfile::tempdir().expect("there is room for a directory");
    let (root, outside) = (base.path().join("root"), base.path().join("outside"));
    fs::create_dir(&root).expect("it is our own");
    fs::write(&outside, OUTSIDE).expect("it is our own");
    let report = unpack_layer(archive.as_slice(), OwnedFd::from(fs::File::open(&root).expect("it was made")));
    serde_json::to_vec(&report).expect("a report can be written");
    assert_eq!(fs::read(&outside).expect("it was made"), OUTSIDE.as_bytes());
    assert_eq!(fs::read_dir(base.path()).expect("it was made").count(), 2, "nothing is made outside the root");
    if let Report::Done { bytes, .. } = report {
        assert!(bytes <= archive.len() as u64, "files are no larger than what they were in");
    }
}

/// Whether there may be a sparse file, which is larger than what the archive holds of it.
fn claims_much(archive: &[u8]) -> bool {
    archive.chunks(512).any(|block| block.get(156) == Some(&b'S'))
}

fn build(input: &mut Input<'_>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for _ in 0..ENTRIES_MAX {
        if input.is_empty() {
            break;
        }
        let choice = input.u8();
        let name = if choice & 0x80 == 0 { NAMES[usize::from(choice & 15)] } else { input.piece() };
        let kind = input.pick(&TYPES);
        let target = if choice & 0x40 == 0 { TARGETS[usize::from(choice >> 3 & 7)] } else { input.piece() };
        let data = if matches!(kind, b'0' | 0 | b'7' | b'x') { input.piece() } else { &[] };
        let mut header = tar::Header::new_ustar();
        let bytes = header.as_mut_bytes();
        let (name, target) = (&name[..name.len().min(100)], &target[..target.len().min(100)]);
        bytes[..name.len()].copy_from_slice(name);
        bytes[157..157 + target.len()].copy_from_slice(target);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(u32::from(input.u16()));
        header.set_uid(u64::from(choice & 3));
        header.set_gid(0);
        header.set_mtime(u64::from(input.u8()) << (choice & 31));
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).expect("a vector takes it");
    }
    builder.into_inner().expect("a vector takes it")
}
