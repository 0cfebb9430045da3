//! What a repository asks for in its `.banger.toml`, and what it pins: shown, agreed to, and put into the requests. The
//! person's own options win over all of it.

use crate::client::Path;
use crate::command::Context;
use crate::failure::{Failure, Outcome};
use crate::render;
use crate::render::table::size;
use clap::Args;
use hyper::Method;
use wire::FaultKind;
use wire::control::{ConsentRequest, CreateRequest, PrepareRequest, RepositoryConfig, WorkspacePlan};

#[derive(Debug, Clone, Copy, Default, Args)]
#[command(next_help_heading = "What the repository wants")]
pub struct WishArgs {
    /// Install none of the tools that it pins, and run none of its set-up commands
    #[arg(long)]
    pub no_bootstrap: bool,
    /// Agree to what its `.banger.toml` asks for, now and from now on
    #[arg(long, conflicts_with = "ignore_config")]
    pub accept_config: bool,
    /// Go without its `.banger.toml`
    #[arg(long)]
    pub ignore_config: bool,
}

/// How the sandbox will be used, which decides what is installed and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Tools in the background, so that the shell comes at once.
    Shell,
    /// Everything before the answer.
    Detached,
    /// No tools: the command is what counts.
    Command,
}

impl WishArgs {
    /// Everything is decided here, before there is a machine.
    pub async fn settle(
        self,
        context: &Context,
        plan: &WorkspacePlan,
        usage: Use,
        create: &mut CreateRequest,
        prepare: &mut PrepareRequest,
    ) -> Outcome {
        let config = match &plan.config {
            Some(config) if self.agreed(context, plan, config).await? => Some(config),
            _ => None,
        };
        if let Some(config) = config {
            apply(config, create, prepare);
        }
        let wanted = !self.no_bootstrap && config.and_then(|config| config.bootstrap) != Some(false);
        let installs = wanted && !plan.tools.is_empty() && usage != Use::Command;
        if installs && create.outbound.as_deref() == Some("off") {
            return Err(no_network(plan));
        }
        prepare.bootstrap = match usage {
            _ if !wanted => None,
            Use::Shell => Some("background".into()),
            Use::Detached => Some("wait".into()),
            Use::Command => Some("setup".into()),
        };
        Ok(())
    }

    async fn agreed(self, context: &Context, plan: &WorkspacePlan, config: &RepositoryConfig) -> Outcome<bool> {
        if self.ignore_config {
            return Ok(false);
        }
        if config.accepted {
            return Ok(true);
        }
        render::note(&format!("`.banger.toml` in {} asks for:", plan.host_path));
        lines(config).iter().for_each(|line| render::note(&format!("  {line}")));
        if self.accept_config || render::confirm("Agree, now and from now on?") {
            let request = ConsentRequest { path: plan.host_path.clone(), digest: config.digest.clone() };
            context.client.order_with(Method::POST, Path::new("/v1/workspaces/consent"), &request).await?;
            return Ok(true);
        }
        let message = format!("cannot run {}: nobody has agreed to what its `.banger.toml` asks for", plan.host_path);
        let failure = Failure::new(FaultKind::Refused, message);
        Err(failure.with_hint("`--accept-config` agrees, `--ignore-config` goes without"))
    }
}

fn no_network(plan: &WorkspacePlan) -> Failure {
    let names: Vec<_> = plan.tools.iter().map(|tool| tool.name.as_str()).collect();
    let message = format!("cannot install {} without a network, and `--nat off` takes it away", names.join(", "));
    Failure::new(FaultKind::Refused, message).with_hint("`--nat on` gives it back, `--no-bootstrap` installs nothing")
}

fn apply(config: &RepositoryConfig, create: &mut CreateRequest, prepare: &mut PrepareRequest) {
    create.image = create.image.take().or_else(|| config.image.clone());
    create.vcpus = create.vcpus.or(config.vcpus);
    create.memory_bytes = create.memory_bytes.or(config.memory_bytes);
    create.disk_bytes = create.disk_bytes.or(config.disk_bytes);
    create.ports.extend(config.ports.iter().cloned());
    prepare.env = config.env.clone();
    prepare.setup = config.setup.clone();
}

fn lines(config: &RepositoryConfig) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(config.image.iter().map(|image| format!("image {image}")));
    lines.extend(config.vcpus.iter().map(|count| format!("{count} CPUs")));
    lines.extend(config.memory_bytes.iter().map(|bytes| format!("{} of memory", size(*bytes))));
    lines.extend(config.disk_bytes.iter().map(|bytes| format!("{} of disk", size(*bytes))));
    lines.extend(config.ports.iter().map(|port| format!("port {port}")));
    lines.extend(config.env.iter().map(|(name, value)| format!("variable {name}={value}")));
    lines.extend(config.setup.iter().map(|line| format!("command in the guest: {line}")));
    lines.extend(
        config.bootstrap.iter().map(|on| format!("tools: {}", if *on { "installed" } else { "not installed" })),
    );
    lines
}

/// For `--dry-run`, on stderr.
pub fn tell(plan: &WorkspacePlan) {
    for tool in &plan.tools {
        render::note(&format!("would install {} {} ({})", tool.name, tool.version, tool.source));
    }
    if let Some(config) = &plan.config {
        let agreed = if config.accepted { "you agreed" } else { "not agreed to yet" };
        lines(config).iter().for_each(|line| render::note(&format!("`.banger.toml` asks for {line} ({agreed})")));
    }
}
