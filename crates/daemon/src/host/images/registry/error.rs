//! What can go wrong with a registry, for people; and what of it may go right the next time.

use std::io;
use std::time::Duration;

/// Whether another try may go better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    Perhaps,
    No,
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("cannot reach {host}")]
    Unreachable { host: String, source: io::Error },
    #[error("the proxy {proxy} does not lead to {host}: {said}")]
    Proxy { proxy: String, host: String, said: String, again: Again },
    #[error("cannot agree on TLS with {host}")]
    Tls { host: String, source: io::Error },
    #[error("{host} has said nothing for {seconds} s")]
    Stalled { host: String, seconds: u64 },
    #[error("the connection to {host} broke off")]
    Broken { host: String, source: hyper::Error },
    #[error("{host} ended a blob after {bytes} of {of} bytes")]
    Short { host: String, bytes: u64, of: u64 },
    #[error("{host} answers {status}: {said}")]
    Status { host: String, status: u16, said: String, retry_after: Option<Duration> },
    #[error("{host} does not hand out {repository}: {said}")]
    Denied { host: String, repository: String, said: String },
    #[error("{host} has no {what}")]
    Missing { host: String, what: String },
    #[error("{host} sends us on to `{to}`: {reason}")]
    Redirect { host: String, to: String, reason: &'static str },
    #[error("{host} answers what makes no sense: {reason}")]
    Answer { host: String, reason: String },
    #[error("cannot find out how to log in to {host}: {reason}")]
    Credentials { host: String, reason: String },
    #[error("cannot keep what was downloaded")]
    Store(#[from] io::Error),
    #[error("nobody wants it any more")]
    Cancelled,
}

impl RegistryError {
    /// Whether another try may go better.
    pub fn is_transient(&self) -> bool {
        match self {
            // A name that nobody knows is not known a second later either.
            RegistryError::Unreachable { source, .. } => !is_unknown_name(source),
            RegistryError::Stalled { .. } | RegistryError::Broken { .. } | RegistryError::Short { .. } => true,
            RegistryError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            RegistryError::Proxy { again, .. } => *again == Again::Perhaps,
            RegistryError::Tls { source, .. } => certificate_trouble(source).is_none() && !speaks_no_tls(source),
            RegistryError::Denied { .. }
            | RegistryError::Missing { .. }
            | RegistryError::Redirect { .. }
            | RegistryError::Answer { .. }
            | RegistryError::Credentials { .. }
            | RegistryError::Store(_)
            | RegistryError::Cancelled => false,
        }
    }

    /// Whether it is the way to the registry that fails, and not its answer.
    pub fn is_transient_or_unreachable(&self) -> bool {
        self.is_transient() || matches!(self, RegistryError::Unreachable { .. })
    }

    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            RegistryError::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whoever answered a TLS greeting does not know what that is.
    pub fn speaks_no_tls(&self) -> bool {
        matches!(self, RegistryError::Tls { source, .. } if speaks_no_tls(source))
    }

    /// The command or file that helps next.
    pub fn hint(&self) -> Option<String> {
        match self {
            RegistryError::Denied { host, .. } => Some(format!(
                "log in as for Docker (`docker login {host}`, `skopeo login {host}`); \
                 banger reads `~/.docker/config.json` and its helpers"
            )),
            RegistryError::Tls { source, .. } if certificate_trouble(source).is_some() => Some(
                "put the registry's CA into `~/.config/banger/certs.d/HOST:PORT/ca.crt`, or give it with `--ca FILE`"
                    .to_owned(),
            ),
            RegistryError::Tls { source, .. } if speaks_no_tls(source) => {
                Some("`--plain-http` talks to a registry without TLS".to_owned())
            }
            RegistryError::Proxy { .. } => Some(
                "bangerd takes `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` of whoever starts it: \
                 after a change `banger daemon stop`, and try again"
                    .to_owned(),
            ),
            RegistryError::Unreachable { .. } => Some(
                "what was downloaded is kept: the same command goes on from there; \
                 `banger image load FILE` needs no registry"
                    .to_owned(),
            ),
            RegistryError::Stalled { .. }
            | RegistryError::Broken { .. }
            | RegistryError::Short { .. }
            | RegistryError::Status { .. } => {
                Some("what was downloaded is kept: the same command goes on from there".to_owned())
            }
            _ => None,
        }
    }
}

fn is_unknown_name(error: &io::Error) -> bool {
    // getaddrinfo(3)'s errors have no kind of their own; std makes them `Uncategorized` with this beginning.
    error.to_string().starts_with("failed to lookup address")
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
}

fn certificate_trouble(error: &io::Error) -> Option<&rustls::Error> {
    rustls_error(error)
        .filter(|error| matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}

fn speaks_no_tls(error: &io::Error) -> bool {
    match rustls_error(error) {
        Some(error) => matches!(error, rustls::Error::InvalidMessage(_)),
        None => matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset),
    }
}

/// What a registry said, safe for a terminal and short.
pub fn shown(text: &str) -> String {
    let mut shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    if text.chars().count() > 200 {
        shown.push('…');
    }
    shown
}

/// The message of the specification's error document, else the text.
pub fn shown_bytes(bytes: &[u8]) -> String {
    let document: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let message = document.as_ref().and_then(|document| document["errors"][0]["message"].as_str());
    match message {
        Some(message) => shown(message),
        None if bytes.is_empty() => "no more".to_owned(),
        None => shown(String::from_utf8_lossy(bytes).trim()),
    }
}
