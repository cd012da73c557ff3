//! What `doctor` asks of the own peer: how it does, what time it has, what it finds wrong.

use std::time::{Duration, Instant, SystemTime};

use awc::{error::SendRequestError, http::header};
use vecino_rest::{body::Status, doctor::Diagnosis, route};

use super::{ANSWER_TIMEOUT, Api, ApiError, MAX_ANSWER};

/// How long the own peer may take to say how it does.
const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// The own peer at first sight.
pub(crate) struct Looked {
    /// How it does.
    pub(crate) status: Status,
    /// What its clock says, to the second.
    pub(crate) date: Option<SystemTime>,
    /// How long its answer took.
    pub(crate) latency: Duration,
}

impl Api {
    /// Looks whether the own peer is there.
    pub(crate) async fn look(&self) -> Result<Looked, ApiError> {
        let began = Instant::now();
        let request = self.own(self.http.get(self.url(route::STATUS)));
        let sent = request.timeout(LOOK_WITHIN).send().await;
        let response = sent.map_err(|error| match error {
            SendRequestError::Timeout => ApiError::silent(&self.peer, LOOK_WITHIN),
            error => ApiError::sending(&self.peer, error),
        })?;
        let latency = began.elapsed();
        let date = response.headers().get(header::DATE);
        let date = date
            .and_then(|date| date.to_str().ok())
            .and_then(|date| httpdate::parse_http_date(date).ok());
        let response = self.own_successful(response).await?;
        let status = self
            .parse_within(response, MAX_ANSWER, ANSWER_TIMEOUT)
            .await?;
        Ok(Looked {
            status,
            date,
            latency,
        })
    }

    /// What the own peer finds wrong; `None` when its version cannot tell.
    pub(crate) async fn diagnosis(&self) -> Result<Option<Diagnosis>, ApiError> {
        match self.get(route::DOCTOR, &(), MAX_ANSWER).await {
            Err(ApiError::Problem(problem)) if problem.status == 404 => Ok(None),
            other => other.map(Some),
        }
    }
}
