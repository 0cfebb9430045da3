//! One request over one connection: name, TCP, perhaps a proxy, TLS, HTTP/1.1, each with a deadline, and all of it ends
//! when nobody wants the answer any more.
//!
//! A proxy is asked for what has no TLS as it is, with the whole address (RFC 9112, 3.2.2); to all else it makes a tunnel
//! (`CONNECT`, RFC 9110, 9.3.6) in which it sees nothing.

use super::error::Again;
use super::proxy::{Proxies, Proxy};
use super::trust::Trust;
use super::{Cancelled, RegistryError};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// How long to wait for a registry, and how often to try again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For one address of it to take a connection, and for TLS.
    pub connect: Duration,
    /// Without a byte.
    pub stall: Duration,
    /// Failures in a row, without progress between them, before it is given up.
    pub attempts: u32,
    /// Before the second try; doubled for each further one.
    pub backoff: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            attempts: 5,
            backoff: Duration::from_millis(500),
        }
    }
}

const ASKS_FOR_LOGIN: &str = "it asks for a login";
const AGENT: &str = concat!("banger/", env!("CARGO_PKG_VERSION"));
/// How often it is asked whether anybody still waits.
const LOOK: Duration = Duration::from_millis(50);
/// 64 KiB of headers; hyper's own limit is 100 of them.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

pub struct Transport {
    trust: Trust,
    proxies: Proxies,
    patience: Patience,
}

/// A connection, whatever it leads through.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
type BoxedStream = Box<dyn Stream>;

/// An answer whose body is still to be read. Dropping it ends its connection.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    host: String,
    body: Incoming,
    stall: Duration,
    _connection: Connection,
}

struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A host that means this machine whatever the network says.
pub fn is_loopback(authority: &str) -> bool {
    let host = authority.parse::<hyper::http::uri::Authority>();
    let host = host.as_ref().map(|authority| authority.host()).unwrap_or(authority);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The outcome of some work, or the end of it once nobody wants it.
pub async fn unless_cancelled<T>(cancelled: Cancelled<'_>, work: impl Future<Output = T>) -> Result<T, RegistryError> {
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(LOOK, &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) if cancelled() => return Err(RegistryError::Cancelled),
            Err(_) => {}
        }
    }
}

impl Transport {
    pub fn new(trust: Trust, proxies: Proxies, patience: Patience) -> Transport {
        Transport { trust, proxies, patience }
    }

    pub async fn send(
        &self,
        uri: &Uri,
        request: Request<Vec<u8>>,
        cancelled: Cancelled<'_>,
    ) -> Result<Answer, RegistryError> {
        unless_cancelled(cancelled, self.send_at_last(uri, request)).await?
    }

    async fn send_at_last(&self, uri: &Uri, request: Request<Vec<u8>>) -> Result<Answer, RegistryError> {
        let host = uri.host().unwrap_or_default().to_owned();
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let useless = |value: &str| RegistryError::Proxy {
            proxy: value.to_owned(),
            host: host.clone(),
            said: "that is no address of an HTTP proxy".to_owned(),
            again: Again::No,
        };
        let proxy = self.proxies.of(tls, &host, port).map_err(useless)?;
        match (proxy, tls) {
            (None, false) => {
                let stream = self.connect(&host, port).await?;
                self.exchange(Box::new(stream), prepare(uri, request), host).await
            }
            (None, true) => {
                let stream = self.connect(&host, port).await?;
                let stream = self.secure(&host, authority_of(uri), stream).await?;
                self.exchange(stream, prepare(uri, request), host).await
            }
            (Some(proxy), false) => {
                let stream = self.connect_to(proxy, &host).await?;
                let answer = self.exchange(stream, prepare_for(proxy, uri, request), host.clone()).await?;
                match answer.status {
                    StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(refused(proxy, &host, ASKS_FOR_LOGIN, Again::No)),
                    _ => Ok(answer),
                }
            }
            (Some(proxy), true) => {
                let stream = self.tunnel(proxy, &host, port).await?;
                let stream = self.secure(&host, authority_of(uri), stream).await?;
                self.exchange(stream, prepare(uri, request), host).await
            }
        }
    }

    async fn connect_to(&self, proxy: &Proxy, host: &str) -> Result<BoxedStream, RegistryError> {
        let stream = self.connect(&proxy.host, proxy.port).await.map_err(|error| match error {
            RegistryError::Unreachable { source, .. } => {
                refused(proxy, host, &format!("it cannot be reached: {source}"), Again::Perhaps)
            }
            other => other,
        })?;
        match proxy.tls {
            true => self.secure(&proxy.host, &format!("{}:{}", proxy.host, proxy.port), stream).await,
            false => Ok(Box::new(stream)),
        }
    }

    /// A connection to the host that leads through the proxy.
    async fn tunnel(&self, proxy: &Proxy, host: &str, port: u16) -> Result<BoxedStream, RegistryError> {
        let refused = |said: &str, again| refused(proxy, host, said, again);
        let broken = |error: hyper::Error| refused(&error.to_string(), Again::Perhaps);
        let stream = self.connect_to(proxy, host).await?;
        let handshake = http1::Builder::new().max_buf_size(MAX_HEAD_BYTES * 8).handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(broken)?;
        let connection = Connection(tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a proxy's connection broke off");
            }
        }));
        let place = format!("{host}:{port}");
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = place.parse().map_err(|_| refused("that is no host's name", Again::No))?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::try_from(place).map_err(|_| refused("that is no host's name", Again::No))?);
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.extend(proxy.authorization.clone().map(|login| (PROXY_AUTHORIZATION, login)));
        let answer = tokio::time::timeout(self.patience.stall, sender.send_request(request)).await;
        let silence = format!("it has said nothing for {} s", self.patience.stall.as_secs());
        let stalled = || refused(&silence, Again::Perhaps);
        let answer = answer.map_err(|_| stalled())?.map_err(broken)?;
        match answer.status() {
            status if status.is_success() => {
                let upgraded = hyper::upgrade::on(answer).await.map_err(broken)?;
                drop(connection);
                Ok(Box::new(TokioIo::new(upgraded)))
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(refused(ASKS_FOR_LOGIN, Again::No)),
            status if (502..=504).contains(&status.as_u16()) => {
                Err(refused(&format!("it answers {}", status.as_u16()), Again::Perhaps))
            }
            status => Err(refused(&format!("it answers {}", status.as_u16()), Again::No)),
        }
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, RegistryError> {
        let unreachable = |source| RegistryError::Unreachable { host: host.to_owned(), source };
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let found = tokio::time::timeout(self.patience.connect, tokio::net::lookup_host((name, port))).await;
        let found = found.map_err(|_| unreachable(timed_out()))?.map_err(unreachable)?;
        let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "its name has no address");
        for address in found.take(MAX_ADDRESSES) {
            match tokio::time::timeout(self.patience.connect, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = timed_out(),
            }
        }
        Err(unreachable(last))
    }

    /// `authority` is what certificates are kept for.
    async fn secure(
        &self,
        host: &str,
        authority: &str,
        stream: impl Stream + 'static,
    ) -> Result<BoxedStream, RegistryError> {
        let failed = |source| RegistryError::Tls { host: host.to_owned(), source };
        let config = self.trust.config(authority).map_err(failed)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name =
            rustls::pki_types::ServerName::try_from(bare).map_err(|error| failed(std::io::Error::other(error)))?;
        let shaken =
            tokio::time::timeout(self.patience.connect, TlsConnector::from(config).connect(name, stream)).await;
        Ok(Box::new(shaken.map_err(|_| failed(timed_out()))?.map_err(failed)?))
    }

    async fn exchange(
        &self,
        stream: BoxedStream,
        request: Request<Full<Bytes>>,
        host: String,
    ) -> Result<Answer, RegistryError> {
        let broken = |source| RegistryError::Broken { host: host.clone(), source };
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES * 8)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let connection = Connection(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a registry's connection broke off");
            }
        }));
        let answer = tokio::time::timeout(self.patience.stall, sender.send_request(request)).await;
        let stalled = || RegistryError::Stalled { host: host.clone(), seconds: self.patience.stall.as_secs() };
        let (head, body) = answer.map_err(|_| stalled())?.map_err(broken)?.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            stall: self.patience.stall,
            host,
            body,
            _connection: connection,
        })
    }
}

fn refused(proxy: &Proxy, host: &str, said: &str, again: Again) -> RegistryError {
    let proxy = format!("{}:{}", proxy.host, proxy.port);
    RegistryError::Proxy { proxy, host: host.to_owned(), said: said.to_owned(), again }
}

fn timed_out() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "it does not answer")
}

/// Absolute path, `Host`, and no second request on the connection.
fn prepare(uri: &Uri, request: Request<Vec<u8>>) -> Request<Full<Bytes>> {
    let (mut head, body) = request.into_parts();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse().expect("the path of an address is one");
    if let Ok(host) = HeaderValue::from_str(without_login(uri)) {
        head.headers.insert(HOST, host);
    }
    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    head.headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    Request::from_parts(head, Full::new(body.into()))
}

/// The same for a proxy, which wants to know the whole address, and who asks.
fn prepare_for(proxy: &Proxy, uri: &Uri, request: Request<Vec<u8>>) -> Request<Full<Bytes>> {
    let mut request = prepare(uri, request);
    let path = request.uri().clone();
    let whole = format!("http://{}{path}", without_login(uri));
    *request.uri_mut() = whole.parse().expect("an address without its login is one");
    request.headers_mut().extend(proxy.authorization.clone().map(|login| (PROXY_AUTHORIZATION, login)));
    request
}

fn authority_of(uri: &Uri) -> &str {
    uri.authority().map(|authority| authority.as_str()).unwrap_or_default()
}

fn without_login(uri: &Uri) -> &str {
    authority_of(uri).rsplit('@').next().unwrap_or_default()
}

impl Answer {
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The next piece of the body; `None` at its end.
    pub async fn next(&mut self, cancelled: Cancelled<'_>) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let frame = tokio::time::timeout(self.stall, self.body.frame());
            let stalled = || RegistryError::Stalled { host: self.host.clone(), seconds: self.stall.as_secs() };
            let frame = unless_cancelled(cancelled, frame).await?.map_err(|_| stalled())?;
            match frame {
                None => return Ok(None),
                Some(Err(source)) => return Err(RegistryError::Broken { host: self.host.clone(), source }),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_trailers) => {}
                },
            }
        }
    }

    /// The whole body, which may have so many bytes.
    pub async fn collect(mut self, limit: usize, cancelled: Cancelled<'_>) -> Result<Vec<u8>, RegistryError> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.next(cancelled).await? {
            if whole.len() + bytes.len() > limit {
                let reason = format!("it sends more than {limit} bytes where a few were asked for");
                return Err(RegistryError::Answer { host: self.host, reason });
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine_by_name_or_address() {
        for (host, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("localhost.example:5000", false),
            ("127.0.0.1.example", false),
            ("10.0.0.1:5000", false),
            ("registry.example", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }
}
