//! What `WWW-Authenticate` asks for (RFC 7235 and the distribution specification's token flow), and how to get it.

use super::credentials::Login;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// 8 KiB: a header that is longer is no challenge.
const MAX_BYTES: usize = 8 << 10;

/// A token is preferred: it opens one repository, a password everything.
pub fn choose<'a>(asked: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<Challenge> = asked.filter_map(parse).collect();
    let bearer = all.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or(all.first()).cloned()
}

fn parse(header: &str) -> Option<Challenge> {
    if header.len() > MAX_BYTES {
        return None;
    }
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    for (key, value) in parameters(rest) {
        match key.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

/// `key="value", key=value`: a comma within quotes belongs to the value.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',', '\t']).to_owned();
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (value, after) = after.split_once(',').unwrap_or((after, ""));
                (value.trim().to_owned(), after)
            }
        };
        found.push((key, value));
        rest = after;
    }
    found
}

fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// What to ask the token service; it may be without TLS only where the registry is.
pub fn token_request(
    realm: &str,
    service: Option<&str>,
    scope: &str,
    login: Option<&Login>,
    plain: bool,
) -> Result<(Uri, Request<Vec<u8>>), &'static str> {
    let realm_uri: Uri = realm.parse().map_err(|_| "its token service has no address")?;
    match realm_uri.scheme_str() {
        Some("https") => {}
        Some("http") if plain => {}
        _ => return Err("its token service is not reached by TLS"),
    }
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut query = format!("scope={}", encoded(scope));
    if let Some(service) = service {
        query.push_str(&format!("&service={}", encoded(service)));
    }
    if let Some(Login::Token(token)) = login {
        let body = format!("grant_type=refresh_token&client_id=banger&{query}&refresh_token={}", encoded(token));
        let mut request = Request::new(body.into_bytes());
        *request.method_mut() = Method::POST;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        return Ok((realm_uri, request));
    }
    let joint = if realm.contains('?') { '&' } else { '?' };
    let uri: Uri = format!("{realm}{joint}{query}").parse().map_err(|_| "its token service has no address")?;
    let mut request = Request::new(Vec::new());
    if let Some(basic) = login.and_then(Login::basic) {
        request.headers_mut().insert(AUTHORIZATION, basic);
    }
    Ok((uri, request))
}

/// The token in a token service's answer.
pub fn token_of(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    answer.token.or(answer.access_token).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.into(), service: own(service), scope: own(scope) })
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let check = |header: &str, expected: Option<Challenge>| assert_eq!(parse(header), expected, "{header}");
        let docker =
            r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#;
        check(docker, bearer("https://auth.example/token", Some("r.example"), Some("repository:a/b:pull,push")));
        check(r#"bearer realm=https://a/t , service="s\"q""#, bearer("https://a/t", Some("s\"q"), None));
        check(r#"Basic realm="Registry""#, Some(Challenge::Basic));
        check("BASIC", Some(Challenge::Basic));
        check("Bearer service=\"x\"", None);
        check("Negotiate", None);
        check(&format!("Bearer realm=\"{}\"", "a".repeat(MAX_BYTES)), None);
        let both = ["Basic realm=\"x\"", "Bearer realm=\"https://a\""];
        assert_eq!(choose(both.into_iter()), bearer("https://a", None, None));
    }

    #[test]
    fn a_password_goes_to_no_token_service_without_tls() {
        let login = Login::Password { user: "u".into(), password: "p".into() };
        let request = |realm: &str, plain| token_request(realm, Some("a b"), "repository:x:pull", Some(&login), plain);
        assert!(request("http://auth.example/token", false).is_err());
        assert!(request("ftp://auth.example/token", true).is_err());
        let (uri, request) = request("https://auth.example/token?x=1", false).unwrap();
        assert_eq!(uri.to_string(), "https://auth.example/token?x=1&scope=repository%3Ax%3Apull&service=a%20b");
        assert_eq!(request.headers()[AUTHORIZATION], "Basic dTpw");
        let token = Login::Token("t&t".into());
        let (_, request) = token_request("https://a/t", None, "s", Some(&token), false).unwrap();
        assert_eq!(request.method(), Method::POST);
        assert!(String::from_utf8_lossy(request.body()).ends_with("&refresh_token=t%26t"));
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read_without_panic(header in ".{0,200}") {
            let _ = parse(&format!("Bearer {header}"));
        }
    }
}
