//! The page's files: in the program, packed once, and told apart by what is in them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    sync::LazyLock,
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
        IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};

/// Nothing but our own files, no script in the markup, in nobody's frame.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
                      object-src 'none'; require-trusted-types-for 'script'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

macro_rules! files {
    ($($name:literal, $content_type:expr, $path:literal;)*) => {
        static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
            vec![$(File::new($name, $content_type, include_bytes!($path)),)*]
        });
    };
}

files! {
    "index.html", HTML, "page/index.html";
    "style.css", STYLE, "page/style.css";
    "main.js", SCRIPT, "page/main.js";
    "feed.js", SCRIPT, "page/feed.js";
    "history.js", SCRIPT, "page/history.js";
    "format.js", SCRIPT, "page/format.js";
    "charts.js", SCRIPT, "page/charts.js";
    "latency.js", SCRIPT, "page/latency.js";
    "delivery.js", SCRIPT, "page/delivery.js";
    "letters.js", SCRIPT, "page/letters.js";
    "errors.js", SCRIPT, "page/errors.js";
    "tail.js", SCRIPT, "page/tail.js";
    "events.js", SCRIPT, "page/events.js";
    "funnel.js", SCRIPT, "page/funnel.js";
    "favicon.svg", "image/svg+xml", "page/favicon.svg";
    "uPlot.iife.min.js", SCRIPT, "vendor/uPlot.iife.min.js";
    "uPlot.min.css", STYLE, "vendor/uPlot.min.css";
    "uPlot.LICENSE", TEXT, "vendor/uPlot.LICENSE";
}

/// One file, plain and packed.
#[derive(Debug)]
struct File {
    name: &'static str,
    content_type: &'static str,
    plain: Form,
    packed: Form,
}

/// One form of a file. Each has a tag of its own: they are different bytes (RFC 9110 §8.8.3.3).
#[derive(Debug)]
struct Form {
    bytes: Bytes,
    tag: HeaderValue,
}

impl Form {
    fn new(bytes: Bytes) -> Self {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let tag = HeaderValue::from_str(&format!("\"{:016x}\"", hasher.finish()));
        // Hexadecimal digits in quotes are a field value.
        Self { bytes, tag: tag.unwrap_or(HeaderValue::from_static("\"\"")) }
    }
}

impl File {
    fn new(name: &'static str, content_type: &'static str, bytes: &'static [u8]) -> Self {
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        // Writing to memory does not fail.
        let packed = packer.write_all(bytes).and_then(|()| packer.finish()).unwrap_or_default();
        let plain = Bytes::from_static(bytes);
        Self { name, content_type, plain: Form::new(plain), packed: Form::new(packed.into()) }
    }
}

/// Whether there is such a file under `/live/`; the page itself is at `/`.
pub fn is_public(name: &str) -> bool {
    name != "index.html" && FILES.iter().any(|file| file.name == name)
}

/// A file, packed if the client takes that, or 304 if it has it already.
pub fn answer(name: &str, asked: &HeaderMap) -> Response {
    let Some(file) = FILES.iter().find(|file| file.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let takes = |value: &HeaderValue| value.to_str().is_ok_and(takes_gzip);
    let is_packed = asked.get_all(ACCEPT_ENCODING).iter().any(takes);
    let form = if is_packed { &file.packed } else { &file.plain };
    let known = asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let is_known = known
        .flat_map(|list| list.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || tag.as_bytes() == form.tag.as_bytes());
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = Body::from(form.bytes.clone()).into_response();
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(file.content_type));
        if is_packed {
            fields.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    };
    let fields: [(HeaderName, &str); 5] = [
        // Asked anew each time, and answered 304: a new version of the program is seen at once.
        (CACHE_CONTROL, "no-cache"),
        (VARY, if name == "index.html" { "accept, accept-encoding" } else { "accept-encoding" }),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    let headers = response.headers_mut();
    headers.extend(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
    headers.insert(ETAG, form.tag.clone());
    response
}

/// Whether a list of codings has gzip, and not with a weight of 0.
fn takes_gzip(list: &str) -> bool {
    list.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        is_gzip && weight.and_then(|weight| weight.parse::<f32>().ok()).is_none_or(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn packed_files_unpack_to_the_plain_ones_and_have_tags_of_their_own() {
        for file in FILES.iter() {
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(&file.packed.bytes[..]).read_to_end(&mut unpacked).unwrap();
            assert!(unpacked == file.plain.bytes && !unpacked.is_empty(), "{}", file.name);
            assert_ne!(file.packed.tag, file.plain.tag, "{}", file.name);
        }
    }

    #[test]
    fn what_a_client_has_is_not_sent_again() {
        let gzip = (ACCEPT_ENCODING, HeaderValue::from_static("br, gzip"));
        let first = answer("style.css", &[gzip.clone()].into_iter().collect());
        let tag = first.headers()[ETAG].clone();
        assert!(first.status() == StatusCode::OK && first.headers()[CONTENT_ENCODING] == "gzip");
        let again = answer("style.css", &[gzip, (IF_NONE_MATCH, tag.clone())].into_iter().collect());
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        // The plain form is another.
        let plain = answer("style.css", &[(IF_NONE_MATCH, tag)].into_iter().collect());
        assert!(plain.status() == StatusCode::OK && !plain.headers().contains_key(CONTENT_ENCODING));
        assert!(!takes_gzip("gzip;q=0, identity") && takes_gzip("deflate, GZIP;q=0.5"));
    }

    #[test]
    fn the_page_names_no_other_host() {
        for file in FILES.iter().filter(|file| !file.name.starts_with("uPlot")) {
            let text = str::from_utf8(&file.plain.bytes).unwrap();
            // An SVG says which language it is in.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{}", file.name);
        }
    }
}
