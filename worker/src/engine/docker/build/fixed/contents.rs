//! What is in an image, read from what the engine saves of it: the files of its layers that tell of packages, and nothing else of them. An
//! image may hold anything: every length that it names has a bound here.

use std::{
    collections::HashMap,
    io::{self, BufReader, Read},
};

use segue_pipelines::sbom::{Inventory, Layer, MAX_TOLD, wanted};
use tar::{Archive, Header};

use super::{
    layer::{BLOCK, SPARSE_GOES_ON, has_content, read_block, read_extended, records},
    saved::{BLOCK as HEAD, BUFFER, MAX_DOCUMENTS, Manifest, beside, is_tar, read_document},
};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// The most layers of an image: an engine makes no more than 127.
const MAX_LAYERS: usize = 1024;
/// How much more a layer may be than the bytes that it is packed in, and what any may be.
const MAX_RATIO: u64 = 4096;
const MAX_UNPACKED: u64 = 1024 * 1024 * 1024 * 1024;

/// Reads an image as `docker save` writes it, whether its layers are packed or not.
///
/// # Errors
/// It is no image, or more than there is room for.
pub(super) fn read(from: impl Read) -> io::Result<Inventory> {
    let (mut documents, mut links, mut layers) = (HashMap::new(), HashMap::new(), HashMap::new());
    let (mut room, mut told) = (MAX_DOCUMENTS, 0);
    for entry in Archive::new(BufReader::with_capacity(BUFFER, from)).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        if let Some(target) = entry.link_name()? {
            links.insert(path.clone(), beside(&path, &target.to_string_lossy()));
            continue;
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let bytes = entry.size();
        let mut begin = Vec::new();
        entry.by_ref().take(HEAD).read_to_end(&mut begin)?;
        let (is_gzip, is_zstd) = (begin.starts_with(GZIP), begin.starts_with(ZSTD));
        let is_layer =
            is_gzip || is_zstd || is_tar(&begin) && (path.ends_with("/layer.tar") || path.starts_with("blobs/"));
        let mut content = begin.chain(entry);
        if !is_layer {
            documents.insert(path, read_document(&mut content, &mut room)?);
            continue;
        }
        if layers.len() >= MAX_LAYERS {
            return Err(io::Error::other(format!("it has more than {MAX_LAYERS} layers")));
        }
        let most = bytes.saturating_mul(MAX_RATIO).min(MAX_UNPACKED);
        let layer = if is_gzip {
            of_layer(flate2::read::MultiGzDecoder::new(content).take(most))
        } else if is_zstd {
            of_layer(zstd::Decoder::new(content)?.take(most))
        } else {
            of_layer(content)
        };
        let layer = layer.map_err(|error| io::Error::other(format!("its layer {path}: {error}")))?;
        told += layer.told();
        if told > MAX_TOLD {
            return Err(io::Error::other(format!(
                "its layers tell of more than {MAX_TOLD} packages and removed files"
            )));
        }
        layers.insert(path, layer);
    }
    let manifest = documents.get("manifest.json").ok_or_else(|| io::Error::other("there is no manifest.json in it"))?;
    let manifests: Vec<Manifest> = serde_json::from_slice(manifest)?;
    let [manifest] = manifests.as_slice() else { return Err(io::Error::other("it is not one image")) };
    let of_image = manifest.layers.iter().map(|path| {
        let path = links.get(path).unwrap_or(path);
        layers.get(path).ok_or_else(|| io::Error::other(format!("there is no layer {path} in it")))
    });
    let of_image: Vec<&Layer> = of_image.collect::<io::Result<_>>()?;
    Inventory::of(of_image).map_err(io::Error::other)
}

/// Reads a layer's tar: the formats are those that `layer.rs` names.
fn of_layer(from: impl Read) -> io::Result<Layer> {
    let mut from = BufReader::with_capacity(BUFFER, from);
    let mut layer = Layer::default();
    // what the next entry's further headers say
    let (mut told_path, mut told_size) = (None, None);
    while let Some(block) = read_block(&mut from)? {
        if block.iter().all(|byte| *byte == 0) {
            break;
        }
        let header = Header::from_byte_slice(&block);
        let kind = header.entry_type();
        if kind.is_pax_global_extensions() {
            read_extended(&mut from, header.entry_size()?)?;
            continue;
        }
        if kind.is_pax_local_extensions() {
            for (name, value) in records(&read_extended(&mut from, header.entry_size()?)?)? {
                let text = String::from_utf8_lossy(&value);
                match name.as_slice() {
                    b"path" => told_path = Some(text.into_owned()),
                    b"size" => told_size = Some(text.parse().map_err(io::Error::other)?),
                    _ => {}
                }
            }
            continue;
        }
        if kind.is_gnu_longname() || kind.is_gnu_longlink() {
            let body = read_extended(&mut from, header.entry_size()?)?;
            if kind.is_gnu_longname() {
                told_path = Some(String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned());
            }
            continue;
        }
        let path = told_path.take().unwrap_or_else(|| String::from_utf8_lossy(&header.path_bytes()).into_owned());
        let size: u64 = told_size.take().map_or_else(|| header.entry_size(), Ok)?;
        if kind.is_gnu_sparse() {
            let mut goes_on = block[SPARSE_GOES_ON[0]] != 0;
            while goes_on {
                let map = read_block(&mut from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                goes_on = map[SPARSE_GOES_ON[1]] != 0;
            }
        }
        let whole = if has_content(kind) {
            size.checked_next_multiple_of(BLOCK as u64).ok_or(io::ErrorKind::InvalidData)?
        } else {
            0
        };
        let looked_at = wanted(&path).filter(|_| kind.is_file());
        let looked_at = looked_at.filter(|wanted| size <= wanted.most || !wanted.is_whole);
        let mut rest = from.by_ref().take(whole);
        match looked_at {
            Some(wanted) => {
                let mut content = Vec::new();
                rest.by_ref().take(size.min(wanted.most)).read_to_end(&mut content)?;
                layer.file(&path, &content).map_err(io::Error::other)?;
            }
            None => layer.pass(&path).map_err(io::Error::other)?,
        }
        io::copy(&mut rest, &mut io::sink())?;
        if rest.limit() > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    // what a packed one has behind its end is read for its checksum
    io::copy(&mut from, &mut io::sink())?;
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde_json::{Value, json};
    use tar::Builder;

    use super::*;

    const STATUS: &str = "Package: a\nStatus: install ok installed\nVersion: 1\n";

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, *content).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn names(layers: &[Vec<u8>]) -> io::Result<Vec<String>> {
        let paths: Vec<String> = (0..layers.len()).map(|n| format!("blobs/sha256/{n}")).collect();
        let manifest: Value = json!([{"Config": "c.json", "RepoTags": null, "Layers": paths}]);
        let manifest = manifest.to_string();
        let mut files = vec![("manifest.json", manifest.as_bytes()), ("c.json", &b"{}"[..])];
        files.extend(paths.iter().map(String::as_str).zip(layers.iter().map(Vec::as_slice)));
        let inventory = read(tar(&files).as_slice())?;
        Ok(inventory.packages.into_keys().map(|package| package.name).collect())
    }

    #[test]
    fn layers_are_read_however_they_are_packed() {
        let long = format!("{}/node_modules/b/package.json", "deep/".repeat(60));
        let npm: &[u8] = br#"{"name":"b","version":"2"}"#;
        let plain = tar(&[("other", &[7; 5000]), ("./var/lib/dpkg/status", STATUS.as_bytes()), (&long, npm)]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for layer in [plain.clone(), gzip.finish().unwrap(), zstd] {
            assert_eq!(names(std::slice::from_ref(&layer)).unwrap(), ["a", "b"]);
            let gone = tar(&[("var/lib/dpkg/.wh.status", b"")]);
            assert_eq!(names(&[layer, gone]).unwrap(), ["b"]);
        }
        assert_eq!(names(&[tar(&[])]).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_image_is_told() {
        let plain = tar(&[("other", &[7; 5000])]);
        assert!(names(&[plain[..2000].to_vec()]).is_err(), "it is cut off");
        let none = read(tar(&[("manifest.json", b"[]")]).as_slice()).unwrap_err().to_string();
        assert!(none.contains("not one image"), "{none}");
        let absent = tar(&[("manifest.json", br#"[{"Config":"c","Layers":["x/layer.tar"]}]"#)]);
        let absent = read(absent.as_slice()).unwrap_err().to_string();
        assert!(absent.contains("no layer x/layer.tar"), "{absent}");
        // little that is packed is not unpacked without end
        let bomb = zstd::encode_all(tar(&[("zeros", &vec![0; 64 << 20])]).as_slice(), 19).unwrap();
        assert!(bomb.len() < 1 << 14 && names(&[bomb]).is_err());
    }

    #[test]
    fn a_list_too_long_to_be_read_is_none() {
        let long = vec![b' '; 5 << 20];
        assert_eq!(names(&[tar(&[("node_modules/b/package.json", &long)])]).unwrap(), [""; 0]);
        let mut python = b"Name: p\nVersion: 1\n\n".to_vec();
        python.resize(3 << 20, b'x');
        assert_eq!(
            names(&[tar(&[("p.dist-info/METADATA", &python)])]).unwrap(),
            ["p"],
            "what it begins with is enough"
        );
    }
}
