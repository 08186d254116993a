//! How requests are made: the fields of the HTTP client in any section.

use super::check::{Checked, Notes, joined};
use super::yaml::{Demanded, Http, OAuth2, Proxy, Section, Tls};
use std::path::Path;

/// Files are named by the configuration's folder, and only one way to authorise is meant.
pub(super) fn http(mut http: Http, base: &Path, notes: &mut Notes<'_>) -> Checked<Http> {
    notes.add(http.tls_config.ignored());
    let ways = [
        http.basic_auth.is_some(),
        http.authorization.is_some(),
        http.oauth2.is_some(),
        !http.bearer_token.is_empty() || !http.bearer_token_file.is_empty(),
    ];
    if ways.iter().filter(|way| **way).count() > 1 {
        let why = "only one of basic_auth, authorization, oauth2 and bearer_token can be used";
        return Err(why.into());
    }
    one_of(&http.bearer_token, &mut http.bearer_token_file, "bearer_token", base)?;
    if let Some(basic) = &mut http.basic_auth {
        one_of(&basic.username, &mut basic.username_file, "basic_auth.username", base)?;
        one_of(&basic.password, &mut basic.password_file, "basic_auth.password", base)?;
    }
    if let Some(a) = &mut http.authorization {
        if a.r#type.eq_ignore_ascii_case("basic") {
            return Err("authorization.type: use basic_auth for basic".into());
        }
        one_of(&a.credentials, &mut a.credentials_file, "authorization.credentials", base)?;
        if a.credentials_ref.0 {
            http.unbuilt = Some("authorization.credentials_ref");
        }
    }
    if let Some(oauth) = &mut http.oauth2 {
        oauth2(oauth, base, notes).map_err(|e| format!("oauth2: {e}"))?;
    }
    tls(&mut http.tls_config, base)?;
    proxy(&http.proxy)?;
    let files = http.http_headers.values_mut().flat_map(|h| &mut h.files);
    files.for_each(|file| *file = joined(base, file));
    Ok(http)
}

/// The same with further ways to authorise, which are not built.
pub(super) fn demanding(mut http: Http, ways: &[(&'static str, Demanded)]) -> Checked<Http> {
    let others = http.basic_auth.is_some() || http.authorization.is_some() || http.oauth2.is_some();
    let mut wanted = ways.iter().filter(|(_, demanded)| demanded.0).map(|(name, _)| *name);
    if let Some(way) = wanted.next() {
        if others || wanted.next().is_some() {
            return Err(format!("only one of {way} and other ways to authorise can be used"));
        }
        http.unbuilt = Some(way);
    }
    Ok(http)
}

/// What is written in place, or in a file, which is named by the folder.
fn one_of(value: &str, file: &mut String, name: &str, base: &Path) -> Checked<()> {
    if file.is_empty() {
        return Ok(());
    }
    if !value.is_empty() {
        return Err(format!("only one of {name} and {name}_file can be used"));
    }
    *file = joined(base, file);
    Ok(())
}

fn tls(tls: &mut Tls, base: &Path) -> Checked<()> {
    one_of(&tls.ca, &mut tls.ca_file, "tls_config.ca", base)?;
    one_of(&tls.cert, &mut tls.cert_file, "tls_config.cert", base)?;
    one_of(&tls.key, &mut tls.key_file, "tls_config.key", base)?;
    let (cert, key) = (tls.cert.is_empty() && tls.cert_file.is_empty(), &tls.key);
    if cert != (key.is_empty() && tls.key_file.is_empty()) {
        return Err("tls_config: a certificate needs its key, and a key its certificate".into());
    }
    if !matches!(&*tls.min_version, "" | "TLS10" | "TLS11" | "TLS12" | "TLS13") {
        let version = &tls.min_version;
        return Err(format!("tls_config.min_version: {version:?} is none of TLS10 to TLS13"));
    }
    Ok(())
}

fn oauth2(oauth: &mut OAuth2, base: &Path, notes: &mut Notes<'_>) -> Checked<()> {
    notes.add(oauth.tls_config.ignored());
    if oauth.client_id.is_empty() {
        return Err("client_id is missing".into());
    }
    if oauth.client_secret.is_empty() && oauth.client_secret_file.is_empty() {
        return Err("client_secret or client_secret_file is missing".into());
    }
    if oauth.token_url.is_empty() {
        return Err("token_url is missing".into());
    }
    one_of(&oauth.client_secret, &mut oauth.client_secret_file, "client_secret", base)?;
    tls(&mut oauth.tls_config, base)?;
    proxy(&oauth.proxy())
}

fn proxy(proxy: &Proxy) -> Checked<()> {
    let (url, no) = (!proxy.proxy_url.is_empty(), !proxy.no_proxy.is_empty());
    if proxy.proxy_from_environment && (url || no) {
        return Err("proxy_from_environment goes with neither proxy_url nor no_proxy".into());
    }
    if no && !url {
        return Err("no_proxy needs proxy_url".into());
    }
    if !proxy.proxy_connect_header.is_empty() && !url && !proxy.proxy_from_environment {
        return Err("proxy_connect_header needs proxy_url".into());
    }
    if proxy.proxy_url.starts_with("://") {
        return Err("proxy_url has no scheme".into());
    }
    Ok(())
}
