//! What every strategy must do alike, so that a client notices no difference: each scenario is
//! written once, over real gRPC and HTTP on loopback, and is one test for each strategy.
//!
//! What only one strategy does (a ring's shape, zones' contacts, flooding's links) is tested
//! beside it.

mod network;
mod scenarios;

use pserver::locate::StrategyKind;

macro_rules! on {
    ($strategy:ident, $kind:ident: $($scenario:ident)*) => {
        mod $strategy {
            use super::{StrategyKind, scenarios};

            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() {
                    scenarios::$scenario(StrategyKind::$kind).await;
                }
            )*
        }
    };
}

macro_rules! conformance {
    ($($scenario:ident,)*) => {
        on!(central, Central: $($scenario)*);
        on!(chord, Chord: $($scenario)*);
        on!(zone, Zone: $($scenario)*);
        on!(flood, Flood: $($scenario)*);
    };
}

conformance! {
    found_after_announce,
    gone_after_withdraw,
    gone_after_its_peer_left,
    gone_after_its_peer_died,
    several_providers,
    several_variants,
    an_unknown_name_is_answered_in_bounded_time,
    half_of_the_network_dies,
    concurrent_lookups,
    a_download_goes_through_own_peer_and_neighbour,
    what_the_strategy_says_of_itself,
}
