//! What the fuzz targets do with their bytes, a file each; `cargo xtask fuzz` runs them. Refuses to share a line with what it checks.

pub mod api_messages;
pub mod books;
pub mod datapath;
pub mod dns;
pub mod door;
pub mod host;
pub mod image_layers;
pub mod image_manifests;
pub mod input;
pub mod nat;
pub mod oci_configs;
pub mod prefix_lists;
pub mod rules;
pub mod seccomp_profiles;
pub mod seeds;
pub mod settings;
pub mod shim_frames;
pub mod web_requests;
pub mod wire;

/// A target's name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them; each has a file of its name in `fuzz_targets`, and a corpus.
pub const TARGETS: [Target; 13] = [
    ("api_messages", api_messages::run),
    ("datapath", datapath::run),
    ("dns", dns::run),
    ("image_layers", image_layers::run),
    ("image_manifests", image_manifests::run),
    ("nat", nat::run),
    ("oci_configs", oci_configs::run),
    ("prefix_lists", prefix_lists::run),
    ("rules", rules::run),
    ("seccomp_profiles", seccomp_profiles::run),
    ("settings", settings::run),
    ("shim_frames", shim_frames::run),
    ("web_requests", web_requests::run),
];
