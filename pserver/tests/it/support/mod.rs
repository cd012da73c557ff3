//! The stage of these tests: a real locator, real peers, providers and neighbours that misbehave
//! as a test says, and a client that sends any bytes. Everything has a deadline.

pub(crate) mod content;
pub(crate) mod fixture;
pub(crate) mod http;
pub(crate) mod neighbour;
pub(crate) mod peer;
pub(crate) mod provider;
pub(crate) mod stage;
pub(crate) mod valve;

use std::time::Duration;

/// Nothing here takes this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// Awaits until `check` holds.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// Fails when it takes too long.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}
