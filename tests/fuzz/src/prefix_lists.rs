//! The text of a prefix list, in pieces of any size: the same is read of it however it is cut, and what was read is read again from what the
//! store writes. Refuses files.

use cc_host::firewall::{PrefixParser, parse_cidr};

use crate::input::Input;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let cut = usize::from(input.u8()) + 1;
    let text = input.rest();
    let whole = read([text]);
    let pieces = read(text.chunks(cut));
    assert_eq!(whole, pieces, "cut into pieces of {cut}");
    let Ok(nets) = whole else { return };
    assert!(nets.is_sorted_by(|a, b| a < b), "sorted, each once");
    let written: String = nets.iter().map(|net| format!("{net}\n")).collect();
    assert_eq!(read([written.as_bytes()]).as_ref(), Ok(&nets));
    for net in nets {
        assert_eq!(net, net.trunc());
        assert_eq!(parse_cidr(&net.to_string()), Ok(net));
    }
}

fn read<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<ipnet::IpNet>, (usize, cc_host::firewall::LineError)> {
    let mut parser = PrefixParser::default();
    for piece in pieces {
        parser.push(piece)?;
    }
    parser.finish()
}
