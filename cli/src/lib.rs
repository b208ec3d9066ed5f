//! The command line of Container cloud: parses, calls the daemon over the contract, and renders what came back. Refuses
//! to depend on the daemon's code and to decide anything that the daemon decides.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on should stop"))]

pub mod args;
pub mod argv;
pub mod client;
pub mod cmd;
pub mod contexts;
pub mod credentials;
pub mod error;
pub mod name;
pub mod private_file;
pub mod pull;
pub mod render;
pub mod secret;
pub mod signal;
pub mod size;
pub mod source;
pub mod terminal;
pub mod time;
pub mod ui;
