//! The bare hops: they parse, pass on and answer, and do nothing else.

use std::net::{Ipv4Addr, TcpListener};

use actix_web::{App, HttpServer, error::ErrorBadGateway, web};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Channel};
use vecino_grpc::product_service::{
    Resource, TransactionResponse,
    product_service_client::ProductServiceClient,
    product_service_server::{ProductService, ProductServiceServer},
};
use vecino_rest::body::{LocateQuery, Located, Provider, Variant};

struct Echo;

#[tonic::async_trait]
impl ProductService for Echo {
    async fn get_resource(
        &self,
        request: Request<Resource>,
    ) -> Result<Response<TransactionResponse>, Status> {
        let response = request.into_inner().resource_name;
        Ok(Response::new(TransactionResponse {
            status_code: 200,
            response,
        }))
    }
}

/// The last hop: bare tonic.
#[tokio::main]
pub(crate) async fn grpc() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(ProductServiceServer::new(Echo))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}

/// An answer of the size that a locate with one provider has.
fn located(query: &LocateQuery, echoed: &str) -> Option<Located> {
    let name = query.name.clone()?;
    let variant = Variant {
        digest: Some(vecino_rest::Digest::from_bytes([7; 32])),
        size: Some(echoed.len() as u64),
        modified_ms: Some(0),
        providers: vec![Provider {
            peer: Some(vecino_rest::PeerId::from_bytes([7; 16])),
            url: "http://127.0.0.1:8080".to_owned(),
            site: None,
            partial: false,
        }],
        ..Variant::unverifiable(name, String::new())
    };
    Some(Located {
        variants: vec![variant],
    })
}

async fn serve(
    configure: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    eprintln!("listening on {}", listener.local_addr()?);
    HttpServer::new(move || App::new().configure(configure.clone()))
        .tcp_nodelay(true)
        .listen(listener)?
        .run()
        .await?;
    Ok(())
}

/// The hop that stands for the neighbour: actix, one unary call to the last hop a request.
#[tokio::main]
pub(crate) async fn last_hop(next: &str) -> anyhow::Result<()> {
    let channel = Channel::from_shared(format!("http://{next}"))?
        .tcp_nodelay(true)
        .connect_lazy();
    let client = ProductServiceClient::new(channel);
    let answer = |query: web::Json<LocateQuery>,
                  client: web::Data<ProductServiceClient<Channel>>| async move {
        let resource_name = query
            .name
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let mut client = client.as_ref().clone();
        let echoed = client
            .get_resource(Resource { resource_name })
            .await
            .map_err(ErrorBadGateway)?;
        let located = located(&query, &echoed.into_inner().response);
        located
            .map(web::Json)
            .ok_or_else(|| ErrorBadGateway("no name"))
    };
    serve(move |app| {
        app.app_data(web::Data::new(client.clone()))
            .route("/", web::post().to(answer));
    })
    .await
}

/// The hop that stands for the own peer: actix, one awc request to the next hop a request.
#[tokio::main]
pub(crate) async fn first_hop(next: &str) -> anyhow::Result<()> {
    let next = format!("http://{next}/");
    let answer = |name: web::Path<String>, next: web::Data<(awc::Client, String)>| async move {
        let (client, url) = next.as_ref();
        let name = name.parse().map_err(ErrorBadGateway)?;
        let query = LocateQuery {
            name: Some(name),
            digest: None,
            provider: None,
            fresh: false,
        };
        let mut response = client
            .post(url)
            .send_json(&query)
            .await
            .map_err(|e| ErrorBadGateway(e.to_string()))?;
        let body = response
            .body()
            .await
            .map_err(|e| ErrorBadGateway(e.to_string()))?;
        let located: Located = serde_json::from_slice(&body).map_err(ErrorBadGateway)?;
        Ok::<_, actix_web::Error>(web::Json(located))
    };
    serve(move |app| {
        app.app_data(web::Data::new((awc::Client::default(), next.clone())))
            .route("/v1/locate/{name}", web::get().to(answer));
    })
    .await
}
