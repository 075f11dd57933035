//! A request's head: the request line and the fields, parsed in place (RFC 9112 §2–§5).

use super::scan::{is_host, target_end, token_end, value_end};
use super::{Close, Fault, Limits};

/// The version that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunked coding, closed after one exchange unless it asks to stay.
    Http10,
    /// HTTP/1.1, and every later minor version (RFC 9110 §2.5).
    Http11,
}

/// A complete and valid head. It borrows the bytes it was read from.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    bytes: &'a [u8],
    method: &'a [u8],
    target: &'a [u8],
    authority: Option<&'a [u8]>,
    path: &'a [u8],
    query: Option<&'a [u8]>,
    version: Version,
    spans: &'a [FieldSpan],
    content_type: Option<FieldSpan>,
    host: Option<FieldSpan>,
    pub(super) framing: Framing,
    pub(super) persistent: bool,
    pub(super) expects_continue: bool,
}

impl<'a> RequestHead<'a> {
    /// The method, a token; case matters.
    #[must_use]
    pub fn method(&self) -> &'a [u8] {
        self.method
    }

    /// The request target as it was sent.
    #[must_use]
    pub fn target(&self) -> &'a [u8] {
        self.target
    }

    /// The path without the query: begins with `/`, or is `*` for `OPTIONS *`. Percent signs are untouched.
    #[must_use]
    pub fn path(&self) -> &'a [u8] {
        self.path
    }

    /// What stands behind the first `?`, when there is one.
    #[must_use]
    pub fn query(&self) -> Option<&'a [u8]> {
        self.query
    }

    /// The version of the request.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The host the request is for: the target's authority in absolute form (RFC 9112 §3.2.2 lets it
    /// override the field), else the Host field. `None` only on HTTP/1.0.
    #[must_use]
    pub fn host(&self) -> Option<&'a [u8]> {
        self.authority.or_else(|| self.host.map(|span| span.value(self.bytes)))
    }

    /// The Content-Type field.
    #[must_use]
    pub fn content_type(&self) -> Option<&'a [u8]> {
        self.content_type.map(|span| span.value(self.bytes))
    }

    /// The length that Content-Length promises; `None` without the field and for a chunked body.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::None | Framing::Chunked => None,
        }
    }

    /// Whether a body follows, be it an empty one.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.framing != Framing::None
    }

    /// The value of the first field of that name, whatever its case; whitespace around it is gone.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.values(name).next()
    }

    /// The values of all fields of that name, in their order.
    pub fn values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let (bytes, name) = (self.bytes, name.as_bytes());
        let named = self.spans.iter().filter(move |span| span.name(bytes).eq_ignore_ascii_case(name));
        named.map(move |span| span.value(bytes))
    }

    /// All fields as they came: names in the sender's case, values trimmed, repeated ones one by one.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let bytes = self.bytes;
        self.spans.iter().map(move |span| (span.name(bytes), span.value(bytes)))
    }
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// Where a field lies in the head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FieldSpan {
    name_start: u32,
    name_end: u32,
    value_start: u32,
    value_end: u32,
}

impl FieldSpan {
    fn name<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.name_start as usize..self.name_end as usize]
    }

    fn value<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.value_start as usize..self.value_end as usize]
    }
}

/// Room for the spans of one head. It lives on the stack of the call that parses, so an idle connection
/// pays nothing for it; only a head with many fields spills to the heap.
pub(super) struct FieldTable {
    inline: [FieldSpan; FieldTable::INLINE],
    inline_len: usize,
    spilled: Vec<FieldSpan>,
}

impl FieldTable {
    const INLINE: usize = 16;

    pub(super) fn new() -> Self {
        Self { inline: [FieldSpan::default(); Self::INLINE], inline_len: 0, spilled: Vec::new() }
    }

    fn clear(&mut self) {
        self.inline_len = 0;
        self.spilled.clear();
    }

    fn len(&self) -> usize {
        self.inline_len.max(self.spilled.len())
    }

    #[inline]
    fn push(&mut self, span: FieldSpan) {
        if let Some(place) = self.inline.get_mut(self.inline_len) {
            *place = span;
            self.inline_len += 1;
            return;
        }
        if self.spilled.is_empty() {
            self.spilled.extend_from_slice(&self.inline);
        }
        self.spilled.push(span);
    }

    fn as_slice(&self) -> &[FieldSpan] {
        if self.spilled.is_empty() { &self.inline[..self.inline_len] } else { &self.spilled }
    }
}

/// Reads one head from the start of `input`. `Ok(None)` asks for more bytes; otherwise the head comes with
/// its length, the empty line included.
pub(super) fn parse<'a>(
    input: &'a [u8],
    limits: &Limits,
    table: &'a mut FieldTable,
) -> Result<Option<(RequestHead<'a>, usize)>, Close> {
    // Looking at one byte more than the limit tells "incomplete" from "too large". Spans are 32 bits wide.
    let head_bytes_max = limits.head_bytes_max.min(u32::MAX as usize - 1);
    let window = &input[..input.len().min(head_bytes_max + 1)];
    match parse_window(window, limits, table)? {
        Some((head, length)) if length <= head_bytes_max => Ok(Some((head, length))),
        None if window.len() <= head_bytes_max => Ok(None),
        _ => Err(Close::in_head(Fault::HeadTooLarge, head_bytes_max)),
    }
}

fn parse_window<'a>(
    window: &'a [u8],
    limits: &Limits,
    table: &'a mut FieldTable,
) -> Result<Option<(RequestHead<'a>, usize)>, Close> {
    table.clear();
    // RFC 9112 §2.2: one empty line before the request line is forgiven; old clients add one to a body.
    let start = match window {
        [b'\r', b'\n', ..] => 2,
        [b'\r'] => return Ok(None),
        _ => 0,
    };
    let Some((line, mut at)) = RequestLine::parse(window, start, limits)? else { return Ok(None) };
    let mut seen = Seen::default();
    loop {
        match window.get(at) {
            None => return Ok(None),
            Some(b'\r') => match window.get(at + 1) {
                None => return Ok(None),
                Some(b'\n') => {
                    at += 2;
                    break;
                }
                Some(_) => return Err(Close::in_head(Fault::BareCarriageReturn, at)),
            },
            Some(_) => {}
        }
        let Some((span, next)) = field_line(window, at)? else { return Ok(None) };
        if table.len() >= limits.fields_max {
            return Err(Close::in_head(Fault::TooManyFields, at));
        }
        table.push(span);
        seen.note(window, span, line.version)?;
        at = next;
    }
    let framing = seen.framing(at)?;
    if seen.host.is_none() && line.version == Version::Http11 {
        return Err(Close::in_head(Fault::HostMissing, at));
    }
    let head = RequestHead {
        bytes: window,
        method: line.method,
        target: line.target,
        authority: line.authority,
        path: line.path,
        query: line.query,
        version: line.version,
        spans: table.as_slice(),
        content_type: seen.content_type,
        host: seen.host,
        framing,
        // RFC 9112 §9.3.
        persistent: !seen.close && (line.version == Version::Http11 || seen.keep_alive),
        // RFC 9110 §10.1.1: an HTTP/1.0 client cannot expect anything.
        expects_continue: seen.expects_continue && line.version == Version::Http11,
    };
    Ok(Some((head, at)))
}

struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    authority: Option<&'a [u8]>,
    path: &'a [u8],
    query: Option<&'a [u8]>,
    version: Version,
}

impl<'a> RequestLine<'a> {
    /// `method SP request-target SP HTTP-version CRLF` with exactly these spaces (RFC 9112 §3).
    fn parse(window: &'a [u8], start: usize, limits: &Limits) -> Result<Option<(Self, usize)>, Close> {
        let longest = start.saturating_add(limits.request_line_bytes_max);
        let incomplete = |reached: usize| {
            if reached > longest { Err(Close::in_head(Fault::RequestLineTooLong, longest)) } else { Ok(None) }
        };
        let method_end = token_end(window, start);
        match window.get(method_end) {
            None => return incomplete(method_end),
            Some(b' ') if method_end > start => {}
            Some(b' ') => return Err(Close::in_head(Fault::RequestLineSpacing, method_end)),
            Some(b'\n') => return Err(Close::in_head(Fault::BareLineFeed, method_end)),
            Some(b'\r') => return Err(Close::in_head(Fault::RequestLineSpacing, method_end)),
            Some(_) => return Err(Close::in_head(Fault::MethodNotToken, method_end)),
        }
        let target_start = method_end + 1;
        let target_stop = target_end(window, target_start);
        match window.get(target_stop) {
            None => return incomplete(target_stop),
            Some(b' ') if target_stop > target_start => {}
            Some(b' ' | b'\r') => return Err(Close::in_head(Fault::RequestLineSpacing, target_stop)),
            Some(b'\n') => return Err(Close::in_head(Fault::BareLineFeed, target_stop)),
            Some(_) => return Err(Close::in_head(Fault::TargetByte, target_stop)),
        }
        if target_stop > longest {
            return Err(Close::in_head(Fault::RequestLineTooLong, longest));
        }
        let version_start = target_stop + 1;
        let Some((version, next)) = parse_version(window, version_start)? else {
            // The version's own CR does not count.
            return incomplete(window.len().min(version_start + 8));
        };
        if next - 2 > longest {
            return Err(Close::in_head(Fault::RequestLineTooLong, longest));
        }
        let method = &window[start..method_end];
        let target = &window[target_start..target_stop];
        let at = |fault| Close::in_head(fault, target_start);
        if method == b"CONNECT" {
            return Err(Close::in_head(Fault::ConnectUnsupported, start));
        }
        let (authority, local) = match target {
            [b'/', ..] => (None, target),
            b"*" if method == b"OPTIONS" => (None, target),
            _ => {
                // RFC 9112 §3.2.2: absolute form; user information is refused (RFC 9110 §4.2.4).
                let rest = strip_scheme(target).ok_or(at(Fault::TargetForm))?;
                let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
                let (authority, local) = rest.split_at(end);
                if !is_host(authority) {
                    return Err(at(Fault::HostInvalid));
                }
                (Some(authority), local)
            }
        };
        let (path, query) = match memchr::memchr(b'?', local) {
            Some(mark) => (&local[..mark], Some(&local[mark + 1..])),
            None => (local, None),
        };
        // RFC 9112 §3.2.4: OPTIONS for an http URI without a path asks about the server as a whole.
        let path = match path {
            [] if method == b"OPTIONS" && query.is_none() => b"*",
            [] => b"/",
            path => path,
        };
        Ok(Some((Self { method, target, authority, path, query, version }, next)))
    }
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"].into_iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

/// The version and the offset behind its CR LF.
fn parse_version(window: &[u8], at: usize) -> Result<Option<(Version, usize)>, Close> {
    let rest = &window[at..];
    if let Some(line) = rest.first_chunk::<10>() {
        match line {
            b"HTTP/1.1\r\n" => return Ok(Some((Version::Http11, at + 10))),
            b"HTTP/1.0\r\n" => return Ok(Some((Version::Http10, at + 10))),
            _ => {}
        }
    }
    for (offset, (&byte, &pattern)) in rest.iter().zip(b"HTTP/d.d\r\n").enumerate() {
        let fits = if pattern == b'd' { byte.is_ascii_digit() } else { byte == pattern };
        if !fits {
            let fault = match (offset, byte) {
                (0, b' ') => Fault::RequestLineSpacing,
                (8, b'\n') => Fault::BareLineFeed,
                (9, _) => Fault::BareCarriageReturn,
                _ => Fault::VersionSyntax,
            };
            return Err(Close::in_head(fault, at + offset));
        }
    }
    match rest {
        [_, _, _, _, _, b'1', _, minor, b'\r', b'\n', ..] => {
            Ok(Some((if *minor == b'0' { Version::Http10 } else { Version::Http11 }, at + 10)))
        }
        [_, _, _, _, _, _, _, _, b'\r', b'\n', ..] => Err(Close::in_head(Fault::VersionUnsupported, at)),
        _ => Ok(None),
    }
}

/// One field line, `name ":" OWS value OWS CRLF`, and the offset behind it (RFC 9112 §5).
#[inline]
fn field_line(window: &[u8], start: usize) -> Result<Option<(FieldSpan, usize)>, Close> {
    let name_end = token_end(window, start);
    match window.get(name_end) {
        None => return Ok(None),
        Some(b':') if name_end > start => {}
        Some(&byte) => return Err(Close::in_head(name_fault(byte, name_end == start), name_end)),
    }
    let mut value_start = name_end + 1;
    while let Some(b' ' | b'\t') = window.get(value_start) {
        value_start += 1;
    }
    let line_end = value_end(window, value_start);
    match (window.get(line_end), window.get(line_end + 1)) {
        (None, _) | (Some(b'\r'), None) => return Ok(None),
        (Some(b'\r'), Some(b'\n')) => {}
        (Some(b'\r'), Some(_)) => return Err(Close::in_head(Fault::BareCarriageReturn, line_end)),
        (Some(b'\n'), _) => return Err(Close::in_head(Fault::BareLineFeed, line_end)),
        (Some(_), _) => return Err(Close::in_head(Fault::ControlByte, line_end)),
    }
    let mut value_stop = line_end;
    while value_stop > value_start && matches!(window[value_stop - 1], b' ' | b'\t') {
        value_stop -= 1;
    }
    let span = FieldSpan {
        name_start: start as u32,
        name_end: name_end as u32,
        value_start: value_start as u32,
        value_end: value_stop as u32,
    };
    Ok(Some((span, line_end + 2)))
}

fn name_fault(byte: u8, at_start: bool) -> Fault {
    match (byte, at_start) {
        (b' ' | b'\t', true) => Fault::FoldedLine,
        (b' ' | b'\t', false) => Fault::SpaceBeforeColon,
        (b':', _) => Fault::FieldNameEmpty,
        (b'\n', _) => Fault::BareLineFeed,
        (b'\r', false) => Fault::ColonMissing,
        _ => Fault::FieldNameByte,
    }
}

/// The fields that decide about framing and about the connection, noted while the head is read.
#[derive(Default)]
struct Seen {
    host: Option<FieldSpan>,
    content_type: Option<FieldSpan>,
    length: Option<u64>,
    chunked: bool,
    coding_unknown: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
}

impl Seen {
    #[inline]
    fn note(&mut self, window: &[u8], span: FieldSpan, version: Version) -> Result<(), Close> {
        let name = span.name(window);
        let value = span.value(window);
        let at = |fault| Close::in_head(fault, span.name_start as usize);
        // The length picks at most one candidate, so most names cost one comparison or none.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if self.host.replace(span).is_some() {
                    return Err(at(Fault::HostRepeated));
                }
                if !is_host(value) {
                    return Err(at(Fault::HostInvalid));
                }
            }
            6 if name.eq_ignore_ascii_case(b"expect") && version == Version::Http11 => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(at(Fault::ExpectationUnknown));
                }
                self.expects_continue = true;
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in value.split(|&b| b == b',') {
                    let option = option.trim_ascii();
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            12 if name.eq_ignore_ascii_case(b"content-type") => {
                self.content_type.get_or_insert(span);
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(at(Fault::LengthRepeated));
                }
                self.length = Some(parse_length(value).map_err(at)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked {
                    return Err(at(Fault::TransferEncodingRepeated));
                }
                if version == Version::Http10 {
                    return Err(at(Fault::TransferEncodingOnHttp10));
                }
                self.coding_unknown = !is_chunked_alone(value).map_err(at)?;
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 §6.3, with everything refused that §11.2 warns of.
    fn framing(&self, head_end: usize) -> Result<Framing, Close> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Close::in_head(Fault::LengthWithTransferEncoding, head_end)),
            (true, None) if self.coding_unknown => {
                Err(Close::in_head(Fault::TransferEncodingUnknown, head_end))
            }
            (true, None) => Ok(Framing::Chunked),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => Ok(Framing::None),
        }
    }
}

/// `1*DIGIT` and nothing else: no sign, no list, no blanks (RFC 9110 §8.6).
fn parse_length(value: &[u8]) -> Result<u64, Fault> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Fault::LengthInvalid);
    }
    value
        .iter()
        .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
        .ok_or(Fault::LengthOverflow)
}

/// `Ok(false)`: a well-formed list with a coding that is not implemented. RFC 9112 §6.1: a coding that is
/// not understood is 501; a chunked that is not last, or twice, is 400.
fn is_chunked_alone(value: &[u8]) -> Result<bool, Fault> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(true);
    }
    let mut chunked_before = false;
    for coding in value.split(|&b| b == b',') {
        let coding = coding.trim_ascii();
        if chunked_before || coding.is_empty() || token_end(coding, 0) != coding.len() {
            return Err(Fault::TransferEncodingInvalid);
        }
        chunked_before = coding.eq_ignore_ascii_case(b"chunked");
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_of(head: &str) -> Fault {
        match parse(head.as_bytes(), &Limits::default(), &mut FieldTable::new()) {
            Err(close) => close.fault,
            Ok(done) => panic!("{head:?} gave {done:?}"),
        }
    }

    fn with_head(head: &str, check: impl FnOnce(RequestHead<'_>)) {
        let mut table = FieldTable::new();
        let (head, length) = parse(head.as_bytes(), &Limits::default(), &mut table)
            .map(|done| done.expect("complete"))
            .map_err(|close| panic!("{head:?}: {close}"))
            .unwrap();
        assert_eq!(length, head.bytes.len());
        check(head);
    }

    #[test]
    fn head_is_split_into_its_parts() {
        with_head(
            "POST /a/b?x=1?2 HTTP/1.1\r\nHost: h:1\r\nX-Y: \t v w \t\r\nContent-Length: 3\r\n\r\n",
            |head| {
                assert_eq!(head.method(), b"POST");
                assert_eq!(head.target(), b"/a/b?x=1?2");
                assert_eq!(head.path(), b"/a/b");
                assert_eq!(head.query(), Some(&b"x=1?2"[..]));
                assert_eq!(head.host(), Some(&b"h:1"[..]));
                assert_eq!(head.field("x-y"), Some(&b"v w"[..]));
                assert_eq!(head.field("absent"), None);
                assert_eq!(head.content_length(), Some(3));
                assert_eq!(head.fields().len(), 3);
            },
        );
    }

    #[test]
    fn more_fields_than_the_inline_table_holds_are_kept() {
        let mut text = String::from("GET / HTTP/1.1\r\nHost: h\r\n");
        for n in 0..99 {
            text += &format!("X-{n}: {n}\r\n");
        }
        text += "\r\n";
        with_head(&text, |head| {
            assert_eq!(head.fields().len(), 100);
            assert_eq!(head.field("x-98"), Some(&b"98"[..]));
            assert_eq!(head.field("HOST"), Some(&b"h"[..]));
        });
        let one_more = text.replace("\r\n\r\n", "\r\nX: 1\r\n\r\n");
        assert_eq!(fault_of(&one_more), Fault::TooManyFields);
    }

    #[test]
    fn absolute_and_asterisk_forms_are_understood() {
        with_head("GET HTTP://b:80/p?q HTTP/1.1\r\nHost: a\r\n\r\n", |head| {
            assert_eq!(head.host(), Some(&b"b:80"[..]));
            assert_eq!(head.path(), b"/p");
            assert_eq!(head.query(), Some(&b"q"[..]));
        });
        with_head("GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", |head| assert_eq!(head.path(), b"/"));
        with_head("GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", |head| assert_eq!(head.path(), b"/"));
        with_head("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", |head| assert_eq!(head.path(), b"*"));
        with_head("OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n", |head| assert_eq!(head.path(), b"*"));
        for bad in ["*", "ftp://a/", "x", "http:/a", "a:80", "?q"] {
            assert_eq!(
                fault_of(&format!("GET {bad} HTTP/1.1\r\nHost: a\r\n\r\n")),
                Fault::TargetForm,
                "{bad}"
            );
        }
        for bad in ["http://", "http://u@h/", "http:///p", "http://a b"] {
            let fault = fault_of(&format!("GET {bad} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert!(matches!(fault, Fault::HostInvalid | Fault::VersionSyntax), "{bad}: {fault:?}");
        }
    }

    #[test]
    fn request_lines_out_of_shape_are_refused() {
        for (line, fault) in [
            ("GET  / HTTP/1.1", Fault::RequestLineSpacing),
            ("GET /  HTTP/1.1", Fault::RequestLineSpacing),
            (" GET / HTTP/1.1", Fault::RequestLineSpacing),
            ("GET /", Fault::RequestLineSpacing),
            ("GET", Fault::RequestLineSpacing),
            ("\r\nGET / HTTP/1.1", Fault::RequestLineSpacing),
            ("G(T / HTTP/1.1", Fault::MethodNotToken),
            ("GET\t/ HTTP/1.1", Fault::MethodNotToken),
            ("GET /\x01 HTTP/1.1", Fault::TargetByte),
            ("GET /\0 HTTP/1.1", Fault::TargetByte),
            ("GET /é HTTP/1.1", Fault::TargetByte),
            ("GET /#f HTTP/1.1", Fault::TargetByte),
            ("GET /\tHTTP/1.1", Fault::TargetByte),
            ("GET / HTTP/1.1 ", Fault::VersionSyntax),
            ("GET / http/1.1", Fault::VersionSyntax),
            ("GET / HTTP/1", Fault::VersionSyntax),
            ("GET / HTTP/11.1", Fault::VersionSyntax),
            ("GET / HTTP/2.0", Fault::VersionUnsupported),
            ("PRI * HTTP/2.0", Fault::VersionUnsupported),
            ("GET / HTTP/0.9", Fault::VersionUnsupported),
            ("CONNECT a:80 HTTP/1.1", Fault::ConnectUnsupported),
        ] {
            assert_eq!(fault_of(&format!("\r\n{line}\r\nHost: a\r\n\r\n")), fault, "{line}");
        }
        assert_eq!(fault_of("GET / HTTP/1.1\nHost: a\n\n"), Fault::BareLineFeed);
        assert_eq!(fault_of("GET / HTTP/1.1\rHost: a\r\r"), Fault::BareCarriageReturn);
        with_head("GET / HTTP/1.7\r\nHost: a\r\n\r\n", |head| assert_eq!(head.version(), Version::Http11));
    }

    #[test]
    fn field_lines_out_of_shape_are_refused() {
        for (line, fault) in [
            ("A : b", Fault::SpaceBeforeColon),
            ("A\t: b", Fault::SpaceBeforeColon),
            (" A: b", Fault::FoldedLine),
            ("\tA: b", Fault::FoldedLine),
            (": b", Fault::FieldNameEmpty),
            ("A", Fault::ColonMissing),
            ("A(: b", Fault::FieldNameByte),
            ("Ä: b", Fault::FieldNameByte),
            ("\0A: b", Fault::FieldNameByte),
            ("A: b\0", Fault::ControlByte),
            ("A: \x7f", Fault::ControlByte),
            ("A: b\rc", Fault::BareCarriageReturn),
            ("A: b\nC: d", Fault::BareLineFeed),
            ("A\nC: d", Fault::BareLineFeed),
            ("\rA: b", Fault::BareCarriageReturn),
            ("\nA: b", Fault::BareLineFeed),
        ] {
            assert_eq!(fault_of(&format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n")), fault, "{line:?}");
        }
        with_head("GET / HTTP/1.1\r\nHost: a\r\nA: caf\u{e9}\t!\r\nB:\r\n\r\n", |head| {
            assert_eq!(head.field("a"), Some("caf\u{e9}\t!".as_bytes()));
            assert_eq!(head.field("b"), Some(&b""[..]));
        });
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for (fields, fault) in [
            ("Content-Length: 1\r\nTransfer-Encoding: chunked", Fault::LengthWithTransferEncoding),
            ("Transfer-Encoding: chunked\r\nContent-Length: 1", Fault::LengthWithTransferEncoding),
            ("Transfer-Encoding: gzip\r\nContent-Length: 1", Fault::LengthWithTransferEncoding),
            ("Content-Length: 1\r\nContent-Length: 1", Fault::LengthRepeated),
            ("Content-Length: 1, 1", Fault::LengthInvalid),
            ("Content-Length: +1", Fault::LengthInvalid),
            ("Content-Length: -1", Fault::LengthInvalid),
            ("Content-Length: 1 1", Fault::LengthInvalid),
            ("Content-Length: 0x1", Fault::LengthInvalid),
            ("Content-Length:", Fault::LengthInvalid),
            ("Content-Length: 18446744073709551616", Fault::LengthOverflow),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Fault::TransferEncodingRepeated),
            ("Transfer-Encoding: chunked, chunked", Fault::TransferEncodingInvalid),
            ("Transfer-Encoding: chunked, gzip", Fault::TransferEncodingInvalid),
            ("Transfer-Encoding: chunked,", Fault::TransferEncodingInvalid),
            ("Transfer-Encoding:", Fault::TransferEncodingInvalid),
            ("Transfer-Encoding: \"chunked\"", Fault::TransferEncodingInvalid),
            ("Transfer-Encoding: gzip, chunked", Fault::TransferEncodingUnknown),
            ("Transfer-Encoding: xchunked", Fault::TransferEncodingUnknown),
            ("Transfer-Encoding: identity", Fault::TransferEncodingUnknown),
        ] {
            assert_eq!(
                fault_of(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")),
                fault,
                "{fields}"
            );
        }
        assert_eq!(
            fault_of("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Fault::TransferEncodingOnHttp10
        );
        with_head("POST / HTTP/1.1\r\nhOST: a\r\ntransfer-ENCODING: Chunked \r\n\r\n", |head| {
            assert_eq!(head.framing, Framing::Chunked);
        });
    }

    #[test]
    fn host_is_required_once_and_valid() {
        assert_eq!(fault_of("GET / HTTP/1.1\r\n\r\n"), Fault::HostMissing);
        assert_eq!(fault_of("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), Fault::HostRepeated);
        for bad in ["a b", "a/b", "u@a", "a,b", "", "a:x"] {
            assert_eq!(fault_of(&format!("GET / HTTP/1.1\r\nHost: {bad}\r\n\r\n")), Fault::HostInvalid);
        }
        with_head("GET / HTTP/1.0\r\n\r\n", |head| assert_eq!(head.host(), None));
    }

    #[test]
    fn persistence_follows_version_and_connection_options() {
        for (version, field, persistent) in [
            ("1.1", "A: b", true),
            ("1.1", "Connection: close", false),
            ("1.1", "Connection: Upgrade, HTTP2-Settings", true),
            ("1.1", "Connection: keep-alive, CLOSE", false),
            ("1.0", "A: b", false),
            ("1.0", "Connection: Keep-Alive", true),
            ("1.0", "Connection: keep-alive\r\nConnection: close", false),
        ] {
            with_head(&format!("GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n\r\n"), |head| {
                assert_eq!(head.persistent, persistent, "{version} {field}");
            });
        }
    }

    #[test]
    fn limits_hold_to_the_byte() {
        let limits = Limits { head_bytes_max: 64, request_line_bytes_max: 20, ..Limits::default() };
        let run = |text: &str| {
            parse(text.as_bytes(), &limits, &mut FieldTable::new())
                .map(|done| done.map(|done| done.1))
                .map_err(|close| close.fault)
        };
        // "GET /xxxxxx HTTP/1.1" is 20 bytes.
        assert_eq!(run("GET /xxxxxx HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(Some(33)));
        assert_eq!(run("GET /xxxxxxx HTTP/1.1\r\nHost: a\r\n\r\n"), Err(Fault::RequestLineTooLong));
        assert_eq!(run(&format!("GET /{}", "x".repeat(15))), Ok(None));
        assert_eq!(run(&format!("GET /{}", "x".repeat(16))), Err(Fault::RequestLineTooLong));
        let padded = |pad: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(pad));
        assert_eq!(run(&padded(32)), Ok(Some(64)));
        assert_eq!(run(&padded(33)), Err(Fault::HeadTooLarge));
        assert_eq!(run(&padded(3000)), Err(Fault::HeadTooLarge));
    }
}
