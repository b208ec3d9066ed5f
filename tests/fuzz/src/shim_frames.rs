//! What a shim and a daemon say to each other, in pieces of any size: a frame is taken whole or not at all, is written again as it was,
//! and a message means the same when it is read again. Refuses sockets.

use cc_host::shim::protocol::{FRAME_BYTES_MAX, Frame, Kind, Report, Request};

use crate::input::Input;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let cut = usize::from(input.u8()) + 1;
    let stream = input.rest();
    let (whole, pieces) = (frames([stream]), frames(stream.chunks(cut)));
    assert_eq!(whole, pieces, "cut into pieces of {cut}");
    let mut written = Vec::new();
    for frame in &whole {
        assert!(frame.body.len() < FRAME_BYTES_MAX);
        written.extend(frame.encode());
        if frame.kind == Kind::Json {
            read_again::<Request>(frame);
            read_again::<Report>(frame);
        }
    }
    assert!(stream.starts_with(&written), "nothing is lost or added");
}

/// Until something that is no frame comes.
fn frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Frame> {
    let (mut buffer, mut frames) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match Frame::take(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}

fn read_again<T>(frame: &Frame)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let Ok(message) = frame.parse::<T>() else { return };
    let again = Frame::message(&message).parse::<T>().expect("what we write can be read");
    assert_eq!(again, message);
}
