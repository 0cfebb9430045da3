//! One request over one connection: name, TCP, TLS, HTTP/1.1, each with a deadline, and all of it ends when nobody wants
//! the answer any more.

use super::trust::Trust;
use super::{Cancelled, RegistryError};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
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

/// How often it is asked whether anybody still waits.
const LOOK: Duration = Duration::from_millis(50);
/// 64 KiB of headers; hyper's own limit is 100 of them.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

pub struct Transport {
    trust: Trust,
    patience: Patience,
}

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
    pub fn new(trust: Trust, patience: Patience) -> Transport {
        Transport { trust, patience }
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
        let stream = self.connect(&host, port).await?;
        match tls {
            false => self.exchange(uri, stream, request, host).await,
            true => {
                let stream = self.secure(&host, uri, stream).await?;
                self.exchange(uri, stream, request, host).await
            }
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

    async fn secure(
        &self,
        host: &str,
        uri: &Uri,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, RegistryError> {
        let failed = |source| RegistryError::Tls { host: host.to_owned(), source };
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or(host);
        let config = self.trust.config(authority).map_err(failed)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name =
            rustls::pki_types::ServerName::try_from(bare).map_err(|error| failed(std::io::Error::other(error)))?;
        let shaken =
            tokio::time::timeout(self.patience.connect, TlsConnector::from(config).connect(name, stream)).await;
        shaken.map_err(|_| failed(timed_out()))?.map_err(failed)
    }

    async fn exchange<S>(
        &self,
        uri: &Uri,
        stream: S,
        request: Request<Vec<u8>>,
        host: String,
    ) -> Result<Answer, RegistryError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
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
        let request = prepare(uri, request);
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

fn timed_out() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "it does not answer")
}

/// Absolute path, `Host`, and no second request on the connection.
fn prepare(uri: &Uri, request: Request<Vec<u8>>) -> Request<Full<Bytes>> {
    let (mut head, body) = request.into_parts();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse().expect("the path of an address is one");
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let without_login = authority.rsplit('@').next().unwrap_or_default();
    if let Ok(host) = HeaderValue::from_str(without_login) {
        head.headers.insert(HOST, host);
    }
    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    head.headers.insert(USER_AGENT, HeaderValue::from_static(concat!("banger/", env!("CARGO_PKG_VERSION"))));
    Request::from_parts(head, Full::new(body.into()))
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
