//! What can be made here by name, without any hosted catalog: from Debian packages, fetched and verified by the host's
//! own apt from the mirror that it uses already.

pub struct ImageRecipe {
    pub name: &'static str,
    pub source: &'static str,
    /// The release that the packages are of.
    pub codename: &'static str,
    pub packages: &'static [&'static str],
}

pub struct KernelRecipe {
    pub name: &'static str,
    pub source: &'static str,
    pub codename: &'static str,
    /// A package that depends on the kernel of the day.
    pub package: &'static str,
}

pub const IMAGES: &[ImageRecipe] = &[ImageRecipe {
    name: "debian-bookworm",
    source: "debian packages (bookworm)",
    codename: "bookworm",
    packages: &[
        "bash-completion",
        "ca-certificates",
        "curl",
        "dbus",
        "git",
        "iproute2",
        "less",
        "openssh-server",
        "procps",
        "python3-minimal",
        "sudo",
        "systemd",
        "systemd-sysv",
        // The guest gets the host's zone by name.
        "tzdata",
        "udev",
    ],
}];

pub const KERNELS: &[KernelRecipe] = &[KernelRecipe {
    name: "debian-cloud",
    source: "debian package linux-image-cloud-amd64 (bookworm)",
    codename: "bookworm",
    package: "linux-image-cloud-amd64",
}];

pub fn image(name: &str) -> Option<&'static ImageRecipe> {
    IMAGES.iter().find(|recipe| recipe.name == name)
}

pub fn kernel(name: &str) -> Option<&'static KernelRecipe> {
    KERNELS.iter().find(|recipe| recipe.name == name)
}
