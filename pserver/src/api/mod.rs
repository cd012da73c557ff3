//! The REST surface: which route is whose. Handlers translate between HTTP and the domain, and
//! decide nothing; [`error`] is where errors become problems, [`access`] where requests are
//! refused before a handler sees them.

pub mod access;
pub mod blobs;
pub mod context;
pub mod downloads;
pub mod error;
pub mod events;
pub mod files;
pub mod first_system;
pub mod flood;
pub mod machine;
pub mod neighbour;
pub mod network;
pub mod overlay;
pub mod range;
pub mod replicas;
pub mod request;
pub mod respond;
pub mod session;

use actix_web::{
    Resource, Route,
    http::Method,
    middleware::from_fn,
    web::{self, ServiceConfig, delete, get, head, post, put},
};
use vecino_rest::{frozen, route};

/// Everything after the prefix, whatever it is: names are parsed by their handlers.
const REST: &str = r"/{rest:[\s\S]*}";

fn resource(path: impl AsRef<str>, routes: impl IntoIterator<Item = Route>) -> Resource {
    let resource = web::resource(path.as_ref()).default_service(web::to(error::no_method));
    routes.into_iter().fold(resource, Resource::route)
}

/// All routes of the peer.
pub fn routes(app: &mut ServiceConfig) {
    let under = |prefix: &str| format!("{}{REST}", prefix.trim_end_matches('/'));
    // First: routes are tried in order, and those with a pattern take long.
    let asked_most = [
        resource(route::NEIGHBOUR_LOCATE, [post().to(neighbour::locate)]),
        resource(
            route::NEIGHBOUR_LOCATE_MANY,
            [post().to(neighbour::locate_many)],
        ),
        resource(
            format!("{}/{{digest}}/have", route::BLOBS),
            [get().to(blobs::have)],
        ),
    ];
    for resource in asked_most {
        app.service(resource.wrap(from_fn(access::guard_peers)));
    }
    let client = [
        resource(under(route::LOCATE), [get().to(network::locate)]),
        resource(route::STATUS, [get().to(network::status)]),
        resource(route::FILES, [get().to(files::list)]),
        resource(
            under(route::FILES),
            [
                get().to(files::get),
                head().to(files::get),
                put().to(files::put),
                delete().to(files::delete),
            ],
        ),
        resource(route::SEARCH, [get().to(network::search)]),
        resource(
            route::DOWNLOADS,
            [get().to(downloads::list), post().to(downloads::begin)],
        ),
        resource(
            format!("{}/{{id}}", route::DOWNLOADS),
            [get().to(downloads::get), delete().to(downloads::cancel)],
        ),
        resource(
            route::PEERS,
            [get().to(network::peers), post().to(flood::connect)],
        ),
        resource(under(route::PEERS), [delete().to(flood::disconnect)]),
        resource(
            route::DISCOVER,
            [get().to(flood::discovered), post().to(flood::discover)],
        ),
        resource(route::EVENTS, [get().to(events::listen)]),
        resource(route::OVERLAY, [get().to(overlay::view)]),
        resource(route::REPAIR, [post().to(overlay::repair)]),
        resource(route::DOCTOR, [get().to(network::doctor)]),
        resource(
            route::SESSION,
            [post().to(session::login), delete().to(session::logout)],
        ),
        resource(route::METRICS, [get().to(machine::metrics)]),
    ];
    for resource in client {
        app.service(resource.wrap(from_fn(access::guard)));
    }
    // They change nothing, though their method is not GET.
    let lookups = [resource(
        frozen::CONNECT,
        [post().to(first_system::connect)],
    )];
    for resource in lookups {
        app.service(resource.wrap(from_fn(access::guard_lookup)));
    }
    let peers = [
        resource(route::NEIGHBOUR_SEARCH, [post().to(neighbour::search)]),
        resource(route::NEIGHBOUR_PLACE, [post().to(neighbour::place)]),
        resource(route::NEIGHBOUR_REACH, [post().to(neighbour::reach)]),
        resource(
            format!("{}/{{peer}}", route::NEIGHBOUR_REACH),
            [get().to(neighbour::is_it)],
        ),
        resource(
            format!("{}/{{digest}}", route::BLOBS),
            [
                get().to(blobs::get),
                head().to(blobs::get),
                put().to(replicas::put),
            ],
        ),
        resource(
            format!("{}/{{digest}}/pieces", route::BLOBS),
            [get().to(blobs::pieces)],
        ),
        resource(
            frozen::PEDIR_RECURSO,
            [post().to(first_system::pedir_recurso)],
        ),
        resource(
            under(frozen::DOWNLOAD),
            [Method::GET, Method::HEAD, Method::POST]
                .map(|method| web::method(method).to(first_system::download)),
        ),
    ];
    for resource in peers {
        app.service(resource.wrap(from_fn(access::guard_peers)));
    }
    app.service(resource(route::HEALTHZ, [get().to(machine::healthz)]));
    app.service(resource(route::READYZ, [get().to(machine::readyz)]));
    app.default_service(web::to(error::no_route));
}
