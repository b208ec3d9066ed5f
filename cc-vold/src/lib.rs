//! `cc-vold`: a volume as a block image whose blocks are in an object store, shown as a file by FUSE. Refuses to know file systems,
//! containers and the daemon.
#![deny(unsafe_code)]

pub mod args;
pub mod blocks;
pub mod counted;
pub mod dirty;
pub mod error;
pub mod fs;
pub mod identity;
pub mod remove;
pub mod said;
pub mod serve;
pub mod store;
pub mod sys;
pub mod volume;
