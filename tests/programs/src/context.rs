//! Contexts under aya's names, over frames in memory. Checksums change as the kernel's functions change them (net/core/filter.c,
//! net/core/utils.c). Refuses what the kernel would refuse.

use std::ffi::{c_long, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, bpf_sock_addr};
use crate::frame::Skb;

const FAULT: c_long = -14;
const INVALID: c_long = -22;
/// Of a replacement's flags: the size of what is replaced.
const SIZE: u64 = 0xf;

pub trait EbpfContext {
    fn as_ptr(&self) -> *mut c_void;
}

/// A number that the loader sets.
pub struct Global<T>(AtomicU32, std::marker::PhantomData<T>);

impl Global<u32> {
    pub const fn new(value: u32) -> Self {
        Global(AtomicU32::new(value), std::marker::PhantomData)
    }
    pub fn load(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
    pub fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }
}

pub struct SkBuff {
    pub skb: *mut __sk_buff,
}

impl SkBuff {
    #[expect(clippy::mut_from_ref, reason = "a program has its packet for itself")]
    fn frame(&self) -> &mut Skb {
        // SAFETY: contexts are made of what `Skb::pointer` gave, and no reference to the frame outlives a call.
        unsafe { Skb::of(self.skb) }
    }
    pub fn set_mark(&self, mark: u32) {
        self.frame().context.mark = mark;
    }
}

pub struct TcContext {
    pub skb: SkBuff,
}

impl TcContext {
    pub const fn new(skb: *mut __sk_buff) -> Self {
        TcContext { skb: SkBuff { skb } }
    }

    #[expect(clippy::len_without_is_empty, reason = "as aya has it")]
    pub fn len(&self) -> u32 {
        self.skb.frame().context.len
    }

    /// Callers ask for what any bytes are a value of.
    pub fn load<T>(&self, offset: usize) -> Result<T, c_long> {
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: as many bytes as there are, all of them zero.
        let bytes = unsafe { std::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
        // SAFETY: all bytes were written, and the kernel's program makes the same of them.
        if self.skb.frame().read(offset, bytes) { Ok(unsafe { value.assume_init() }) } else { Err(FAULT) }
    }

    pub fn store<T>(&self, offset: usize, value: &T, _flags: u64) -> Result<(), c_long> {
        // SAFETY: what is stored has no padding.
        let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) };
        if self.skb.frame().write(offset, bytes) { Ok(()) } else { Err(FAULT) }
    }

    pub fn l3_csum_replace(&self, offset: usize, from: u64, to: u64, flags: u64) -> Result<(), c_long> {
        if flags & !SIZE != 0 {
            return Err(INVALID);
        }
        let sum = self.sum_at(offset)?;
        let sum = replaced(sum, from, to, flags & SIZE)?;
        self.store(offset, &sum, 0)
    }

    pub fn l4_csum_replace(&self, offset: usize, from: u64, to: u64, flags: u64) -> Result<(), c_long> {
        let sum = self.sum_at(offset)?;
        let zero_is_none = flags & u64::from(BPF_F_MARK_MANGLED_0) != 0;
        if zero_is_none && sum == [0; 2] {
            return Ok(());
        }
        let sum = replaced(sum, from, to, flags & SIZE)?;
        self.store(offset, &if zero_is_none && sum == [0; 2] { [0xff; 2] } else { sum }, 0)
    }

    fn sum_at(&self, offset: usize) -> Result<[u8; 2], c_long> {
        if offset > 0xffff || offset & 1 != 0 {
            return Err(FAULT);
        }
        self.load(offset)
    }
}

/// A sum after a replacement of what it covers. Numbers are as they lie in memory, as everywhere in the kernel's sums.
fn replaced(sum: [u8; 2], from: u64, to: u64, size: u64) -> Result<[u8; 2], c_long> {
    let not = u64::from(!u16::from_ne_bytes(sum));
    let changed = match size {
        // `to` is a difference.
        0 if from == 0 => not + folded(to & 0xffff_ffff),
        2 => not + u64::from(!(from as u16)) + (to & 0xffff),
        4 => not + folded(u64::from(!(from as u32))) + folded(to & 0xffff_ffff),
        _ => return Err(INVALID),
    };
    Ok((!(folded(changed) as u16)).to_ne_bytes())
}

/// To 16 bits.
fn folded(mut sum: u64) -> u64 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

pub struct SkBuffContext {
    pub skb: SkBuff,
}

impl SkBuffContext {
    #[expect(clippy::len_without_is_empty, reason = "as aya has it")]
    pub fn len(&self) -> u32 {
        self.skb.frame().context.len
    }
}

/// A frame before it is a packet of the kernel's: nothing but its bytes.
pub struct XdpContext {
    pub ctx: *const [u8],
}

impl XdpContext {
    pub fn new(frame: &[u8]) -> Self {
        XdpContext { ctx: frame }
    }
    pub fn data(&self) -> usize {
        self.ctx.cast::<u8>().expose_provenance()
    }
    pub fn data_end(&self) -> usize {
        self.data() + self.ctx.len()
    }
}

pub struct SockAddrContext {
    pub sock_addr: *mut bpf_sock_addr,
}

impl EbpfContext for SockAddrContext {
    fn as_ptr(&self) -> *mut c_void {
        self.sock_addr.cast()
    }
}
