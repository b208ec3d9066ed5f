//! The shim: one small process per container, parent of its init. Refuses tokio, networking and everything of the daemon's.
