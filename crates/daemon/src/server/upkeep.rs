//! Images as files, other names for them, and what everything takes on the disk, on the control API.

use super::fault::{Refusal, fault};
use super::images::{find, image_named};
use super::input::{Json, Named};
use super::library::{absolute, library, refuse_used, used_by};
use super::stream::respond;
use crate::app::App;
use crate::host::disk::prepared;
use crate::host::images::{KernelFiles, OwnKernel, PullOptions, Registration, Sweep};
use axum::extract::State;
use axum::response::Response;
use model::image_ref::ImageRef;
use model::{ImageName, KernelName};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use wire::Fault;
use wire::control::{
    DiskRow, DiskUse, Event, ImageBundle, ImageFacts, ImageFile, ImageLoad, ImageRegister, ImageSave, ImageTag,
    PruneRequest, Pruned,
};

type Shared = State<Arc<App>>;

/// Makes an image of one in a file or folder: an OCI layout, the archive of `docker save`, a bundle
#[utoipa::path(post, path = "/v1/library/load", tag = "library", request_body = ImageLoad,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<ImageFacts>), (status = "default", body = Fault)))]
pub async fn load_image(State(app): Shared, Json(request): Json<ImageLoad>) -> Result<Response, Refusal> {
    let library = library(&app)?;
    let path = absolute(&request.path)?;
    let name = request.name.map(|name| Named(name).parse()).transpose()?;
    let options = PullOptions { name, ..PullOptions::default() };
    Ok(respond(app, None, move |app, watch| {
        let loaded = library.load(&path, request.tag.as_deref(), &options, watch);
        image_named(app, &loaded.map_err(|error| fault(error.into()))?)
    }))
}

/// Writes an image as an archive that `docker load`, skopeo and banger read
#[utoipa::path(post, path = "/v1/images/{name}/save", tag = "library", params(("name" = String, Path)), request_body = ImageSave,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<ImageFile>), (status = "default", body = Fault)))]
pub async fn save_image(State(app): Shared, given: Named, Json(request): Json<ImageSave>) -> Result<Response, Refusal> {
    let library = library(&app)?;
    let wanted: ImageRef = given.parse()?;
    let path = absolute(&request.path)?;
    Ok(respond(app, None, move |app, watch| {
        let name = find(app, &wanted)?;
        let bytes = library.save_image(&name, &path, watch).map_err(|error| fault(error.into()))?;
        Ok(ImageFile { path: request.path, bytes })
    }))
}

/// Writes an image with its kernel as one file that carries its own hash
#[utoipa::path(post, path = "/v1/images/{name}/bundle", tag = "library", params(("name" = String, Path)), request_body = ImageBundle,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<ImageFile>), (status = "default", body = Fault)))]
pub async fn bundle_image(
    State(app): Shared,
    given: Named,
    Json(request): Json<ImageBundle>,
) -> Result<Response, Refusal> {
    let library = library(&app)?;
    let wanted: ImageRef = given.parse()?;
    let folder = absolute(&request.folder)?;
    let kernel: Option<KernelName> = request.kernel.map(|name| Named(name).parse()).transpose()?;
    Ok(respond(app, None, move |app, watch| {
        let name = find(app, &wanted)?;
        let kernel = kernel.unwrap_or_else(|| super::convert::kernel_of(&name, app));
        let path = library.bundle_image(&name, &kernel, &folder, watch).map_err(|error| fault(error.into()))?;
        let bytes = std::fs::metadata(&path).map_or(0, |found| found.len());
        Ok(ImageFile { path: path.to_string_lossy().into_owned(), bytes })
    }))
}

/// Makes an image of files that stay where they are
#[utoipa::path(put, path = "/v1/images/{name}", tag = "library", params(("name" = String, Path)), request_body = ImageRegister,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<ImageFacts>), (status = "default", body = Fault)))]
pub async fn register_image(
    State(app): Shared,
    name: Named,
    Json(request): Json<ImageRegister>,
) -> Result<Response, Refusal> {
    let library = library(&app)?;
    let name: ImageName = name.parse()?;
    let wanted = registration(request)?;
    Ok(respond(app, None, move |app, watch| {
        library.register_image(&name, &wanted, watch).map_err(|error| fault(error.into()))?;
        image_named(app, &name)
    }))
}

fn registration(request: ImageRegister) -> Result<Registration, Refusal> {
    let path = |path: &Option<String>| path.as_deref().map(absolute).transpose();
    let kernel = match (request.kernel_ref, path(&request.kernel)?) {
        (Some(_), Some(_)) => return Err(Refusal::invalid("a kernel is given by name or by file, not by both")),
        (Some(name), None) => OwnKernel::Named(Named(name).parse()?),
        (None, Some(vmlinux)) => {
            let files = KernelFiles { vmlinux, modules: path(&request.modules)?, boot_args: request.boot_args };
            OwnKernel::Files { files, initrd: path(&request.initrd)? }
        }
        (None, None) if request.initrd.is_some() || request.modules.is_some() => {
            return Err(Refusal::invalid("an initrd and modules belong to a kernel, and none is given"));
        }
        (None, None) => OwnKernel::Default,
    };
    Ok(Registration { rootfs: absolute(&request.rootfs)?, work_seed: path(&request.work_seed)?, kernel })
}

/// Copies a registered image's files into banger's own keeping
#[utoipa::path(post, path = "/v1/images/{name}/promote", tag = "library", params(("name" = String, Path)),
    responses((status = 200, content_type = "application/x-ndjson", body = Event<ImageFacts>), (status = "default", body = Fault)))]
pub async fn promote_image(State(app): Shared, given: Named) -> Result<Response, Refusal> {
    let library = library(&app)?;
    let wanted: ImageRef = given.parse()?;
    Ok(respond(app, None, move |app, _| {
        let name = find(app, &wanted)?;
        library.promote_image(&name).map_err(|error| fault(error.into()))?;
        image_named(app, &name)
    }))
}

/// Gives an image another name; both share their files
#[utoipa::path(post, path = "/v1/images/{name}/tag", tag = "library", params(("name" = String, Path)), request_body = ImageTag,
    responses((status = 200, body = ImageFacts), (status = "default", body = Fault)))]
pub async fn tag_image(
    State(app): Shared,
    given: Named,
    Json(request): Json<ImageTag>,
) -> Result<axum::Json<ImageFacts>, Refusal> {
    let library = library(&app)?;
    let wanted: ImageRef = given.parse()?;
    let other: ImageName = Named(request.name).parse()?;
    let tagged = app.work(move |app| {
        let name = find(app, &wanted)?;
        library.tag_image(&name, &other).map_err(|error| fault(error.into()))?;
        image_named(app, &other)
    });
    Ok(axum::Json(tagged.await?))
}

/// Removes images that no sandbox uses
#[utoipa::path(post, path = "/v1/library/images/prune", tag = "library", request_body = PruneRequest,
    responses((status = 200, body = Pruned), (status = "default", body = Fault)))]
pub async fn prune_images(
    State(app): Shared,
    Json(request): Json<PruneRequest>,
) -> Result<axum::Json<Pruned>, Refusal> {
    let pruned = app.work(move |app| {
        let mut pruned = Pruned { dry_run: request.dry_run, ..Pruned::default() };
        for facts in app.host.images.images().map_err(|error| fault(error.into()))? {
            if !used_by(app, |spec| spec.image == facts.name).is_empty() {
                continue;
            }
            if !request.dry_run {
                let _change = app.host.images.remove_image(&facts.name).map_err(|error| fault(error.into()))?;
            }
            pruned.freed_bytes += facts.allocated.bytes();
            pruned.removed.push(facts.name.to_string());
        }
        Ok::<_, Fault>(pruned)
    });
    Ok(axum::Json(pruned.await?))
}

/// Removes blobs that no image was made of; with `all` every blob, and the work disks that are prepared with repositories
#[utoipa::path(post, path = "/v1/library/cache/prune", tag = "library", request_body = PruneRequest,
    responses((status = 200, body = Pruned), (status = "default", body = Fault)))]
pub async fn prune_cache(State(app): Shared, Json(request): Json<PruneRequest>) -> Result<axum::Json<Pruned>, Refusal> {
    let library = library(&app)?;
    let pruned = app.work(move |app| {
        let sweep = if request.all { Sweep::All } else { Sweep::Unused };
        let gone = library.prune_cache(sweep, request.dry_run).map_err(|error| fault(error.into()))?;
        let mut pruned = Pruned {
            freed_bytes: gone.iter().map(|entry| entry.allocated.bytes()).sum(),
            removed: gone.into_iter().map(|entry| entry.digest.to_string()).collect(),
            dry_run: request.dry_run,
        };
        let templates = if request.all { prepared::list(&app.layout) } else { Vec::new() };
        for held in templates {
            pruned.freed_bytes += held.bytes;
            pruned.removed.push(format!("repository-{}", held.name));
            if !request.dry_run {
                prepared::remove(&app.layout, &held.name);
            }
        }
        Ok::<_, Fault>(pruned)
    });
    Ok(axum::Json(pruned.await?))
}

/// Tells what everything takes on the disk, and what of it could go
#[utoipa::path(get, path = "/v1/df", tag = "library", responses((status = 200, body = DiskUse), (status = "default", body = Fault)))]
pub async fn disk_use(State(app): Shared) -> Result<axum::Json<DiskUse>, Refusal> {
    let used = app.ask(|app| {
        let mut rows = vec![sandboxes(app), images(app)?, kernels(app)?, templates(app)];
        if let Some(library) = &app.library {
            let cache = library.cache_facts().map_err(|error| fault(error.into()))?;
            rows.push(row("cache", cache.count, cache.allocated.bytes(), cache.unused.bytes()));
        }
        Ok(DiskUse { rows })
    });
    Ok(axum::Json(used.await?))
}

fn row(what: &str, count: u64, bytes: u64, reclaimable_bytes: u64) -> DiskRow {
    DiskRow { what: what.to_owned(), count, bytes, reclaimable_bytes }
}

fn sandboxes(app: &App) -> DiskRow {
    let records = app.engine.list();
    let (mut bytes, mut off) = (0, 0);
    for record in records.iter() {
        let taken = taken_below(&app.layout.vm(&record.id));
        bytes += taken;
        if !record.state.may_have_vmm() {
            off += taken;
        }
    }
    row("sandboxes", records.len() as u64, bytes, off)
}

fn images(app: &App) -> Result<DiskRow, Fault> {
    let images = app.host.images.images().map_err(|error| fault(error.into()))?;
    let unused = images.iter().filter(|facts| used_by(app, |spec| spec.image == facts.name).is_empty());
    let free = unused.map(|facts| facts.allocated.bytes()).sum();
    Ok(row("images", images.len() as u64, taken_below(&app.layout.images()), free))
}

fn kernels(app: &App) -> Result<DiskRow, Fault> {
    let kernels = app.host.images.kernels().map_err(|error| fault(error.into()))?;
    let (mut bytes, mut free) = (0, 0);
    for facts in &kernels {
        let taken = taken_below(&app.layout.kernel(&facts.name));
        bytes += taken;
        if refuse_used("kernel", facts.name.as_str(), used_by(app, |spec| spec.kernel == facts.name)).is_ok() {
            free += taken;
        }
    }
    Ok(row("kernels", kernels.len() as u64, bytes, free))
}

/// Empty file systems, grown seeds and work disks with a repository: made again when they are wanted.
fn templates(app: &App) -> DiskRow {
    let folder = app.layout.templates();
    let bytes = taken_below(&folder);
    row("templates", std::fs::read_dir(folder).map_or(0, |entries| entries.count() as u64), bytes, bytes)
}

/// Deeper than this nothing of ours lies.
const MAX_DEPTH: usize = 4;

fn taken_below(folder: &Path) -> u64 {
    fn taken(path: &Path, depth: usize) -> u64 {
        let Ok(found) = std::fs::symlink_metadata(path) else { return 0 };
        // st_blocks counts 512 bytes each, whatever the file system (stat(2)); a file with two names is counted half.
        let own = found.blocks() * 512 / if found.is_dir() { 1 } else { found.nlink().max(1) };
        if !found.is_dir() || depth == 0 {
            return own;
        }
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        own + entries.map(|entry| taken(&entry.path(), depth - 1)).sum::<u64>()
    }
    taken(folder, MAX_DEPTH)
}
