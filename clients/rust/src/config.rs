//! How to reach the server, and how long to try.

use std::{fmt, time::Duration};

use tonic::{metadata::AsciiMetadataValue, transport::Endpoint};

use crate::Error;

/// Most connections to one host (the older systems' clients have the same bound).
const CONNECTIONS_MAX: usize = 200;

/// Settings of a [`Client`](crate::Client); what is not said is the default.
#[derive(Clone)]
pub struct Config {
    pub(crate) address: String,
    pub(crate) connections: usize,
    pub(crate) api_key: Option<String>,
    pub(crate) budget: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) retries_max: Option<usize>,
    pub(crate) retry_delay: Duration,
    pub(crate) retry_delay_max: Duration,
    pub(crate) give_ids: bool,
    #[cfg(feature = "tls")]
    authority: Option<String>,
}

impl Config {
    /// For a server at `http://host:port`; `https://` with the feature `tls`.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            connections: 2,
            api_key: None,
            budget: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            retries_max: None,
            retry_delay: Duration::from_millis(100),
            retry_delay_max: Duration::from_secs(5),
            give_ids: true,
            #[cfg(feature = "tls")]
            authority: None,
        }
    }

    /// Connections to the host, 1 to 200; default 2. Calls take them in turn; each is opened with its first call. One
    /// carries many calls at once, but one core of the server serves it.
    pub fn connections(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// Sent with every call as `x-api-key`; default none.
    pub fn api_key(self, api_key: impl Into<String>) -> Self {
        Self { api_key: Some(api_key.into()), ..self }
    }

    /// How long a call may take with connecting and all its retries; default 30 s.
    pub fn budget(self, budget: Duration) -> Self {
        Self { budget, ..self }
    }

    /// How long one attempt to connect may take; default 10 s.
    pub fn connect_timeout(self, connect_timeout: Duration) -> Self {
        Self { connect_timeout, ..self }
    }

    /// How often a call is sent again at most; default: as often as its budget has room for.
    pub fn retries_max(self, retries_max: usize) -> Self {
        Self { retries_max: Some(retries_max), ..self }
    }

    /// The wait before the first retry is random, up to this; it doubles with each further one, up to `max`. Where the
    /// server asks for a longer one, that is waited. Default 100 ms, up to 5 s.
    pub fn retry_delay(self, first: Duration, max: Duration) -> Self {
        Self { retry_delay: first, retry_delay_max: max, ..self }
    }

    /// Whether messages and events without an id get one, so that a repeat is recognised; default true.
    pub fn give_ids(self, give_ids: bool) -> Self {
        Self { give_ids, ..self }
    }

    /// The certificate (PEM) of an authority that is trusted for `https://` in place of the system's; default
    /// theirs.
    #[cfg(feature = "tls")]
    pub fn authority(self, certificate: impl Into<String>) -> Self {
        Self { authority: Some(certificate.into()), ..self }
    }

    #[cfg(feature = "tls")]
    fn tls(&self) -> tonic::transport::ClientTlsConfig {
        let tls = tonic::transport::ClientTlsConfig::new();
        match &self.authority {
            Some(certificate) => tls.ca_certificate(tonic::transport::Certificate::from_pem(certificate)),
            None => tls.with_native_roots(),
        }
    }

    /// The checked address.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Error> {
        let wrong = |problem: String| Error::config("address", problem);
        let endpoint = Endpoint::from_shared(self.address.clone())
            .map_err(|error| wrong(format!("expected http://host:port, not {:?}: {error}", self.address)))?;
        match endpoint.uri().scheme_str() {
            Some("http") => Ok(endpoint),
            #[cfg(feature = "tls")]
            Some("https") => endpoint.tls_config(self.tls()).map_err(|error| wrong(format!("TLS: {error}"))),
            #[cfg(not(feature = "tls"))]
            Some("https") => Err(wrong("https:// needs the feature `tls` of tidegate-client".to_owned())),
            _ => Err(wrong(format!("expected http://host:port, not {:?}", self.address))),
        }
    }

    /// The key as it is sent; it is marked, so that nothing logs it.
    pub(crate) fn api_key_value(&self) -> Result<Option<AsciiMetadataValue>, Error> {
        let Some(key) = &self.api_key else { return Ok(None) };
        let mut value = AsciiMetadataValue::try_from(key.as_str())
            .map_err(|_| Error::config("api_key", "expected visible ASCII characters"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if !(1..=CONNECTIONS_MAX).contains(&self.connections) {
            let problem = format!("expected 1 to {CONNECTIONS_MAX}, not {}", self.connections);
            return Err(Error::config("connections", problem));
        }
        if self.budget.is_zero() {
            return Err(Error::config("budget", "expected more than 0"));
        }
        if self.retry_delay > self.retry_delay_max {
            return Err(Error::config("retry_delay", "expected a first delay that is not above the longest"));
        }
        Ok(())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Everything that helps, without the key.
        f.debug_struct("Config")
            .field("address", &self.address)
            .field("connections", &self.connections)
            .field("api_key", &self.api_key.as_ref().map(|_| "…"))
            .field("budget", &self.budget)
            .field("retries_max", &self.retries_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(config: &Config) -> String {
        let checked = config.check().and_then(|()| config.endpoint()).and_then(|_| config.api_key_value());
        checked.map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let good = || Config::new("http://localhost:50051");
        assert_eq!(problem(&good()), "");
        assert!(problem(&Config::new("localhost:50051")).starts_with("address: "));
        assert!(problem(&good().connections(0)).starts_with("connections: expected 1 to 200"));
        assert!(problem(&good().budget(Duration::ZERO)).starts_with("budget: "));
        assert!(problem(&good().api_key("two\nlines")).starts_with("api_key: "));
        let delays = good().retry_delay(Duration::from_secs(2), Duration::from_secs(1));
        assert!(problem(&delays).starts_with("retry_delay: "));
    }

    #[test]
    fn the_key_is_in_no_debug_output() {
        assert!(!format!("{:?}", Config::new("http://localhost").api_key("secret")).contains("secret"));
    }
}
