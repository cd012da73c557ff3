//! The service behind the REST port: plain requests for content first, then the web server.

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use actix_service::{Service, ServiceFactory};
use futures_util::{FutureExt, future::LocalBoxFuture};
use tokio::net::TcpStream;

use super::connection::{Next, Sender};
use crate::metrics::Metrics;

/// Makes a [`ContentFirst`] a worker.
pub struct ContentFirstFactory<F> {
    /// What answers them.
    pub sender: Sender,
    /// Makes the web server's service.
    pub web: F,
}

/// See the module.
pub struct ContentFirst<S> {
    sender: Sender,
    web: Rc<S>,
}

impl<F> ServiceFactory<TcpStream> for ContentFirstFactory<F>
where
    F: ServiceFactory<TcpStream, Config = (), Response = ()>,
    F::Future: 'static,
    F::Service: 'static,
{
    type Response = ();
    type Error = F::Error;
    type Config = ();
    type Service = ContentFirst<F::Service>;
    type InitError = F::InitError;
    type Future = LocalBoxFuture<'static, Result<Self::Service, F::InitError>>;

    fn new_service(&self, config: ()) -> Self::Future {
        let (web, sender) = (self.web.new_service(config), self.sender.clone());
        async move {
            Ok(ContentFirst {
                sender,
                web: Rc::new(web.await?),
            })
        }
        .boxed_local()
    }
}

impl<S> Service<TcpStream> for ContentFirst<S>
where
    S: Service<TcpStream, Response = ()> + 'static,
{
    type Response = ();
    type Error = S::Error;
    type Future = LocalBoxFuture<'static, Result<(), S::Error>>;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.web.poll_ready(context)
    }

    fn call(&self, stream: TcpStream) -> Self::Future {
        let (sender, web) = (self.sender.clone(), self.web.clone());
        async move {
            let _open = Metrics::running(&sender.worker.shared.metrics.http_connections_open);
            match sender.serve(stream).await {
                Next::Closed => Ok(()),
                Next::Other(stream) => web.call(stream).await,
            }
        }
        .boxed_local()
    }
}
