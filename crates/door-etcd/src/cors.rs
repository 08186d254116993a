//! Which pages in browsers may ask over HTTP: the rules for requests across origins of the
//! Fetch standard, answered as etcd answers them.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    HeaderMap, HeaderValue, ORIGIN,
};

/// Who may read the answer to a request with these headers; `None`: nobody but its own origin.
pub(crate) fn allowed(origins: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    if origins.iter().any(|origin| origin == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    let origin = headers.get(ORIGIN)?;
    origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

/// Says so in an answer's headers.
pub(crate) fn tell(headers: &mut HeaderMap, origin: HeaderValue) {
    let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let sent = HeaderValue::from_static("accept, content-type, authorization");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, sent);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_told_that_it_may_or_nothing() {
        let of = |origin: &'static str| {
            HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))])
        };
        let one = ["http://a.example".to_owned()];
        assert_eq!(allowed(&["*".to_owned()], &HeaderMap::new()).expect("all"), "*");
        assert_eq!(allowed(&one, &of("http://a.example")).expect("it"), "http://a.example");
        assert_eq!(allowed(&one, &of("http://b.example")), None);
        assert_eq!(allowed(&one, &HeaderMap::new()), None);
        assert_eq!(allowed(&[], &of("http://a.example")), None);
    }
}
