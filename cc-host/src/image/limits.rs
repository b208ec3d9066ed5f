//! What an image may cost us, each number with its arithmetic. Refuses to depend on what any image says.

/// Bytes of a manifest or an index. The largest in use (indexes of 40 platforms) are below 40 KiB.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a config. History of 128 layers with a 4 KiB command each is 512 KiB.
pub const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// Layers of an image. Docker stops at 127; the kernel's overlayfs stacks 500.
pub const LAYERS_MAX: usize = 128;
/// Entries of an index.
pub const INDEX_ENTRIES_MAX: usize = 256;
/// Bytes of one compressed layer.
pub const BLOB_BYTES_MAX: u64 = 32 << 30;
/// Bytes of one uncompressed layer. CUDA and ROCm images, the largest in use, have layers of 15 to 20 GiB.
pub const LAYER_BYTES_MAX: u64 = 64 << 30;
/// Bytes of an archive given to `load`: what docker save writes of a 64 GiB image.
pub const ARCHIVE_BYTES_MAX: u64 = 64 << 30;
/// Members of an archive given to `load`: 128 layers have a directory and three files each; a layout may hold more blobs.
pub const ARCHIVE_MEMBERS_MAX: usize = 8192;
/// Uncompressed bytes per compressed byte. Real layers are at 2 to 30; DEFLATE cannot pass 1032, zstd can.
pub const RATIO_MAX: u64 = 200;
/// Uncompressed bytes that a layer may have whatever its ratio: an empty disk image or a log is harmless below this.
pub const RATIO_FREE_BYTES: u64 = 256 << 20;
/// Entries of a layer. The largest seen hold 400,000; at about 200 bytes each of child memory, 200 MiB.
pub const ENTRIES_MAX: u64 = 1_000_000;
/// Bytes of an entry's path: PATH_MAX, with its NUL.
pub const PATH_BYTES_MAX: usize = 4095;
/// Bytes of one component: NAME_MAX.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// Components of a path. Deep node_modules trees reach 60.
pub const DEPTH_MAX: usize = 256;
/// The first id that does not fit a container's range of 65,536.
pub const ID_END: u64 = 65_536;
/// Extended attributes of one entry, and bytes of each value (the kernel's XATTR_SIZE_MAX).
pub const XATTRS_MAX: usize = 64;
pub const XATTR_BYTES_MAX: usize = 64 << 10;
/// Bytes of all opaque directories' paths in a layer: 4,096 paths of 1 KiB. As JSON numbers at most five times that.
pub const OPAQUE_BYTES_MAX: usize = 4 << 20;
/// What the daemon reads of a child's report: OPAQUE_BYTES_MAX × 5 and room for a message.
pub const REPORT_BYTES_MAX: u64 = 21 << 20;
/// Address space of the unpacking child: ENTRIES_MAX × 200 bytes, its own text, buffers, and room for libc.
pub const CHILD_MEMORY_BYTES: u64 = 1 << 30;
/// Layers that one pull downloads at a time, and layers that are unpacked at a time on this host.
pub const DOWNLOADS_MAX: usize = 4;
pub const UNPACKS_MAX: usize = 4;
/// Tries of one blob before a pull gives up; each resumes where the last one ended.
pub const DOWNLOAD_TRIES: u32 = 5;
/// Bytes of a reference: a registry name of 255, a repository of 255, a tag of 128 or a digest, separators.
pub const REFERENCE_BYTES_MAX: usize = 768;
/// Entries of env, of entrypoint and of cmd, labels, and the bytes of one: ARG_MAX's share of one string is 128 KiB.
pub const STRINGS_MAX: usize = 4096;
pub const STRING_BYTES_MAX: usize = 128 << 10;
/// Bytes of all of a config's strings: the record must fit a store value, and exec's arguments 2 MiB.
pub const STRINGS_BYTES_MAX: usize = 512 << 10;
