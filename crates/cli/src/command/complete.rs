//! What a shell may put where a name is wanted. Asks only a daemon that runs, and for no longer than 200 ms: nothing
//! is worse than a Tab key that hangs.

use crate::client::{Client, ClientError, Path};
use clap_complete::CompletionCandidate;
use clap_complete::engine::{PathCompleter, ValueCompleter};
use std::future::Future;
use std::time::Duration;
use wire::control::{ImageList, KernelList, SandboxList};

const WITHIN: Duration = Duration::from_millis(200);

pub fn vms() -> Vec<CompletionCandidate> {
    ask(|client| async move {
        let list: SandboxList = client.get(Path::new("/v1/vms")).await?;
        Ok(list.vms.into_iter().map(|vm| candidate(vm.name, vm.state)).collect())
    })
}

/// A sandbox with the colon behind which a path in it follows, or a file here.
pub fn places(current: &std::ffi::OsStr) -> Vec<CompletionCandidate> {
    let typed = current.to_string_lossy();
    let mut found = PathCompleter::any().complete(current);
    if !typed.contains(['/', ':']) {
        let names = vms().into_iter().filter_map(|vm| {
            let name = vm.get_value().to_str()?;
            name.starts_with(typed.as_ref())
                .then(|| CompletionCandidate::new(format!("{name}:")).help(vm.get_help().cloned()))
        });
        found.extend(names);
    }
    found
}

pub fn images() -> Vec<CompletionCandidate> {
    ask(|client| async move {
        let list: ImageList = client.get(Path::new("/v1/images")).await?;
        Ok(list.images.into_iter().map(|image| candidate(image.name, image.source)).collect())
    })
}

pub fn kernels() -> Vec<CompletionCandidate> {
    ask(|client| async move {
        let list: KernelList = client.get(Path::new("/v1/kernels")).await?;
        Ok(list.kernels.into_iter().map(|kernel| candidate(kernel.name, kernel.source)).collect())
    })
}

fn candidate(name: String, help: String) -> CompletionCandidate {
    CompletionCandidate::new(name).help(Some(help.into()))
}

fn ask<F, W>(question: F) -> Vec<CompletionCandidate>
where
    F: FnOnce(Client) -> W,
    W: Future<Output = Result<Vec<CompletionCandidate>, ClientError>>,
{
    let client = Client::only_running();
    if !client.socket().exists() {
        return Vec::new();
    }
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let answer = runtime.block_on(async { tokio::time::timeout(WITHIN, question(client)).await });
    answer.ok().and_then(Result::ok).unwrap_or_default()
}
