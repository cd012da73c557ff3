//! The first system's REST contract. FROZEN: its peers and clients speak exactly this.
//!
//! Both answers are `text/plain`: the URL `http://host:port` of a provider, or [`NOT_FOUND`].

use serde::{Deserialize, Serialize};

/// `POST` on the own peer, with [`ConnectBody`].
pub const CONNECT: &str = "/connect";
/// `POST` on the neighbour, with [`PedirRecursoBody`].
pub const PEDIR_RECURSO: &str = "/pedirRecurso";
/// `GET` or `POST` on a provider, followed by the percent-encoded name.
pub const DOWNLOAD: &str = "/download/";
/// The answer for a name that nobody holds, with status 200.
pub const NOT_FOUND: &str = "404";

/// `{"body":["NAME"]}`: exactly one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectBody {
    /// The name, in an array of one.
    pub body: [String; 1],
}

/// `{"body":"NAME"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PedirRecursoBody {
    /// The name.
    pub body: String,
}
