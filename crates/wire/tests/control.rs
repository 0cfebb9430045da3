//! Every message of the control API against its golden file: what a daemon of today writes, a client of tomorrow must
//! read. `UPDATE_GOLDEN=1` writes the files of new messages; a released file stays as it is.
#![cfg(feature = "control")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::path::PathBuf;
use wire::control::*;
use wire::{Fault, FaultKind};

const AT_NS: u64 = 1_700_000_000_123_456_789;
const GIB: u64 = 1 << 30;

/// The message is what the file says, the file is read as the message, and a field of a later version is passed over.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/control").join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(message).expect("a message can be written") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, golden, "{name}");
    assert_eq!(&serde_json::from_str::<T>(&golden).expect("the golden file is a message"), message, "{name}");
    let later = golden.replacen('{', "{\"of_a_later_version\": [1],", 1);
    assert_eq!(&serde_json::from_str::<T>(&later).expect("a later message is read"), message, "{name}");
}

/// Every field of the request may be absent.
fn check_request<T: Serialize + DeserializeOwned + PartialEq + Debug + Default>(name: &str, message: &T) {
    check(name, message);
    assert_eq!(serde_json::from_str::<T>("{}").expect("nothing has to be said"), T::default(), "{name}");
}

fn word(word: &str) -> Option<String> {
    Some(word.to_owned())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn sandbox() -> Sandbox {
    Sandbox {
        id: "0123456789abcdef".into(),
        name: "web".into(),
        state: "running".into(),
        failure: None,
        image: "debian-bookworm".into(),
        kernel: "debian-cloud".into(),
        vmm: word("firecracker"),
        vcpus: 2,
        memory_bytes: 2 * GIB,
        disk_bytes: 8 * GIB,
        root_bytes: 4 * GIB,
        init: "systemd".into(),
        ephemeral: false,
        restart: "on-failure".into(),
        stop_when_idle_s: Some(1800),
        outbound: "nat".into(),
        addresses: words(&["172.16.0.2"]),
        ports: words(&["127.0.0.1:8080:80"]),
        auto_forward: false,
        labels: [("project".to_owned(), "shop".to_owned())].into(),
        workspaces: vec![WorkspaceFacts {
            guest_path: "/root/repo".into(),
            host_path: "/home/ada/shop".into(),
            head_commit: word("8a5cb1c6ef0ab6ab3f0bfa9a1de1f2c74b1d7b2e"),
            ..WorkspaceFacts::default()
        }],
        created_at_ns: AT_NS,
        started_at_ns: Some(AT_NS + 1_000_000),
        vmm_pid: Some(4711),
        service: Vec::new(),
        timing: vec![
            Span { name: "start".into(), depth: 0, start_us: 0, duration_us: 1_450_000 },
            Span { name: "boot guest".into(), depth: 1, start_us: 9_000, duration_us: 1_441_000 },
        ],
    }
}

#[test]
fn services_keep_their_golden_shape() {
    let request = ServiceRequest {
        entrypoint: Some(words(&["/entry"])),
        command: Some(words(&["serve", "-v"])),
        env: [("A".to_owned(), "1".to_owned())].into(),
        user: word("web:www"),
        cwd: word("/srv"),
        off: true,
        restart: word("always"),
    };
    check_request("service_request", &request);
    let service = Service {
        argv: words(&["/entry", "serve"]),
        phase: "restarting".into(),
        pid: Some(71),
        exit_code: Some(143),
        failure: word("cannot run /entry"),
        restarts: 3,
    };
    check("service", &service);
    check("sandbox_with_service", &Sandbox { service: words(&["nginx"]), ..sandbox() });
    let create = CreateRequest { service: Some(ServiceRequest::default()), ..CreateRequest::default() };
    check_request("create_request_with_service", &create);
}

#[test]
fn sandboxes_keep_their_golden_shape() {
    check("sandbox", &sandbox());
    let failed = Sandbox {
        state: "failed".into(),
        failure: word("the guest did not come up within 60 s"),
        vmm: None,
        started_at_ns: None,
        vmm_pid: None,
        stop_when_idle_s: None,
        workspaces: Vec::new(),
        timing: Vec::new(),
        ..sandbox()
    };
    check("sandbox_failed", &failed);
    check("sandbox_list", &SandboxList { vms: vec![sandbox()] });
    check("sandbox_list_empty", &SandboxList::default());
}

#[test]
fn requests_keep_their_golden_shape() {
    let create = CreateRequest {
        name: word("web"),
        image: word("debian-bookworm"),
        kernel: word("debian-cloud"),
        vmm: word("auto"),
        vcpus: Some(2),
        memory_bytes: Some(2 * GIB),
        disk_bytes: Some(8 * GIB),
        root_bytes: Some(4 * GIB),
        init: word("auto"),
        outbound: word("nat"),
        allow_networks: words(&["10.1.0.0/16"]),
        ports: words(&["127.0.0.1:8080:80"]),
        auto_forward: false,
        labels: [("project".to_owned(), "shop".to_owned())].into(),
        restart: word("no"),
        stop_when_idle_s: Some(1800),
        ephemeral: true,
        no_start: false,
        service: None,
        workspace: None,
        dry_run: false,
    };
    check_request("create_request", &create);
    check_request("start_request", &StartRequest { dry_run: true });
    check_request("stop_request", &StopRequest { grace_ms: Some(10_000), dry_run: false });
    check_request("kill_request", &KillRequest { signal: word("TERM") });
    check_request("delete_request", &DeleteRequest { force: true, discard: false, dry_run: false });
    check_request(
        "logs_request",
        &LogsRequest {
            source: word("console"),
            follow: true,
            tail: Some(20),
            since_ns: Some(1_795_599_000_000_000_000),
        },
    );
    let files = FilesRequest { path: "/etc".into(), name: word("conf"), follow: true, owner: word("root") };
    check_request("files_request", &files);
    check_request("stream_request", &StreamRequest { port: 22 });
    check_request("history_request", &HistoryRequest { vm: word("web"), limit: Some(50) });
    let set = SetRequest {
        name: word("shop"),
        vcpus: Some(4),
        memory_bytes: Some(4 * GIB),
        disk_bytes: Some(16 * GIB),
        root_bytes: Some(8 * GIB),
        restart: word("always"),
        outbound: word("off"),
        allow_networks: Vec::new(),
        stop_when_idle_s: Some(0),
        labels: [("project".to_owned(), String::new())].into(),
    };
    check_request("set_request", &set);
}

#[test]
fn the_network_keeps_its_golden_shape() {
    check_request("net_change", &NetChange { allow: words(&["10.0.0.0/8", "db"]), deny: words(&["192.168.1.7"]) });
    check_request("network_up_request", &NetworkUpRequest { range: word("10.20.30.0/24") });
    check_request("network_down_request", &NetworkDownRequest { force: true });
    let facts = NetFacts {
        id: "0123456789abcdef".into(),
        name: "web".into(),
        mode: word("bridged"),
        device: word("bgr-0123456789a"),
        mac: word("02:01:23:45:67:89"),
        addresses: words(&["10.213.212.2/22"]),
        gateways: words(&["10.213.212.1"]),
        name_servers: words(&["10.213.212.1"]),
        outbound: "nat".into(),
        allow_networks: words(&["10.0.0.0/8"]),
        allow_vms: words(&["db"]),
    };
    check("net_facts", &facts);
    let entry = RefusedConnection {
        destination: "192.168.1.1".into(),
        protocol: "tcp".into(),
        port: 80,
        packets: 3,
        last_s: 12,
    };
    check("net_log", &NetLog { entries: vec![entry] });
    let status = NetworkStatus {
        wanted: "auto".into(),
        mode: "bridged".into(),
        reason: "the root helper answers".into(),
        bridge: word("br-banger"),
        range: word("10.213.212.0/22"),
        taps: 2,
        rules: word("in_sync"),
        forwarding_ours: true,
        obstacles: words(&["docker drops forwarded packets"]),
        helper: word("0.1.0"),
    };
    check("network_status", &status);
    check("network_down_answer", &NetworkDownAnswer { changed: true, kept: words(&["forwarding stays on"]) });
}

#[test]
fn answers_about_a_sandbox_keep_their_golden_shape() {
    let answer = SetAnswer {
        vm: Sandbox { workspaces: Vec::new(), timing: Vec::new(), ..sandbox() },
        live: words(&["restart"]),
        at_next_start: words(&["memory"]),
    };
    check("set_answer", &answer);
    let health = SandboxHealth {
        healthy: true,
        boot_id: "f3a1c7de-2c4b-4f7e-9a53-0d5c1f1e8a11".into(),
        agent_version: "0.1.0".into(),
        uptime_ms: 60_000,
        init: "systemd".into(),
        system_state: word("running"),
        sessions: 1,
        latency_us: 412,
    };
    check("sandbox_health", &health);
    let stats = Stats {
        id: "0123456789abcdef".into(),
        name: "web".into(),
        uptime_ms: 60_000,
        cpu_ms: 2_500,
        host_memory_bytes: GIB / 2,
        guest_memory_total_bytes: 2 * GIB,
        guest_memory_available_bytes: GIB,
        load_percent: 12,
        disk_logical_bytes: 12 * GIB,
        disk_allocated_bytes: GIB,
        network_received_bytes: 1_000,
        network_sent_bytes: 2_000,
    };
    check("stats", &stats);
    let port = PortRow {
        protocol: "tcp".into(),
        guest_address: "0.0.0.0".into(),
        guest_port: 80,
        process: word("nginx"),
        host_address: word("127.0.0.1:8080"),
        url: word("http://127.0.0.1:8080"),
        auto: false,
        idle: false,
    };
    check("ports_answer", &PortsAnswer { ports: vec![port.clone()] });
    let auto = PortRow { auto: true, ..port.clone() };
    let idle = PortRow { idle: true, process: None, url: None, protocol: "udp".into(), ..port };
    check("ports_answer_auto", &PortsAnswer { ports: vec![auto, idle] });
    let request =
        PortsRequest { add: words(&["8080:80", "5353:53/udp"]), remove: words(&["443"]), auto_forward: Some(true) };
    check_request("ports_request", &request);
}

#[test]
fn images_and_kernels_keep_their_golden_shape() {
    let image = ImageFacts {
        name: "debian-bookworm".into(),
        present: true,
        digest: Some(format!("sha256:{}", "ab".repeat(32))),
        has_systemd: true,
        kernel: word("debian-cloud"),
        size_bytes: 2 * GIB,
        allocated_bytes: GIB / 4,
        created_at_ns: AT_NS,
        source: "built with mmdebstrap".into(),
        used_by: words(&["web"]),
        managed: true,
        ..ImageFacts::default()
    };
    check("image_list", &ImageList { images: vec![image.clone()] });
    check("image_pulled", &ImageList { images: vec![pulled(image)] });
    let pull = ImagePull {
        name: word("web"),
        plain_http: true,
        ca_file: word("/etc/ca.pem"),
        verify_key: word("-----BEGIN PUBLIC KEY-----"),
        auth_file: word("/root/.docker/config.json"),
    };
    check_request("image_pull", &pull);
    let kernel = KernelFacts {
        name: "debian-cloud".into(),
        present: true,
        version: word("6.1.0-40-cloud-amd64"),
        digest: Some(format!("sha256:{}", "cd".repeat(32))),
        size_bytes: 53_000_000,
        created_at_ns: AT_NS,
        source: "linux-image-cloud-amd64".into(),
        details: KernelDetails::default(),
    };
    check("kernel_list", &KernelList { kernels: vec![kernel.clone()] });
    let details = KernelDetails {
        backends: words(&["firecracker", "qemu"]),
        boot_args: "quiet".into(),
        modules: Some(17),
        files: [("vmlinux".to_owned(), "/k/vmlinux".to_owned())].into(),
        used_by: words(&["web"]),
    };
    check("kernel_facts", &KernelFacts { details, ..kernel });
    let build = KernelBuild {
        package: word("linux-source-6.1"),
        archive: word("/src/linux-6.1.tar.xz"),
        signature: word("/src/linux-6.1.tar.sign"),
        keyring: word("/src/keys.gpg"),
        unverified: true,
        jobs: Some(2),
    };
    check_request("kernel_build", &build);
    check_request("image_import", &ImageImport { path: "/tmp/rootfs.tar.zst".into() });
    let import = KernelImport {
        vmlinux: "/boot/vmlinux".into(),
        boot_args: "pci=off quiet".into(),
        modules: word("/lib/modules/6.1.0-40-cloud-amd64"),
    };
    check_request("kernel_import", &import);
}

#[test]
fn the_librarys_upkeep_keeps_its_golden_shape() {
    check_request("image_load", &ImageLoad { path: "/tmp/a.tar".into(), tag: word("1"), name: word("a") });
    check_request("image_save", &ImageSave { path: "/tmp/a.tar".into() });
    check_request("image_bundle", &ImageBundle { folder: "/tmp".into(), kernel: word("debian-cloud") });
    check("image_file", &ImageFile { path: "/tmp/a.tar".into(), bytes: GIB });
    check_request("image_tag", &ImageTag { name: "b".into() });
    let register = ImageRegister {
        rootfs: "/srv/rootfs.ext4".into(),
        work_seed: word("/srv/work.ext4"),
        kernel_ref: word("debian-cloud"),
        kernel: word("/boot/vmlinux"),
        initrd: word("/boot/initrd"),
        modules: word("/lib/modules/6.1"),
        boot_args: "quiet".into(),
    };
    check_request("image_register", &register);
    check_request("prune_request", &PruneRequest { all: true, dry_run: true });
    check("pruned", &Pruned { removed: words(&["a"]), freed_bytes: GIB, dry_run: false });
    let row = DiskRow { what: "cache".into(), count: 2, bytes: GIB, reclaimable_bytes: GIB / 2 };
    check("disk_use", &DiskUse { rows: vec![row] });
}

fn pulled(image: ImageFacts) -> ImageFacts {
    let config = ImageConfigFacts {
        entrypoint: words(&["/docker-entrypoint.sh"]),
        cmd: words(&["nginx"]),
        env: words(&["PATH=/usr/bin"]),
        user: "www".into(),
        working_dir: "/srv".into(),
        exposed_ports: words(&["80/tcp"]),
        volumes: words(&["/data"]),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        stop_signal: "SIGQUIT".into(),
        healthcheck: Some(HealthcheckFacts {
            test: words(&["CMD", "true"]),
            interval_ns: 30_000_000_000,
            timeout_ns: 1_000_000_000,
            start_period_ns: 0,
            retries: 3,
        }),
    };
    ImageFacts {
        references: words(&["docker.io/library/nginx:latest"]),
        system: word("Debian GNU/Linux 12 (bookworm)"),
        config: Some(config),
        files: [("rootfs".to_owned(), "/s/images/nginx/rootfs.ext4".to_owned())].into(),
        ..image
    }
}

#[test]
fn the_daemon_keeps_its_golden_shape() {
    let status = DaemonStatus {
        api_version: 1,
        version: "0.1.0".into(),
        pid: 4711,
        socket: "/run/user/1000/banger/bangerd.sock".into(),
        dns: word("127.0.0.153:53"),
        state_folder: "/home/ada/.local/state/banger".into(),
        log_file: "/home/ada/.local/state/banger/bangerd.log".into(),
        host: "real".into(),
        started_at_ns: AT_NS,
        vms: 3,
        running: 1,
        memory_bytes: 20 << 20,
    };
    check("daemon_status", &status);
    let doctor = Doctor {
        checks: vec![Check {
            name: "kvm".into(),
            verdict: Verdict::Warn,
            detail: "/dev/kvm opens, but this CPU shows no hardware virtualization".into(),
            hint: word("expect guests to be slow"),
        }],
        backends: vec![BackendRow {
            backend: "qemu".into(),
            usable: true,
            chosen: true,
            reason: "KVM is emulated".into(),
            version: word("7.2.0"),
            accelerated: false,
            features: words(&["pause"]),
        }],
        defaults: vec![DefaultRow { name: "memory".into(), value: "3GiB".into(), provenance: "host".into() }],
    };
    check("doctor", &doctor);
}

#[test]
fn what_was_done_keeps_its_golden_shape() {
    let operation = OperationFacts {
        id: "00000000000000aa".into(),
        verb: "create".into(),
        vm_id: "0123456789abcdef".into(),
        vm_name: "web".into(),
        began_at_ns: AT_NS,
        ended_at_ns: Some(AT_NS + 5_000_000),
        outcome: "failed".into(),
        error: word("cannot create disk for web"),
        steps: vec![
            StepFacts { name: "record sandbox".into(), state: "undone".into(), duration_us: Some(120) },
            StepFacts { name: "make disk".into(), state: "failed".into(), duration_us: None },
        ],
    };
    check("history", &History { operations: vec![operation] });
    let plan = PlanFacts { verb: "create".into(), vm_name: "web".into(), steps: words(&["record sandbox"]) };
    check("plan_facts", &plan);
    let change = StateChange {
        at_ns: AT_NS,
        vm_id: "0123456789abcdef".into(),
        vm_name: "web".into(),
        from: word("starting"),
        to: word("running"),
        operation: word("00000000000000aa"),
    };
    check("state_change", &change);
    let finding =
        Finding { what: "tap".into(), subject: "bgr0".into(), detail: "no sandbox has it".into(), mended: true };
    check("audit", &Audit { findings: vec![finding], fixed: true });
    check("audit_empty", &Audit::default());
    check_request("backup_request", &BackupRequest { path: "/srv/banger.tar".into(), replace: true });
    check("backup", &Backup { path: "/srv/banger.tar".into(), vms: 3, size_bytes: 81_920 });
}

#[test]
fn events_and_faults_keep_their_golden_shape() {
    type Line = Event<PlanFacts>;
    check("event_began", &Line::Began { operation: "00000000000000aa".into(), vm: word("web") });
    check("event_stage", &Line::Stage { text: "building image debian-bookworm".into() });
    let part = Line::Part { name: "layer 0123".into(), done: 1, total: Some(4), unit: "bytes".into() };
    check("event_part", &part);
    check("event_progress", &Line::Progress { done: 1, total: Some(4), unit: "bytes".into() });
    check("event_note", &Line::Note { text: "KVM is emulated here".into() });
    check("event_result", &Line::Result { value: PlanFacts::default() });
    let mut fault = Fault::new(FaultKind::Conflict, "cannot create web")
        .with_cause("the name is taken")
        .with_hint("`banger vm delete web` frees it");
    fault.operation = word("00000000000000aa");
    check("event_fault", &Line::Fault { fault: fault.clone() });
    check("fault", &fault);
    check("fault_least", &Fault::new(FaultKind::Internal, "bangerd failed"));
}

#[test]
fn words_of_a_later_version_are_passed_over() {
    let event: Event<PlanFacts> = serde_json::from_str(r#"{"event":"fanfare","volume":11}"#).expect("it is skipped");
    assert_eq!(event, Event::Unknown);
    let fault: Fault = serde_json::from_str(r#"{"kind":"eclipse","message":"dark"}"#).expect("it is a fault");
    assert_eq!(fault.kind, FaultKind::Internal);
}

#[test]
fn workspaces_keep_their_golden_shape() {
    let prepare = PrepareRequest {
        path: "/home/ada/shop".into(),
        guest_path: word("/root/shop"),
        mode: word("shallow"),
        depth: Some(10),
        branch: word("try"),
        from: word("HEAD~1"),
        include_untracked: true,
        readonly: true,
        discard: true,
        again: true,
        bootstrap: word("background"),
        setup: words(&["make deps"]),
        env: [("MODE".to_owned(), "test".to_owned())].into(),
    };
    check_request("prepare_request", &prepare);
    check_request("plan_request", &PlanRequest { prepare, disk_bytes: Some(8 * GIB), list: true, ignore_config: true });
    let commit = "8a5cb1c6ef0ab6ab3f0bfa9a1de1f2c74b1d7b2e";
    let plan = WorkspacePlan {
        guest_path: "/root/shop".into(),
        host_path: "/home/ada/shop".into(),
        git: true,
        head_commit: word(commit),
        branch: word("try"),
        file_count: 2,
        file_bytes: 4711,
        files: words(&[".env", "main.rs"]),
        secrets: words(&[".env"]),
        notes: words(&["`.env` looks like it holds a secret"]),
        tools: vec![ToolFacts { name: "go".into(), version: "1.22.3".into(), source: "go.mod".into() }],
        config: Some(RepositoryConfig {
            digest: "6b86b273ff34fce1".into(),
            accepted: false,
            image: word("debian-bookworm"),
            vcpus: Some(2),
            memory_bytes: Some(2 * GIB),
            disk_bytes: Some(8 * GIB),
            ports: words(&["8080:80"]),
            env: [("MODE".to_owned(), "test".to_owned())].into(),
            setup: words(&["make deps"]),
            bootstrap: Some(true),
        }),
    };
    check_request(
        "consent_request",
        &ConsentRequest { path: "/home/ada/shop".into(), digest: "6b86b273ff34fce1".into() },
    );
    check("workspace_plan", &plan);
    let workspace = WorkspaceFacts {
        guest_path: "/root/shop".into(),
        host_path: "/home/ada/shop".into(),
        head_commit: word(commit),
        branch: word("try"),
        mode: word("shallow"),
        readonly: true,
        prepared_at_ns: Some(AT_NS),
        work: None,
        env: [("MODE".to_owned(), "test".to_owned())].into(),
    };
    let notes = words(&["`fifo` stays here: it is neither a file nor a symbolic link"]);
    let status = WorkspaceStatus {
        workspace: workspace.clone(),
        host: "commits".into(),
        host_commits: Some(2),
        host_error: None,
        guest: Some(GuestSide { untouched: false, history: 1, changed: 2, removed: 0, added: 40 }),
    };
    check("workspace_list", &WorkspaceList { workspaces: vec![status] });
    check_request("workspace_list_request", &WorkspaceListRequest { guest: true });
    check(
        "prepared",
        &Prepared {
            vm_name: "web".into(),
            workspace,
            files: 2,
            bytes: 4711,
            bootstrap: words(&["go@1.22.3 (go.mod)"]),
            notes,
        },
    );
}
