//! Every limit of the datapath, with its arithmetic. What happens at a limit is said beside it. Refuses to hold a number
//! that is not a limit.

/// Endpoints on one host. Attaching one more is refused by `attach`.
pub const ENDPOINTS_MAX: u32 = 4096;

/// The endpoint that drops of an unknown interface are counted under.
pub const ENDPOINT_UNKNOWN: u32 = u32::MAX;

/// VNIs are 24 bits on the wire; 0 is nobody's.
pub const VNI_MAX: u32 = (1 << 24) - 1;

/// One port per endpoint. 4,096 × (4 + 32) bytes and the table's overhead: about 0.5 MiB.
pub const PORTS_MAX: u32 = ENDPOINTS_MAX;

/// One /32 per endpoint and one per gateway; a host cannot have more networks with endpoints than endpoints.
/// 8,192 × (12 + 16) bytes and 40 of a node's: about 0.6 MiB when full, allocated as used.
pub const ROUTES_MAX: u32 = 2 * ENDPOINTS_MAX;

/// Rows per endpoint of a table with room for every endpoint to show this many reasons. 4,096 × 8 × (8 + 16 per CPU): 0.8 MiB
/// per CPU when full, allocated as used. A drop that finds no room is counted under the reason `uncounted`.
pub const DROPS_MAX: u32 = 8 * ENDPOINTS_MAX;

/// One row per container's cgroup, made by `attach`, which fails when there is none left: the programs never add one.
pub const SOCKETS_MAX: u32 = ENDPOINTS_MAX;

/// Longest name the kernel keeps of a map or a program, without the terminating zero.
pub const NAME_LEN_MAX: usize = 15;
