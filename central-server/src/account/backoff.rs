//! Back-off of failing logins, by user and by address. Pure: time is passed in.
//!
//! Invariant: an attempt counts as failed from its beginning until it succeeds, so that many at once
//! are no way around it; one that is held back counts for nothing. A name counts whether there is
//! such a user or not. The tables are bounded; only attempts that have a place in the queue enter them,
//! and each that stays costs a hash, so that flushing them takes longer than waiting.

use std::{net::IpAddr, time::Duration};

use vecino_rest::UserName;

use super::recent::Recent;

/// Failures of one user that cost no waiting.
const FREE_FOR_USER: u32 = 5;
/// The same of one address, behind which there may be many users.
const FREE_FOR_ADDRESS: u32 = 20;
/// The first wait; each further failure doubles it ...
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// ... up to this. Whoever fails on purpose cannot lock a user out for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Failures are forgotten after so long without one.
const FORGIVEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// Users, and addresses, that are remembered at least.
const REMEMBERED: usize = 32_768;

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Duration,
}

impl Failures {
    /// How long to wait from `now` on.
    fn wait(&self, free: u32, now: Duration) -> Duration {
        let Some(beyond) = self.count.checked_sub(free) else {
            return Duration::ZERO;
        };
        let wait = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(beyond));
        (self.last + wait.min(LONGEST_WAIT)).saturating_sub(now)
    }

    fn is_forgiven(&self, now: Duration) -> bool {
        now.saturating_sub(self.last) >= FORGIVEN_AFTER
    }
}

/// Who failed how often.
#[derive(Debug)]
pub(super) struct Backoff {
    users: Recent<UserName, Failures>,
    addresses: Recent<IpAddr, Failures>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            users: Recent::new(REMEMBERED),
            addresses: Recent::new(REMEMBERED),
        }
    }
}

impl Backoff {
    /// Begins an attempt; the error says how long to wait instead.
    pub(super) fn begin(
        &mut self,
        user: &UserName,
        address: IpAddr,
        now: Duration,
    ) -> Result<(), Duration> {
        let lately = |failures: Option<&Failures>| {
            let failures = failures.copied().filter(|known| !known.is_forgiven(now));
            failures.unwrap_or(Failures {
                count: 0,
                last: now,
            })
        };
        let of_user = lately(self.users.get(user));
        let of_address = lately(self.addresses.get(&address));
        let wait = of_user
            .wait(FREE_FOR_USER, now)
            .max(of_address.wait(FREE_FOR_ADDRESS, now));
        if !wait.is_zero() {
            return Err(wait);
        }
        let one_more = |failures: Failures| Failures {
            count: failures.count.saturating_add(1),
            last: now,
        };
        self.users.put(user.clone(), one_more(of_user));
        self.addresses.put(address, one_more(of_address));
        Ok(())
    }

    /// The attempt succeeded: the user is who it says. Others at the address may be guessing.
    pub(super) fn succeeded(&mut self, user: &UserName, address: IpAddr) {
        self.users.remove(user);
        one_less(&mut self.addresses, &address);
    }

    /// The attempt came to nothing, for which nobody is to blame.
    pub(super) fn undo(&mut self, user: &UserName, address: IpAddr) {
        one_less(&mut self.users, user);
        one_less(&mut self.addresses, &address);
    }

    /// Users and addresses in the tables.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize) {
        (self.users.len(), self.addresses.len())
    }
}

fn one_less<K: Eq + std::hash::Hash + Clone>(table: &mut Recent<K, Failures>, key: &K) {
    if let Some(mut failures) = table.get(key).copied() {
        failures.count = failures.count.saturating_sub(1);
        match failures.count {
            0 => drop(table.remove(key)),
            _ => table.put(key.clone(), failures),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: impl ToString) -> UserName {
        UserName::parse(&name.to_string()).expect("valid")
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_double_up_to_a_minute_and_end() {
        let mut backoff = Backoff::default();
        let ana = user("ana");
        for _ in 0..FREE_FOR_USER {
            assert_eq!(backoff.begin(&ana, address(1), seconds(0)), Ok(()));
        }
        let mut now = seconds(0);
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            let told = backoff.begin(&ana, address(1), now);
            assert_eq!(told, Err(seconds(wait)));
            // From anywhere, and what is held back makes it no longer.
            let elsewhere = backoff.begin(&ana, address(2), now);
            assert_eq!(elsewhere, Err(seconds(wait)));
            now += seconds(wait);
            assert_eq!(backoff.begin(&ana, address(1), now), Ok(()));
        }
        assert_eq!(backoff.begin(&user("ben"), address(2), now), Ok(()));
        now += FORGIVEN_AFTER;
        for _ in 0..FREE_FOR_USER {
            assert_eq!(backoff.begin(&ana, address(1), now), Ok(()));
        }
    }

    #[test]
    fn an_address_that_guesses_users_waits_as_well_and_others_do_not() {
        let mut backoff = Backoff::default();
        for number in 0..FREE_FOR_ADDRESS {
            assert_eq!(backoff.begin(&user(number), address(1), seconds(0)), Ok(()));
        }
        let told = backoff.begin(&user("next"), address(1), seconds(0));
        assert_eq!(told, Err(FIRST_WAIT));
        assert_eq!(backoff.begin(&user("next"), address(2), seconds(0)), Ok(()));
        // A user of the same address that succeeds does not wash the others clean.
        let mut backoff = Backoff::default();
        for number in 0..200 {
            let at = seconds(0);
            if backoff.begin(&user(number), address(1), at).is_err() {
                assert!(number > 0);
                return;
            }
            if backoff.begin(&user("own"), address(1), at).is_ok() {
                backoff.succeeded(&user("own"), address(1));
            }
        }
        panic!("never held back");
    }

    #[test]
    fn success_forgives_the_user_and_a_fault_counts_for_nothing() {
        let mut backoff = Backoff::default();
        let ana = user("ana");
        for _ in 0..100 {
            assert_eq!(backoff.begin(&ana, address(1), seconds(0)), Ok(()));
            backoff.succeeded(&ana, address(1));
            assert_eq!(backoff.begin(&ana, address(1), seconds(0)), Ok(()));
            backoff.undo(&ana, address(1));
            assert_eq!(backoff.remembered(), (0, 0));
        }
    }

    #[test]
    fn a_flood_of_names_is_remembered_in_bounded_memory() {
        let mut backoff = Backoff::default();
        for number in 0..200_000_u32 {
            let from = IpAddr::from(number.to_be_bytes());
            assert_eq!(backoff.begin(&user(number), from, seconds(0)), Ok(()));
        }
        assert!(backoff.users.len() <= 2 * REMEMBERED);
        assert!(backoff.addresses.len() <= 2 * REMEMBERED);
    }
}
