//! `/connections`.

use std::time::Duration;

use ropewalk::ConnectionInfo;
use ropewalk_admin::Admin;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::common::{Asked, Watched, say};

/// One column of the rows.
fn column(answer: &Value, name: &str) -> Vec<Value> {
    answer["connections"].as_array().unwrap().iter().map(|row| row[name].clone()).collect()
}

#[tokio::test]
async fn a_row_has_all_known_facts_of_its_connection() {
    let watched = Watched::start().await;
    let mut stream = watched.connect().await;
    say(&mut stream, "again").await;
    let asked = Asked::tcp(&watched).await;
    let list = asked.get("/connections?state=reading").await.json();
    assert_eq!((&list["open"], &list["matched"]), (&json!(1), &json!(1)));
    let row = &list["connections"][0];
    let info = &watched.handle.connections()[0];
    let known = [
        ("id", json!(info.id())),
        ("peer", json!("memory:")),
        ("name", json!(null)),
        ("listener", json!(0)),
    ];
    let counted =
        [("frames_in", 2), ("frames_out", 2), ("bytes_in", 12), ("bytes_out", 12), ("unread", 0)];
    for (name, value) in known.into_iter().chain(counted.map(|(name, n)| (name, json!(n)))) {
        assert_eq!(row[name], value, "{name}");
    }
    assert_eq!((&row["draining"], &row["encrypted"]), (&json!(false), &json!(false)));
    assert!(row["age_ms"].is_u64() && row["idle_ms"].is_u64());
    assert_eq!(asked.get("/connections?state=writing").await.json()["matched"], 0);
}

#[tokio::test]
async fn a_row_says_how_much_its_peer_has_not_read() {
    let watched = Watched::start().await;
    let (_unread, mut write) = tokio::io::split(watched.connect().await);
    let writing = tokio::spawn(async move {
        let lines = format!("{}\n", "x".repeat(99)).repeat(5000);
        // The server stops reading at some point, because nobody reads its answers.
        write.write_all(lines.as_bytes()).await.ok();
    });
    let asked = Asked::tcp(&watched).await;
    let stuck = async {
        loop {
            let list = asked.get("/connections?state=writing&sort=unread").await.json();
            if list["matched"] == 1 && list["connections"][0]["unread"].as_u64() > Some(0) {
                break;
            }
        }
    };
    timeout(Duration::from_secs(20), stuck).await.expect("it is written to");
    writing.abort();
}

#[tokio::test]
async fn a_hundred_rows_come_unless_the_request_says_how_many_up_to_a_thousand() {
    let watched = Watched::start().await;
    let mut streams = Vec::new();
    for _ in 0..101 {
        streams.push(watched.connect().await);
    }
    let asked = Asked::tcp(&watched).await;
    for (query, rows) in
        [("", 100), ("?limit=101", 101), ("?limit=1000", 101), ("?limit=1", 1), ("?limit=0", 0)]
    {
        let list = asked.get(&format!("/connections{query}")).await.json();
        assert_eq!(list["connections"].as_array().unwrap().len(), rows, "{query}");
        assert_eq!((&list["open"], &list["matched"]), (&json!(101), &json!(101)), "{query}");
    }
    assert_eq!(asked.get("/connections?limit=1001").await.status, 400);
}

#[tokio::test]
async fn rows_are_sorted_by_the_column_asked_for_and_the_largest_come_first() {
    let watched = Watched::start().await;
    let mut streams = Vec::new();
    for n in [2, 0, 1] {
        let mut stream = watched.connect().await;
        for _ in 0..n {
            say(&mut stream, "more").await;
        }
        streams.push(stream);
    }
    let asked = Asked::tcp(&watched).await;
    for sort in ["frames_in", "frames_out", "bytes_in", "bytes_out"] {
        let most = asked.get(&format!("/connections?sort={sort}")).await.json();
        assert_eq!(column(&most, "frames_in"), [3, 2, 1], "{sort}");
        let least = asked.get(&format!("/connections?sort={sort}&order=asc&limit=2")).await.json();
        assert_eq!(column(&least, "frames_in"), [1, 2], "{sort}");
        let most = asked.get(&format!("/connections?sort={sort}&limit=1")).await.json();
        assert_eq!(column(&most, "frames_in"), [3], "{sort}");
    }
    // The oldest comes first, and it has the lowest number.
    let ages = column(&asked.get("/connections").await.json(), "id");
    let ids = column(&asked.get("/connections?sort=id&order=asc").await.json(), "id");
    assert_eq!(ages, ids);
    assert!(ids.is_sorted_by_key(|id| id.as_u64()));
    for sort in ["idle", "unread"] {
        assert_eq!(
            column(&asked.get(&format!("/connections?sort={sort}")).await.json(), "id").len(),
            3
        );
    }
}

fn by_number(connection: &ConnectionInfo) -> Option<String> {
    Some(format!("User {}", connection.id()))
}

#[tokio::test]
async fn rows_are_filtered_by_peer_name_listener_state_age_and_idle_time() {
    let watched = Watched::start().await;
    let (_one, _other) = (watched.connect().await, watched.connect().await);
    let first = watched.handle.connections().iter().map(ConnectionInfo::id).min().unwrap();
    let asked = Asked::with(&watched, Admin::new().names(by_number)).await;
    for (query, matched) in [
        ("q=MEMORY", 2),
        (&*format!("q=user+{first}"), 1),
        ("q=nobody", 0),
        ("listener=0", 2),
        ("listener=1", 0),
        ("state=calling", 0),
        ("min_age=0&min_idle=0", 2),
        ("min_age=3600", 0),
        ("min_idle=3600", 0),
    ] {
        assert_eq!(
            asked.get(&format!("/connections?{query}")).await.json()["matched"],
            matched,
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_query_that_is_not_understood_is_refused_with_a_text() {
    let watched = Watched::start().await;
    let asked = Asked::tcp(&watched).await;
    for query in ["sort=colour", "limit=many", "limit=-1", "order=up", "sorted=age", "state=asleep"]
    {
        let answer = asked.get(&format!("/connections?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(!answer.body.is_empty());
    }
}

#[tokio::test]
async fn a_name_of_markup_stays_text() {
    let watched = Watched::start().await;
    let _stream = watched.connect().await;
    let name = "<script>alert('Zoë')</script>\u{202e}\u{1b}[2J\u{200b}\u{3164}";
    let admin = Admin::new().names(move |_| Some(name.to_owned()));
    let answer = Asked::with(&watched, admin).await.get("/connections").await;
    // As JSON, which browsers don't take for a page: the type says so, and may not be guessed.
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    let shown = answer.json()["connections"][0]["name"].as_str().unwrap().to_owned();
    // Nothing that turns text around, hides in it, or controls a terminal.
    assert_eq!(shown, "<script>alert('Zoë')</script>\\u{202e}\\u{1b}[2J\\u{200b}\\u{3164}");
    let long = Admin::new().names(|_| Some("x".repeat(100_000)));
    let answer = Asked::with(&watched, long).await.get("/connections").await.json();
    assert!(answer["connections"][0]["name"].as_str().unwrap().len() == 203);
}
