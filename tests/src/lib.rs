//! What the end-to-end tests share. Refuses to hold a test: each promise is a file in tests/tests.

pub mod daemon;
pub mod eventually;
pub mod images;
pub mod skip;
