//! An image as the engine saves it, written anew as it is loaded: the same commit and inputs give the same bytes.
//!
//! Read is what `docker save` writes, before 25.0 and since
//! (<https://github.com/moby/docker-image-spec/blob/main/spec.md>): a manifest that names the file of the configuration and those of the layers,
//! in any order. Written is the older of the two, which every engine loads.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use segue_pipelines::image::{is_after, rfc3339};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, Header};

use super::layer;

pub(super) const BUFFER: usize = 256 * 1024;
/// Bytes that a configuration and its like may have, all together.
pub(super) const MAX_DOCUMENTS: u64 = 32 * 1024 * 1024;
pub(super) const BLOCK: u64 = 512;
/// How a layer that is packed begins: by gzip, by zstd.
const PACKED: [&[u8]; 2] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd]];
/// What of a configuration says where and when it was made, or, of the classic builder, from which image.
const OF_THE_MACHINE: [&str; 3] = ["container", "container_config", "docker_version"];
/// What an image says of what its layers were made from, for `cache-from`.
const INLINE_CACHE: &str = "moby.buildkit.cache.v0";

/// Why an image stays as it was built.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// The layers are kept in another way.
    #[error("the engine keeps layers packed (its store of images is containerd's)")]
    Packed,
    /// It is not what an engine saves, or it can't be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Deserialize)]
pub(super) struct Manifest {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "Layers")]
    pub(super) layers: Vec<String>,
}

/// Reads what an image says of itself, all of which together is to find room.
pub(super) fn read_document(from: &mut impl Read, room: &mut u64) -> io::Result<Vec<u8>> {
    let mut document = Vec::new();
    from.take(*room + 1).read_to_end(&mut document)?;
    let left = room.checked_sub(document.len() as u64);
    *room = left.ok_or_else(|| io::Error::other(format!("it says more than {MAX_DOCUMENTS} bytes of itself")))?;
    Ok(document)
}

/// Reads an image, writes it with no time in it that is newer than `time`, seconds since 1970; the digest of its configuration. `spool` takes
/// one layer after the other.
///
/// # Errors
/// [`Unfit`].
pub(super) fn rewrite(from: impl Read, to: impl Write, time: i64, spool: File) -> Result<String, Unfit> {
    let latest = u64::try_from(time).unwrap_or_default();
    let mut to = Builder::new(BufWriter::with_capacity(BUFFER, to));
    let (mut documents, mut links, mut layers) = (HashMap::new(), HashMap::new(), HashMap::new());
    let mut room = MAX_DOCUMENTS;
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
        let mut begin = Vec::new();
        entry.by_ref().take(BLOCK).read_to_end(&mut begin)?;
        if PACKED.iter().any(|magic| begin.starts_with(magic)) {
            return Err(Unfit::Packed);
        }
        // since 25.0 a file's name does not say what it is
        let is_document = !(is_tar(&begin) && (path.ends_with("/layer.tar") || path.starts_with("blobs/")));
        let mut content = begin.chain(entry);
        if is_document {
            documents.insert(path, read_document(&mut content, &mut room)?);
        } else {
            layers.insert(path, append_layer(&mut to, content, latest, &spool)?);
        }
    }
    let document = |name: &str| {
        let found = documents.get(name).ok_or_else(|| io::Error::other(format!("there is no {name} in it")))?;
        serde_json::from_slice::<Value>(found).map_err(|error| io::Error::other(format!("{name}: {error}")))
    };
    let manifests: Vec<Manifest> = serde_json::from_value(document("manifest.json")?).map_err(io::Error::from)?;
    let [manifest] = manifests.as_slice() else { return Err(io::Error::other("it is not one image").into()) };
    let digests = manifest.layers.iter().map(|path| {
        let path = links.get(path).unwrap_or(path);
        layers.get(path).cloned().ok_or_else(|| io::Error::other(format!("there is no layer {path} in it")))
    });
    let digests: Vec<String> = digests.collect::<io::Result<_>>()?;
    let mut config = document(&manifest.config)?;
    settle(&mut config, &digests, time);
    let config = serde_json::to_vec(&config).map_err(io::Error::from)?;
    let digest = hex::encode(Sha256::digest(&config));
    append(&mut to, &format!("{digest}.json"), config.as_slice(), config.len() as u64)?;
    let files: Vec<String> = digests.iter().map(|digest| layer_file(digest)).collect();
    let manifest = json!([{"Config": format!("{digest}.json"), "RepoTags": null, "Layers": files}]).to_string();
    append(&mut to, "manifest.json", manifest.as_bytes(), manifest.len() as u64)?;
    to.into_inner()?.flush()?;
    Ok(format!("sha256:{digest}"))
}

/// Whether a file that begins so is a tar: an empty one is all zeros.
pub(super) fn is_tar(begin: &[u8]) -> bool {
    begin.len() as u64 == BLOCK && (begin[257..].starts_with(b"ustar") || begin.iter().all(|byte| *byte == 0))
}

/// Writes a layer; its digest.
fn append_layer(
    to: &mut Builder<impl Write>,
    mut content: impl Read,
    latest: u64,
    mut spool: &File,
) -> io::Result<String> {
    spool.set_len(0)?;
    spool.rewind()?;
    let mut hashed = Hashed { hash: Sha256::new(), to: BufWriter::with_capacity(BUFFER, spool) };
    layer::copy(&mut content, &mut hashed, latest)?;
    hashed.to.flush()?;
    let digest = hex::encode(hashed.hash.finalize());
    let bytes = spool.seek(SeekFrom::End(0))?;
    spool.rewind()?;
    append(to, &layer_file(&digest), BufReader::with_capacity(BUFFER, spool), bytes)?;
    Ok(format!("sha256:{digest}"))
}

fn append(to: &mut Builder<impl Write>, path: &str, content: impl Read, bytes: u64) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o644);
    to.append_data(&mut header, path, content)
}

fn layer_file(digest: &str) -> String {
    format!("{}/layer.tar", digest.trim_start_matches("sha256:"))
}

/// Where a link leads that lies at a path.
pub(super) fn beside(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "" | "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Takes out of a configuration what another build of the same would say otherwise.
fn settle(config: &mut Value, layers: &[String], time: i64) {
    let Some(config) = config.as_object_mut() else { return };
    for name in OF_THE_MACHINE {
        config.remove(name);
    }
    if let Some(of_container) = config.get_mut("config").and_then(Value::as_object_mut) {
        // the classic builder names the image before the last step, and the container in which that ran
        of_container.remove("Image");
        of_container.remove("Hostname");
    }
    config.insert("created".into(), rfc3339(time).into());
    config.insert("rootfs".into(), json!({"type": "layers", "diff_ids": layers}));
    for entry in config.get_mut("history").and_then(Value::as_array_mut).into_iter().flatten() {
        clamp(entry, time);
    }
    let cache = config.get(INLINE_CACHE).and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok());
    if let Some(mut cache) = cache.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) {
        clamp(&mut cache, time);
        config.insert(INLINE_CACHE.into(), STANDARD.encode(cache.to_string()).into());
    }
}

/// No time of these is after `time`.
fn clamp(value: &mut Value, time: i64) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| clamp(item, time)),
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_time = matches!(name.as_str(), "created" | "createdAt");
                if is_time && value.as_str().is_some_and(|then| is_after(then, time)) {
                    *value = rfc3339(time).into();
                } else {
                    clamp(value, time);
                }
            }
        }
        _ => {}
    }
}

/// Writes on, and hashes what it writes.
struct Hashed<W> {
    hash: Sha256,
    to: W,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        let written = self.to.write(block)?;
        self.hash.update(&block[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: i64 = 1_700_000_000;

    fn tar(files: &[(&str, Vec<u8>)], links: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for (path, target) in links {
            let mut header = Header::new_gnu();
            header.set_size(0);
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, path, target).unwrap();
        }
        for (path, content) in files {
            append(&mut tar, path, content.as_slice(), content.len() as u64).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn layer(name: &str, time: u64) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        let mut header = Header::new_ustar();
        header.set_size(3);
        header.set_mtime(time);
        tar.append_data(&mut header, name, &b"abc"[..]).unwrap();
        tar.into_inner().unwrap()
    }

    fn config(created: &str) -> Value {
        let cache = STANDARD.encode(json!([{"results": [{"layer": 0, "createdAt": created}]}]).to_string());
        json!({
            "created": created,
            "container": "x",
            "config": {"Image": "sha256:0", "Labels": {"created": "2090"}, "Env": ["A=b"]},
            "history": [{"created": "2001-01-01T00:00:00Z", "created_by": "base"}, {"created": created}],
            "rootfs": {"type": "layers", "diff_ids": []},
            INLINE_CACHE: cache,
        })
    }

    fn rewritten(saved: &[u8]) -> Result<(String, Vec<u8>), Unfit> {
        let mut to = Vec::new();
        let digest = rewrite(saved, &mut to, TIME, tempfile::tempfile().unwrap())?;
        Ok((digest, to))
    }

    /// As 20.10 writes it: one layer is a link to another's.
    fn before(time: u64, created: &str) -> Vec<u8> {
        let manifest =
            json!([{"Config": "c.json", "RepoTags": null, "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"]}]);
        tar(
            &[
                ("1/VERSION", b"1.0".to_vec()),
                ("1/json", b"{}".to_vec()),
                ("1/layer.tar", layer("a", time)),
                ("3/layer.tar", layer("b", time)),
                ("c.json", config(created).to_string().into()),
                ("manifest.json", manifest.to_string().into()),
            ],
            &[("2/layer.tar", "../1/layer.tar")],
        )
    }

    /// The same as it is written since 25.0.
    fn since(time: u64, created: &str) -> Vec<u8> {
        let manifest =
            json!([{"Config": "blobs/sha256/c", "Layers": ["blobs/sha256/1", "blobs/sha256/1", "blobs/sha256/3"]}]);
        tar(
            &[
                ("blobs/sha256/1", layer("a", time)),
                ("blobs/sha256/3", layer("b", time)),
                ("blobs/sha256/c", config(created).to_string().into()),
                ("index.json", b"{}".to_vec()),
                ("oci-layout", b"{}".to_vec()),
                ("manifest.json", manifest.to_string().into()),
            ],
            &[],
        )
    }

    #[test]
    fn two_builds_at_two_times_are_one_image() {
        let (digest, bytes) = rewritten(&before(1_800_000_000, "2027-01-15T08:00:00.123456789Z")).unwrap();
        let again = rewritten(&before(1_900_000_000, "2030-03-17T17:46:40Z")).unwrap();
        assert_eq!(digest, again.0);
        assert!(bytes == again.1, "the bytes that are loaded");
        assert_eq!(rewritten(&since(1_850_000_000, "2028-08-16T00:00:00Z")).unwrap().0, digest);
        let mut files = HashMap::new();
        for entry in Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), content);
        }
        let manifest: Vec<Manifest> = serde_json::from_slice(&files["manifest.json"]).unwrap();
        let config: Value = serde_json::from_slice(&files[&manifest[0].config]).unwrap();
        let digests: Vec<String> = manifest[0]
            .layers
            .iter()
            .map(|layer| format!("sha256:{}", hex::encode(Sha256::digest(&files[layer]))))
            .collect();
        assert_eq!(config["rootfs"]["diff_ids"], json!(digests));
        assert_eq!((&digests[0], digests.len()), (&digests[1], 3));
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        assert_eq!(config["history"][0]["created"], "2001-01-01T00:00:00Z", "what is old stays");
        assert_eq!(config["config"]["Labels"]["created"], "2090", "what the pipeline says stays");
        assert_eq!(config["config"]["Env"], json!(["A=b"]));
    }

    #[test]
    fn another_file_is_another_image() {
        let other = before(1_800_000_000, "2027-01-15T08:00:00Z");
        let mut changed = other.clone();
        let at = changed.windows(3).position(|bytes| bytes == b"abc").unwrap();
        changed[at] = b'x';
        assert_ne!(rewritten(&other).unwrap().0, rewritten(&changed).unwrap().0);
    }

    #[test]
    fn what_can_not_be_written_anew_is_told() {
        let packed = tar(&[("blobs/sha256/1", [&[0x1f, 0x8b, 8][..], &[0; 600]].concat())], &[]);
        assert!(matches!(rewritten(&packed), Err(Unfit::Packed)));
        let cut = &before(1, "2027-01-15T08:00:00Z")[..3000];
        assert!(matches!(rewritten(cut), Err(Unfit::Io(_))));
        let none = tar(&[("manifest.json", b"[]".to_vec())], &[]);
        assert!(rewritten(&none).unwrap_err().to_string().contains("not one image"));
    }
}
