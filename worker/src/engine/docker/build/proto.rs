//! As much of protocol buffers as two answers and a trace need (<https://protobuf.dev/programming-guides/encoding/>).

/// A field of a message: its number, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Number(u32, u64),
    Bytes(u32, &'a [u8]),
}

/// The fields of a message, in order; they end where it can't be read on. Those of fixed width are passed over.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        loop {
            let key = self.number()?;
            let number = u32::try_from(key >> 3).ok()?;
            match key & 7 {
                0 => return Some(Field::Number(number, self.number()?)),
                2 => {
                    let length = usize::try_from(self.number()?).ok()?;
                    return Some(Field::Bytes(number, self.take(length)?));
                }
                1 => drop(self.take(8)?),
                5 => drop(self.take(4)?),
                _ => return None,
            }
        }
    }
}

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

/// The text of a message's field.
pub(super) fn text(message: &[u8], field: u32) -> Option<String> {
    Fields(message).find_map(|found| match found {
        Field::Bytes(number, bytes) if number == field => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    })
}

/// Adds a field of bytes to a message.
pub(super) fn put_bytes(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(field << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    message.push(u8::try_from(length).unwrap_or_default());
    message.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let long = vec![7; 300];
        let mut message = vec![1 << 3, 0xac, 0x02];
        put_bytes(&mut message, 2, b"ab");
        put_bytes(&mut message, 3, &long);
        let fields: Vec<_> = Fields(&message).collect();
        assert_eq!(fields, [Field::Number(1, 300), Field::Bytes(2, b"ab"), Field::Bytes(3, &long)]);
        assert_eq!(text(&message, 2).as_deref(), Some("ab"));
    }

    #[test]
    fn what_is_cut_or_broken_ends() {
        for broken in [
            &[0x80][..],
            &[0x12, 5, 1],
            &[0xff; 20],
            &[0x0b],
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            assert_eq!(Fields(broken).count(), 0, "{broken:?}");
        }
    }
}
