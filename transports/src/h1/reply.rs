//! Writing answers: pre-encoded ones for the hot routes, free ones for the rest, errors for faults.

use std::time::SystemTime;

use super::Fault;

/// The start of an answer that is the same every time, encoded once: status line, fields, and the name of
/// the Date field that a [`Reply`] fills in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    status: u16,
    head: Box<[u8]>,
}

impl Ready {
    /// Encodes a status and its constant fields. Date, Content-Length and Connection are the reply's
    /// affair, and so left out here. A field that would break the head is dropped.
    #[must_use]
    pub fn new(status: u16, fields: &[(&str, &str)]) -> Self {
        let mut head = Vec::with_capacity(128);
        write_status_line(&mut head, status);
        for (name, value) in fields {
            write_field(&mut head, name.as_bytes(), value.as_bytes());
        }
        head.extend_from_slice(b"Date: ");
        Self { status, head: head.into() }
    }

    /// `status` with a JSON body.
    #[must_use]
    pub fn json(status: u16) -> Self {
        Self::new(status, &[("Content-Type", "application/json")])
    }

    /// The status it was made with.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }
}

/// What must be known of the request to answer it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    /// HEAD: the answer has no body (RFC 9110 §9.3.2).
    pub(super) head_only: bool,
    pub(super) http10: bool,
    pub(super) persistent: bool,
}

/// The right to answer one request, once. Each way to use it up gives the [`Answer`] that the application
/// has to return, so that no request can go without.
#[derive(Debug)]
pub struct Reply<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) date: &'a [u8; 29],
    pub(super) exchange: Exchange,
}

/// Proof that a request was answered, or that it will be.
#[derive(Debug)]
#[must_use]
pub struct Answer {
    pub(super) later: bool,
    pub(super) persistent: bool,
}

impl Reply<'_> {
    /// Closes the connection once this answer is sent.
    #[must_use]
    pub fn and_close(mut self) -> Self {
        self.exchange.persistent = false;
        self
    }

    /// Answers with a pre-encoded head; the fast way.
    #[inline]
    pub fn ready(self, ready: &Ready, body: &[u8]) -> Answer {
        self.out.reserve(ready.head.len() + body.len() + 128);
        self.out.extend_from_slice(&ready.head);
        self.finish(ready.status, body)
    }

    /// Answers with any status and fields. Connection, Content-Length, Date and Transfer-Encoding are set
    /// here; fields of those names are dropped, and so is a field that would break the head.
    pub fn full<'f>(
        self,
        status: u16,
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
        body: &[u8],
    ) -> Answer {
        write_status_line(self.out, status);
        for (name, value) in fields {
            write_field(self.out, name, value);
        }
        self.out.extend_from_slice(b"Date: ");
        self.finish(status, body)
    }

    /// Says nothing yet: the answer comes through [`super::Connection::answer`] or
    /// [`super::Connection::begin_response`], and nothing more is parsed until it is complete.
    pub fn later(self) -> Answer {
        Answer { later: true, persistent: self.exchange.persistent }
    }

    /// From behind `Date: ` to the end of the body.
    #[inline]
    fn finish(self, status: u16, body: &[u8]) -> Answer {
        let Self { out, date, exchange } = self;
        out.extend_from_slice(date);
        if may_have_body(status) {
            out.extend_from_slice(b"\r\nContent-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(body.len()).as_bytes());
        }
        out.extend_from_slice(exchange.connection_field());
        if may_have_body(status) && !exchange.head_only {
            out.extend_from_slice(body);
        }
        Answer { later: false, persistent: exchange.persistent }
    }
}

impl Exchange {
    /// The Connection field where one is needed, and the end of the head.
    pub(super) fn connection_field(self) -> &'static [u8] {
        match (self.persistent, self.http10) {
            (true, false) => b"\r\n\r\n",
            (true, true) => b"\r\nConnection: keep-alive\r\n\r\n",
            (false, _) => b"\r\nConnection: close\r\n\r\n",
        }
    }
}

/// RFC 9110 §6.4.1: these answers end with their head; and §8.6 forbids 204 a Content-Length.
pub(super) fn may_have_body(status: u16) -> bool {
    !matches!(status, 100..=199 | 204 | 304)
}

pub(super) fn write_status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    // RFC 9112 §4: exactly three digits.
    out.extend_from_slice(itoa::Buffer::new().format(status.clamp(100, 999)).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes one field line, unless the name is one that framing depends on or either part could break out of
/// its line.
pub(super) fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    const OURS: [&str; 6] =
        ["connection", "content-length", "date", "keep-alive", "transfer-encoding", "upgrade"];
    let safe_name = !name.is_empty() && super::scan::token_end(name, 0) == name.len();
    let safe_value = super::scan::value_end(value, 0) == value.len();
    if !safe_name || !safe_value || OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours.as_bytes())) {
        return;
    }
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The answer to a [`Fault`]: JSON that says what was wrong and where.
pub(super) fn write_fault(out: &mut Vec<u8>, date: &[u8; 29], close: &super::Close) {
    let fault: Fault = close.fault;
    let body = format!(r#"{{"status":"error","error":"{close}","code":"{}"}}"#, fault.code());
    let exchange = Exchange { head_only: false, http10: false, persistent: false };
    let content_type = (&b"Content-Type"[..], &b"application/json"[..]);
    let retry_after = (fault == Fault::NoRoom).then_some((&b"Retry-After"[..], &b"1"[..]));
    let fields = [content_type].into_iter().chain(retry_after);
    let _closed_anyway = Reply { out, date, exchange }.full(fault.status(), fields, body.as_bytes());
}

/// The date in the form that Date fields have (RFC 9110 §5.6.7); the driver asks once a second.
#[must_use]
pub fn http_date(now: SystemTime) -> [u8; 29] {
    let mut date = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let text = httpdate::HttpDate::from(now).to_string();
    if let Ok(text) = text.as_bytes().try_into() {
        date = text;
    }
    date
}

/// The customary words for a status (RFC 9110 §15, RFC 6585); empty for one without.
#[must_use]
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        499 => "Client Closed Request",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    fn written(head_only: bool, persistent: bool, write: impl FnOnce(Reply<'_>) -> Answer) -> String {
        let mut out = Vec::new();
        let exchange = Exchange { head_only, http10: false, persistent };
        let answer = write(Reply { out: &mut out, date: DATE, exchange });
        assert!(!answer.later);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn ready_and_full_answers_are_the_same_bytes() {
        let ready = Ready::json(200);
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                        Content-Length: 2\r\n\r\n{}";
        assert_eq!(written(false, true, |reply| reply.ready(&ready, b"{}")), expected);
        let field = (&b"Content-Type"[..], &b"application/json"[..]);
        assert_eq!(written(false, true, |reply| reply.full(200, [field], b"{}")), expected);
    }

    #[test]
    fn head_and_bodiless_statuses_carry_no_body() {
        let head = written(true, true, |reply| reply.ready(&Ready::json(200), b"{}"));
        assert!(head.ends_with("Content-Length: 2\r\n\r\n"), "{head}");
        for status in [204, 304] {
            let text = written(false, true, |reply| reply.full(status, [], b"gone"));
            assert!(text.ends_with(" GMT\r\n\r\n"), "{text}");
        }
    }

    #[test]
    fn fields_cannot_split_the_answer() {
        let fields = [
            (&b"X"[..], &b"a\r\nInjected: 1"[..]),
            (b"Y\r\nInjected", b"1"),
            (b"Content-Length", b"99"),
            (b"transfer-encoding", b"chunked"),
            (b"Z", b"kept"),
        ];
        let text = written(false, false, |reply| reply.full(503, fields, b""));
        assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\nZ: kept\r\nDate: "), "{text}");
        assert!(text.ends_with("Content-Length: 0\r\nConnection: close\r\n\r\n"), "{text}");
    }

    #[test]
    fn http_date_is_29_bytes() {
        let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(784_111_777);
        assert_eq!(&http_date(then), DATE);
    }
}
