//! JSON bodies of answers.

/// Appends `text` as a JSON string with its quotes (RFC 8259 §7).
pub fn write_json_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut kept_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[kept_from..at]);
        kept_from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&text.as_bytes()[kept_from..]);
    out.push(b'"');
}

/// Appends the error object of the ingest routes; `code` is a gRPC code's name such as `INVALID_ARGUMENT`.
pub fn write_error(out: &mut Vec<u8>, error: &str, code: &str) {
    out.extend_from_slice(br#"{"status":"error","error":"#);
    write_json_text(out, error);
    out.extend_from_slice(br#","code":"#);
    write_json_text(out, code);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_text_survives_a_json_parser() {
        let text: String = (0..0x250u32).filter_map(char::from_u32).collect();
        let mut out = Vec::new();
        write_error(&mut out, &text, "INTERNAL");
        let back: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(back["error"], text.as_str());
        assert_eq!(back["code"], "INTERNAL");
        assert_eq!(back["status"], "error");
    }
}
