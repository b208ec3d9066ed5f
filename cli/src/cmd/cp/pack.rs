//! A local file or directory as an archive for a container. Refuses to follow a symlink below what was named.

use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use tar::{Builder, HeaderMode};

use super::place::Source;
use super::{CpError, disk};

/// Gives how much was left out.
pub fn pack(source: &Source, out: impl Write) -> Result<u64, CpError> {
    let mut builder = Builder::new(out);
    builder.mode(HeaderMode::Complete);
    builder.follow_symlinks(false);
    let mut skipped = 0;
    one(&mut builder, &source.path, Path::new(&source.name), &mut skipped)?;
    builder.into_inner().and_then(|mut out| out.flush()).map_err(disk("send", &source.path))?;
    Ok(skipped)
}

fn one(builder: &mut Builder<impl Write>, path: &Path, name: &Path, skipped: &mut u64) -> Result<(), CpError> {
    let metadata = fs::symlink_metadata(path).map_err(disk("read", path))?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        builder.append_dir(name, path).map_err(disk("read", path))?;
        for entry in fs::read_dir(path).map_err(disk("read", path))? {
            let entry = entry.map_err(disk("read", path))?;
            one(builder, &entry.path(), &name.join(entry.file_name()), skipped)?;
        }
        return Ok(());
    }
    if kind.is_file() {
        let file = File::open(path).map_err(disk("read", path))?;
        let metadata = file.metadata().map_err(disk("read", path))?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata_in_mode(&metadata, HeaderMode::Complete);
        // One that grows meanwhile is as long as it was; what one that shrinks lacks is read as zeros.
        let data = file.chain(io::repeat(0)).take(metadata.len());
        return builder.append_data(&mut header, name, data).map_err(disk("read", path));
    }
    if kind.is_symlink() || kind.is_fifo() {
        return builder.append_path_with_name(path, name).map_err(disk("read", path));
    }
    *skipped += 1;
    Ok(())
}
