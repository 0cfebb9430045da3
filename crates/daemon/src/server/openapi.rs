//! The OpenAPI document, generated from the handlers and the types of the wire; `docs/reference/openapi.json` is held
//! to it by a test.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "banger control API",
        version = "1",
        description = "HTTP/1.1 and JSON on a Unix socket that only its owner and root may use. Long work answers with NDJSON: one event a line, the last one a result or a fault. Closing the connection before that cancels the work."
    ),
    paths(
        super::host::daemon_status, super::host::stop_daemon, super::host::doctor, super::host::history,
        super::host::audit, super::host::back_up, super::host::fix, super::events::events, super::metrics::metrics,
        super::sandboxes::list, super::sandboxes::create, super::sandboxes::show, super::sandboxes::set,
        super::sandboxes::delete, super::sandboxes::start, super::sandboxes::stop, super::sandboxes::kill,
        super::sandboxes::restart, super::sandboxes::reset, super::sandboxes::pause, super::sandboxes::resume,
        super::observe::health, super::observe::stats, super::ports::ports, super::ports::change,
        super::files::read, super::files::write, super::files::facts, super::service::service, super::logs::logs, crate::exec::exec,
        crate::ssh::door::ssh, crate::tunnel::stream, super::workspaces::list, super::workspaces::prepare, super::workspaces::plan,
        super::workspaces::consent,
        super::images::images, super::images::pull_image, super::images::import_image, super::images::remove_image,
        super::upkeep::register_image, super::upkeep::save_image, super::upkeep::bundle_image, super::upkeep::promote_image,
        super::upkeep::tag_image, super::upkeep::load_image, super::upkeep::prune_images, super::upkeep::prune_cache,
        super::upkeep::disk_use,
        super::library::kernels, super::kernels::kernel, super::kernels::build_kernel, super::library::pull_kernel, super::library::import_kernel, super::library::remove_kernel,
        super::network::show, super::network::change, super::network::log,
        super::network::status, super::network::up, super::network::down,
        super::work::view, super::work::look, super::work::pull,
        document,
    ),
    tags(
        (name = "daemon", description = "The daemon and its host"),
        (name = "vms", description = "Sandboxes"),
        (name = "network", description = "How sandboxes are connected"),
        (name = "library", description = "Images and kernels"),
        (name = "workspaces", description = "Code of the host inside guests"),
    )
)]
struct Document;

/// This document
#[utoipa::path(get, path = "/v1/openapi.json", tag = "daemon", responses((status = 200, body = serde_json::Value)))]
pub async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], json()).into_response()
}

pub fn json() -> String {
    let mut json = Document::openapi().to_pretty_json().expect("a generated document is valid JSON");
    json.push('\n');
    json
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_in_the_repository_is_this_one() {
        crate::golden::check("docs/reference/openapi.json", &super::json());
    }

    /// Paths and methods as `server.rs` routes them.
    #[test]
    fn every_route_is_documented() {
        let source = include_str!("../server.rs");
        let document: serde_json::Value = serde_json::from_str(&super::json()).unwrap();
        let mut routed = 0;
        for line in source.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")) {
            let (path, handlers) = line.split_once('"').unwrap();
            for method in ["get", "post", "put", "patch", "delete"] {
                let is_routed = handlers.contains(&format!("{method}("));
                let is_documented = document["paths"][path][method].is_object();
                assert_eq!(is_routed, is_documented, "{method} {path}");
                routed += usize::from(is_routed);
            }
        }
        assert!(routed > 30, "only {routed} routes were found in the source");
    }
}
