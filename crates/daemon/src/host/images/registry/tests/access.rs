//! Who is asked, and with which login: redirects, basic and token logins.

use super::*;

#[test]
fn a_redirect_is_followed_to_another_host_without_the_login_and_never_to_another_scheme() {
    let storage = held();
    let store = Fake::serve(move |asked| storage.answer(asked));
    let place = store.address;
    let fake = but_for_layers(held(), move |asked, _| {
        Reply::new(307, "").header("Location", format!("http://{place}{}", asked.path))
    });
    if has_checker() {
        Rig::new().pull(&fake, "a/b:1").unwrap();
    }
    for to in ["https://127.0.0.1:1/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "//127.0.0.1/x", "", "x y"] {
        let fake = but_for_layers(held(), move |_, _| Reply::new(302, "").header("Location", to));
        Rig::new().refused(&fake, HostErrorKind::Invalid, "sends us on to");
    }
    let fake = but_for_layers(held(), |asked, _| Reply::new(302, "").header("Location", asked.path.clone()));
    Rig::new().refused(&fake, HostErrorKind::Invalid, "one redirect too many");
}

/// Wants `Authorization: <shown>` for everything, and says how to get it.
fn guarded(held: Held, challenge: &'static str, shown: impl Fn() -> String + Send + Sync + 'static) -> Fake {
    Fake::serve(move |asked| {
        if asked.path.starts_with("/token") {
            let basic = asked.headers.get("authorization").is_some_and(|header| header == "Basic dTpw");
            return match basic && asked.path.contains("scope=repository%3Aa%2Fb%3Apull") {
                true => Reply::new(200, format!(r#"{{"token":"{}"}}"#, shown().trim_start_matches("Bearer "))),
                false => Reply::new(401, ""),
            };
        }
        match asked.headers.get("authorization") == Some(&shown()) {
            true => held.answer(asked),
            false => {
                let host = &asked.headers["host"];
                Reply::new(401, "").header("WWW-Authenticate", challenge.replace("HOST", host))
            }
        }
    })
}

fn with_login(fake: &Fake, auth: &str) -> Rig {
    let rig = Rig::new();
    let file = rig.folder.path().join("config.json");
    std::fs::write(&file, format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, fake.address)).unwrap();
    let credentials = Credentials { files: vec![file] };
    Rig { library: open(rig.folder.path(), Access { credentials, patience: PATIENCE, ..Access::default() }), ..rig }
}

#[test]
fn a_login_is_shown_only_where_it_is_asked_for_and_a_wrong_one_is_said() {
    let fake = guarded(held(), "Basic realm=\"x\"", || "Basic dTpw".to_owned());
    Rig::new().refused(&fake, HostErrorKind::Unfit, "none is kept for it");
    with_login(&fake, "dTpx").refused(&fake, HostErrorKind::Unfit, "does not take the login");
    if has_checker() {
        with_login(&fake, "dTpw").pull(&fake, "a/b:1").unwrap();
    }
    let bearer = "Bearer realm=\"http://HOST/token\",service=\"s\",scope=\"repository:a/b:pull\"";
    let fake = guarded(held(), bearer, || "Bearer t0".to_owned());
    Rig::new().refused(&fake, HostErrorKind::Unfit, "gives no token to strangers");
    if has_checker() {
        with_login(&fake, "dTpw").pull(&fake, "a/b:1").unwrap();
    }
}

#[test]
fn a_token_that_expires_on_the_way_is_renewed() {
    if !has_checker() {
        return;
    }
    let (held, served) = (held(), AtomicUsize::new(0));
    let fake = Fake::serve(move |asked| {
        // After two answers the first token is worth nothing.
        let token = if served.load(Ordering::SeqCst) < 2 { "t0" } else { "t1" };
        if asked.path.starts_with("/token") {
            return Reply::new(200, format!(r#"{{"access_token":"{token}"}}"#));
        }
        if asked.headers.get("authorization") != Some(&format!("Bearer {token}")) {
            let challenge = format!("Bearer realm=\"http://{}/token\"", asked.headers["host"]);
            return Reply::new(401, "").header("WWW-Authenticate", challenge);
        }
        served.fetch_add(1, Ordering::SeqCst);
        held.answer(asked)
    });
    Rig::new().pull(&fake, "a/b:1").unwrap();
    assert!(fake.count("/token") > 1);
}

fn through(variable: &'static str, value: String, plain_http: bool) -> Rig {
    let proxies = proxy::Proxies::read(|name| (name == variable).then(|| value.clone()));
    Rig::with(Access { plain_http, proxies, patience: PATIENCE, ..Access::default() })
}

fn pull(rig: &Rig, image: &str) -> Result<String, HostError> {
    let pulled = rig.library.pull_image(&image.parse().unwrap(), &PullOptions::default(), &|_| Vec::new(), &Unwatched);
    pulled.map(|name| name.to_string())
}

#[test]
fn a_proxy_is_asked_for_the_whole_address_and_told_who_asks() {
    let held = held();
    let fake = Fake::serve(move |asked| {
        let known = asked.headers.get("proxy-authorization").is_some_and(|login| login == "Basic dTpw");
        if known { held.answer(asked) } else { Reply::new(407, "") }
    });
    // Nobody but the proxy knows the registry's name.
    let image = "registry.invalid:5000/a/b:1";
    let stranger = pull(&through("HTTP_PROXY", format!("http://{}", fake.address), true), image).unwrap_err();
    assert!(chain(&stranger).contains("it asks for a login"), "{}", chain(&stranger));
    if has_checker() {
        let rig = through("http_proxy", format!("http://u:p@{}", fake.address), true);
        assert_eq!(pull(&rig, image).unwrap(), "b-1");
    }
    for asked in fake.asked() {
        assert!(asked.path.starts_with("http://registry.invalid:5000/v2/a/b/"), "{asked:?}");
        assert_eq!(asked.headers["host"], "registry.invalid:5000");
    }
}

#[test]
fn a_proxy_that_leads_nowhere_is_named_with_what_it_said() {
    let image = "registry.invalid/a/b:1";
    for (status, tries, words) in
        [(403, 1, "it answers 403"), (407, 1, "it asks for a login"), (502, 3, "it answers 502")]
    {
        let fake = Fake::serve(move |_| Reply::new(status, ""));
        let said = chain(&pull(&through("HTTPS_PROXY", fake.address.to_string(), false), image).unwrap_err());
        let expected = format!("the proxy {} does not lead to registry.invalid: {words}", fake.address);
        assert!(said.contains(&expected), "{said}");
        let asked = fake.asked();
        assert_eq!(asked.len(), tries);
        assert!(asked.iter().all(|asked| asked.path == "registry.invalid:443"), "{asked:?}");
    }
    let said = chain(&pull(&through("HTTPS_PROXY", "socks5://p.invalid".to_owned(), false), image).unwrap_err());
    assert!(said.contains("that is no address of an HTTP proxy"), "{said}");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = chain(&pull(&through("HTTPS_PROXY", gone.to_string(), false), image).unwrap_err());
    assert!(said.contains("it cannot be reached: "), "{said}");
}
