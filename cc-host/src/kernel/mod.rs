//! Kernel objects as guards: links, network namespaces, cgroups, mounts. Refuses to decide which of them are wanted.

pub mod check;
