//! What can be made here by name, without any hosted catalog: from Debian packages, fetched and verified by the host's
//! own apt from the mirror that it uses already.

#[derive(Debug)]
pub struct ImageRecipe<'a> {
    pub name: &'a str,
    pub source: &'a str,
    /// The release that the packages are of.
    pub codename: &'a str,
    pub packages: &'a [&'a str],
}

pub struct KernelRecipe {
    pub name: &'static str,
    pub source: &'static str,
    pub codename: &'static str,
    /// A package that depends on the kernel of the day.
    pub package: &'static str,
}

pub const IMAGES: &[ImageRecipe<'static>] = &[
    ImageRecipe {
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
    },
    // The content of images/golden/Dockerfile.
    ImageRecipe {
        name: "golden",
        source: "debian packages (bookworm)",
        codename: "bookworm",
        packages: &[
            "bash-completion",
            "build-essential",
            "ca-certificates",
            "curl",
            "dbus",
            "docker-compose",
            "docker.io",
            "git",
            "iproute2",
            "iptables",
            "jq",
            "less",
            "openssh-server",
            "procps",
            "python3-minimal",
            "sudo",
            "systemd",
            "systemd-sysv",
            "tmux",
            "tzdata",
            "udev",
            "xz-utils",
        ],
    },
];

pub const KERNELS: &[KernelRecipe] = &[KernelRecipe {
    name: "debian-cloud",
    source: "debian package linux-image-cloud-amd64 (bookworm)",
    codename: "bookworm",
    package: "linux-image-cloud-amd64",
}];

pub fn image(name: &str) -> Option<&'static ImageRecipe<'static>> {
    IMAGES.iter().find(|recipe| recipe.name == name)
}

pub fn kernel(name: &str) -> Option<&'static KernelRecipe> {
    KERNELS.iter().find(|recipe| recipe.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::images::catalog::{Catalog, ImageRecipe};
    use std::collections::BTreeSet;

    /// The catalog's file and what is made here by its names are one and the same.
    #[test]
    fn recipes_are_those_of_the_built_in_catalog() {
        let catalog = Catalog::builtin();
        for recipe in IMAGES {
            let entry = &catalog.images[&recipe.name.parse::<model::ImageName>().expect("a name")];
            let ImageRecipe::DebianPackages { suite, packages } = &entry.recipe else { panic!("{}", recipe.name) };
            let listed: BTreeSet<&str> = packages.iter().map(String::as_str).collect();
            assert_eq!(listed, recipe.packages.iter().copied().collect(), "{}", recipe.name);
            assert_eq!(suite, recipe.codename);
        }
    }
}
