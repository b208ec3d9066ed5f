//! Many rows of a map in one system call, which aya does not do: a million prefixes take a second so, and three one by one. Refuses to
//! know what the rows mean.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_MAP_DELETE_BATCH: libc::c_int = 27;
/// The kernel copies that much at a time; a call that is interrupted is not, but the next one is not begun.
const ROWS_PER_CALL: usize = 16_384;

/// The part of the kernel's `bpf_attr` that batches take.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Writes all rows, or says what the kernel said to the first that it did not take; those before it are written.
pub fn update<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    assert_eq!(keys.len(), values.len(), "a row is a key and a value");
    for (keys, values) in keys.chunks(ROWS_PER_CALL).zip(values.chunks(ROWS_PER_CALL)) {
        let batch = Batch { keys: keys.as_ptr() as u64, values: values.as_ptr() as u64, ..of(map, keys.len())? };
        call(BPF_MAP_UPDATE_BATCH, &batch)?;
    }
    Ok(())
}

/// Deletes all rows. One that is not there is passed over.
pub fn delete<K: aya::Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    let mut left = keys;
    while !left.is_empty() {
        let now = &left[..left.len().min(ROWS_PER_CALL)];
        let mut batch = Batch { keys: now.as_ptr() as u64, ..of(map, now.len())? };
        let done = delete_some(&mut batch)?;
        left = &left[done..];
    }
    Ok(())
}

/// How many keys are dealt with: the kernel stops at one that is not there, and says how many it has deleted before.
fn delete_some(batch: &mut Batch) -> io::Result<usize> {
    let asked = batch.count as usize;
    // SAFETY: as in `call`; the kernel writes the number of rows that it has dealt with into `count`.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_DELETE_BATCH, std::ptr::from_mut(batch), size_of::<Batch>()) };
    if result == 0 {
        return Ok(asked);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(batch.count as usize + 1),
        error => Err(error),
    }
}

fn of(map: BorrowedFd<'_>, rows: usize) -> io::Result<Batch> {
    Ok(Batch {
        count: u32::try_from(rows).map_err(io::Error::other)?,
        map_fd: u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?,
        ..Batch::default()
    })
}

fn call(command: libc::c_int, batch: &Batch) -> io::Result<()> {
    let mut batch = Batch { ..*batch };
    // SAFETY: the struct is the kernel's for this command; it points at as many keys and values as it counts, of the map's own
    // sizes, which whoever opened the map has checked, and which live through the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut batch, size_of::<Batch>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
