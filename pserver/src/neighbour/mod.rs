//! The neighbour role, from both sides: [`outbound`] asks our neighbours to look something up,
//! [`inbound`] looks up for those whose neighbour we are. They share nothing: a peer never looks
//! up for itself.

pub mod inbound;
pub mod link;
pub mod outbound;
