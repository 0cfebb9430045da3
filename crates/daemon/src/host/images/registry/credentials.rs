//! Logins that a person keeps already: Docker's `config.json`, the `auth.json` of Podman and Skopeo, and the helpers
//! that they name. Read anew for each pull; nothing of it is written down or logged here.

use super::transport::unless_cancelled;
use super::{Cancelled, RegistryError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use model::image_ref::DEFAULT_REGISTRY;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// 1 MiB: a login has some hundred bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// 64 KiB of a helper's answer.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// 60 s: a helper may ask a person for the keyring's password.
const HELPER_WITHIN: Duration = Duration::from_secs(60);
/// As Docker calls its own registry in these files.
const DOCKERS_KEY: &str = "https://index.docker.io/v1/";
/// The user name under which a helper hands out an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    Password {
        user: String,
        password: String,
    },
    /// To be exchanged for tokens.
    Token(String),
}

/// Secrets are not for logs.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Login::Password { user, .. } => write!(f, "Password of {user:?}"),
            Login::Token(_) => f.write_str("Token"),
        }
    }
}

impl Login {
    /// `Basic …`; a token has no such form.
    pub fn basic(&self) -> Option<HeaderValue> {
        let Login::Password { user, password } = self else { return None };
        let mut value =
            HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Where logins are looked for, first one first.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    pub files: Vec<PathBuf>,
}

impl Credentials {
    /// The files of Docker, Podman and Skopeo, by this process's environment.
    pub fn discover() -> Credentials {
        Credentials::from_environment(&|key| std::env::var_os(key).filter(|value| !value.is_empty()))
    }

    fn from_environment(variable: &dyn Fn(&str) -> Option<OsString>) -> Credentials {
        let path = |key: &str, below: &str| variable(key).map(|folder| PathBuf::from(folder).join(below));
        let files = [
            variable("REGISTRY_AUTH_FILE").map(PathBuf::from),
            path("DOCKER_CONFIG", "config.json"),
            path("HOME", ".docker/config.json"),
            path("XDG_RUNTIME_DIR", "containers/auth.json"),
            path("HOME", ".config/containers/auth.json"),
        ];
        Credentials { files: files.into_iter().flatten().collect() }
    }

    /// The login kept for a registry, if there is one.
    pub async fn find(&self, registry: &str, cancelled: Cancelled<'_>) -> Result<Option<Login>, RegistryError> {
        for file in &self.files {
            let failed = |reason: String| RegistryError::Credentials { host: registry.to_owned(), reason };
            let Some(kept) = Kept::read(file).map_err(|error| failed(format!("{}: {error}", file.display())))? else {
                continue;
            };
            let found = match kept.look_up(registry) {
                Found::Nothing => None,
                Found::Login(login) => Some(login),
                Found::Broken => return Err(failed(format!("{} holds no readable login for it", file.display()))),
                Found::Helper(helper) => ask(&helper, registry, cancelled).await.map_err(|error| match error {
                    HelperError::Cancelled => RegistryError::Cancelled,
                    HelperError::Failed(reason) => failed(reason),
                })?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Kept {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Login(Login),
    Helper(String),
    Broken,
}

impl Kept {
    fn read(file: &Path) -> io::Result<Option<Kept>> {
        let mut text = Vec::new();
        match std::fs::File::open(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?.take(MAX_FILE_BYTES).read_to_end(&mut text)?,
        };
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&text).map(Some).map_err(|_| io::Error::other("it is no such file"))
    }

    fn look_up(&self, registry: &str) -> Found {
        let is = |key: &str| is_key_of(key, registry);
        if let Some((_, helper)) = self.cred_helpers.iter().find(|(key, _)| is(key)) {
            return Found::Helper(helper.clone());
        }
        match self.auths.iter().find(|(key, auth)| is(key) && !auth.is_empty()) {
            Some((_, auth)) => auth.login().map_or(Found::Broken, Found::Login),
            None => self.creds_store.clone().map_or(Found::Nothing, Found::Helper),
        }
    }
}

impl Auth {
    /// An entry without anything says only that a helper has it.
    fn is_empty(&self) -> bool {
        [&self.auth, &self.username, &self.identitytoken].iter().all(|field| field.as_deref().unwrap_or("").is_empty())
    }

    fn login(&self) -> Option<Login> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Some(Login::Token(token.clone()));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let pair = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
            let (user, password) = pair.split_once(':')?;
            return Some(Login::Password {
                user: user.to_owned(),
                password: password.trim_end_matches('\0').to_owned(),
            });
        }
        Some(Login::Password { user: self.username.clone()?, password: self.password.clone()? })
    }
}

/// `https://host/v1/` and `host` mean the same registry; Docker's own has a name of the past.
fn is_key_of(key: &str, registry: &str) -> bool {
    if registry == DEFAULT_REGISTRY && key == DOCKERS_KEY {
        return true;
    }
    let bare = key.trim_start_matches("https://").trim_start_matches("http://");
    bare.split('/').next() == Some(registry)
}

enum HelperError {
    Cancelled,
    Failed(String),
}

/// `docker-credential-<name> get`: the registry on stdin, user and secret as JSON on stdout.
async fn ask(name: &str, registry: &str, cancelled: Cancelled<'_>) -> Result<Option<Login>, HelperError> {
    let failed = |reason: String| HelperError::Failed(reason);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(failed("its credential helper's name is no word".to_owned()));
    }
    let program = format!("docker-credential-{name}");
    let work = tokio::time::timeout(HELPER_WITHIN, run(&program, registry));
    let ended = unless_cancelled(cancelled, work).await.map_err(|_| HelperError::Cancelled)?;
    let ended = ended.map_err(|_| failed(format!("`{program}` does not answer")))?;
    let (success, answer) = ended.map_err(|error| failed(format!("`{program}` cannot be asked: {error}")))?;
    if !success {
        // The helpers' own words for "nothing there" (docker-credential-helpers, `credentials/error.go`).
        return match String::from_utf8_lossy(&answer).contains("credentials not found") {
            true => Ok(None),
            false => Err(failed(format!("`{program}` fails: {}", super::error::shown_bytes(&answer)))),
        };
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let answer: Answer =
        serde_json::from_slice(&answer).map_err(|_| failed(format!("`{program}` answers what is no login")))?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Login::Token(answer.secret),
        _ => Login::Password { user: answer.username, password: answer.secret },
    }))
}

async fn run(program: &str, registry: &str) -> io::Result<(bool, Vec<u8>)> {
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let key = if registry == DEFAULT_REGISTRY { DOCKERS_KEY } else { registry };
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A helper that does not read has its reasons; what it says counts.
    let _ = stdin.write_all(format!("{key}\n").as_bytes()).await;
    drop(stdin);
    let mut answer = Vec::new();
    child.stdout.take().expect("stdout is piped").take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok((child.wait().await?.success(), answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(text: &str, registry: &str) -> Found {
        serde_json::from_str::<Kept>(text).unwrap().look_up(registry)
    }

    fn password(user: &str, password: &str) -> Found {
        Found::Login(Login::Password { user: user.into(), password: password.into() })
    }

    #[test]
    fn logins_are_found_as_docker_and_podman_keep_them() {
        let file = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"r.example:5000":{"auth":"YTpiOmM="},
            "https://old.example/v1/":{"username":"x","password":"y"},"t.example":{"identitytoken":"tok","auth":"dTo="},
            "broken.example":{"auth":"!"},"kept.example":{}},
            "credHelpers":{"h.example":"pass"},"credsStore":"secretservice"}"#;
        assert_eq!(look_up(file, "docker.io"), password("u", "p"));
        assert_eq!(look_up(file, "r.example:5000"), password("a", "b:c"));
        assert_eq!(look_up(file, "old.example"), password("x", "y"));
        assert_eq!(look_up(file, "t.example"), Found::Login(Login::Token("tok".into())));
        assert_eq!(look_up(file, "broken.example"), Found::Broken);
        assert_eq!(look_up(file, "h.example"), Found::Helper("pass".into()));
        assert_eq!(look_up(file, "kept.example"), Found::Helper("secretservice".into()));
        assert_eq!(look_up(r#"{"auths":{"r.example:5000":{"auth":"dTpw"}}}"#, "r.example"), Found::Nothing);
        assert_eq!(look_up("{}", "r.example"), Found::Nothing);
    }

    #[test]
    fn files_are_looked_for_where_their_owners_put_them() {
        let files = |variables: &[(&str, &str)]| {
            let find = |key: &str| variables.iter().find(|(k, _)| *k == key).map(|(_, v)| OsString::from(v));
            Credentials::from_environment(&find).files
        };
        let home = [PathBuf::from("/h/.docker/config.json"), "/h/.config/containers/auth.json".into()];
        assert_eq!(files(&[("HOME", "/h")]), home);
        assert_eq!(files(&[("DOCKER_CONFIG", "/d")]), [PathBuf::from("/d/config.json")]);
    }

    #[test]
    fn a_login_never_shows_its_secret() {
        let login = Login::Password { user: "u".into(), password: "secret".into() };
        assert!(!format!("{login:?} {:?}", Login::Token("secret".into())).contains("secret"));
        assert_eq!(login.basic().unwrap(), "Basic dTpzZWNyZXQ=");
    }
}
