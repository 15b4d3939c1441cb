//! The page: one file, without anything from elsewhere.

use axum::body::Body;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::http::{HeaderValue, Response, StatusCode};

use crate::http::with_type;

const PAGE: &str = include_str!("page.html");

/// What the page may do: run its own script and style, known by their hashes, and ask this
/// endpoint.
const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-2qTYz7EFLc1zYHqG6Y6jZYFTKk74S23YwtJuoCsy9xI='; \
    style-src 'sha256-Q/ixn6yj37PLzA3OZ0fA+YQbuNQUY3uZwldZ5Tixo0A='; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

pub(crate) fn page() -> Response<Body> {
    let mut page = with_type(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    page.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    page
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use ring::digest::{SHA256, digest};

    use super::{PAGE, POLICY};

    /// What is between these tags, of which there is one.
    fn within(tag: &str) -> &'static str {
        let (begin, end) = (format!("<{tag}>"), format!("</{tag}>"));
        assert_eq!(PAGE.matches(&format!("<{tag}")).count(), 1);
        PAGE.split_once(&begin)
            .and_then(|(_, rest)| rest.split_once(&end))
            .map(|(inner, _)| inner)
            .expect("the tag")
    }

    #[test]
    fn the_policy_names_the_hashes_of_the_script_and_of_the_style() {
        for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
            let hash = STANDARD.encode(digest(&SHA256, within(tag).as_bytes()));
            let wanted = format!("{directive} 'sha256-{hash}';");
            assert!(POLICY.contains(&wanted), "in src/page.rs: {wanted}");
        }
    }

    #[test]
    fn the_page_asks_for_nothing_elsewhere_and_writes_no_markup() {
        let banned = [
            "http://",
            "https://",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "src=",
        ];
        // The namespace of SVG is a name, and is not fetched.
        let page = PAGE.replace("http://www.w3.org/2000/svg", "");
        for word in banned {
            assert!(!page.contains(word), "{word}");
        }
        assert!(!page.contains(" style="), "a style in an element is not allowed by the policy");
    }
}
