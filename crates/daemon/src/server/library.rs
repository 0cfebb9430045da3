//! Kernels on the control API, and what images share with them.

use super::convert;
use super::fault::{Refusal, fault};
use super::input::{Json, Named};
use super::stream::respond;
use crate::app::App;
use crate::host::images::Library;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use model::KernelName;
use std::path::PathBuf;
use std::sync::Arc;
use wire::control::{Event, KernelFacts, KernelImport, KernelList};
use wire::{Fault, FaultKind};

type Shared = State<Arc<App>>;

/// Lists kernels: those on this machine and those of the catalog
#[utoipa::path(get, path = "/v1/kernels", tag = "library", responses((status = 200, body = KernelList), (status = "default", body = Fault)))]
pub async fn kernels(State(app): Shared) -> Result<axum::Json<KernelList>, Refusal> {
    let list = app.ask(|app| {
        let present = app.host.images.kernels().map_err(|error| fault(error.into()))?;
        let mut kernels: Vec<_> = present.iter().map(convert::kernel_facts).collect();
        for (name, source) in app.library.iter().flat_map(|library| library.catalog_kernels()) {
            if !present.iter().any(|facts| facts.name == name) {
                kernels.push(KernelFacts { name: name.to_string(), source, ..KernelFacts::default() });
            }
        }
        Ok(KernelList { kernels })
    });
    Ok(axum::Json(list.await?))
}

/// Makes a kernel of the catalog present on this machine
#[utoipa::path(post, path = "/v1/kernels/{name}/pull", tag = "library", params(("name" = String, Path)),
    responses((status = 200, content_type = "application/x-ndjson", body = Event<KernelFacts>), (status = "default", body = Fault)))]
pub async fn pull_kernel(State(app): Shared, name: Named) -> Result<Response, Refusal> {
    let name: KernelName = name.parse()?;
    Ok(respond(app, None, move |app, watch| {
        let _change = app.host.images.ensure_kernel(&name, watch).map_err(|error| fault(error.into()))?;
        kernel_named(app, &name)
    }))
}

/// Registers a kernel from files on the host
#[utoipa::path(put, path = "/v1/kernels/{name}", tag = "library", params(("name" = String, Path)), request_body = KernelImport,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<KernelFacts>), (status = "default", body = Fault)))]
pub async fn import_kernel(
    State(app): Shared,
    name: Named,
    Json(request): Json<KernelImport>,
) -> Result<Response, Refusal> {
    let name: KernelName = name.parse()?;
    let library = library(&app)?;
    let from = crate::host::images::KernelFiles {
        vmlinux: absolute(&request.vmlinux)?,
        modules: request.modules.as_deref().map(absolute).transpose()?,
        boot_args: request.boot_args,
    };
    Ok(respond(app, None, move |app, watch| {
        library.import_kernel(&name, &from, watch).map_err(|error| fault(error.into()))?;
        kernel_named(app, &name)
    }))
}

/// Removes a kernel that no sandbox uses
#[utoipa::path(delete, path = "/v1/kernels/{name}", tag = "library", params(("name" = String, Path)),
    responses((status = 204), (status = "default", body = Fault)))]
pub async fn remove_kernel(State(app): Shared, name: Named) -> Result<StatusCode, Refusal> {
    let name: KernelName = name.parse()?;
    let remove = app.work(move |app| {
        refuse_used("kernel", name.as_str(), used_by(app, |spec| spec.kernel == name))?;
        refuse_wanted(app, &name)?;
        let _change = app.host.images.remove_kernel(&name).map_err(|error| fault(error.into()))?;
        Ok::<_, Fault>(())
    });
    remove.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An image that names a kernel cannot boot without it.
fn refuse_wanted(app: &App, kernel: &KernelName) -> Result<(), Fault> {
    let images = app.host.images.images().map_err(|error| fault(error.into()))?;
    let wanting = images.iter().filter(|facts| facts.kernel.as_ref() == Some(kernel));
    let names: Vec<String> = wanting.map(|facts| facts.name.to_string()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let words = names.join(", ");
    let fault = Fault::new(FaultKind::Refused, format!("cannot remove kernel {kernel}: image {words} boots with it"));
    Err(fault.with_hint(format!("`banger image delete {}` lets go of it", names.join(" "))))
}

pub fn used_by(app: &App, uses: impl Fn(&model::SandboxSpec) -> bool) -> Vec<String> {
    app.engine.list().iter().filter(|record| uses(&record.spec)).map(|record| record.name().to_string()).collect()
}

pub fn refuse_used(what: &str, name: &str, users: Vec<String>) -> Result<(), Fault> {
    if users.is_empty() {
        return Ok(());
    }
    let fault = Fault::new(FaultKind::Refused, format!("cannot remove {what} {name}: {} uses it", users.join(", ")));
    Err(fault.with_hint(format!("`banger vm delete {}` lets go of it", users.join(" "))))
}

fn kernel_named(app: &App, name: &KernelName) -> Result<KernelFacts, Fault> {
    let kernels = app.host.images.kernels().map_err(|error| fault(error.into()))?;
    kernels.iter().find(|facts| facts.name == *name).map(convert::kernel_facts).ok_or_else(vanished)
}

pub fn vanished() -> Fault {
    Fault::new(FaultKind::Conflict, "somebody removed it again")
}

pub fn library(app: &App) -> Result<Arc<Library>, Refusal> {
    app.library.clone().ok_or_else(|| Refusal(super::images::imaginary()))
}

pub fn absolute(path: &str) -> Result<PathBuf, Refusal> {
    let path = PathBuf::from(path);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Refusal::invalid(format!("{} is no absolute path", path.display()))),
    }
}
