//! `banger image load`, `save`, `bundle`, `register`, `promote`, `tag`, `prune` and `cache`: images as files, and what they
//! take on the disk.

use super::image::{make, shown};
use super::values::absolute;
use super::{Context, complete};
use crate::client::Path;
use crate::failure::Outcome;
use crate::render::progress::Board;
use crate::render::table::size;
use crate::render::{self, json};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;
use hyper::Method;
use model::{ImageName, KernelName};
use std::path::PathBuf;
use wire::control::{
    ImageBundle, ImageFacts, ImageFile, ImageLoad, ImageRegister, ImageSave, ImageTag, PruneRequest, Pruned,
};

#[derive(Debug, Args)]
pub struct LoadArgs {
    /// An OCI layout (folder or tar), an archive of `docker save`, or a bundle; after a colon, which of its images
    #[arg(value_name = "PATH[:TAG]")]
    pub path: String,
    /// Call it NAME here
    #[arg(long, value_name = "NAME")]
    pub name: Option<ImageName>,
}

#[derive(Debug, Args)]
pub struct SaveArgs {
    /// The image
    #[arg(value_name = "IMAGE", add = ArgValueCandidates::new(complete::images))]
    pub image: String,
    /// The archive to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct BundleArgs {
    /// The image
    #[arg(value_name = "IMAGE", add = ArgValueCandidates::new(complete::images))]
    pub image: String,
    /// The folder to write it into; its name holds its hash
    #[arg(short, long, value_name = "FOLDER", default_value = ".")]
    pub output: PathBuf,
    /// Take this kernel instead of the image's own
    #[arg(long, value_name = "KERNEL", add = ArgValueCandidates::new(complete::kernels))]
    pub kernel: Option<KernelName>,
}

#[derive(Debug, Args)]
pub struct RegisterArgs {
    /// What to call it
    #[arg(long, value_name = "NAME")]
    pub name: ImageName,
    /// An ext4 file system, which stays where it is
    #[arg(long, value_name = "FILE")]
    pub rootfs: PathBuf,
    /// An ext4 file system that work disks are cloned from
    #[arg(long, value_name = "FILE")]
    pub work_seed: Option<PathBuf>,
    /// Boot it with this kernel by name
    #[arg(long, value_name = "KERNEL", conflicts_with = "kernel", add = ArgValueCandidates::new(complete::kernels))]
    pub kernel_ref: Option<String>,
    /// Boot it with the kernel in this file
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// An initramfs that is unpacked before banger's own
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// The kernel's modules
    #[arg(long, value_name = "FOLDER", requires = "kernel")]
    pub modules: Option<PathBuf>,
    /// Words that the kernel needs on its command line
    #[arg(long, value_name = "WORDS", default_value = "", requires = "kernel", allow_hyphen_values = true)]
    pub boot_args: String,
}

#[derive(Debug, Args)]
pub struct TagArgs {
    /// The image
    #[arg(value_name = "IMAGE", add = ArgValueCandidates::new(complete::images))]
    pub image: String,
    /// Its other name
    #[arg(value_name = "NAME")]
    pub name: ImageName,
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Show what would go and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Remove downloaded layers that no image here was made of
    #[command(after_help = "Example:\n  banger image cache prune --dry-run")]
    Prune(CachePruneArgs),
}

#[derive(Debug, Args)]
pub struct CachePruneArgs {
    /// Remove the others, too, and work disks prepared with repositories; both can be made again
    #[arg(long)]
    pub all: bool,
    /// Show what would go and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

pub async fn load(context: &Context, args: LoadArgs) -> Outcome {
    let (path, tag) = split(&args.path);
    let request = ImageLoad { path: absolute(&path)?, tag, name: args.name.map(String::from) };
    make(context, Method::POST, Path::new("/v1/library/load"), &request).await
}

/// What is there as it was typed is a path; else what follows the last colon is a tag, which holds no slash.
fn split(given: &str) -> (PathBuf, Option<String>) {
    match given.rsplit_once(':') {
        Some((path, tag)) if !std::path::Path::new(given).exists() && !tag.is_empty() && !tag.contains('/') => {
            (PathBuf::from(path), Some(tag.to_owned()))
        }
        _ => (PathBuf::from(given), None),
    }
}

pub async fn save(context: &Context, args: SaveArgs) -> Outcome {
    let request = ImageSave { path: absolute(&args.output)? };
    write(context, Path::new("/v1/images").then(&args.image).then("save"), &request).await
}

pub async fn bundle(context: &Context, args: BundleArgs) -> Outcome {
    let request = ImageBundle { folder: absolute(&args.output)?, kernel: args.kernel.map(String::from) };
    write(context, Path::new("/v1/images").then(&args.image).then("bundle"), &request).await
}

async fn write<B: serde::Serialize>(context: &Context, path: Path, request: &B) -> Outcome {
    let line = Board::new(context.output.progress()).line(None);
    let file: ImageFile = context.client.work(Method::POST, path, request, |event| line.event(event)).await?;
    drop(line);
    if context.output.json { json::document(&file) } else { render::data(&format!("{}\n", file.path)) }
}

pub async fn register(context: &Context, args: RegisterArgs) -> Outcome {
    let file = |file: Option<PathBuf>| file.as_deref().map(absolute).transpose();
    let request = ImageRegister {
        rootfs: absolute(&args.rootfs)?,
        work_seed: file(args.work_seed)?,
        kernel_ref: args.kernel_ref,
        kernel: file(args.kernel)?,
        initrd: file(args.initrd)?,
        modules: file(args.modules)?,
        boot_args: args.boot_args,
    };
    make(context, Method::PUT, Path::new("/v1/images").then(args.name.as_str()), &request).await
}

pub async fn promote(context: &Context, image: &str) -> Outcome {
    make(context, Method::POST, Path::new("/v1/images").then(image).then("promote"), &()).await
}

pub async fn tag(context: &Context, args: TagArgs) -> Outcome {
    let request = ImageTag { name: args.name.to_string() };
    let path = Path::new("/v1/images").then(&args.image).then("tag");
    let image: ImageFacts = context.client.call(Method::POST, path, &request).await?;
    shown(context, &image)
}

pub async fn prune(context: &Context, args: PruneArgs) -> Outcome {
    let path = || Path::new("/v1/library/images/prune");
    let ask = |dry_run| PruneRequest { all: false, dry_run };
    let would: Pruned = context.client.call(Method::POST, path(), &ask(true)).await?;
    if args.dry_run || would.removed.is_empty() {
        return report(context, &would, "image");
    }
    if !args.force {
        report(context, &would, "image")?;
        if !render::confirm(&format!("Delete {} that no sandbox uses?", count(would.removed.len(), "image"))) {
            render::note("Nothing was deleted; `banger image prune --force` deletes them.");
            return Ok(());
        }
    }
    let done: Pruned = context.client.call(Method::POST, path(), &ask(false)).await?;
    report(context, &done, "image")
}

pub async fn cache(context: &Context, command: CacheCommand) -> Outcome {
    let CacheCommand::Prune(args) = command;
    let request = PruneRequest { all: args.all, dry_run: args.dry_run };
    let done: Pruned = context.client.call(Method::POST, Path::new("/v1/library/cache/prune"), &request).await?;
    report(context, &done, "blob")
}

fn report(context: &Context, pruned: &Pruned, what: &str) -> Outcome {
    if context.output.json {
        return json::document(pruned);
    }
    let verb = if pruned.dry_run { "would be deleted" } else { "deleted" };
    let lines: String = pruned.removed.iter().map(|name| format!("{name}: {verb}\n")).collect();
    render::data(&lines)?;
    let freed = if pruned.dry_run { "would free" } else { "freed" };
    render::note(&format!("{} {freed} {}", count(pruned.removed.len(), what), size(pruned.freed_bytes)));
    Ok(())
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_tag_follows_the_last_colon_of_what_is_no_path() {
        let check = |given: &str, path: &str, tag: Option<&str>| {
            assert_eq!(split(given), (path.into(), tag.map(str::to_owned)), "{given}");
        };
        check("./layout:3.20", "./layout", Some("3.20"));
        check("/", "/", None);
        check("a:b/c.tar", "a:b/c.tar", None);
        check("image.tar", "image.tar", None);
        check("image.tar:", "image.tar:", None);
    }
}
