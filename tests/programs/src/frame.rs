//! A frame as a program gets it: the kernel's context, and the bytes behind it. Refuses to let anything be read or written beyond them.

use crate::bindings::__sk_buff;

/// Led by the context, so that a pointer to that is a pointer to this.
#[repr(C)]
pub struct Skb {
    pub context: __sk_buff,
    pub bytes: Vec<u8>,
}

impl Skb {
    /// As it came in by an interface; its protocol is what the Ethernet header says.
    pub fn new(ifindex: u32, bytes: &[u8]) -> Box<Skb> {
        // SAFETY: the context is plain numbers, for which zeros are a value.
        let mut context: __sk_buff = unsafe { std::mem::zeroed() };
        context.ifindex = ifindex;
        if let Some(&[high, low]) = bytes.get(12..14) {
            context.protocol = u16::from_ne_bytes([high, low]).into();
        }
        let mut skb = Box::new(Skb { context, bytes: bytes.to_vec() });
        skb.measure();
        skb
    }

    /// What a program is given.
    pub fn pointer(&mut self) -> *mut __sk_buff {
        (&raw mut *self).cast()
    }

    /// # Safety
    /// The pointer is one that `pointer` gave, and nobody else uses the frame meanwhile.
    pub unsafe fn of<'a>(context: *mut __sk_buff) -> &'a mut Skb {
        // SAFETY: the context leads a whole `Skb`.
        unsafe { &mut *context.cast() }
    }

    pub fn read(&self, offset: usize, to: &mut [u8]) -> bool {
        let found = offset.checked_add(to.len()).and_then(|end| self.bytes.get(offset..end));
        match found {
            Some(found) => to.copy_from_slice(found),
            // As the kernel does.
            None => to.fill(0),
        }
        found.is_some()
    }

    pub fn write(&mut self, offset: usize, from: &[u8]) -> bool {
        let place = offset.checked_add(from.len()).and_then(|end| self.bytes.get_mut(offset..end));
        let Some(place) = place else { return false };
        place.copy_from_slice(from);
        true
    }

    pub fn resize(&mut self, bytes: usize) {
        self.bytes.resize(bytes, 0);
        self.measure();
    }

    /// Room behind the Ethernet header.
    pub fn make_room(&mut self, bytes: usize) {
        self.bytes.splice(14..14, std::iter::repeat_n(0, bytes));
        self.measure();
    }

    fn measure(&mut self) {
        self.context.len = u32::try_from(self.bytes.len()).expect("frames are short");
    }
}
