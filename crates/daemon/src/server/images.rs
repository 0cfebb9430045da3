//! Images on the control API. An image is named by its name or by the reference it was pulled by.

use super::convert;
use super::fault::{Refusal, fault};
use super::input::{Json, Named};
use super::library::{absolute, library, refuse_used, used_by, vanished};
use super::stream::respond;
use crate::app::App;
use crate::host::images::{ImageDetails, PullOptions};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use model::ImageName;
use model::image_ref::ImageRef;
use std::sync::Arc;
use wire::control::{Event, HealthcheckFacts, ImageConfigFacts, ImageFacts, ImageImport, ImageList, ImagePull};
use wire::{Fault, FaultKind};

type Shared = State<Arc<App>>;

/// Lists images: those on this machine and those of the catalog
#[utoipa::path(get, path = "/v1/images", tag = "library", responses((status = 200, body = ImageList), (status = "default", body = Fault)))]
pub async fn images(State(app): Shared) -> Result<axum::Json<ImageList>, Refusal> {
    let list = app.ask(|app| {
        let mut images = present(app)?;
        for (name, source) in app.library.iter().flat_map(|library| library.catalog_images()) {
            if !images.iter().any(|facts| facts.name == name.as_str()) {
                images.push(ImageFacts { name: name.to_string(), source, managed: true, ..ImageFacts::default() });
            }
        }
        Ok(ImageList { images })
    });
    Ok(axum::Json(list.await?))
}

/// Makes an image present: one of the catalog by name, any other by its reference in a registry
#[utoipa::path(post, path = "/v1/images/{name}/pull", tag = "library", params(("name" = String, Path)), request_body = ImagePull,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<ImageFacts>), (status = "default", body = Fault)))]
pub async fn pull_image(State(app): Shared, given: Named, Json(request): Json<ImagePull>) -> Result<Response, Refusal> {
    let wanted: ImageRef = given.parse()?;
    let options = PullOptions {
        name: request.name.as_deref().map(|name| Named(name.to_owned()).parse()).transpose()?,
        plain_http: request.plain_http,
        ca_file: request.ca_file.as_deref().map(absolute).transpose()?,
        verify_key: request.verify_key,
        auth_file: request.auth_file.as_deref().map(absolute).transpose()?,
    };
    Ok(respond(app, None, move |app, watch| {
        let name = match (&app.library, &wanted) {
            (Some(library), _) => {
                library.pull_image(&wanted, &options, &|name| used_by(app, |spec| spec.image == *name), watch)
            }
            (None, ImageRef::Name(name)) => app.host.images.ensure_image(name, watch).map(|_| name.clone()),
            (None, ImageRef::Oci(_)) => return Err(imaginary()),
        };
        image_named(app, &name.map_err(|error| fault(error.into()))?)
    }))
}

/// Makes an image of a root file system's tar archive on the host
#[utoipa::path(post, path = "/v1/images/{name}/import", tag = "library", params(("name" = String, Path)), request_body = ImageImport,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<ImageFacts>), (status = "default", body = Fault)))]
pub async fn import_image(
    State(app): Shared,
    name: Named,
    Json(request): Json<ImageImport>,
) -> Result<Response, Refusal> {
    let name: ImageName = name.parse()?;
    let library = library(&app)?;
    let path = absolute(&request.path)?;
    Ok(respond(app, None, move |app, watch| {
        library.import_image(&name, &path, watch).map_err(|error| fault(error.into()))?;
        image_named(app, &name)
    }))
}

/// Removes an image that no sandbox uses
#[utoipa::path(delete, path = "/v1/images/{name}", tag = "library", params(("name" = String, Path)),
    responses((status = 204), (status = "default", body = Fault)))]
pub async fn remove_image(State(app): Shared, given: Named) -> Result<StatusCode, Refusal> {
    let wanted: ImageRef = given.parse()?;
    let remove = app.work(move |app| {
        let name = find(app, &wanted)?;
        // The kernel that came with it goes with it.
        let kernel = app.library.as_ref().and_then(|library| library.owned_kernel(&name));
        let uses = |spec: &model::SandboxSpec| spec.image == name || kernel.as_ref() == Some(&spec.kernel);
        refuse_used("image", name.as_str(), used_by(app, uses))?;
        let _change = app.host.images.remove_image(&name).map_err(|error| fault(error.into()))?;
        Ok::<_, Fault>(())
    });
    remove.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The image that is meant; a name that nobody has stays itself, so that what is asked of it says so.
pub fn find(app: &App, wanted: &ImageRef) -> Result<ImageName, Fault> {
    if let Some(library) = &app.library
        && let Some(name) = library.find(wanted).map_err(|error| fault(error.into()))?
    {
        return Ok(name);
    }
    match wanted {
        ImageRef::Name(name) => Ok(name.clone()),
        ImageRef::Oci(reference) => {
            let missing = Fault::new(FaultKind::NotFound, format!("there is no image {reference} on this machine"));
            Err(missing.with_hint("`banger image list` shows what there is"))
        }
    }
}

fn present(app: &App) -> Result<Vec<ImageFacts>, Fault> {
    let used = |name: &ImageName| used_by(app, |spec| spec.image == *name);
    match &app.library {
        Some(library) => {
            let images = library.described(&app.defaults.kernel.value).map_err(|error| fault(error.into()))?;
            let facts = |(facts, details)| {
                let used = used(&engine::host::images::ImageFacts::clone(&facts).name);
                detailed(convert::image_facts(&facts, used), details)
            };
            Ok(images.into_iter().map(facts).collect())
        }
        None => {
            let images = app.host.images.images().map_err(|error| fault(error.into()))?;
            Ok(images.iter().map(|facts| convert::image_facts(facts, used(&facts.name))).collect())
        }
    }
}

pub fn image_named(app: &App, name: &ImageName) -> Result<ImageFacts, Fault> {
    present(app)?.into_iter().find(|facts| facts.name == name.as_str()).ok_or_else(vanished)
}

fn detailed(facts: ImageFacts, details: ImageDetails) -> ImageFacts {
    let shown = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    ImageFacts {
        managed: details.managed,
        references: details.references,
        system: details.system,
        config: Some(config_facts(details.config)),
        files: details.files.into_iter().map(|(part, path)| (part.to_owned(), shown(path))).collect(),
        ..facts
    }
}

fn config_facts(config: ::images::config::ImageConfig) -> ImageConfigFacts {
    ImageConfigFacts {
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: config.env,
        user: config.user,
        working_dir: config.working_dir,
        exposed_ports: config.exposed_ports,
        volumes: config.volumes,
        labels: config.labels,
        stop_signal: config.stop_signal,
        healthcheck: config.healthcheck.map(|check| HealthcheckFacts {
            test: check.test,
            interval_ns: check.interval_ns,
            timeout_ns: check.timeout_ns,
            start_period_ns: check.start_period_ns,
            retries: check.retries,
        }),
    }
}

pub fn imaginary() -> Fault {
    Fault::new(FaultKind::HostUnfit, "the simulated host imports nothing: its images are imaginary")
}
