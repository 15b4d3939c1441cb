use std::sync::{Arc, Mutex};

use ropewalk::{Bytes, Lines, Result, Server, StateLayer, framed, service_fn};
use tower::Layer;

async fn count((count, line): (Arc<Mutex<u64>>, Bytes)) -> Result<Bytes> {
    let mut count = count.lock().expect("nobody panics");
    *count += 1;
    // The guard is held meanwhile.
    tokio::task::yield_now().await;
    Ok(line)
}

fn main() {
    let service = StateLayer::new(Arc::default()).layer(service_fn(count));
    let _ = Server::new().listen("tcp:8007").serve(framed(Lines::lf(), service));
}
