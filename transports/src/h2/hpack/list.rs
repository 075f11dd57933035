//! A decoded header list: names and values one behind the other in one buffer, used again for every block.

/// The overhead of one field in the size of a header list (RFC 9113 §6.5.2) and of a dynamic table
/// (RFC 7541 §4.1).
pub(super) const FIELD_OVERHEAD: usize = 32;

#[derive(Clone, Copy)]
struct Field {
    start: u32,
    name_len: u32,
    value_len: u32,
}

/// The fields of one header block, bounded in bytes and in number.
#[derive(Default)]
pub struct HeaderList {
    bytes: Vec<u8>,
    fields: Vec<Field>,
    /// Names, values and 32 for each field.
    size: usize,
    too_large: bool,
}

impl HeaderList {
    /// Starts over, keeping the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
        self.size = 0;
        self.too_large = false;
    }

    /// Whether a limit was passed; the fields are then incomplete.
    pub fn is_too_large(&self) -> bool {
        self.too_large
    }

    /// The fields in the order in which they came.
    pub fn fields(&self) -> Fields<'_> {
        Fields { bytes: &self.bytes, fields: self.fields.iter() }
    }

    /// The end of the buffer, for a string that is being decoded.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn tail_start(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn since(&self, start: usize) -> &[u8] {
        self.bytes.get(start..).unwrap_or_default()
    }

    /// Makes a field of what was written behind `start`, or throws it away when that would pass a limit.
    pub(super) fn finish(&mut self, start: usize, name_len: usize, bytes_max: usize, fields_max: usize) {
        let written = self.bytes.len() - start;
        self.size = self.size.saturating_add(written + FIELD_OVERHEAD);
        if self.size > bytes_max || self.fields.len() >= fields_max {
            self.too_large = true;
        }
        if self.too_large {
            self.bytes.truncate(start);
            return;
        }
        // Strings are shorter than a header block, and a block is bounded far below 4 GiB.
        self.fields.push(Field {
            start: start as u32,
            name_len: name_len as u32,
            value_len: (written - name_len) as u32,
        });
    }

    /// Gives the memory back.
    pub(crate) fn shrink(&mut self) {
        *self = HeaderList::default();
    }
}

/// Name and value of each field, in order.
#[derive(Clone)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    fields: std::slice::Iter<'a, Field>,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let field = self.fields.next()?;
        let bytes = self.bytes.get(field.start as usize..)?;
        let (name, rest) = bytes.split_at_checked(field.name_len as usize)?;
        Some((name, rest.get(..field.value_len as usize)?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.fields.size_hint()
    }
}

impl std::fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Names only: values may be credentials.
        f.debug_list()
            .entries(self.clone().map(|(name, _)| String::from_utf8_lossy(name).into_owned()))
            .finish()
    }
}
