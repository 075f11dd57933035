//! The HPACK decoder (RFC 7541 §3, §6).
//!
//! A block is always decoded to its end, even when its list passes a limit: the dynamic table must stay in
//! step with the client's. Past the limit nothing is kept but the table, so memory stays bounded.

use super::list::HeaderList;
use super::table::DynamicTable;
use super::{CompressionError, huffman, integer, static_table};

/// The decoder of one connection.
pub struct Decoder {
    table: DynamicTable,
    /// What a size update may ask for.
    table_bytes_max: u32,
}

/// How large a table is until its encoder says otherwise (RFC 9113 §6.5.2).
const TABLE_BYTES_DEFAULT: u32 = 4_096;

/// What decoding a block did besides filling the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The block inserted into, emptied or resized the dynamic table.
    pub table_changed: bool,
}

impl Decoder {
    /// A decoder for a client that is told SETTINGS_HEADER_TABLE_SIZE `table_bytes_max`. Until it acknowledges
    /// that it may go by the default.
    pub fn new(table_bytes_max: u32) -> Self {
        Decoder {
            table: DynamicTable::new(TABLE_BYTES_DEFAULT as usize),
            table_bytes_max: table_bytes_max.max(TABLE_BYTES_DEFAULT),
        }
    }

    /// The client acknowledged. If its table was larger, its next block says that it has become smaller
    /// (RFC 7541 §4.2); we take its word for when.
    pub fn settle_table_bytes_max(&mut self, table_bytes_max: u32) {
        self.table_bytes_max = table_bytes_max;
    }

    /// Decodes a whole block into `list` (cleared first), which takes at most `bytes_max` (name + value +
    /// 32 each) and `fields_max`; beyond, [`HeaderList::is_too_large`] is set and decoding goes on.
    pub fn decode(
        &mut self,
        block: &[u8],
        list: &mut HeaderList,
        bytes_max: usize,
        fields_max: usize,
    ) -> Result<Decoded, CompressionError> {
        list.clear();
        let mut decoded = Decoded { table_changed: false };
        let mut at = 0;
        let mut fields_began = false;
        while let Some(&first) = block.get(at) {
            // RFC 7541 §4.2: size updates stand before the first field.
            if first & 0xe0 == 0x20 {
                if fields_began {
                    return Err(CompressionError("table size update after a field"));
                }
                let size = integer::read(5, block, &mut at)?;
                if size > self.table_bytes_max {
                    return Err(CompressionError("table size update over the limit"));
                }
                self.table.resize(size as usize);
                decoded.table_changed = true;
                continue;
            }
            fields_began = true;
            let start = list.tail_start();
            if first & 0x80 != 0 {
                let index = integer::read(7, block, &mut at)?;
                let (name, value) = self.field(index)?;
                // An HPACK bomb names a large entry thousands of times: past the limit it costs no copy.
                if list.is_too_large() {
                    continue;
                }
                let name_len = name.len();
                list.tail().extend_from_slice(name);
                list.tail().extend_from_slice(value);
                list.finish(start, name_len, bytes_max, fields_max);
                continue;
            }
            // §6.2.1 with incremental indexing (01), §6.2.2 without (0000), §6.2.3 never indexed (0001).
            let indexed = first & 0x40 != 0;
            let name_index = integer::read(if indexed { 6 } else { 4 }, block, &mut at)?;
            if name_index == 0 {
                read_string(block, &mut at, list.tail())?;
            } else {
                let (name, _) = self.field(name_index)?;
                list.tail().extend_from_slice(name);
            }
            let name_len = list.tail_start() - start;
            read_string(block, &mut at, list.tail())?;
            if indexed {
                let (name, value) = list.since(start).split_at(name_len);
                self.table.insert(name, value);
                decoded.table_changed = true;
            }
            list.finish(start, name_len, bytes_max, fields_max);
        }
        Ok(decoded)
    }

    /// Gives spare memory back; the table stays.
    pub fn shrink(&mut self) {
        self.table.shrink();
    }

    fn field(&self, index: u32) -> Result<(&[u8], &[u8]), CompressionError> {
        let found = match index {
            0 => None,
            1..=static_table::LEN => static_table::get(index),
            _ => self.table.get(index - static_table::LEN - 1),
        };
        found.ok_or(CompressionError("index out of range"))
    }
}

/// RFC 7541 §5.2.
fn read_string(block: &[u8], at: &mut usize, out: &mut Vec<u8>) -> Result<(), CompressionError> {
    let is_huffman = block.get(*at).is_some_and(|first| first & 0x80 != 0);
    let len = integer::read(7, block, at)? as usize;
    let string =
        block.get(*at..).and_then(|rest| rest.get(..len)).ok_or(CompressionError("string cut off"))?;
    *at += len;
    if is_huffman {
        huffman::decode(string, out)
    } else {
        out.extend_from_slice(string);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// With a table as small as in the RFC's examples.
    fn decoder_of(table_bytes: usize) -> Decoder {
        let mut decoder = Decoder::new(4096);
        decoder.table.resize(table_bytes);
        decoder
    }

    fn decode(decoder: &mut Decoder, block: &str) -> Result<Vec<(String, String)>, CompressionError> {
        let mut list = HeaderList::default();
        decoder.decode(&hex(block), &mut list, 16_384, 100)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ok(list.fields().map(|(name, value)| (text(name), text(value))).collect())
    }

    fn assert_fields(decoder: &mut Decoder, block: &str, expected: &[(&str, &str)], table_size: usize) {
        let fields = decode(decoder, block).unwrap();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(fields, expected);
        assert_eq!(decoder.table.size(), table_size);
    }

    #[test]
    fn rfc_7541_c2_single_fields() {
        let mut decoder = Decoder::new(4096);
        let block = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
        assert_fields(&mut decoder, block, &[("custom-key", "custom-header")], 55);
        let mut decoder = Decoder::new(4096);
        let block = "040c 2f73 616d 706c 652f 7061 7468";
        assert_fields(&mut decoder, block, &[(":path", "/sample/path")], 0);
        let block = "1008 7061 7373 776f 7264 0673 6563 7265 74";
        assert_fields(&mut decoder, block, &[("password", "secret")], 0);
        assert_fields(&mut decoder, "82", &[(":method", "GET")], 0);
    }

    const C3: [&[(&str, &str)]; 3] = [
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
            ("cache-control", "no-cache"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ],
    ];

    #[test]
    fn rfc_7541_c3_requests_without_huffman() {
        let mut decoder = Decoder::new(4096);
        assert_fields(&mut decoder, "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", C3[0], 57);
        assert_fields(&mut decoder, "8286 84be 5808 6e6f 2d63 6163 6865", C3[1], 110);
        let block = "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65";
        assert_fields(&mut decoder, block, C3[2], 164);
    }

    #[test]
    fn rfc_7541_c4_requests_with_huffman() {
        let mut decoder = Decoder::new(4096);
        assert_fields(&mut decoder, "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", C3[0], 57);
        assert_fields(&mut decoder, "8286 84be 5886 a8eb 1064 9cbf", C3[1], 110);
        let block = "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf";
        assert_fields(&mut decoder, block, C3[2], 164);
    }

    const COOKIE: &str = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";

    fn c5() -> [Vec<(&'static str, &'static str)>; 3] {
        let common = |status, date| {
            vec![
                (":status", status),
                ("cache-control", "private"),
                ("date", date),
                ("location", "https://www.example.com"),
            ]
        };
        let mut third = common("200", "Mon, 21 Oct 2013 20:13:22 GMT");
        third.push(("content-encoding", "gzip"));
        third.push(("set-cookie", COOKIE));
        [
            common("302", "Mon, 21 Oct 2013 20:13:21 GMT"),
            common("307", "Mon, 21 Oct 2013 20:13:21 GMT"),
            third,
        ]
    }

    #[test]
    fn rfc_7541_c5_responses_without_huffman_evict() {
        let mut decoder = decoder_of(256);
        let block = "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
            2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70
            6c65 2e63 6f6d";
        assert_fields(&mut decoder, block, &c5()[0], 222);
        assert_fields(&mut decoder, "4803 3330 37c1 c0bf", &c5()[1], 222);
        let block = "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d
            54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049
            5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e
            3d31";
        assert_fields(&mut decoder, block, &c5()[2], 215);
        assert_eq!(decoder.table.len(), 3);
    }

    #[test]
    fn rfc_7541_c6_responses_with_huffman_evict() {
        let mut decoder = decoder_of(256);
        let block = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
            2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
        assert_fields(&mut decoder, block, &c5()[0], 222);
        assert_fields(&mut decoder, "4883 640e ffc1 c0bf", &c5()[1], 222);
        let block = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab
            77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f
            9587 3160 65c0 03ed 4ee5 b106 3d50 07";
        assert_fields(&mut decoder, block, &c5()[2], 215);
    }

    #[test]
    fn bad_indices_are_errors() {
        assert!(decode(&mut Decoder::new(4096), "80").is_err(), "index 0");
        assert!(decode(&mut Decoder::new(4096), "be").is_err(), "62 in an empty table");
        assert!(decode(&mut Decoder::new(4096), "7e 01 61").is_err(), "name at 62");
        assert!(decode(&mut Decoder::new(4096), "ff ff ff ff ff 0f").is_err());
    }

    #[test]
    fn size_update_over_the_limit_is_an_error() {
        assert!(decode(&mut Decoder::new(4096), "3f e1 1f").is_ok(), "4096");
        assert!(decode(&mut Decoder::new(4096), "3f e2 1f").is_err(), "4097");
    }

    #[test]
    fn a_limit_of_ours_holds_once_it_is_acknowledged() {
        let mut decoder = Decoder::new(100);
        decode(&mut decoder, "4001 6101 62 3f").unwrap_err();
        decode(&mut decoder, "3f e1 1f").unwrap();
        decoder.settle_table_bytes_max(100);
        assert!(decode(&mut decoder, "3f e1 1f").is_err(), "4096");
        decode(&mut decoder, "3f 45").unwrap();
        let mut decoder = Decoder::new(8_192);
        assert!(decode(&mut decoder, "3f e1 3f").is_ok(), "8192");
        assert!(decode(&mut decoder, "3f e2 3f").is_err(), "8193");
    }

    #[test]
    fn size_update_after_a_field_is_an_error() {
        assert!(decode(&mut Decoder::new(4096), "20 82").is_ok());
        assert!(decode(&mut Decoder::new(4096), "82 20").is_err());
    }

    #[test]
    fn size_update_empties_the_table() {
        let mut decoder = Decoder::new(4096);
        decode(&mut decoder, "4001 6101 62").unwrap();
        assert_eq!(decoder.table.len(), 1);
        decode(&mut decoder, "20 3f e1 1f").unwrap();
        assert_eq!(decoder.table.len(), 0);
        assert!(decode(&mut decoder, "be").is_err());
    }

    #[test]
    fn cut_off_strings_are_errors() {
        for block in ["00", "00 05 61", "00 01 61", "00 01 61 7f", "40 85 f2", "04"] {
            assert!(decode(&mut Decoder::new(4096), block).is_err(), "{block}");
        }
    }

    #[test]
    fn too_large_a_list_keeps_the_table_in_step() {
        let mut decoder = Decoder::new(4096);
        let mut list = HeaderList::default();
        let mut block = vec![0x40, 1, b'a', 1, b'1'];
        block.extend_from_slice(&[0xbe; 1000]);
        block.extend_from_slice(&[0x40, 1, b'b', 1, b'2']);
        decoder.decode(&block, &mut list, 1024, 100).unwrap();
        assert!(list.is_too_large());
        assert!(list.tail().len() <= 1024);
        decoder.decode(&[0xbe, 0xbf], &mut list, 1024, 100).unwrap();
        assert!(!list.is_too_large());
        assert_eq!(list.fields().collect::<Vec<_>>(), [(&b"b"[..], &b"2"[..]), (b"a", b"1")]);
    }

    #[test]
    fn number_of_fields_is_bounded() {
        let mut list = HeaderList::default();
        Decoder::new(4096).decode(&[0x82; 101], &mut list, 16_384, 100).unwrap();
        assert!(list.is_too_large());
        Decoder::new(4096).decode(&[0x82; 100], &mut list, 16_384, 100).unwrap();
        assert!(!list.is_too_large());
    }
}
