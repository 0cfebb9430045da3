//! A registry of Debian (`docker-registry`) on loopback, with TLS, logins or neither, and images in it that skopeo
//! pushed. Dropping it ends it.

use crate::artifacts;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const USER: &str = "someone";
pub const PASSWORD: &str = "of-the-house";

#[derive(Debug, Clone, Copy, Default)]
pub struct Guard {
    pub tls: bool,
    pub login: bool,
}

pub struct Registry {
    folder: PathBuf,
    port: u16,
    guard: Guard,
    server: Option<Child>,
}

impl Registry {
    /// `folder` is the caller's, empty and as short-lived as the registry.
    pub fn start(folder: &Path, guard: Guard) -> Registry {
        fs::create_dir_all(folder.join("store")).expect("a folder can be made");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port is free").port();
        let mut registry = Registry { folder: folder.to_owned(), port, guard, server: None };
        registry.write_config();
        registry.resume();
        registry
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The certificate authority that signed its certificate: itself.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    /// A file with the login, as Docker keeps it.
    pub fn auth_file(&self) -> PathBuf {
        self.folder.join("auth.json")
    }

    /// What it said, requests among it.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("it can be killed");
            server.wait().expect("it ends");
        }
    }

    pub fn resume(&mut self) {
        let log =
            fs::File::options().create(true).append(true).open(self.folder.join("log")).expect("a log can be made");
        let errors = log.try_clone().expect("a descriptor can be doubled");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(self.folder.join("config.yml")).stdin(Stdio::null()).stdout(log).stderr(errors);
        self.server = Some(command.spawn().expect("docker-registry starts"));
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < end, "the registry does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn write_config(&self) {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: false\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{}\n  \
             secret: x\n",
            at("store"),
            self.port
        );
        if self.guard.tls {
            let (key, cert) = (at("key.pem"), at("cert.pem"));
            run(
                "openssl",
                &[
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                    "-nodes",
                    "-days",
                    "2",
                    "-keyout",
                    &key,
                    "-out",
                    &cert,
                    "-subj",
                    "/CN=localhost",
                    "-addext",
                    "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:registry.invalid",
                    "-addext",
                    "basicConstraints=critical,CA:FALSE",
                ],
            );
            config.push_str(&format!("  tls:\n    certificate: {cert}\n    key: {key}\n"));
        }
        if self.guard.login {
            let users = run("htpasswd", &["-Bbn", USER, PASSWORD]);
            fs::write(self.folder.join("users"), users).expect("a file can be written");
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", at("users")));
            let secret = "c29tZW9uZTpvZi10aGUtaG91c2U=";
            let auth = format!(r#"{{"auths":{{"{}":{{"auth":"{secret}"}}}}}}"#, self.address());
            fs::write(self.auth_file(), auth).expect("a file can be written");
        }
        fs::write(self.folder.join("config.yml"), config).expect("a file can be written");
    }

    /// Pushes the image `layout:tag` of an OCI layout as `name`; `how` are options of `skopeo copy`.
    pub fn push(&self, layout: &Path, tag: &str, name: &str, how: &[&str]) {
        let from = format!("oci:{}:{tag}", layout.display());
        let to = format!("docker://{}/{name}", self.address());
        let mut arguments = vec!["--insecure-policy", "copy", "--dest-tls-verify=false", "--dest-creds"];
        let login = format!("{USER}:{PASSWORD}");
        match self.guard.login {
            true => arguments.push(&login),
            false => drop(arguments.pop()),
        }
        arguments.extend(how);
        arguments.extend([from.as_str(), to.as_str()]);
        run("skopeo", &arguments);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An OCI layout with busybox, made by umoci, and one more layer for each of `more`: a file of noise of so many bytes.
pub fn layout(folder: &Path, tag: &str, more: &[usize], config: &[&str]) -> PathBuf {
    let layout = folder.join("layout");
    let image = format!("{}:{tag}", layout.display());
    if !layout.exists() {
        run("umoci", &["init", "--layout", &layout.display().to_string()]);
    }
    run("umoci", &["new", "--image", &image]);
    let tar = folder.join("layer.tar");
    artifacts::write_tiny_tar(&tar);
    run("umoci", &["raw", "add-layer", "--image", &image, &tar.display().to_string()]);
    for (number, bytes) in more.iter().enumerate() {
        write_noise(&tar, number, *bytes);
        run("umoci", &["raw", "add-layer", "--image", &image, &tar.display().to_string()]);
    }
    if !config.is_empty() {
        run("umoci", &[&["config", "--image", &image], config].concat());
    }
    fs::remove_file(tar).expect("what was written can be removed");
    layout
}

fn write_noise(path: &Path, number: usize, bytes: usize) {
    let mut state = 88_172_645_463_325_252u64 + number as u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(bytes / 8)
    .flatten()
    .collect();
    let mut tar = tar::Builder::new(fs::File::create(path).expect("a tar can be made"));
    let mut header = tar::Header::new_gnu();
    header.set_size(noise.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, format!("noise-{number}"), &noise[..]).expect("an entry can be written");
    tar.finish().expect("the tar can be finished");
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
