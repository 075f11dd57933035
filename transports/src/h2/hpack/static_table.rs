//! The static table (RFC 7541 appendix A).

/// How many entries the static table has; the dynamic table's indices follow.
pub const LEN: u32 = 61;

const ENTRIES: [(&[u8], &[u8]); LEN as usize] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

/// The name and value at `index` (1 to 61).
pub fn get(index: u32) -> Option<(&'static [u8], &'static [u8])> {
    ENTRIES.get((index as usize).wrapping_sub(1)).copied()
}

/// Where a field, or at least its name, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Name and value: the index says all.
    Field(u32),
    /// Only the name.
    Name(u32),
    /// Neither.
    Nothing,
}

/// Looks a field up for encoding.
pub fn find(name: &[u8], value: &[u8]) -> Found {
    let mut found = Found::Nothing;
    for (place, (entry_name, entry_value)) in (1..).zip(ENTRIES) {
        if entry_name == name {
            if entry_value == value && !value.is_empty() {
                return Found::Field(place);
            }
            if found == Found::Nothing {
                found = Found::Name(place);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_those_of_appendix_a() {
        assert_eq!(get(1), Some((&b":authority"[..], &b""[..])));
        assert_eq!(get(8), Some((&b":status"[..], &b"200"[..])));
        assert_eq!(get(16), Some((&b"accept-encoding"[..], &b"gzip, deflate"[..])));
        assert_eq!(get(31), Some((&b"content-type"[..], &b""[..])));
        assert_eq!(get(61), Some((&b"www-authenticate"[..], &b""[..])));
        assert_eq!(get(0), None);
        assert_eq!(get(62), None);
    }

    #[test]
    fn find_prefers_the_whole_field() {
        assert_eq!(find(b":status", b"404"), Found::Field(13));
        assert_eq!(find(b":status", b"418"), Found::Name(8));
        assert_eq!(find(b"content-type", b"text/plain"), Found::Name(31));
        assert_eq!(find(b"grpc-status", b"0"), Found::Nothing);
    }
}
