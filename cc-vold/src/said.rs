//! What the program says of its work, up to a bound: a store that refuses for days fills nobody's disk. Refuses to lose anything in silence: the
//! last line says that there would be more.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Some ten thousand lines.
const BYTES_MAX: usize = 4 << 20;
const LAST: &[u8] = b"cc-vold: what follows is not told: it was too much\n";

/// Of all who write.
static LEFT: AtomicUsize = AtomicUsize::new(BYTES_MAX);

/// Each write is a line.
pub struct Bounded<W> {
    to: W,
    left: &'static AtomicUsize,
}

pub fn stderr() -> Bounded<io::Stderr> {
    Bounded { to: io::stderr(), left: &LEFT }
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Nothing is left only when that was said.
        let less = |left: usize| left.checked_sub(line.len()).filter(|&left| left > 0);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => self.to.write_all(line)?,
            // Once: whoever takes the rest.
            Err(_) if self.left.swap(0, Ordering::Relaxed) > 0 => self.to.write_all(LAST)?,
            Err(_) => {}
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_once_that_there_would_be_more() {
        static LEFT: AtomicUsize = AtomicUsize::new(12);
        let mut said = Bounded { to: Vec::new(), left: &LEFT };
        for line in ["first\n", "longer than what is left\n", "third\n", "x\n"] {
            assert_eq!(said.write(line.as_bytes()).expect("it is taken"), line.len());
        }
        assert_eq!(said.to, [b"first\n", LAST].concat());
    }
}
