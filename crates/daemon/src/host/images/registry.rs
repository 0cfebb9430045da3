//! A registry, as the distribution specification describes it: manifests and blobs over HTTP, with whatever login it
//! asks for. Reads only.
//!
//! ```text
//!  registry.rs        what is asked of a registry, the scheme, tokens, redirects, retries
//!  registry/transport one request over one connection, with deadlines     registry/trust        whose certificates count
//!  registry/challenge what `WWW-Authenticate` asks for                    registry/credentials  Docker's files and helpers
//!  registry/proxy     which proxy leads to a host                         registry/error
//!  registry/download  a blob into the cache, resumed where it broke off
//! ```
//! Everything a registry chooses is bounded here: sizes, redirects, time. A redirect never changes the scheme, and a
//! login never follows one to another host.

mod challenge;
pub mod credentials;
pub mod download;
pub mod error;
mod proxy;
mod transport;
pub mod trust;

#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod tests;

pub use error::RegistryError;
pub use transport::Patience;

use challenge::Challenge;
use credentials::{Credentials, Login};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE};
use hyper::{Method, Request, StatusCode, Uri};
use images::manifest::{self, MAX_MANIFEST_BYTES};
use model::Digest;
use model::image_ref::{DEFAULT_REGISTRY, OciReference};
use proxy::Proxies;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use transport::{Answer, Transport};
use trust::Trust;

/// Where the registry that is called `docker.io` answers.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";
/// Hops of one request; a registry needs one, to its store.
const MAX_REDIRECTS: usize = 5;
/// Tries of one request, each with a login that is newer.
const MAX_LOGINS: usize = 3;
/// A token has some kilobytes.
const MAX_TOKEN_BYTES: usize = 256 << 10;
/// What an error's body says is repeated up to here.
const MAX_SAID_BYTES: usize = 4 << 10;
/// 60 s: what a registry may ask us to wait before another try.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Somebody may stop wanting the answer at any time.
pub type Cancelled<'a> = &'a (dyn Fn() -> bool + Sync);

/// How to talk to a registry.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Without TLS, also where the registry is not on this machine.
    pub plain_http: bool,
    /// A bare `alpine` that nobody here knows is Docker's.
    pub bare_names: bool,
    pub credentials: Credentials,
    pub trust: Trust,
    pub proxies: Proxies,
    pub patience: Patience,
}

impl Access {
    /// By this process's environment: logins as Docker keeps them, certificates as Docker and we keep them, proxies as curl
    /// and Docker take them.
    pub fn discover() -> Access {
        let own = config_folder().map(|folder| folder.join("certs.d"));
        let folders = own.into_iter().chain(["/etc/containers/certs.d".into(), "/etc/docker/certs.d".into()]).collect();
        Access {
            bare_names: true,
            credentials: Credentials::discover(),
            trust: Trust::new(folders, Vec::new()),
            proxies: Proxies::discover(),
            ..Access::default()
        }
    }
}

impl Access {
    /// With what was asked for this once.
    pub fn with(&self, options: &super::PullOptions) -> Access {
        let mut access = self.clone();
        access.plain_http |= options.plain_http;
        access.credentials.files.splice(0..0, options.auth_file.clone());
        if let Some(file) = &options.ca_file {
            access.trust = Trust::new(self.trust.folders.clone(), vec![file.clone()]);
        }
        access
    }
}

/// Where the owner's configuration lies.
pub fn config_folder() -> Option<std::path::PathBuf> {
    use etcetera::BaseStrategy;
    Some(etcetera::choose_base_strategy().ok()?.config_dir().join("banger"))
}

/// One repository of one registry.
pub struct Registry {
    /// Host and port.
    authority: String,
    /// As references name it.
    name: String,
    repository: String,
    /// On a registry of this machine: whether TLS was found to be missing.
    plain: AtomicBool,
    may_be_plain: bool,
    transport: Transport,
    credentials: Credentials,
    patience: Patience,
    /// What the registry wants to see, since it asked.
    authorization: Mutex<Option<HeaderValue>>,
    logins: Mutex<HashMap<String, Option<Login>>>,
}

/// A manifest or index as it was served.
#[derive(Debug, Clone)]
pub struct Served {
    pub bytes: Vec<u8>,
    pub media_type: Option<String>,
}

impl Registry {
    pub fn new(reference: &OciReference, access: &Access) -> Registry {
        let authority = match reference.registry.as_str() {
            DEFAULT_REGISTRY => DEFAULT_REGISTRY_HOST,
            other => other,
        };
        Registry {
            may_be_plain: transport::is_loopback(authority),
            plain: AtomicBool::new(access.plain_http),
            authority: authority.to_owned(),
            name: reference.registry.clone(),
            repository: reference.repository.clone(),
            transport: Transport::new(access.trust.clone(), access.proxies.clone(), access.patience),
            credentials: access.credentials.clone(),
            patience: access.patience,
            authorization: Mutex::default(),
            logins: Mutex::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The manifest or index under a tag or digest; by digest only what has it.
    pub async fn manifest(&self, which: &str, cancelled: Cancelled<'_>) -> Result<Served, RegistryError> {
        let path = format!("manifests/{which}");
        let accept = HeaderValue::from_str(&manifest::ACCEPTED_MEDIA_TYPES.join(", ")).expect("they are plain words");
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        let mut failures = 0;
        loop {
            match self.manifest_once(&path, &headers, cancelled).await {
                Err(error) if error.is_transient() => self.wait(&mut failures, error, cancelled).await?,
                other => return other,
            }
        }
    }

    async fn manifest_once(
        &self,
        path: &str,
        headers: &HeaderMap,
        cancelled: Cancelled<'_>,
    ) -> Result<Served, RegistryError> {
        let answer = self.get(path, headers, cancelled).await?;
        if answer.status != StatusCode::OK {
            return Err(self.unexpected(path, answer, cancelled).await);
        }
        let media_type = answer.header(&CONTENT_TYPE).map(str::to_owned);
        let bytes = answer.collect(MAX_MANIFEST_BYTES, cancelled).await?;
        Ok(Served { bytes, media_type })
    }

    /// The blob from `offset` on; the caller looks at the status (200: from the start) and reads.
    async fn blob(&self, digest: &Digest, offset: u64, cancelled: Cancelled<'_>) -> Result<Answer, RegistryError> {
        let path = format!("blobs/{digest}");
        let mut headers = HeaderMap::new();
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-")).expect("it is plain");
            headers.insert(RANGE, range);
        }
        let answer = self.get(&path, &headers, cancelled).await?;
        match answer.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(answer),
            _ => Err(self.unexpected(&path, answer, cancelled).await),
        }
    }

    /// A blob that is small enough for memory, not verified.
    pub async fn small_blob(
        &self,
        digest: &Digest,
        limit: usize,
        cancelled: Cancelled<'_>,
    ) -> Result<Vec<u8>, RegistryError> {
        self.blob(digest, 0, cancelled).await?.collect(limit, cancelled).await
    }

    /// Asks with what login there is; when that does not do, once more with the one the registry asks for.
    async fn get(&self, path: &str, headers: &HeaderMap, cancelled: Cancelled<'_>) -> Result<Answer, RegistryError> {
        let mut shown = self.authorization();
        for _ in 0..MAX_LOGINS {
            let answer = self.get_as(path, headers, shown.as_ref(), cancelled).await?;
            if answer.status != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            let now = self.authorization();
            // Another layer's download may have got a new token meanwhile.
            shown = if now != shown { now } else { Some(self.log_in(answer, shown, cancelled).await?) };
        }
        Err(self.denied(None))
    }

    async fn get_as(
        &self,
        path: &str,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
        cancelled: Cancelled<'_>,
    ) -> Result<Answer, RegistryError> {
        let answer = self.follow(self.uri(path)?, headers, authorization, cancelled).await;
        let plain = self.plain.load(Ordering::Relaxed);
        match answer {
            Err(error) if !plain && self.may_be_plain && error.speaks_no_tls() => {
                self.plain.store(true, Ordering::Relaxed);
                self.follow(self.uri(path)?, headers, authorization, cancelled).await
            }
            other => other,
        }
    }

    fn uri(&self, path: &str) -> Result<Uri, RegistryError> {
        let scheme = if self.plain.load(Ordering::Relaxed) { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/{}/{path}", self.authority, self.repository);
        text.parse()
            .map_err(|_| RegistryError::Answer { host: self.name.clone(), reason: "its address is none".into() })
    }

    async fn follow(
        &self,
        mut uri: Uri,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
        cancelled: Cancelled<'_>,
    ) -> Result<Answer, RegistryError> {
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::new(Vec::new());
            *request.method_mut() = Method::GET;
            *request.headers_mut() = headers.clone();
            let own = uri.authority().map(|authority| authority.as_str()) == Some(&self.authority);
            if let (true, Some(authorization)) = (own, authorization) {
                request.headers_mut().insert(AUTHORIZATION, authorization.clone());
            }
            let answer = self.transport.send(&uri, request, cancelled).await?;
            if !answer.status.is_redirection() {
                return Ok(answer);
            }
            uri = self.next_hop(&uri, answer.header(&LOCATION))?;
        }
        Err(RegistryError::Redirect {
            host: self.name.clone(),
            to: uri.to_string(),
            reason: "it is one redirect too many",
        })
    }

    fn next_hop(&self, from: &Uri, location: Option<&str>) -> Result<Uri, RegistryError> {
        let to = location.unwrap_or_default();
        let refuse = |reason| RegistryError::Redirect { host: self.name.clone(), to: error::shown(to), reason };
        let next: Uri = to.parse().map_err(|_| refuse("that is no address"))?;
        if next.scheme().is_none() && to.starts_with('/') && !to.starts_with("//") {
            let mut parts = next.into_parts();
            parts.scheme = from.scheme().cloned();
            parts.authority = from.authority().cloned();
            return Uri::from_parts(parts).map_err(|_| refuse("that is no address"));
        }
        match next.scheme() == from.scheme() && next.authority().is_some() {
            true => Ok(next),
            false => Err(refuse("a redirect may not change the scheme")),
        }
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the registry's 401 asks for.
    async fn log_in(
        &self,
        answer: Answer,
        shown: Option<HeaderValue>,
        cancelled: Cancelled<'_>,
    ) -> Result<HeaderValue, RegistryError> {
        let asked = answer.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenge = challenge::choose(asked).ok_or_else(|| self.denied(None))?;
        let login = self.login(cancelled).await?;
        let authorization = match challenge {
            Challenge::Basic => {
                let login = login.ok_or_else(|| self.denied(None))?;
                let basic = login.basic().ok_or_else(|| self.denied(Some("the login kept for it is a token")))?;
                if shown.as_ref() == Some(&basic) {
                    return Err(self.denied(Some("it does not take the login kept for it")));
                }
                basic
            }
            Challenge::Bearer { realm, service, scope } => {
                let token = self.token(&realm, service.as_deref(), scope.as_deref(), login.as_ref(), cancelled).await?;
                let value = HeaderValue::try_from(format!("Bearer {token}"));
                let mut value = value.map_err(|_| self.answer("its token is none"))?;
                value.set_sensitive(true);
                value
            }
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization.clone());
        Ok(authorization)
    }

    /// Looked up once: a helper may ask a person.
    async fn login(&self, cancelled: Cancelled<'_>) -> Result<Option<Login>, RegistryError> {
        let known = self.logins.lock().unwrap_or_else(PoisonError::into_inner).get(&self.name).cloned();
        if let Some(login) = known {
            return Ok(login);
        }
        let login = self.credentials.find(&self.name, cancelled).await?;
        self.logins.lock().unwrap_or_else(PoisonError::into_inner).insert(self.name.clone(), login.clone());
        Ok(login)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        login: Option<&Login>,
        cancelled: Cancelled<'_>,
    ) -> Result<String, RegistryError> {
        let plain = self.plain.load(Ordering::Relaxed);
        let own = format!("repository:{}:pull", self.repository);
        let request = challenge::token_request(realm, service, scope.unwrap_or(&own), login, plain);
        let (uri, request) = request.map_err(|reason| self.answer(reason))?;
        let answer = self.transport.send(&uri, request, cancelled).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let said = match login {
                    Some(_) => "it does not take the login kept for it",
                    None => "it gives no token to strangers",
                };
                return Err(self.denied(Some(said)));
            }
            _ => return Err(self.unexpected("its token service", answer, cancelled).await),
        }
        let bytes = answer.collect(MAX_TOKEN_BYTES, cancelled).await?;
        challenge::token_of(&bytes).ok_or_else(|| self.answer("its token service sends no token"))
    }

    fn answer(&self, reason: &str) -> RegistryError {
        RegistryError::Answer { host: self.name.clone(), reason: reason.to_owned() }
    }

    fn denied(&self, said: Option<&str>) -> RegistryError {
        let said = said.unwrap_or("it asks for a login, and none is kept for it").to_owned();
        RegistryError::Denied { host: self.name.clone(), repository: self.repository.clone(), said }
    }

    async fn unexpected(&self, what: &str, answer: Answer, cancelled: Cancelled<'_>) -> RegistryError {
        let status = answer.status;
        let host = self.name.clone();
        if status == StatusCode::NOT_FOUND {
            return RegistryError::Missing { host, what: format!("{}/{what}", self.repository) };
        }
        if status == StatusCode::FORBIDDEN {
            return self.denied(Some("it does not let this login read it"));
        }
        let retry_after = answer.header(&hyper::header::RETRY_AFTER).and_then(|after| after.parse().ok());
        let said = answer.collect(MAX_SAID_BYTES, cancelled).await.unwrap_or_default();
        RegistryError::Status {
            host,
            status: status.as_u16(),
            said: error::shown_bytes(&said),
            retry_after: retry_after.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER)),
        }
    }

    /// Sleeps before the next try, longer each time; gives the error back when it was the last.
    async fn wait(
        &self,
        failures: &mut u32,
        error: RegistryError,
        cancelled: Cancelled<'_>,
    ) -> Result<(), RegistryError> {
        *failures += 1;
        if *failures >= self.patience.attempts {
            return Err(error);
        }
        let doubled = self.patience.backoff * 2u32.pow((*failures - 1).min(6));
        // Up to a quarter more, so that many who failed together do not come back together.
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
        let jitter = doubled.mul_f64(f64::from(clock % 1000) / 4000.0);
        let delay = error.retry_after().unwrap_or(doubled + jitter);
        tracing::info!(%error, registry = self.name, delay_ms = delay.as_millis() as u64, "trying again");
        transport::unless_cancelled(cancelled, tokio::time::sleep(delay)).await
    }
}
