//! A layer's tar with no time in it that is newer than the commit's. What is older stays as it is, byte for byte; what is as old is
//! written as what is newer, since a step may run in the commit's own second and give the same.
//!
//! The formats are those of <https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html> and
//! <https://www.gnu.org/software/tar/manual/html_node/Standard.html>.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

pub(super) const BLOCK: usize = 512;
/// The most bytes of an entry's further headers: names, attributes.
const MAX_EXTENDED: u64 = 8 * 1024 * 1024;
/// Where an old sparse file says that its map goes on: in its header, and in each block of that.
pub(super) const SPARSE_GOES_ON: [usize; 2] = [482, 504];

/// Copies a layer; times after `latest`, in seconds since 1970, become that.
///
/// # Errors
/// It is no tar; reading or writing.
pub(super) fn copy(from: &mut impl Read, to: &mut impl Write, latest: u64) -> io::Result<()> {
    // what the next entry's extended header says, and that header as it was read
    let mut extended: Option<Extended> = None;
    while let Some(block) = read_block(from)? {
        if block.iter().all(|byte| *byte == 0) {
            to.write_all(&block)?;
            return io::copy(from, to).map(drop);
        }
        let mut header = Header::from_byte_slice(&block).clone();
        let kind = header.entry_type();
        if kind.is_pax_local_extensions() || kind.is_pax_global_extensions() {
            let body = read_extended(from, header.entry_size()?)?;
            let mut read = Extended { header, records: records(&body)?, body };
            read.clamp(latest);
            if kind.is_pax_global_extensions() {
                read.write(to)?;
            } else {
                extended = Some(read);
            }
            continue;
        }
        let told_size = match &extended {
            Some(extended) => extended.size()?,
            None => None,
        };
        let size = told_size.map_or_else(|| header.entry_size(), Ok)?;
        if let Some(extended) = extended.take_if(|_| !kind.is_gnu_longname() && !kind.is_gnu_longlink()) {
            extended.write(to)?;
        }
        if header.mtime().is_ok_and(|time| time >= latest) {
            header.set_mtime(latest);
            header.set_cksum();
        }
        to.write_all(header.as_bytes())?;
        if kind.is_gnu_sparse() {
            let mut goes_on = block[SPARSE_GOES_ON[0]] != 0;
            while goes_on {
                let map = read_block(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                to.write_all(&map)?;
                goes_on = map[SPARSE_GOES_ON[1]] != 0;
            }
        }
        if has_content(kind) {
            let whole = size.checked_next_multiple_of(BLOCK as u64).ok_or(io::ErrorKind::InvalidData)?;
            if io::copy(&mut from.take(whole), to)? != whole {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
    Ok(())
}

/// A header of pax's, as records of names and values.
struct Extended {
    header: Header,
    records: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
}

impl Extended {
    fn size(&self) -> io::Result<Option<u64>> {
        let Some((_, value)) = self.records.iter().find(|(name, _)| name == b"size") else { return Ok(None) };
        let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        size.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Takes away times that are too new: the entry's own header has the one that holds then.
    fn clamp(&mut self, latest: u64) {
        let before = self.records.len();
        self.records.retain(|(name, value)| {
            let is_time = matches!(name.as_slice(), b"mtime" | b"atime" | b"ctime");
            !is_time || is_older(value, latest)
        });
        if self.records.len() != before {
            self.body = self.records.iter().flat_map(|(name, value)| record(name, value)).collect();
            self.header.set_size(self.body.len() as u64);
        }
        if self.header.mtime().is_ok_and(|time| time >= latest) {
            self.header.set_mtime(latest);
        }
    }

    /// One that says nothing is left out.
    fn write(mut self, to: &mut impl Write) -> io::Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        self.header.set_cksum();
        to.write_all(self.header.as_bytes())?;
        to.write_all(&self.body)?;
        to.write_all(&vec![0; self.body.len().next_multiple_of(BLOCK) - self.body.len()])
    }
}

pub(super) fn read_block(from: &mut impl Read) -> io::Result<Option<[u8; BLOCK]>> {
    let mut block = [0; BLOCK];
    let mut filled = 0;
    while filled < BLOCK {
        match from.read(&mut block[filled..])? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(Some(block))
}

pub(super) fn read_extended(from: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    if size > MAX_EXTENDED {
        return Err(io::Error::other(format!("a file of a layer has attributes of {size} bytes")));
    }
    let whole = size.next_multiple_of(BLOCK as u64);
    let mut body = Vec::new();
    if from.take(whole).read_to_end(&mut body)? as u64 != whole {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    body.truncate(usize::try_from(size).unwrap_or_default());
    Ok(body)
}

/// `LENGTH NAME=VALUE\n`, one after the other; the length is that of the whole.
pub(super) fn records(mut body: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !body.is_empty() {
        let wrong = || io::Error::other("a layer's extended header can't be read");
        let space = body.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let length: usize =
            std::str::from_utf8(&body[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
        let record = body.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(wrong)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        body = &body[length..];
    }
    Ok(records)
}

fn record(name: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = name.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", name, b"=", value, b"\n"].concat()
}

/// Whether a time, in seconds with or without a fraction, is before `latest`.
fn is_older(value: &[u8], latest: u64) -> bool {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let seconds = text.split_once('.').map_or(text, |(seconds, _)| seconds);
    // what is no such number is before 1970
    seconds.parse::<u64>().map_or(true, |seconds| seconds < latest)
}

/// Whether something follows an entry's header: what is no file has no content, whatever its size says.
pub(super) const fn has_content(kind: EntryType) -> bool {
    !matches!(
        kind,
        EntryType::Link
            | EntryType::Symlink
            | EntryType::Directory
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo
    )
}

#[cfg(test)]
mod tests {
    use tar::{Archive, Builder};

    use super::*;

    const LATEST: u64 = 1_700_000_000;

    fn layer(times: &[(&str, u64, &str)]) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for (name, time, pax) in times {
            if !pax.is_empty() {
                let pax: Vec<(&str, &[u8])> = vec![("mtime", pax.as_bytes()), ("SCHILY.xattr.user.a", b"b")];
                tar.append_pax_extensions(pax).unwrap();
            }
            let mut header = Header::new_ustar();
            header.set_size(600);
            header.set_mtime(*time);
            header.set_mode(0o644);
            header.set_entry_type(EntryType::Regular);
            let content = io::repeat(b'x').take(600);
            if header.set_path(name).is_err() {
                tar.append_data(&mut header, name, content).unwrap();
                continue;
            }
            // the sum as engines write it: six digits, NUL, space
            header.set_cksum();
            let sum = format!("{:06o}\0 ", header.cksum().unwrap());
            header.as_mut_bytes()[148..156].copy_from_slice(sum.as_bytes());
            tar.append(&header, content).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn copied(layer: &[u8]) -> Vec<u8> {
        let mut to = Vec::new();
        copy(&mut &layer[..], &mut to, LATEST).unwrap();
        to
    }

    #[test]
    fn what_was_made_at_two_times_is_the_same() {
        let long = "directory/".repeat(15) + "file";
        let at = |time: u64| {
            layer(&[
                ("old", 5, "5.25"),
                ("new", time, ""),
                ("fine", time, &format!("{time}.123456789")),
                (&long, time, ""),
            ])
        };
        let first = copied(&at(LATEST + 10));
        assert_eq!(first, copied(&at(LATEST + 99_999)));
        assert_eq!(first, copied(&at(LATEST)), "in the commit's own second");
        let mut archive = Archive::new(first.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert_eq!(text, "x".repeat(600));
            let pax: Vec<String> = entry
                .pax_extensions()
                .unwrap()
                .into_iter()
                .flatten()
                .map(|record| record.unwrap().key().unwrap().to_owned())
                .collect();
            seen.push((entry.path().unwrap().display().to_string(), entry.header().mtime().unwrap(), pax));
        }
        let attribute = || "SCHILY.xattr.user.a".to_owned();
        assert_eq!(
            seen,
            [
                ("old".to_owned(), 5, vec!["mtime".to_owned(), attribute()]),
                ("new".to_owned(), LATEST, vec![]),
                ("fine".to_owned(), LATEST, vec![attribute()]),
                (long, LATEST, vec![]),
            ]
        );
    }

    #[test]
    fn what_is_old_stays_byte_for_byte() {
        let old = layer(&[("a", LATEST - 1, "1699999999.5"), ("b", 0, "-1.5")]);
        assert_eq!(copied(&old), old);
    }

    #[test]
    fn a_file_too_large_for_its_header_is_copied_whole() {
        let mut header = Header::new_ustar();
        header.set_path("large").unwrap();
        header.set_size(0);
        header.set_mtime(LATEST + 1);
        header.set_cksum();
        let mut pax = Builder::new(Vec::new());
        pax.append_pax_extensions([("size", &b"700"[..])]).unwrap();
        let mut layer = pax.into_inner().unwrap();
        layer.truncate(2 * BLOCK);
        layer.extend_from_slice(header.as_bytes());
        layer.extend_from_slice(&[b'y'; 2 * BLOCK]);
        layer.extend_from_slice(&[0; 2 * BLOCK]);
        let copy = copied(&layer);
        assert_eq!(copy.len(), layer.len());
        assert!(copy.ends_with(&[[b'y'; 2 * BLOCK], [0; 2 * BLOCK]].concat()));
    }

    #[test]
    fn what_is_cut_is_no_layer() {
        let layer = layer(&[("a", 1, "1.5")]);
        for end in [100, BLOCK, 700, 3 * BLOCK + 100] {
            assert!(copy(&mut &layer[..end], &mut Vec::new(), LATEST).is_err(), "cut at {end}");
        }
    }
}
