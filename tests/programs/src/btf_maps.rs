//! Maps in memory, under aya's names. Keys are compared byte by byte, as the kernel compares them. A row that goes stays mapped until
//! everything is forgotten, as the kernel keeps it until the program ends. Refuses to be used by two threads: `kernel::Kernel` is the lock.

use std::borrow::Borrow;
use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;

const EXISTS: i32 = -17;
const MISSING: i32 = -2;
const TOO_BIG: i32 = -7;
const NOEXIST: u64 = 1;

type Callback = unsafe extern "C" fn(*mut c_void, *const c_void, *mut c_void, *mut c_void) -> i64;

/// What a pointer to any map leads to: how its rows are visited.
#[repr(C)]
pub struct Head {
    each: unsafe fn(*mut c_void, Callback, *mut c_void),
}

/// # Safety
/// `map` is one of this file's, and `callback` takes its rows and `argument`.
pub unsafe fn for_each(map: *mut c_void, callback: *mut c_void, argument: *mut c_void) {
    // SAFETY: every map begins with its head; the callback is of the type that the kernel calls.
    unsafe { ((*map.cast::<Head>()).each)(map, std::mem::transmute::<*mut c_void, Callback>(callback), argument) }
}

/// Rows by their keys' bytes.
struct Rows<V> {
    rows: BTreeMap<Vec<u8>, Box<V>>,
    gone: Vec<Box<V>>,
}

impl<V> Rows<V> {
    const fn new() -> Self {
        Rows { rows: BTreeMap::new(), gone: Vec::new() }
    }

    fn insert(&mut self, key: Vec<u8>, value: V, flags: u64, most: usize) -> Result<(), i32> {
        let is_there = self.rows.contains_key(&key);
        if is_there && flags & NOEXIST != 0 {
            return Err(EXISTS);
        }
        if !is_there && self.rows.len() >= most {
            return Err(TOO_BIG);
        }
        self.gone.extend(self.rows.insert(key, Box::new(value)));
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), i32> {
        self.gone.push(self.rows.remove(key).ok_or(MISSING)?);
        Ok(())
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.gone.clear();
    }
}

/// Of a shared struct: `repr(C)`, and without padding.
fn bytes_of<T>(value: &T) -> Vec<u8> {
    // SAFETY: shared structs own their padding, so each of their bytes is one that somebody wrote.
    unsafe { std::slice::from_raw_parts(ptr::from_ref(value).cast(), size_of::<T>()) }.to_vec()
}

fn copy_of<V>(value: &V) -> V {
    // SAFETY: shared structs are plain numbers, which may be copied.
    unsafe { ptr::read(value) }
}

unsafe fn each<V>(map: *mut c_void, callback: Callback, argument: *mut c_void) {
    // SAFETY: the head of a map of these rows is followed by them; see `Map`.
    let rows = unsafe { &mut *(*map.cast::<Map<V>>()).rows.get() };
    let keys: Vec<Vec<u8>> = rows.rows.keys().cloned().collect();
    for key in keys {
        let Some(row) = rows.rows.get_mut(&key) else { continue };
        let row: *mut V = &mut **row;
        // Aligned as the key's type may want it.
        let words: Vec<u64> = key
            .chunks(8)
            .map(|chunk| u64::from_ne_bytes(std::array::from_fn(|at| *chunk.get(at).unwrap_or(&0))))
            .collect();
        // SAFETY: as `for_each`'s contract says. The row is in a box, which stays when the callback removes it.
        if unsafe { callback(map, words.as_ptr().cast(), row.cast(), argument) } != 0 {
            return;
        }
    }
}

/// Any of them.
#[repr(C)]
struct Map<V> {
    head: Head,
    rows: UnsafeCell<Rows<V>>,
}

impl<V> Map<V> {
    const fn new() -> Self {
        Map { head: Head { each: each::<V> }, rows: UnsafeCell::new(Rows::new()) }
    }

    #[expect(clippy::mut_from_ref, reason = "the lock is outside, as this file's head says")]
    fn rows(&self) -> &mut Rows<V> {
        // SAFETY: one thread uses the maps at a time, and no reference to the rows outlives a call; rows themselves are in boxes.
        unsafe { &mut *self.rows.get() }
    }

    fn find(&self, key: &[u8]) -> Option<*mut V> {
        self.rows().rows.get_mut(key).map(|row| &raw mut **row)
    }
}

macro_rules! hash_map {
    ($name:ident) => {
        #[repr(C)]
        pub struct $name<K, V, const N: usize, const FLAGS: usize = 0> {
            map: Map<V>,
            key: std::marker::PhantomData<K>,
        }

        // SAFETY: used under the lock of `kernel::Kernel`.
        unsafe impl<K, V, const N: usize, const FLAGS: usize> Sync for $name<K, V, N, FLAGS> {}

        impl<K, V, const N: usize, const FLAGS: usize> $name<K, V, N, FLAGS> {
            #[expect(clippy::new_without_default, reason = "as aya has it")]
            pub const fn new() -> Self {
                $name { map: Map::new(), key: std::marker::PhantomData }
            }

            /// # Safety
            /// The row is not changed while the reference lives.
            pub unsafe fn get(&self, key: impl Borrow<K>) -> Option<&V> {
                // SAFETY: the row is mapped until everything is forgotten.
                self.map.find(&bytes_of(key.borrow())).map(|row| unsafe { &*row })
            }
            pub fn get_ptr(&self, key: impl Borrow<K>) -> Option<*const V> {
                self.map.find(&bytes_of(key.borrow())).map(<*mut V>::cast_const)
            }
            pub fn get_ptr_mut(&self, key: impl Borrow<K>) -> Option<*mut V> {
                self.map.find(&bytes_of(key.borrow()))
            }
            pub fn insert(&self, key: impl Borrow<K>, value: impl Borrow<V>, flags: u64) -> Result<(), i32> {
                self.map.rows().insert(bytes_of(key.borrow()), copy_of(value.borrow()), flags, N)
            }
            pub fn remove(&self, key: impl Borrow<K>) -> Result<(), i32> {
                self.map.rows().remove(&bytes_of(key.borrow()))
            }

            /// For whoever looks at what is there.
            pub fn all(&self) -> Vec<(K, V)> {
                // SAFETY: the bytes are a key's own, in whatever place.
                let key = |bytes: &Vec<u8>| unsafe { ptr::read_unaligned(bytes.as_ptr().cast::<K>()) };
                self.map.rows().rows.iter().map(|(bytes, row)| (key(bytes), copy_of(&**row))).collect()
            }
            pub fn clear(&self) {
                self.map.rows().clear();
            }
        }
    };
}

hash_map!(HashMap);
hash_map!(LruHashMap);
hash_map!(PerCpuHashMap);

macro_rules! array {
    ($name:ident) => {
        /// Every row below the end is there; those that nobody has looked at are zero.
        #[repr(C)]
        pub struct $name<V, const N: usize> {
            map: Map<V>,
        }

        // SAFETY: used under the lock of `kernel::Kernel`.
        unsafe impl<V, const N: usize> Sync for $name<V, N> {}

        impl<V, const N: usize> $name<V, N> {
            #[expect(clippy::new_without_default, reason = "as aya has it")]
            pub const fn new() -> Self {
                $name { map: Map::new() }
            }
            pub fn get(&self, index: u32) -> Option<&V> {
                // SAFETY: the row is mapped until everything is forgotten.
                self.get_ptr_mut(index).map(|row| unsafe { &*row })
            }
            pub fn get_ptr_mut(&self, index: u32) -> Option<*mut V> {
                if index as usize >= N {
                    return None;
                }
                // SAFETY: the kernel's arrays begin as zeros, so zeros are a value of what is in them.
                let zeros = || Box::new(unsafe { std::mem::zeroed() });
                Some(&raw mut **self.map.rows().rows.entry(bytes_of(&index)).or_insert_with(zeros))
            }
            pub fn set(&self, index: u32, value: V) {
                if let Some(row) = self.get_ptr_mut(index) {
                    // SAFETY: the row is mapped.
                    unsafe { row.write(value) }
                }
            }

            /// For whoever looks at what is there.
            pub fn all(&self) -> Vec<(u32, V)> {
                let index =
                    |bytes: &Vec<u8>| u32::from_ne_bytes(bytes[..4].try_into().expect("an index has four bytes"));
                self.map.rows().rows.iter().map(|(bytes, row)| (index(bytes), copy_of(&**row))).collect()
            }
            pub fn clear(&self) {
                self.map.rows().clear();
            }
        }
    };
}

array!(Array);
array!(PerCpuArray);

pub mod lpm_trie {
    //! As aya has it.

    /// How many bits of `data` count, and the data.
    #[repr(C, packed)]
    #[derive(Clone, Copy)]
    pub struct Key<K> {
        pub prefix_len: u32,
        pub data: K,
    }

    impl<K> Key<K> {
        pub fn new(prefix_len: u32, data: K) -> Self {
            Key { prefix_len, data }
        }
    }
}

/// Rows by how many bits of the key count, and those bits.
#[repr(C)]
pub struct LpmTrie<K, V, const N: usize> {
    map: Map<V>,
    key: std::marker::PhantomData<K>,
}

// SAFETY: used under the lock of `kernel::Kernel`.
unsafe impl<K, V, const N: usize> Sync for LpmTrie<K, V, N> {}

impl<K, V, const N: usize> LpmTrie<K, V, N> {
    #[expect(clippy::new_without_default, reason = "as aya has it")]
    pub const fn new() -> Self {
        LpmTrie { map: Map::new(), key: std::marker::PhantomData }
    }

    /// The row of the longest prefix of the key.
    pub fn get(&self, key: &lpm_trie::Key<K>) -> Option<&V> {
        let wanted = bytes_of(key);
        let most = bits_of(&wanted);
        let rows = self.map.rows().rows.iter().filter(|(row, _)| bits_of(row) <= most && is_of(row, &wanted));
        rows.max_by_key(|(row, _)| bits_of(row)).map(|(_, value)| &**value)
    }

    pub fn insert(&self, key: &lpm_trie::Key<K>, value: impl Borrow<V>, flags: u64) -> Result<(), i32> {
        let bytes = bytes_of(key);
        self.map.rows().insert(cut(&bytes, bits_of(&bytes)), copy_of(value.borrow()), flags, N)
    }

    pub fn clear(&self) {
        self.map.rows().clear();
    }
}

fn bits_of(key: &[u8]) -> u32 {
    u32::from_ne_bytes(key[..4].try_into().expect("a key begins with four bytes"))
}

/// Whether the bits of a row's key that count are the wanted one's.
fn is_of(row: &[u8], wanted: &[u8]) -> bool {
    let (whole, rest) = (bits_of(row) as usize / 8, bits_of(row) % 8);
    let (row, wanted) = (&row[4..], &wanted[4..]);
    row[..whole] == wanted[..whole] && (rest == 0 || (row[whole] ^ wanted[whole]) >> (8 - rest) == 0)
}

/// A key of so many bits; those behind them are zero.
fn cut(key: &[u8], bits: u32) -> Vec<u8> {
    let mut cut = key.to_vec();
    cut[..4].copy_from_slice(&bits.to_ne_bytes());
    for (byte, first) in cut[4..].iter_mut().zip((0u32..).step_by(8)) {
        *byte &= 0xff_u8.checked_shl(8 - bits.saturating_sub(first).min(8)).unwrap_or(0);
    }
    cut
}

/// Takes whatever is written into it.
pub struct RingBuf<T, const BYTES: usize>(std::marker::PhantomData<T>);

// SAFETY: there is nothing in it.
unsafe impl<T, const BYTES: usize> Sync for RingBuf<T, BYTES> {}

impl<T, const BYTES: usize> RingBuf<T, BYTES> {
    #[expect(clippy::new_without_default, reason = "as aya has it")]
    pub const fn new() -> Self {
        RingBuf(std::marker::PhantomData)
    }
}
