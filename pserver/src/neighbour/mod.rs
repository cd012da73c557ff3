//! The neighbour role, from both sides: [`outbound`] asks our neighbours to look something up,
//! [`inbound`] looks up for those whose neighbour we are. They share nothing: a peer never looks
//! up for itself. Beside lookups they tell a peer whether others can connect to it: [`checkup`] has
//! our neighbours asked ([`examine`]), [`probe`] answers those whose neighbour we are.

pub mod checkup;
pub mod examine;
mod gathered;
pub mod inbound;
pub mod link;
pub mod outbound;
pub mod probe;
pub mod searched;
