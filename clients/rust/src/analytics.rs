//! Questions about events: `analytics.v1.AnalyticsService`. They only read, so all of them may be repeated.

use tidegate_proto::analytics::v1::{
    AnalyticsSummary, GetAnalyticsSummaryRequest, GetFunnelAnalysisRequest, GetFunnelAnalysisResponse,
    GetTimeSeriesRequest, GetTimeSeriesResponse, GetUserAnalyticsRequest, GetUserAnalyticsResponse,
    analytics_service_client::AnalyticsServiceClient,
};

use crate::{
    Answer, CallOptions, Client, Error, call::MESSAGE_BYTES_MAX, connection::Connection, retry::Repeat,
};

fn service(connection: Connection) -> AnalyticsServiceClient<Connection> {
    AnalyticsServiceClient::new(connection).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

impl Client {
    /// Counts of a range; without one, of the last hour.
    ///
    /// # Errors
    ///
    /// Of the call.
    pub async fn summary(
        &self,
        request: GetAnalyticsSummaryRequest,
        options: &CallOptions,
    ) -> Result<Answer<AnalyticsSummary>, Error> {
        self.call("GetAnalyticsSummary", Repeat::Harmless, &request, options, |connection, request| {
            let mut service = service(connection);
            async move { service.get_analytics_summary(request).await }
        })
        .await
    }

    /// A metric over time.
    ///
    /// # Errors
    ///
    /// Of the call.
    pub async fn time_series(
        &self,
        request: GetTimeSeriesRequest,
        options: &CallOptions,
    ) -> Result<Answer<GetTimeSeriesResponse>, Error> {
        self.call("GetTimeSeries", Repeat::Harmless, &request, options, |connection, request| {
            let mut service = service(connection);
            async move { service.get_time_series(request).await }
        })
        .await
    }

    /// What is known of a user; `NOT_FOUND` of one who never did anything.
    ///
    /// # Errors
    ///
    /// Of the call.
    pub async fn user(
        &self,
        request: GetUserAnalyticsRequest,
        options: &CallOptions,
    ) -> Result<Answer<GetUserAnalyticsResponse>, Error> {
        self.call("GetUserAnalytics", Repeat::Harmless, &request, options, |connection, request| {
            let mut service = service(connection);
            async move { service.get_user_analytics(request).await }
        })
        .await
    }

    /// How many users did steps in their order.
    ///
    /// # Errors
    ///
    /// Of the call.
    pub async fn funnel(
        &self,
        request: GetFunnelAnalysisRequest,
        options: &CallOptions,
    ) -> Result<Answer<GetFunnelAnalysisResponse>, Error> {
        self.call("GetFunnelAnalysis", Repeat::Harmless, &request, options, |connection, request| {
            let mut service = service(connection);
            async move { service.get_funnel_analysis(request).await }
        })
        .await
    }
}
