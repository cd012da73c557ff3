//! The locator over real gRPC, started in this process on a free port (and as a process of its
//! own where it is killed).

mod accounts;
mod announcing;
mod crashes;
mod flooded;
mod hostile;
mod leases;
mod locating;
mod machines;
mod operating;
mod partial;
mod process;
#[expect(dead_code, reason = "the store's and the peers' tests use the rest")]
mod redis_cluster;
mod searching;
mod shared;
mod shared_accounts;
mod support;
mod zones;
