//! A request's head: what RFC 9113 §8.2 and §8.3 demand of a header list, and the view that is left.

use super::hpack::{Fields, HeaderList};
use crate::token::is_tchar;

/// The head of a well-formed request.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    method: &'a [u8],
    scheme: &'a [u8],
    authority: Option<&'a [u8]>,
    path: &'a [u8],
    content_length: Option<u64>,
    regular: Fields<'a>,
}

impl<'a> RequestHead<'a> {
    /// `:method`, a token.
    pub fn method(&self) -> &'a [u8] {
        self.method
    }

    /// `:scheme`.
    pub fn scheme(&self) -> &'a [u8] {
        self.scheme
    }

    /// `:authority`, or `host` where there is none.
    pub fn authority(&self) -> Option<&'a [u8]> {
        self.authority
    }

    /// `:path` with its query; begins with `/`, or is `*` for OPTIONS.
    pub fn path(&self) -> &'a [u8] {
        self.path
    }

    /// `content-length`. The state machine holds the body to it.
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// The regular fields in their order, doubled ones as they came; names in lower case.
    pub fn fields(&self) -> Fields<'a> {
        self.regular.clone()
    }

    /// The value of the first field of that name (lower case).
    pub fn field(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.values(name).next()
    }

    /// The values of all fields of that name (lower case), in their order.
    pub fn values<'n>(&self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.regular.clone().filter(move |(other, _)| *other == name).map(|(_, value)| value)
    }
}

/// Why a header list is not handed to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// RFC 9113 §8.1.1: a stream error PROTOCOL_ERROR.
    Malformed(&'static str),
    /// A well-formed CONNECT (§8.5), which this server does not offer.
    Connect,
}

use Refusal::Malformed;

/// Checks a request's header list.
pub(super) fn request(list: &HeaderList) -> Result<RequestHead<'_>, Refusal> {
    let mut method = None;
    let mut scheme = None;
    let mut authority = None;
    let mut path = None;
    let mut fields = list.fields();
    let regular = loop {
        let here = fields.clone();
        let Some((name, value)) = fields.next() else { break here };
        if name.first() != Some(&b':') {
            break here;
        }
        let place = match name {
            b":method" => &mut method,
            b":scheme" => &mut scheme,
            b":authority" => &mut authority,
            b":path" => &mut path,
            // §8.3.1 and RFC 8441 §3: `:protocol` only where we had offered extended CONNECT.
            _ => return Err(Malformed("unknown pseudo-header")),
        };
        if place.replace(value).is_some() {
            return Err(Malformed("pseudo-header twice"));
        }
    };
    let mut content_length = None;
    let mut host = None;
    for (name, value) in regular.clone() {
        regular_field(name, value)?;
        // RFC 9110 §8.6 lets a recipient refuse a list of equal lengths; nobody honest sends one.
        if name == b"content-length" && content_length.replace(decimal(value)?).is_some() {
            return Err(Malformed("content-length twice"));
        }
        if name == b"host" && host.replace(value).is_some() {
            return Err(Malformed("host twice"));
        }
    }
    let method = method.ok_or(Malformed("no :method"))?;
    if method.is_empty() || !is_made_of(method, TOKEN) {
        return Err(Malformed(":method is no token"));
    }
    // §8.3.1: user information is deprecated and must not be there.
    if let Some(authority) = authority
        && (authority.iter().any(|&byte| byte <= b' ' || byte == 0x7f || byte == b'@'))
    {
        return Err(Malformed("bad :authority"));
    }
    if method == b"CONNECT" {
        let well_formed = scheme.is_none() && path.is_none() && authority.is_some_and(|it| !it.is_empty());
        return Err(if well_formed { Refusal::Connect } else { Malformed("bad CONNECT") });
    }
    // §8.3.1: a host that differs makes two readers disagree about the target.
    if let (Some(authority), Some(host)) = (authority, host)
        && !authority.eq_ignore_ascii_case(host)
    {
        return Err(Malformed("host differs from :authority"));
    }
    let scheme = scheme.ok_or(Malformed("no :scheme"))?;
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    if !scheme.first().is_some_and(u8::is_ascii_alphabetic) || !scheme.iter().all(is_scheme) {
        return Err(Malformed("bad :scheme"));
    }
    let path = path.ok_or(Malformed("no :path"))?;
    let well_formed = match path.first() {
        Some(b'/') => is_made_of(path, PATH),
        Some(b'*') => path.len() == 1 && method == b"OPTIONS",
        _ => false,
    };
    if !well_formed {
        return Err(Malformed("bad :path"));
    }
    Ok(RequestHead { method, scheme, authority: authority.or(host), path, content_length, regular })
}

/// Checks trailers: as regular fields, and no pseudo-header (§8.1).
pub(super) fn trailers(list: &HeaderList) -> Result<Fields<'_>, Refusal> {
    for (name, value) in list.fields() {
        regular_field(name, value)?;
    }
    Ok(list.fields())
}

fn regular_field(name: &[u8], value: &[u8]) -> Result<(), Refusal> {
    match name.first() {
        None => return Err(Malformed("empty field name")),
        Some(b':') => return Err(Malformed("pseudo-header out of place")),
        Some(_) => {}
    }
    // §8.2.1: at least no upper case, no control characters, no colon; a token is what RFC 9110 §5.1 says.
    if !is_made_of(name, LOWER_TOKEN) {
        return Err(Malformed("bad field name"));
    }
    // §8.2.1: no NUL, CR or LF, nor blanks around it; RFC 9110 §5.5 forbids the other control characters.
    let is_control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    if value.iter().fold(false, |found, &byte| found | is_control(byte)) {
        return Err(Malformed("control character in a field value"));
    }
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if is_blank(value.first()) || is_blank(value.last()) {
        return Err(Malformed("blank around a field value"));
    }
    // §8.2.2.
    match name {
        b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => {
            Err(Malformed("connection-specific field"))
        }
        b"te" if !value.eq_ignore_ascii_case(b"trailers") => Err(Malformed("te other than trailers")),
        _ => Ok(()),
    }
}

/// RFC 9110 §8.6: digits, nothing else.
fn decimal(value: &[u8]) -> Result<u64, Refusal> {
    let mut number = 0u64;
    for byte in value {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(Malformed("bad content-length"));
        }
        number = number
            .checked_mul(10)
            .and_then(|number| number.checked_add(u64::from(digit)))
            .ok_or(Malformed("content-length overflow"))?;
    }
    if value.is_empty() { Err(Malformed("bad content-length")) } else { Ok(number) }
}

const LOWER_TOKEN: u8 = 1;
const TOKEN: u8 = 2;
const PATH: u8 = 4;

/// Which characters each kind of name may have.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut place = 0;
    while place < 256 {
        let byte = place as u8;
        if is_tchar(byte) {
            classes[place] |= TOKEN;
            if !byte.is_ascii_uppercase() {
                classes[place] |= LOWER_TOKEN;
            }
        }
        // Raw UTF-8 is let through: clients send it, and no route has it. A fragment never reaches a server.
        if byte > b' ' && byte != 0x7f && byte != b'#' {
            classes[place] |= PATH;
        }
        place += 1;
    }
    classes
};

/// Without an early exit, since almost every name is good.
#[inline]
fn is_made_of(bytes: &[u8], class: u8) -> bool {
    bytes.iter().fold(class, |common, &byte| common & CLASSES[usize::from(byte)]) != 0
}

#[cfg(test)]
mod tests {
    use super::super::hpack::Decoder;
    use super::*;

    fn list(fields: &[(&str, &str)]) -> HeaderList {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for string in [name, value] {
                block.push(string.len() as u8);
                block.extend_from_slice(string.as_bytes());
            }
        }
        let mut list = HeaderList::default();
        Decoder::new(4096).decode(&block, &mut list, 16_384, 100).unwrap();
        list
    }

    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "http"), (":path", "/x?y"), (":authority", "a.example")];

    fn with(more: &[(&str, &str)]) -> Result<(), Refusal> {
        request(&list(&[&GET, more].concat())).map(|_| ())
    }

    fn without(name: &str) -> Result<(), Refusal> {
        let fields: Vec<_> = GET.into_iter().filter(|(other, _)| *other != name).collect();
        request(&list(&fields)).map(|_| ())
    }

    fn changed(name: &str, value: &str) -> Result<(), Refusal> {
        let fields: Vec<_> = GET.map(|field| if field.0 == name { (name, value) } else { field }).to_vec();
        request(&list(&fields)).map(|_| ())
    }

    #[test]
    fn a_request_is_seen_whole() {
        let list = list(&[&GET[..], &[("accept", "a"), ("accept", "b"), ("content-length", "12")]].concat());
        let head = request(&list).unwrap();
        assert_eq!((head.method(), head.scheme(), head.path()), (&b"GET"[..], &b"http"[..], &b"/x?y"[..]));
        assert_eq!(head.authority(), Some(&b"a.example"[..]));
        assert_eq!(head.content_length(), Some(12));
        assert_eq!(head.field(b"accept"), Some(&b"a"[..]));
        assert_eq!(head.fields().count(), 3);
        assert_eq!(head.field(b":path"), None);
    }

    #[test]
    fn pseudo_headers_are_required_once_and_first() {
        assert!(with(&[]).is_ok());
        assert!(without(":method").is_err());
        assert!(without(":scheme").is_err());
        assert!(without(":path").is_err());
        assert!(without(":authority").is_ok());
        assert!(with(&[(":path", "/")]).is_err());
        assert!(with(&[(":status", "200")]).is_err());
        assert!(with(&[(":protocol", "websocket")]).is_err());
        assert!(request(&list(&[&[("a", "b")], &GET[..]].concat())).is_err());
    }

    #[test]
    fn pseudo_header_values_are_checked() {
        for path in ["", "x", "*", "/a b", "/a#b", "/\u{1}", "http://a/"] {
            assert!(changed(":path", path).is_err(), "{path}");
        }
        for method in ["", "GE T", "G\r\n", "a:b"] {
            assert!(changed(":method", method).is_err(), "{method}");
        }
        for authority in ["u:p@a", "a b", "a\r\n"] {
            assert!(changed(":authority", authority).is_err(), "{authority}");
        }
        assert!(changed(":scheme", "").is_err());
        assert!(changed(":scheme", "h ttp").is_err());
        assert!(changed(":method", "M-SEARCH").is_ok());
    }

    #[test]
    fn field_names_and_values_are_checked() {
        for name in ["", "Upper", "a b", "a:", "a\0", "\u{e9}"] {
            assert!(with(&[(name, "x")]).is_err(), "{name}");
        }
        for value in [" x", "x ", "\tx", "a\r\nb", "a\nb", "a\0", "\u{7f}"] {
            assert!(with(&[("x", value)]).is_err(), "{value:?}");
        }
        assert!(with(&[("x", ""), ("y", "a b\tc"), ("z", "\u{e9}")]).is_ok());
    }

    #[test]
    fn connection_specific_fields_are_refused() {
        for name in ["connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"] {
            assert!(with(&[(name, "x")]).is_err(), "{name}");
        }
        assert!(with(&[("te", "trailers")]).is_ok());
        assert!(with(&[("te", "trailers, deflate")]).is_err());
    }

    #[test]
    fn content_length_is_digits_once() {
        assert!(with(&[("content-length", "18446744073709551615")]).is_ok());
        for value in ["", "+1", "-1", "1, 1", "0x1", "18446744073709551616"] {
            assert!(with(&[("content-length", value)]).is_err(), "{value}");
        }
        assert!(with(&[("content-length", "1"), ("content-length", "1")]).is_err());
    }

    #[test]
    fn host_must_agree_with_authority() {
        assert!(with(&[("host", "A.example")]).is_ok());
        assert!(with(&[("host", "b.example")]).is_err());
        assert!(with(&[("host", "a.example"), ("host", "a.example")]).is_err());
        let list = list(&[&GET[..3], &[("host", "h.example")]].concat());
        assert_eq!(request(&list).unwrap().authority(), Some(&b"h.example"[..]));
    }

    #[test]
    fn connect_is_told_from_malformed() {
        let connect = request(&list(&[(":method", "CONNECT"), (":authority", "a:443")])).map(|_| ());
        assert_eq!(connect, Err(Refusal::Connect));
        assert!(matches!(changed(":method", "CONNECT"), Err(Malformed(_))));
        assert!(matches!(request(&list(&[(":method", "CONNECT")])), Err(Malformed(_))));
    }

    #[test]
    fn options_may_ask_for_the_server() {
        assert!(request(&list(&[(":method", "OPTIONS"), (":scheme", "http"), (":path", "*")])).is_ok());
    }

    #[test]
    fn trailers_have_no_pseudo_headers() {
        assert!(trailers(&list(&[("grpc-status", "0")])).is_ok());
        assert!(trailers(&list(&[(":status", "200")])).is_err());
        assert!(trailers(&list(&[("connection", "x")])).is_err());
    }
}
