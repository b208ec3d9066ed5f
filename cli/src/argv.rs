//! Overwrites one argument of this process, where `ps` shows it. Refuses to touch anything but its own argument area.

use std::fs;

/// Replaces every occurrence of `secret` that is an argument, or the value of `--flag=secret`. True if one was found.
///
/// Must be called before a second thread starts: the standard library reads the same bytes in `std::env::args`.
pub fn overwrite(secret: &str) -> bool {
    let Some((start, end)) = area() else { return false };
    if secret.is_empty() || end <= start {
        return false;
    }
    // The address came from the kernel, not from a Rust pointer, so its provenance has to be exposed.
    let base = std::ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel maps arg_start..arg_end readable and writable on the initial stack of this process, for as long
    // as the process lives; no Rust reference into it exists (std keeps raw pointers and copies), and the caller upholds
    // that no other thread runs. The reads end before the writes begin, and the writes are volatile because nothing in
    // this program reads them back.
    unsafe {
        let copy: Vec<u8> = (0..end - start).map(|at| base.add(at).read_volatile()).collect();
        let places = places(&copy, secret.as_bytes());
        for &place in &places {
            for at in place..place + secret.len() {
                base.add(at).write_volatile(b'x');
            }
        }
        !places.is_empty()
    }
}

/// Where the secret is a whole argument or all that follows a `=`.
fn places(area: &[u8], secret: &[u8]) -> Vec<usize> {
    let mut places = Vec::new();
    let mut start = 0;
    for argument in area.split(|&byte| byte == 0) {
        let flag_value = argument.starts_with(b"--") && argument.ends_with(&[b"=", secret].concat());
        if argument == secret || flag_value {
            places.push(start + argument.len() - secret.len());
        }
        start += argument.len() + 1;
    }
    places
}

/// `arg_start` and `arg_end`: fields 48 and 49 of proc_pid_stat(5), counted after the name, which may hold spaces.
fn area() -> Option<(usize, usize)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ').skip(48 - 3);
    let start = fields.next()?.parse().ok()?;
    let end = fields.next()?.parse().ok()?;
    (start != 0).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_values_are_found() {
        let area = b"cc\0--cc-secret-key\0ccs_abc\0--cc-secret-key=ccs_abc\0xccs_abc\0ccs_abcd\0";
        assert_eq!(places(area, b"ccs_abc"), vec![19, 43]);
    }

    #[test]
    fn the_kernel_names_our_argument_area() {
        let (start, end) = area().unwrap();
        assert_eq!(fs::read("/proc/self/cmdline").unwrap().len(), end - start);
    }
}
