//! Bodies, queries and answers in the one shape of this API: whatever goes wrong with a request, also below the
//! handlers, is told as a [`Problem`].

use super::reason::Request as Wrong;
use super::types::Problem;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use standin_model::{Refusal, ReturnCode};

/// A refusal on its way out of a handler.
pub(super) struct Refused(pub Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

/// The HTTP status of a return code.
pub(super) fn http_status(code: ReturnCode) -> StatusCode {
    match code {
        ReturnCode::Completed => StatusCode::OK,
        ReturnCode::JobStarted => StatusCode::ACCEPTED,
        ReturnCode::AccessDenied => StatusCode::FORBIDDEN,
        ReturnCode::NotSupported => StatusCode::NOT_IMPLEMENTED,
        ReturnCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ReturnCode::InvalidParameter | ReturnCode::IncorrectDataType => StatusCode::BAD_REQUEST,
        ReturnCode::InUse | ReturnCode::InvalidState => StatusCode::CONFLICT,
        ReturnCode::NotAvailable => StatusCode::SERVICE_UNAVAILABLE,
        ReturnCode::OutOfMemory => StatusCode::INSUFFICIENT_STORAGE,
        ReturnCode::FileNotFound => StatusCode::NOT_FOUND,
        ReturnCode::Failed | ReturnCode::StatusUnknown => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        problem(http_status(self.0.code), self.0)
    }
}

/// A refusal as a response of a status of its own.
pub(super) fn problem(status: StatusCode, refusal: Refusal) -> Response {
    (status, Json(Problem::from(refusal))).into_response()
}

/// What handlers return.
pub(super) type Answer<T> = Result<Json<T>, Refused>;

/// An answer of 200.
pub(super) fn answer<T: Serialize>(value: T) -> Answer<T> {
    Ok(Json(value))
}

/// The whole body as bytes, at most [`super::MAX_BODY`], with its content type.
pub(super) struct Raw {
    pub bytes: Bytes,
    pub content_type: String,
}

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_ascii_lowercase();
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            problem(rejection.status(), Wrong::Body { error: rejection.body_text() }.into())
        })?;
        Ok(Self { bytes, content_type })
    }
}

/// A JSON body; an empty one is `{}`.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let raw = Raw::from_request(request, state).await?;
        let bytes: &[u8] = if raw.bytes.is_empty() { b"{}" } else { &raw.bytes };
        serde_json::from_slice(bytes)
            .map(Self)
            .map_err(|error| Refused(Wrong::Json { error: error.to_string() }.into()).into_response())
    }
}

/// A query string.
pub(super) struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Response> {
        axum::extract::Query::try_from_uri(&parts.uri).map(|query| Self(query.0)).map_err(|rejection| {
            Refused(Wrong::Query { error: rejection.body_text() }.into()).into_response()
        })
    }
}
