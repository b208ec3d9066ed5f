//! The doors: the unix socket, the TLS port, and the services behind them. Refuses to touch aya or netlink.

pub mod host;
pub mod listen;
pub mod server;
pub mod tls;
