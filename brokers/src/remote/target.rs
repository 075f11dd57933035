//! Where messages are sent on to: `http://host:port`, with an optional path in front of `/enqueue`.

use std::fmt;

use http::{Uri, uri::Scheme};

/// The other process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// 80 when the URL names none.
    pub port: u16,
    /// The full URL of the messages.
    pub(super) enqueue: Uri,
    shown: String,
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(url: &str) -> Result<Self, String> {
        // What cannot be read is not quoted: whatever is in it may be a password or a token.
        let wrong = |why: &str| format!("the URL {why}; write it as http://host:port");
        if url.contains(['@', '?']) {
            return Err(wrong("has a user or a query, which mean nothing here"));
        }
        let uri: Uri = url.parse().map_err(|error| wrong(&format!("is no URL: {error}")))?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => {}
            Some(scheme) if *scheme == Scheme::HTTPS => {
                return Err(wrong("asks for TLS, which is not spoken between processes"));
            }
            _ => return Err(wrong("has no http:// in front")),
        }
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        // `http` takes any text for a port, and then knows of none.
        let port =
            match authority.as_str().strip_prefix(authority.host()).and_then(|port| port.strip_prefix(':')) {
                None => 80,
                Some(port) => port.parse().map_err(|_| wrong("has a port that is no number up to 65535"))?,
            };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let base = uri.path().trim_end_matches('/');
        let enqueue = format!("http://{authority}{base}/enqueue");
        let enqueue = enqueue.parse().map_err(|error| wrong(&format!("is no URL: {error}")))?;
        let shown = url.trim_end_matches('/').to_owned();
        Ok(Self { host, port, enqueue, shown })
    }
}

impl Target {
    /// The path of the messages.
    pub fn path(&self) -> &str {
        self.enqueue.path()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_host_port_and_path() {
        for (url, host, port, enqueue) in [
            ("http://localhost:8082", "localhost", 8082, "http://localhost:8082/enqueue"),
            ("http://processor", "processor", 80, "http://processor/enqueue"),
            ("http://[::1]:9/", "::1", 9, "http://[::1]:9/enqueue"),
            ("http://gate:1/processor/", "gate", 1, "http://gate:1/processor/enqueue"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!(
                (target.host.as_str(), target.port, target.enqueue.to_string()),
                (host, port, enqueue.to_owned())
            );
        }
    }

    #[test]
    fn what_is_no_target_says_what_would_be() {
        for (url, why) in [
            ("https://processor:8082", "TLS"),
            ("localhost:8082", "http://"),
            ("processor", "http://"),
            ("http://user:word@host", "user"),
            ("http//user:word@host", "user"),
            ("http://host/?a=b", "query"),
            ("", "URL"),
            ("user:word", "http://"),
            ("word", "http://"),
            ("https://user:word", "TLS"),
            ("http://user:word", "port"),
            ("http://user:word/path", "port"),
            ("http://host:99999", "port"),
            ("http://[::1]:word", "URL"),
            ("http://user:word word", "URL"),
        ] {
            let error = Target::parse(url).unwrap_err();
            assert!(error.contains(why) && error.contains("http://host:port"), "{url}: {error}");
            assert!(!error.contains("word") && !error.contains("a=b"), "{url}: {error}");
        }
    }
}
