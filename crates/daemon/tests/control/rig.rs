//! A daemon of its own for each test, over a world that the test can bend.

use bytes::Bytes;
use daemon::app::{App, HostKind};
use daemon::config::Config;
use daemon::daemon::{Daemon, DaemonError, Options, Under};
use daemon::layout::Layout;
use engine::sim::World;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Generous: the machine that runs the tests may be busy. A test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Rig {
    pub world: Arc<World>,
    pub app: Arc<App>,
    pub folder: TempDir,
    serving: JoinHandle<Result<(), DaemonError>>,
}

pub fn options(folder: &Path) -> Options {
    let below = |name: &str| folder.join(name);
    let layout = Layout::at(below("state"), below("run"), below("cache")).expect("a temporary folder is short enough");
    Options { host: HostKind::Sim, layout, socket: below("run").join("bangerd.sock"), config: Config::default() }
}

pub async fn open(folder: &Path, world: &Arc<World>) -> Result<Daemon, DaemonError> {
    let (options, world) = (options(folder), world.clone());
    let open = move || Daemon::open_on(options, |_| Ok(Under::over(world.host())));
    tokio::task::spawn_blocking(open).await.expect("opening does not panic")
}

impl Rig {
    pub async fn new() -> Rig {
        Rig::over(World::new(7), tempfile::tempdir().expect("a temporary folder can be made")).await
    }

    pub async fn over(world: Arc<World>, folder: TempDir) -> Rig {
        let daemon = open(folder.path(), &world).await.expect("a fresh daemon opens");
        let app = daemon.app().clone();
        Rig { world, app, folder, serving: tokio::spawn(daemon.serve()) }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("run/bangerd.sock")
    }

    pub async fn raw(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.expect("the daemon listens")
    }

    /// Stops it as a signal would, and hands its world and folder on.
    pub async fn stop(self) -> (Arc<World>, TempDir) {
        self.app.stop();
        let app = Arc::downgrade(&self.app);
        drop(self.app);
        tokio::time::timeout(PATIENCE, self.serving).await.expect("it stops").expect("no panic").expect("no error");
        // The last one to let go closes the store, and SQLite then folds its write-ahead log into the file.
        let log = self.folder.path().join("state/banger.db-wal");
        let all_let_go = async {
            while app.strong_count() > 0 || log.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all_let_go).await.expect("nothing of a stopped daemon holds its store");
        (self.world, self.folder)
    }

    pub async fn has_ended(self) -> bool {
        tokio::time::timeout(PATIENCE, self.serving).await.is_ok()
    }

    pub async fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Response<Incoming> {
        let request = Request::builder().method(method).uri(path).header("host", "bangerd");
        self.send_request(request.body(Full::new(body.into())).expect("the test's request is valid")).await
    }

    pub async fn send_request(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let mut sender = connect(self.raw().await).await;
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("in time").expect("an answer")
    }

    pub async fn ask(&self, method: &str, path: &str, body: &str) -> (StatusCode, Vec<u8>) {
        let response = self.send(method, path, body.to_owned()).await;
        let status = response.status();
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.expect("in time");
        (status, body.expect("a whole answer").to_bytes().to_vec())
    }

    /// One JSON document, whatever its status.
    pub async fn json(&self, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        let (status, body) = self.ask(method, path, body).await;
        let value = serde_json::from_slice(&body);
        (status, value.unwrap_or_else(|_| panic!("{method} {path}: {}", String::from_utf8_lossy(&body))))
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, value) = self.json("GET", path, "").await;
        assert_eq!(status, StatusCode::OK, "{path}: {value}");
        value
    }

    /// All events of a stream.
    pub async fn stream(&self, method: &str, path: &str, body: &str) -> Vec<Value> {
        let (status, body) = self.ask(method, path, body).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        let lines = body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("a line of a stream is JSON")).collect()
    }

    /// The value of a stream that ends well.
    pub async fn work(&self, method: &str, path: &str, body: &str) -> Value {
        let events = self.stream(method, path, body).await;
        let last = events.last().expect("a stream has a last line");
        assert_eq!(last["event"], "result", "{path}: {last}");
        last["value"].clone()
    }

    pub async fn create(&self, name: &str) -> Value {
        self.work("POST", "/v1/vms", &format!("{{\"name\":\"{name}\"}}")).await
    }

    pub async fn until(&self, what: &str, so: impl Fn(&Value) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let list = self.get("/v1/vms").await;
            if so(&list["vms"]) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what} did not come: {list}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub async fn connect(stream: UnixStream) -> SendRequest<Full<Bytes>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("a client's side never fails here");
    tokio::spawn(connection.with_upgrades());
    sender
}
