//! System calls by name and number, of the machine that this runs on. Refuses those of other machines and of 32-bit programs.

use syscalls::Sysno;

/// Whatever is above has no name here, and no policy can have said anything of it.
pub const HIGHEST: u32 = Sysno::last().id() as u32;

/// Nothing for a name that this machine does not have.
pub fn number(name: &str) -> Option<u32> {
    name.parse::<Sysno>().ok().map(|call| call.id().cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        for (name, wanted) in [
            ("read", libc::SYS_read),
            ("clone3", libc::SYS_clone3),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("newfstatat", libc::SYS_newfstatat),
            ("sendfile", libc::SYS_sendfile),
            ("prlimit64", libc::SYS_prlimit64),
            ("umount2", libc::SYS_umount2),
            ("mseal", libc::SYS_mseal),
        ] {
            assert_eq!(number(name).map(i64::from), Some(wanted), "{name}");
        }
        assert_eq!(number("no_such_call"), None);
        assert!(i64::from(HIGHEST) >= libc::SYS_mseal);
    }
}
