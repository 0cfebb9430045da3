//! Building kernels, and what else is known of one.

use super::convert;
use super::fault::{Refusal, fault};
use super::input::{Json, Named};
use super::library::{absolute, library, used_by};
use super::stream::respond;
use crate::app::App;
use crate::host::images::{BuildOptions, SUITE, Source, Trust, all_jobs};
use axum::extract::State;
use axum::response::Response;
use model::KernelName;
use std::sync::Arc;
use wire::control::{Event, KernelBuild, KernelFacts};
use wire::{Fault, FaultKind};

/// More compilers at once than any machine of one person runs.
const MAX_JOBS: u32 = 512;

/// Tells everything about a kernel
#[utoipa::path(get, path = "/v1/kernels/{name}", tag = "library", params(("name" = String, Path)),
    responses((status = 200, body = KernelFacts), (status = "default", body = Fault)))]
pub async fn kernel(State(app): State<Arc<App>>, name: Named) -> Result<axum::Json<KernelFacts>, Refusal> {
    let name: KernelName = name.parse()?;
    let facts = app.ask(move |app| kernel_named(app, &name));
    Ok(axum::Json(facts.await?))
}

/// Builds the generic guest kernel from source
#[utoipa::path(post, path = "/v1/kernels/{name}/build", tag = "library", params(("name" = String, Path)), request_body = KernelBuild,
    responses((status = 200, content_type = "application/x-ndjson", body = Event<KernelFacts>), (status = "default", body = Fault)))]
pub async fn build_kernel(
    State(app): State<Arc<App>>,
    name: Named,
    Json(request): Json<KernelBuild>,
) -> Result<Response, Refusal> {
    let name: KernelName = name.parse()?;
    let library = library(&app)?;
    let options = options(&request)?;
    Ok(respond(app, None, move |app, watch| {
        library.build_kernel(&name, &options, watch).map_err(|error| fault(error.into()))?;
        kernel_named(app, &name)
    }))
}

fn options(request: &KernelBuild) -> Result<BuildOptions, Refusal> {
    let jobs = request.jobs.unwrap_or_else(|| all_jobs() as u32);
    if !(1..=MAX_JOBS).contains(&jobs) {
        return Err(Refusal::invalid(format!("{jobs} is no number of jobs: 1 to {MAX_JOBS} are possible")));
    }
    Ok(BuildOptions { source: source(request)?, jobs: jobs as usize })
}

fn source(request: &KernelBuild) -> Result<Source, Refusal> {
    match (&request.package, &request.archive) {
        (Some(_), Some(_)) => Err(Refusal::invalid("a kernel is built of a package or of an archive, not of both")),
        (package, None) => {
            let package = package.clone().unwrap_or_else(|| "linux-source".to_owned());
            let rest = package.strip_prefix("linux-source");
            let plain = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
            match rest.is_some_and(plain) {
                true => Ok(Source::Package { name: package, suite: SUITE.to_owned() }),
                false => Err(Refusal::invalid("the package of a kernel's source is called `linux-source-…`")),
            }
        }
        (None, Some(archive)) => Ok(Source::Archive { path: absolute(archive)?, trust: trust(request)? }),
    }
}

fn trust(request: &KernelBuild) -> Result<Trust, Refusal> {
    match (&request.signature, &request.keyring, request.unverified) {
        (Some(signature), Some(keyring), false) => {
            Ok(Trust::Signed { signature: absolute(signature)?, keyring: absolute(keyring)? })
        }
        (None, None, true) => Ok(Trust::Unverified),
        _ => Err(Refusal::invalid(
            "an archive needs its signature and the keyring of who signed it, or the word that it is unverified",
        )),
    }
}

/// With the files and users that only the host knows.
fn kernel_named(app: &App, name: &KernelName) -> Result<KernelFacts, Fault> {
    let kernels = app.host.images.kernels().map_err(|error| fault(error.into()))?;
    let mut facts = kernels.iter().find(|facts| facts.name == *name).map(convert::kernel_facts).ok_or_else(|| {
        Fault::new(FaultKind::NotFound, format!("there is no kernel `{name}` here"))
            .with_hint("`banger kernel list` shows what there is")
    })?;
    let files = app.library.iter().flat_map(|library| library.kernel_files_of(name));
    facts.details.files = files.map(|(what, path)| (what.to_owned(), path.display().to_string())).collect();
    facts.details.used_by = used_by(app, |spec| spec.kernel == *name);
    Ok(facts)
}
