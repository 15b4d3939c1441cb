//! Requests of pages in a browser.

use ropewalk::{Endpoint, TlsConfig};
use ropewalk_admin::Admin;

use crate::common::{Asked, TOKEN, Watched, bearer, spawned, token_file};

/// What a browser says of the page that asks.
fn fetch(site: &str, mode: &str, dest: &str) -> [String; 3] {
    [
        format!("Sec-Fetch-Site: {site}"),
        format!("Sec-Fetch-Mode: {mode}"),
        format!("Sec-Fetch-Dest: {dest}"),
    ]
}

#[tokio::test]
async fn an_image_or_a_frame_of_another_sites_page_is_refused_although_it_has_no_origin() {
    let watched = Watched::start().await;
    let (dir, file) = token_file();
    let path = dir.path().join("admin.sock");
    let admin = Admin::new().listen(format!("unix:{}", path.display())).token_file(file);
    let asked = spawned(admin.bind(&watched.handle).await.unwrap());
    let ask = async |path: &str, [site, mode, dest]: [String; 3]| {
        let headers = [&*bearer(TOKEN), &*site, &*mode, &*dest];
        asked.request("GET", path, &headers, "").await.status
    };
    for site in ["cross-site", "same-site"] {
        for (mode, dest) in
            [("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"), ("no-cors", "script")]
        {
            for path in ["/", "/healthz", "/metrics", "/status", "/connections"] {
                assert_eq!(ask(path, fetch(site, mode, dest)).await, 403, "{site} {mode} {path}");
            }
        }
        // A link to the page is followed, and one to data of peers is not.
        assert_eq!(ask("/", fetch(site, "navigate", "document")).await, 200);
        assert_eq!(ask("/connections", fetch(site, "navigate", "document")).await, 403);
    }
    for site in ["same-origin", "none"] {
        assert_eq!(ask("/connections", fetch(site, "cors", "empty")).await, 200, "{site}");
        assert_eq!(ask("/connections", fetch(site, "navigate", "document")).await, 200, "{site}");
    }
}

#[tokio::test]
async fn a_page_that_was_not_encrypted_is_another_site_to_an_encrypted_endpoint() {
    let watched = Watched::start().await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = TlsConfig::pem(made.cert.pem(), made.signing_key.serialize_pem());
    let endpoint = "tcp:127.0.0.1:0".parse::<Endpoint>().unwrap().tls(tls);
    let (_dir, file) = token_file();
    let admin = Admin::new().listen(endpoint).token_file(file);
    let asked = spawned(admin.bind(&watched.handle).await.unwrap());
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    for (origin, status) in [("https://localhost", 200), ("http://localhost", 403)] {
        let stream = crate::common::encrypted(&asked, roots.clone()).await;
        let request = format!(
            "GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: {origin}\r\n{}\r\n\r\n",
            bearer(TOKEN)
        );
        let answer = crate::common::exchange(stream, &request).await;
        assert_eq!(answer.status, status, "{origin}");
    }
    // Behind a proxy that encrypts, the page is encrypted and the endpoint is not.
    let asked = Asked::tcp(&watched).await;
    let headers = [&*bearer(TOKEN), "Origin: https://localhost"];
    assert_eq!(asked.request("GET", "/status", &headers, "").await.status, 200);
}
