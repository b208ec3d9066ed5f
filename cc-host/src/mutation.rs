//! Controls of safety, each of which can be switched off by its name, so that the test that stands for it is seen to fail. Only in builds
//! with the feature `mutations`, which `cargo xtask mutate` makes for itself. Refuses to exist in any other: there, every question is
//! answered by a constant, and the compiler removes it.

/// What can be switched off. The names are those of `docs/mutations.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Paths of /proc and /sys that are covered.
    MaskedPaths,
    /// /dev/null is known by its number before it covers anything.
    NullVerified,
    /// Kernel settings that cannot be written.
    ReadOnlyPaths,
    /// What is the kernel's own in an image may not be a link.
    StrictTargets,
    /// The links of /proc lead to no working directory.
    NoMagicLinks,
    /// Nothing that the shim has open is left.
    DescriptorsClosed,
    /// The host's root is detached.
    OldRootDetached,
    /// Settings are written by the descriptor of the procfs that was just made.
    ProcByDescriptor,
    /// Root inside is nobody outside.
    IdsMapped,
    /// No capability but those that were asked for.
    CapabilitiesDropped,
    NoNewPrivileges,
    /// System calls are filtered.
    Seccomp,
    /// Who enters a container cannot be looked into.
    Undumpable,
    OwnFileReadOnly,
    CgroupNamespace,
    CgroupReadOnly,
    /// Device nodes of an image are none.
    RootNodev,
    DeviceFilter,
    /// A container that names no limit of processes has one.
    PidsDefault,
    /// Ids of an image's files are decimal digits and nothing else.
    StrictUser,
    /// An archive's paths are resolved inside of its layer.
    UnpackInRoot,
    /// An entry over a symlink is not what the symlink leads to.
    UnpackNoFollow,
    /// The unpacker keeps five capabilities.
    UnpackCapabilities,
    /// The unpacker sees nothing but its layer, by Landlock as well.
    UnpackLandlock,
    /// A size in a PAX header is the entry's.
    PaxSize,
    /// What becomes too large is no layer.
    LayerLimits,
    BlobDigest,
    LayerDiffId,
    /// What an image says of itself is bounded and plain.
    ImageConfig,
    /// Sockets are their owner's.
    SocketMode,
    /// Who calls by the local socket is asked of the kernel.
    PeerCredentials,
    /// The daemon and its shims have no capability that nobody needs.
    DaemonCapabilities,
    /// Layers that no image names go.
    LayersCollected,
    /// A log that is full begins anew.
    LogRotation,
    /// What no record explains goes at boot.
    BootSweep,
    /// Failures to execute are told apart.
    NamedFailures,
    /// Further programs that have ended are waited for.
    ExecsReaped,
}

/// Whether the control is switched off.
#[cfg(not(feature = "mutations"))]
pub const fn off(_: Control) -> bool {
    false
}

#[cfg(feature = "mutations")]
pub fn off(control: Control) -> bool {
    std::env::var(SWITCH).is_ok_and(|name| name == format!("{control:?}"))
}

/// The variable that names the control.
#[cfg(feature = "mutations")]
const SWITCH: &str = "CC_MUTATION";

/// To a child whose environment is cleared.
#[cfg(feature = "daemon")]
pub fn pass_on(command: &mut std::process::Command) -> &mut std::process::Command {
    #[cfg(feature = "mutations")]
    command.envs(std::env::var_os(SWITCH).map(|value| (SWITCH, value)));
    command
}
