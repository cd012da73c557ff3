//! Streams that end when nothing comes on them.

use std::time::Duration;

use futures_util::Stream;
use tokio_stream::StreamExt as _;

/// The messages until there is none for `idle`.
pub(super) fn until_idle<T>(
    messages: impl Stream<Item = T>,
    idle: Duration,
) -> impl Stream<Item = T> {
    messages.timeout(idle).map_while(Result::ok)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_silent_stream_ends_and_keeps_what_came() {
        let silent = stream::iter([1, 2]).chain(stream::pending());
        let came: Vec<_> = until_idle(silent, Duration::from_millis(20))
            .collect()
            .await;
        assert_eq!(came, [1, 2]);
    }
}
