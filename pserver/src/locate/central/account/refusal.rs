//! For how long a password that was refused is not tried again. Pure: time and jitter are passed in.

use std::time::Duration;

use tokio::time::Instant;

use super::Credentials;

/// What was refused is tried again after so long, up to a half more: peers with one password do not
/// come together.
pub(super) const REFUSED_FOR: Duration = Duration::from_secs(10 * 60);

/// What a locator refused, and until when it is not tried again.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) credentials: Credentials,
    until: Instant,
}

impl Refusal {
    /// `jitter` is from 0 to 1.
    pub(super) fn new(credentials: &Credentials, now: Instant, jitter: f64) -> Self {
        Self {
            credentials: credentials.clone(),
            until: now + REFUSED_FOR.mul_f64(1.0 + jitter / 2.0),
        }
    }

    pub(super) fn is_of(&self, credentials: &Credentials, now: Instant) -> bool {
        self.credentials == *credentials && now < self.until
    }
}

#[cfg(test)]
mod tests {
    use vecino_rest::UserName;

    use super::*;

    #[test]
    fn what_was_refused_is_tried_again_after_a_while() {
        let now = Instant::now();
        let ana = Credentials {
            user: UserName::parse("ana").expect("valid"),
            password: "hers".to_owned(),
        };
        let other = Credentials {
            password: "another".to_owned(),
            ..ana.clone()
        };
        for (jitter, lasts) in [(0.0, REFUSED_FOR), (1.0, REFUSED_FOR * 3 / 2)] {
            let refusal = Refusal::new(&ana, now, jitter);
            let almost = now + lasts - Duration::from_millis(1);
            assert!(refusal.is_of(&ana, now) && refusal.is_of(&ana, almost));
            assert!(!refusal.is_of(&ana, now + lasts + Duration::from_millis(1)));
            assert!(!refusal.is_of(&other, now));
        }
    }
}
