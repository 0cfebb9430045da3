//! What a new sandbox shall be, as `run` and `create` take it.

use super::complete;
use super::net::NetArgs;
use super::values::{self, Pair};
use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args};
use clap_complete::ArgValueCandidates;
use model::port::PortForward;
use model::{ByteSize, InitMode, RestartPolicy, SandboxName, Vcpus, VmmChoice};
use std::time::Duration;
use wire::control::CreateRequest;

#[derive(Debug, Args)]
#[command(next_help_heading = "What the sandbox shall be")]
pub struct SpecArgs {
    /// Call it NAME; one is made up otherwise
    #[arg(long, value_name = "NAME")]
    pub name: Option<SandboxName>,
    /// Boot this image; `banger image list` shows them
    #[arg(long, value_name = "IMAGE", add = ArgValueCandidates::new(complete::images))]
    pub image: Option<String>,
    /// Boot this kernel instead of the image's own
    #[arg(long, value_name = "KERNEL", add = ArgValueCandidates::new(complete::kernels))]
    pub kernel: Option<String>,
    /// Give it so many CPUs
    #[arg(long, visible_alias = "vcpus", value_name = "COUNT")]
    pub vcpu: Option<Vcpus>,
    /// Give it so much memory (`4G`, `512MiB`; a bare number is MiB)
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Limit its work disk, which lies on /root
    #[arg(long, value_name = "SIZE")]
    pub disk_size: Option<ByteSize>,
    /// Limit what it may write outside of /root
    #[arg(long, value_name = "SIZE")]
    pub root_size: Option<ByteSize>,
    /// Choose who is process 1 in it
    #[arg(long, value_name = "WHO", value_parser = PossibleValuesParser::new(InitMode::ALL.iter().map(|w| w.word())))]
    pub init: Option<String>,
    /// Choose the program that runs the machine
    #[arg(long, value_name = "VMM", value_parser = PossibleValuesParser::new(VmmChoice::ALL.iter().map(|w| w.word())))]
    pub vmm: Option<String>,
    #[command(flatten)]
    pub net: NetArgs,
    /// Publish a port of the guest on this host: `8080:80`, `5353:53/udp`
    #[arg(short, long, value_name = "[[ADDRESS:]HOST:]GUEST[/udp]")]
    pub publish: Vec<PortForward>,
    /// Publish what the guest listens on, as it appears
    #[arg(long)]
    pub auto_forward: bool,
    /// Label it; labels filter listings
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::pair)]
    pub label: Vec<Pair>,
    /// Choose when it is started again by itself
    #[arg(long, value_name = "WHEN", value_parser = PossibleValuesParser::new(RestartPolicy::ALL.iter().map(|w| w.word())))]
    pub restart: Option<String>,
    /// Stop it after so long without use
    #[arg(long, value_name = "SPAN", value_parser = values::span)]
    pub stop_when_idle: Option<Duration>,
    /// Show the plan and do nothing
    #[arg(long, action = ArgAction::SetTrue)]
    pub dry_run: bool,
}

impl SpecArgs {
    pub fn request(self) -> CreateRequest {
        CreateRequest {
            name: self.name.map(String::from),
            image: self.image,
            kernel: self.kernel,
            vmm: self.vmm,
            vcpus: self.vcpu.map(Vcpus::count),
            memory_bytes: self.memory.map(ByteSize::bytes),
            disk_bytes: self.disk_size.map(ByteSize::bytes),
            root_bytes: self.root_size.map(ByteSize::bytes),
            init: self.init,
            outbound: self.net.outbound(),
            allow_networks: self.net.allow_net,
            ports: self.publish.iter().map(PortForward::to_string).collect(),
            auto_forward: self.auto_forward,
            labels: values::map(self.label),
            restart: self.restart,
            stop_when_idle_s: self.stop_when_idle.map(|span| span.as_secs()),
            dry_run: self.dry_run,
            ..CreateRequest::default()
        }
    }
}
