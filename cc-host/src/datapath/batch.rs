//! Many rows of a map in one system call, which aya does not do: a million prefixes take a second so, and three one by one. Refuses to
//! know what the rows mean.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd};

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_MAP_DELETE_BATCH: libc::c_int = 27;
/// The kernel copies that much at a time; a call that is interrupted is not, but the next one is not begun.
const ROWS_PER_CALL: usize = 16_384;
/// Rows are read in smaller pieces: they are copied into memory of ours, which stays small.
const ROWS_PER_READ: usize = 2_048;

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

/// Shows every row of a hash table or an array to `look`, until that breaks off. The kernel goes from bucket to bucket, so it ends
/// however fast the table changes.
pub fn each<K: aya::Pod + Default, V: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    mut look: impl FnMut(&K, &V) -> ControlFlow<()>,
) -> io::Result<()> {
    each_of_cpus(map, 1, |key, values: &[V]| look(key, &values[0]))
}

/// The same of a table that has a value for each CPU: `look` gets all of a row's. The kernel puts each at a multiple of eight bytes, so the
/// size of one must be such.
pub fn each_of_cpus<K: aya::Pod + Default, V: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    cpus: usize,
    mut look: impl FnMut(&K, &[V]) -> ControlFlow<()>,
) -> io::Result<()> {
    assert!(cpus == 1 || size_of::<V>().is_multiple_of(8), "values lie side by side");
    let (mut keys, mut values) = (vec![K::default(); ROWS_PER_READ], vec![V::default(); ROWS_PER_READ * cpus]);
    // The bucket after the last one that was read, or of an array its index: the kernel's to understand.
    let (mut next, mut begun) = (0u32, false);
    loop {
        let mut after = next;
        let mut batch = Batch {
            in_batch: if begun { (&raw const next) as u64 } else { 0 },
            out_batch: (&raw mut after) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            ..of(map, keys.len())?
        };
        // SAFETY: as in `call`; the kernel writes at most `count` keys and values, where there is room for as many, a word to
        // `out_batch`, and how many it has written into `count`.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, std::ptr::from_mut(&mut batch), size_of::<Batch>())
        };
        let error = (result != 0).then(io::Error::last_os_error);
        let is_last = match error.as_ref().map(|error| error.raw_os_error()) {
            None => false,
            Some(Some(libc::ENOENT)) => true,
            // One bucket holds more than there is room for.
            Some(Some(libc::ENOSPC)) => {
                keys.resize(keys.len() * 2, K::default());
                values.resize(keys.len() * cpus, V::default());
                continue;
            }
            Some(_) => return Err(error.expect("it is the one that was looked at")),
        };
        let count = (batch.count as usize).min(keys.len());
        if keys[..count].iter().zip(values.chunks_exact(cpus)).any(|(key, value)| look(key, value).is_break())
            || is_last
        {
            return Ok(());
        }
        (next, begun) = (after, true);
    }
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
