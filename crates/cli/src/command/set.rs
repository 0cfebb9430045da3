//! `banger vm set`.

use super::Context;
use super::fleet::{self, Which};
use super::net::NetArgs;
use super::values::{self, Pair};
use crate::client::Path;
use crate::failure::{Failure, Outcome};
use clap::Args;
use clap::builder::PossibleValuesParser;
use hyper::Method;
use model::{ByteSize, RestartPolicy, Vcpus};
use std::time::Duration;
use wire::FaultKind;
use wire::control::{SetAnswer, SetRequest};

/// Change sandboxes.
///
/// Says for each change whether it is in force now or at the next start. Disks can grow, never shrink.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger vm set --memory 4G --label tier=big web db")]
pub struct SetArgs {
    #[command(flatten)]
    pub which: Which,
    /// Give it so many CPUs
    #[arg(long, visible_alias = "vcpus", value_name = "COUNT")]
    pub vcpu: Option<Vcpus>,
    /// Give it so much memory
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Let its work disk, which lies on /root, grow to this
    #[arg(long, value_name = "SIZE")]
    pub disk_size: Option<ByteSize>,
    /// Let it write so much outside of /root
    #[arg(long, value_name = "SIZE")]
    pub root_size: Option<ByteSize>,
    /// Choose when it is started again by itself
    #[arg(long, value_name = "WHEN", value_parser = PossibleValuesParser::new(RestartPolicy::ALL.iter().map(|w| w.word())))]
    pub restart: Option<String>,
    #[command(flatten)]
    pub net: NetArgs,
    /// Stop it after so long without use
    #[arg(long, value_name = "SPAN|off", value_parser = values::span_or_off)]
    pub stop_when_idle: Option<Duration>,
    /// Label it; an empty value removes the label
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::pair)]
    pub label: Vec<Pair>,
}

impl SetArgs {
    fn request(self) -> SetRequest {
        SetRequest {
            name: None,
            vcpus: self.vcpu.map(Vcpus::count),
            memory_bytes: self.memory.map(ByteSize::bytes),
            disk_bytes: self.disk_size.map(ByteSize::bytes),
            root_bytes: self.root_size.map(ByteSize::bytes),
            restart: self.restart,
            outbound: self.net.outbound(),
            allow_networks: self.net.allow_net,
            stop_when_idle_s: self.stop_when_idle.map(|span| span.as_secs()),
            labels: values::map(self.label),
        }
    }
}

pub async fn run(context: &Context, args: SetArgs) -> Outcome {
    let which = args.which.clone();
    let request = args.request();
    if request == SetRequest::default() {
        let nothing = Failure::new(FaultKind::Invalid, "nothing to change was named");
        return Err(nothing.with_hint("`banger vm set --help` lists what can be changed"));
    }
    let vms = which.resolve(context).await?;
    change(context, vms, &request).await
}

pub async fn change(context: &Context, vms: Vec<String>, request: &SetRequest) -> Outcome {
    let ask = |vm: String, _line| async move {
        context.client.call::<_, SetAnswer>(Method::PATCH, Path::vm(&vm), request).await
    };
    let outcomes = fleet::each(context, vms, ask).await;
    fleet::report(context, outcomes, text)
}

pub fn text(answer: &SetAnswer) -> String {
    let live = answer.live.iter().map(|change| format!("{change} (now)"));
    let later = answer.at_next_start.iter().map(|change| format!("{change} (at the next start)"));
    let changes: Vec<String> = live.chain(later).collect();
    let changes = if changes.is_empty() { "already so".into() } else { changes.join(", ") };
    format!("{}: {changes}", answer.vm.name)
}
