//! `banger image`.

use super::values::absolute;
use super::{Context, complete, library};
use crate::client::Path;
use crate::failure::{Failure, Outcome};
use crate::render::progress::Board;
use crate::render::table::{facts, size};
use crate::render::{self, json, table, time};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;
use hyper::Method;
use model::ImageName;
use model::image_ref::ImageRef;
use serde::Serialize;
use std::path::PathBuf;
use wire::FaultKind;
use wire::control::{ImageFacts, ImageImport, ImageList, ImagePull};

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images, those that are here and those that could be
    #[command(visible_alias = "ls", after_help = "Example:\n  banger image list")]
    List(ListArgs),
    /// Show everything about an image
    #[command(after_help = "Example:\n  banger image show debian-bookworm")]
    Show(NamedArgs),
    /// Fetch an image from a registry, or build one of the catalog
    ///
    /// Logins are those of Docker, Podman and Skopeo; certificates lie in `~/.config/banger/certs.d/HOST:PORT/`. Proxies are
    /// those that `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` named when bangerd was started.
    #[command(after_help = "Example:\n  banger image pull docker.io/library/alpine:3.20")]
    Pull(PullArgs),
    /// Make an image of one in a file or folder: an OCI layout, an archive of `docker save`, a bundle
    #[command(after_help = "Example:\n  banger image load ./alpine.tar")]
    Load(library::LoadArgs),
    /// Write an image as an archive that banger, Docker and skopeo read
    #[command(after_help = "Example:\n  banger image save alpine-3.20 -o alpine.tar")]
    Save(library::SaveArgs),
    /// Write an image with its kernel as one file, for machines that fetch nothing
    #[command(after_help = "Example:\n  banger image bundle debian-bookworm -o /srv/images")]
    Bundle(library::BundleArgs),
    /// Make an image of files that stay where they are
    #[command(after_help = "Example:\n  banger image register --name mine --rootfs ./rootfs.ext4 --kernel ./vmlinux")]
    Register(library::RegisterArgs),
    /// Copy a registered image's files into banger's own keeping
    #[command(after_help = "Example:\n  banger image promote mine")]
    Promote(NamedArgs),
    /// Give an image another name
    #[command(after_help = "Example:\n  banger image tag alpine-3.20 base")]
    Tag(library::TagArgs),
    /// Delete all images that no sandbox uses
    #[command(after_help = "Example:\n  banger image prune --dry-run")]
    Prune(library::PruneArgs),
    /// Look after the cache of downloaded layers
    #[command(subcommand, arg_required_else_help = true)]
    Cache(library::CacheCommand),
    /// Make an image from a tar archive of a root file system
    #[command(after_help = "Example:\n  banger image import mine ./rootfs.tar.zst")]
    Import(ImportArgs),
    /// Delete images that no sandbox uses
    #[command(visible_alias = "rm", after_help = "Example:\n  banger image delete old-one")]
    Delete(ManyArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those that could be fetched or built by name
    #[arg(long)]
    pub available: bool,
}

#[derive(Debug, Args)]
pub struct NamedArgs {
    /// The image: a name, or a reference to one in a registry
    #[arg(value_name = "IMAGE", add = ArgValueCandidates::new(complete::images))]
    pub image: String,
}

#[derive(Debug, Args)]
pub struct PullArgs {
    /// The image: a name of the catalog, or a reference to one in a registry
    #[arg(value_name = "IMAGE", add = ArgValueCandidates::new(complete::images))]
    pub image: String,
    /// Call it NAME here instead of after its reference
    #[arg(long, value_name = "NAME")]
    pub name: Option<ImageName>,
    /// Talk to the registry without TLS
    #[arg(long)]
    pub plain_http: bool,
    /// Trust the certificates in FILE (PEM) for this pull
    #[arg(long = "ca", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Take it only if the owner of the public key in FILE (PEM) has signed it, as cosign does
    #[arg(long, value_name = "FILE")]
    pub verify_key: Option<PathBuf>,
    /// Take logins from FILE, which is like Docker's config.json
    #[arg(long = "authfile", value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// What to call it
    #[arg(value_name = "NAME")]
    pub name: ImageName,
    /// The archive: plain, gzip or zstd
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct ManyArgs {
    /// The images
    #[arg(value_name = "IMAGE", required = true, add = ArgValueCandidates::new(complete::images))]
    pub images: Vec<String>,
}

pub async fn run(context: &Context, command: ImageCommand) -> Outcome {
    match command {
        ImageCommand::List(args) => list(context, args).await,
        ImageCommand::Show(args) => show(context, &args.image).await,
        ImageCommand::Pull(args) => pull(context, args).await,
        ImageCommand::Load(args) => library::load(context, args).await,
        ImageCommand::Save(args) => library::save(context, args).await,
        ImageCommand::Bundle(args) => library::bundle(context, args).await,
        ImageCommand::Register(args) => library::register(context, args).await,
        ImageCommand::Promote(args) => library::promote(context, &args.image).await,
        ImageCommand::Tag(args) => library::tag(context, args).await,
        ImageCommand::Prune(args) => library::prune(context, args).await,
        ImageCommand::Cache(command) => library::cache(context, command).await,
        ImageCommand::Import(args) => import(context, args).await,
        ImageCommand::Delete(args) => delete(context, args.images).await,
    }
}

async fn all(context: &Context) -> Outcome<Vec<ImageFacts>> {
    let list: ImageList = context.client.get(Path::new("/v1/images")).await?;
    Ok(list.images)
}

async fn list(context: &Context, args: ListArgs) -> Outcome {
    let mut images = all(context).await?;
    if args.available {
        images.retain(|image| !image.present);
    }
    match () {
        () if context.output.json => json::document(&images),
        () if context.output.quiet => render::data(&images.iter().map(|i| format!("{}\n", i.name)).collect::<String>()),
        () => table::images(&images),
    }
}

async fn show(context: &Context, name: &str) -> Outcome {
    let meant = |image: &ImageFacts| image.name == name || stands_for(image, name);
    let image = all(context).await?.into_iter().find(meant);
    let missing = || Failure::new(FaultKind::NotFound, format!("there is no image `{name}`"));
    let image = image.ok_or_else(|| missing().with_hint("`banger image list` shows what there is"))?;
    if context.output.json { json::document(&image) } else { render::data(&everything(&image)) }
}

/// Whether the image was pulled by this reference.
fn stands_for(image: &ImageFacts, given: &str) -> bool {
    let Ok(ImageRef::Oci(mut reference)) = given.parse() else { return false };
    if reference.digest.is_none() {
        reference.tag.get_or_insert_with(|| "latest".to_owned());
    }
    image.references.contains(&reference.to_string())
}

fn everything(image: &ImageFacts) -> String {
    let config = image.config.clone().unwrap_or_default();
    let labels: Vec<_> = config.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let files = image.files.iter().map(|(part, path)| format!("{part}={path}")).collect::<Vec<_>>();
    facts(&[
        ("name", Some(image.name.clone())),
        ("here", Some(if image.present { "yes" } else { "no" }.into())),
        ("digest", image.digest.clone()),
        ("kernel", image.kernel.clone()),
        ("init", Some(if image.has_systemd { "systemd" } else { "agent" }.into())),
        ("size", Some(size(image.size_bytes))),
        ("on disk", Some(size(image.allocated_bytes))),
        ("created", image.present.then(|| time::moment(image.created_at_ns))),
        ("source", Some(image.source.clone())),
        ("references", Some(image.references.join(" "))),
        ("system", image.system.clone()),
        ("entrypoint", Some(config.entrypoint.join(" "))),
        ("command", Some(config.cmd.join(" "))),
        ("environment", Some(config.env.join(" "))),
        ("user", Some(config.user.clone())),
        ("folder", Some(config.working_dir.clone())),
        ("ports", Some(config.exposed_ports.join(" "))),
        ("volumes", Some(config.volumes.join(" "))),
        ("labels", Some(labels.join(" "))),
        ("stop signal", Some(config.stop_signal.clone())),
        ("healthcheck", config.healthcheck.as_ref().map(|check| check.test.join(" "))),
        ("files", Some(files.join(" "))),
        ("used by", Some(image.used_by.join(" "))),
    ])
}

async fn pull(context: &Context, args: PullArgs) -> Outcome {
    let file = |file: Option<PathBuf>| file.as_deref().map(absolute).transpose();
    let request = ImagePull {
        name: args.name.map(String::from),
        plain_http: args.plain_http,
        ca_file: file(args.ca_file)?,
        verify_key: args.verify_key.as_deref().map(read_key).transpose()?,
        auth_file: file(args.auth_file)?,
    };
    make(context, Method::POST, Path::new("/v1/images").then(&args.image).then("pull"), &request).await
}

async fn import(context: &Context, args: ImportArgs) -> Outcome {
    let request = ImageImport { path: absolute(&args.file)? };
    make(context, Method::POST, Path::new("/v1/images").then(args.name.as_str()).then("import"), &request).await
}

fn read_key(file: &std::path::Path) -> Outcome<String> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::new(FaultKind::Invalid, format!("cannot read the key {}: {error}", file.display())))
}

pub async fn make<B: Serialize>(context: &Context, method: Method, path: Path, request: &B) -> Outcome {
    let line = Board::new(context.output.progress()).line(None);
    let image: ImageFacts = context.client.work(method, path, request, |event| line.event(event)).await?;
    drop(line);
    shown(context, &image)
}

pub fn shown(context: &Context, image: &ImageFacts) -> Outcome {
    if context.output.json { json::document(&image) } else { render::data(&format!("{}\n", image.name)) }
}

async fn delete(context: &Context, names: Vec<String>) -> Outcome {
    super::fleet::delete_artifacts(context, "/v1/images", names).await
}
