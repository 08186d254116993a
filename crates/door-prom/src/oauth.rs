//! OAuth 2.0, the client's own credentials (RFC 6749, section 4.4): who asks a target shows
//! a token, which another server gives for an id and a secret, and which ends.

use crate::client::{Client, header, secret};
use crate::config::yaml::{Http, OAuth2};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// A token is not shown in its last moments: what it is for takes time.
const MARGIN: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Gets tokens. Cheap to clone.
#[derive(Clone)]
pub(crate) struct OAuth(Arc<Inner>);

struct Inner {
    settings: OAuth2,
    client: Client,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// As a header, and until when it is good.
    token: Option<(HeaderValue, Option<Instant>)>,
    /// The server wants the secret in the body; else it is a header.
    in_body: bool,
}

/// What a server answers.
#[derive(serde::Deserialize)]
struct Answer {
    access_token: String,
    #[serde(default)]
    token_type: String,
    /// Seconds; some write them as a text.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl OAuth {
    pub fn new(settings: &OAuth2) -> Result<OAuth, String> {
        let http = Http {
            tls_config: settings.tls_config.clone(),
            proxy: settings.proxy(),
            follow_redirects: true,
            ..Http::default()
        };
        let client = Client::new(&http).map_err(|why| format!("oauth2: {why}"))?;
        Ok(OAuth(Arc::new(Inner { settings: settings.clone(), client, held: Mutex::default() })))
    }

    /// What a request is to show. A token is got when there is none that lasts.
    pub async fn authorization(&self) -> Result<HeaderValue, String> {
        let mut held = self.0.held.lock().await;
        if let Some((token, until)) = &held.token
            && until.is_none_or(|until| Instant::now() + MARGIN < until)
        {
            return Ok(token.clone());
        }
        let begun = Instant::now();
        let mut answer = self.ask(held.in_body).await?;
        if answer.status().is_client_error() {
            // The other way, which counts from then on if it is right.
            let other = self.ask(!held.in_body).await?;
            if other.status().is_success() {
                held.in_body = !held.in_body;
                answer = other;
            }
        }
        if !answer.status().is_success() {
            return Err(format!("oauth2: the token's server answered {}", answer.status()));
        }
        let token: Answer = serde_json::from_slice(answer.body())
            .map_err(|_| "oauth2: the token's server answered no token".to_owned())?;
        let kind = match &*token.token_type {
            "" => "Bearer",
            kind if kind.eq_ignore_ascii_case("bearer") => "Bearer",
            kind => kind,
        };
        let lasts = match &token.expires_in {
            serde_json::Value::String(text) => text.parse().ok(),
            number => number.as_u64(),
        };
        let until = lasts.filter(|s| *s > 0).map(|seconds| begun + Duration::from_secs(seconds));
        let value = header(&format!("{kind} {}", token.access_token))?;
        held.token = Some((value.clone(), until));
        Ok(value)
    }

    async fn ask(&self, in_body: bool) -> Result<Response<Bytes>, String> {
        let request = self.request(in_body)?;
        // A client's requests may need a token, and a token needs one.
        let answer = Box::pin(self.0.client.send(request, ANSWER_BYTES_MAX)).await;
        answer.map_err(|why| format!("oauth2: asking for a token: {why}"))
    }

    fn request(&self, in_body: bool) -> Result<Request<Bytes>, String> {
        let settings = &self.0.settings;
        let password = secret(&settings.client_secret, &settings.client_secret_file)?;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !settings.scopes.is_empty() {
            form.append_pair("scope", &settings.scopes.join(" "));
        }
        form.extend_pairs(&settings.endpoint_params);
        let mut request = Request::post(&*settings.token_url)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if in_body {
            form.append_pair("client_id", &settings.client_id);
            form.append_pair("client_secret", &password);
        } else {
            let encoded = |text: &str| -> String {
                form_urlencoded::byte_serialize(text.as_bytes()).collect()
            };
            let pair = format!("{}:{}", encoded(&settings.client_id), encoded(&password));
            let basic = format!("Basic {}", crate::client::base64(pair));
            request = request.header(AUTHORIZATION, header(&basic)?);
        }
        let request = request.body(Bytes::from(form.finish()));
        request.map_err(|e| format!("oauth2: token_url: {e}"))
    }
}
