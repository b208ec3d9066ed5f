//! The command line of Container cloud. Refuses to know the daemon: it speaks the contract.

pub mod client;
