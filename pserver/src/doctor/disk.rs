//! Whether there is room for what is fetched.

use std::{sync::Arc, time::Duration};

use vecino_rest::{body::Origin, doctor::Check};

use crate::{config::size::roughly, content::Store};

/// How often the room is looked at.
const EVERY: Duration = Duration::from_secs(15);
/// With less room than this for downloads somebody should look at the disk.
const LITTLE: u64 = 256 << 20;
const WHAT: &str = "disk";
const FULL: &str =
    "the disk is full: nothing can be fetched or uploaded (16 MiB are always left free)";
const NEXT: &str = "free some space where DOWNLOAD_DIR and DATA_DIR are";

/// Says in the log when the disk is full, and when there is room again.
pub async fn watch(store: Arc<Store>) {
    let mut was_full = false;
    loop {
        let is_full = store.free_bytes(Origin::Fetched) == 0;
        match (was_full, is_full) {
            (false, true) => log::warn!("{FULL}; {NEXT}"),
            (true, false) => log::info!("there is room on the disk again"),
            _ => {}
        }
        was_full = is_full;
        tokio::time::sleep(EVERY).await;
    }
}

/// With so many bytes of room.
pub(super) fn check(room: u64) -> Check {
    match room {
        0 => Check::fail(WHAT, FULL, NEXT),
        1..LITTLE => Check::warn(WHAT, format!("room for {} only", roughly(room)), NEXT),
        _ => Check::ok(WHAT, format!("room for {} of downloads", roughly(room))),
    }
}

#[cfg(test)]
mod tests {
    use vecino_rest::doctor::CheckState;

    use super::*;

    #[test]
    fn a_full_disk_fails_and_little_room_is_warned_of() {
        assert_eq!(check(0).state, CheckState::Fail);
        let little = check(LITTLE - 1);
        assert_eq!(
            (little.state, &*little.detail),
            (CheckState::Warn, "room for 255 MiB only")
        );
        let much = check(20 << 30);
        assert_eq!(
            (much.state, &*much.detail),
            (CheckState::Ok, "room for 20 GiB of downloads")
        );
    }
}
