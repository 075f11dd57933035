//! The servers of `nats.url`: addresses that are shown, and a login that is not.
//!
//! The login is kept apart from the addresses: the client is given the addresses without it (async-nats 0.51 ignores user
//! info in a URL, and writes URLs into its log), and nothing that displays a server can show it.

use std::{borrow::Cow, fmt, net::Ipv6Addr};

use async_nats::ConnectOptions;
use percent_encoding::percent_decode_str;

use crate::secret::Secret;

/// The port that a URL without one means.
const PORT: u16 = 4222;

/// One or more servers of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// `nats://host:port`, without user info.
    addresses: Vec<String>,
    login: Option<Login>,
    /// The user info as it was spelt and decoded, to take it out of texts.
    hidden: Vec<Secret>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Login {
    Token(Secret),
    User { name: Secret, password: Secret },
}

impl Servers {
    /// Reads `nats://user:password@host:port,…`. A user alone is a token; one login is for all servers.
    ///
    /// # Errors
    /// What is wrong, and what would be right; the text is never quoted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut servers = Self { addresses: Vec::new(), login: None, hidden: Vec::new() };
        let list: Vec<&str> = text.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
        for (place, one) in list.iter().enumerate() {
            let wrong = |why: &str| {
                let which = if list.len() == 1 { String::new() } else { format!("address {}: ", place + 1) };
                format!("{which}{why}; give nats://host:port, or nats://user:password@host:port")
            };
            let (scheme, rest) = one.split_once("://").unwrap_or(("nats", one));
            if !["nats", "tls"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
                return Err(wrong("its scheme is neither nats:// nor tls://"));
            }
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            let (user_info, host) =
                rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
            let (host, port) = host_and_port(host).ok_or_else(|| wrong("it names no host and port"))?;
            servers.addresses.push(format!("{}://{host}:{port}", scheme.to_ascii_lowercase()));
            if let Some(user_info) = user_info {
                let login = servers.read_login(user_info).map_err(|why| wrong(&why))?;
                if servers.login.get_or_insert_with(|| login.clone()) != &login {
                    return Err(wrong(
                        "its user is another one than before, and servers of one cluster have the same",
                    ));
                }
            }
        }
        if servers.addresses.is_empty() {
            return Err("there is no address; give nats://host:port".to_owned());
        }
        Ok(servers)
    }

    fn read_login(&mut self, user_info: &str) -> Result<Login, String> {
        if user_info.contains(['/', '?', '#', '@']) {
            return Err(
                "a user or password with one of / ? # @ in it is written with %2F %3F %23 %40".to_owned()
            );
        }
        let mut decoded = |part: &str| -> Result<Secret, String> {
            let text = percent_decode_str(part).decode_utf8();
            let text = text.map_err(|_| "its user or password is no UTF-8 after decoding %XX".to_owned())?;
            self.hidden.extend([Secret::new(part), Secret::new(&text)]);
            Ok(Secret::new(&text))
        };
        Ok(match user_info.split_once(':') {
            Some((name, password)) => Login::User { name: decoded(name)?, password: decoded(password)? },
            None => Login::Token(decoded(user_info)?),
        })
    }

    /// The addresses, for the client; without user info.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Whether servers are shown a login.
    pub fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// Options with the login.
    pub fn log_in(&self, options: ConnectOptions) -> ConnectOptions {
        match &self.login {
            None => options,
            Some(Login::Token(token)) => options.token(token.expose().to_owned()),
            Some(Login::User { name, password }) => {
                options.user_and_password(name.expose().to_owned(), password.expose().to_owned())
            }
        }
    }

    /// Takes the login out of a text that others have written.
    pub fn hide_in<'a>(&self, text: impl Into<Cow<'a, str>>) -> String {
        self.hidden.iter().fold(text.into(), |text, secret| secret.hide_in(text)).into_owned()
    }
}

/// The addresses alone.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.addresses.join(","))
    }
}

fn host_and_port(text: &str) -> Option<(&str, u16)> {
    // An IPv6 address has colons of its own: `[::1]:4222`, `[::1]`.
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ip, rest)) => {
            ip.parse::<Ipv6Addr>().ok()?;
            (&text[..ip.len() + 2], if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let named = host.starts_with('[')
        || host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    let port = port.map_or(Some(PORT), |port| port.parse().ok())?;
    (named && !host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_read_and_never_shown() {
        for (text, shown) in [
            ("nats://localhost:4222", "nats://localhost:4222"),
            ("localhost", "nats://localhost:4222"),
            ("nats://joe:sword%40fish@a:1", "nats://a:1"),
            ("nats://tokentoken@a", "nats://a:4222"),
            ("tls://joe:swordfish@[::1]:1/", "tls://[::1]:1"),
            ("nats://joe:swordfish@a, nats://b:2,", "nats://a:4222,nats://b:2"),
        ] {
            let servers = Servers::parse(text).unwrap();
            assert_eq!(servers.to_string(), shown, "{text}");
            let everything = format!("{servers} {servers:?} {:?}", servers.addresses());
            for secret in ["joe", "fish", "tokentoken"] {
                assert!(!everything.contains(secret), "{text}: {everything}");
            }
        }
    }

    #[test]
    fn percent_encoding_is_decoded_and_both_spellings_are_hidden() {
        let servers = Servers::parse("nats://joseph:sword%40fish@a").unwrap();
        let Some(Login::User { name, password }) = &servers.login else { panic!() };
        assert_eq!((name.expose(), password.expose()), ("joseph", "sword@fish"));
        assert_eq!(
            servers.hide_in("joseph said sword@fish, or sword%40fish"),
            "(secret) said (secret), or (secret)"
        );
    }

    #[test]
    fn what_is_wrong_is_said_without_the_text() {
        for (text, why) in [
            ("foo://joe:swordfish@a", "scheme"),
            ("nats://joe:swordfish@a:port", "host"),
            ("nats://joe:swordfish", "host"),
            ("nats://joe:sword/fish@a", "%2F"),
            ("nats://joe:sword@fish@a", "%40"),
            ("nats://joe:swordfish@a/swordfish", "host"),
            ("nats://joe:swordfish@a,nats://other:swordfish@b", "address 2"),
            ("swordfish@", "host"),
            ("nats://joe:%ff%feswordfish@a", "UTF-8"),
            (" , ", "no address"),
        ] {
            let error = Servers::parse(text).unwrap_err();
            assert!(error.contains(why) && error.contains("nats://host:port"), "{text}: {error}");
            assert!(!error.contains("fish") && !error.contains("joe"), "{text}: {error}");
        }
    }
}
