//! What is in an image: the packages that its files tell of, and that list as a bill of materials.
//!
//! Comes in: the files of an image's layers that tell of packages, in the order of the layers. Goes out: the packages, and a document in
//! CycloneDX's form or SPDX's. Never here: reading an image, times, digests; a package that no file tells of.
//!
//! The same layers give the same bytes. What is read is the image's own and may be anything: what has no name or no version is no
//! package, and every length has a bound.

mod read;
mod write;

use std::collections::{BTreeMap, BTreeSet};

pub use read::{Wanted, wanted};
pub use write::{Document, Form};

/// The most packages of an image.
const MAX_PACKAGES: usize = 100_000;
/// The most that all layers of an image may tell: packages, and files that they take away.
pub const MAX_TOLD: usize = 500_000;
/// The longest path: no system has a longer one.
const MAX_PATH: usize = 4096;

/// Who made a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// dpkg.
    Deb,
    /// apk.
    Apk,
    /// Python's distributions.
    Python,
    /// npm.
    Npm,
}

/// A package that is in an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Who made it.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for, where that is told.
    pub architecture: Option<String>,
    /// Its licence in its own words.
    pub license: Option<String>,
}

/// The distribution that an image is of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distribution {
    /// `debian`.
    pub id: String,
    /// `13`; empty where it has none.
    pub version: String,
}

#[derive(Debug, Clone)]
enum Told {
    Packages(Vec<Package>),
    Distribution(Distribution),
}

/// What a layer tells, and what of the layers below it takes away.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    told: BTreeMap<String, Told>,
    /// All that were read, those as well whose file was replaced.
    packages: usize,
    gone: BTreeSet<String>,
    /// Directories of which nothing of the layers below is left.
    hidden: BTreeSet<String>,
}

/// An image has more of something than is listed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it has more than {0} {1}, and so many are not listed")]
pub struct TooMany(usize, &'static str);

impl Layer {
    /// Notes an entry of which nothing is read: what takes something away is known by its name
    /// (<https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts>), and what is no file hides one of its name below.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn pass(&mut self, path: &str) -> Result<(), TooMany> {
        if path.len() > MAX_PATH {
            return Ok(());
        }
        let path = plain(path);
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if name == ".wh..wh..opq" {
            self.hidden.insert(folder.to_owned());
        } else if let Some(name) = name.strip_prefix(".wh.") {
            self.gone.insert(join(folder, name));
        } else if wanted(&path).is_some() {
            self.told.remove(&path);
            self.gone.insert(path);
        }
        self.is_within_bounds()
    }

    /// Notes a file that is [`wanted`].
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn file(&mut self, path: &str, content: &[u8]) -> Result<(), TooMany> {
        let path = plain(path);
        let Some(Wanted { source, .. }) = wanted(&path).filter(|_| path.len() <= MAX_PATH) else { return Ok(()) };
        let told = read::told(source, &String::from_utf8_lossy(content));
        if let Told::Packages(packages) = &told {
            self.packages += packages.len();
        }
        self.told.insert(path, told);
        self.is_within_bounds()
    }

    /// How much it tells.
    #[must_use]
    pub fn told(&self) -> usize {
        self.packages + self.told.len() + self.gone.len() + self.hidden.len()
    }

    fn is_within_bounds(&self) -> Result<(), TooMany> {
        if self.told() > MAX_TOLD { Err(TooMany(MAX_TOLD, "packages and removed files in a layer")) } else { Ok(()) }
    }
}

/// What is in an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Its distribution, where it says one.
    pub distribution: Option<Distribution>,
    /// Its packages, each with the files that tell of it.
    pub packages: BTreeMap<Package, BTreeSet<String>>,
}

impl Inventory {
    /// What is left of layers, the lowest first.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn of<'l>(layers: impl IntoIterator<Item = &'l Layer>) -> Result<Self, TooMany> {
        let mut left: BTreeMap<&str, &Told> = BTreeMap::new();
        for layer in layers {
            let is_in =
                |set: &BTreeSet<String>, path: &str| path.match_indices('/').any(|(at, _)| set.contains(&path[..at]));
            let is_all_hidden = layer.hidden.contains("");
            left.retain(|path, _| {
                let is_gone = layer.gone.contains(*path) || is_in(&layer.gone, path);
                !is_all_hidden && !is_gone && !is_in(&layer.hidden, path)
            });
            left.extend(layer.told.iter().map(|(path, told)| (path.as_str(), told)));
        }
        let mut inventory = Self::default();
        for (path, told) in left {
            match told {
                // `/etc` comes before `/usr/lib`
                Told::Distribution(distribution) => {
                    inventory.distribution.get_or_insert_with(|| distribution.clone());
                }
                Told::Packages(packages) => {
                    for package in packages {
                        inventory.packages.entry(package.clone()).or_default().insert(path.to_owned());
                    }
                }
            }
            if inventory.packages.len() > MAX_PACKAGES {
                return Err(TooMany(MAX_PACKAGES, "packages"));
            }
        }
        Ok(inventory)
    }
}

/// A path as layers name it, without what says nothing.
fn plain(path: &str) -> String {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layer(files: &[(&str, &str)], others: &[&str]) -> Layer {
        let mut layer = Layer::default();
        others.iter().for_each(|path| layer.pass(path).unwrap());
        files.iter().for_each(|(path, content)| layer.file(path, content.as_bytes()).unwrap());
        layer
    }

    fn names(layers: &[Layer]) -> Vec<String> {
        let inventory = Inventory::of(layers).unwrap();
        inventory.packages.keys().map(|package| format!("{} {}", package.name, package.version)).collect()
    }

    const DPKG: &str = "var/lib/dpkg/status";
    const TWO: &str = "Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nVersion: 2\n";

    #[test]
    fn what_a_layer_takes_away_is_not_listed() {
        let npm = |name: &str| {
            (format!("app/node_modules/{name}/package.json"), format!(r#"{{"name":"{name}","version":"1"}}"#))
        };
        let (x, y) = (npm("x"), npm("y"));
        let below = layer(&[(DPKG, TWO), (&x.0, &x.1), (&y.0, &y.1)], &[]);
        assert_eq!(names(std::slice::from_ref(&below)), ["a 1", "b 2", "x 1", "y 1"]);
        // a package is removed: its list is another
        let later = layer(&[(DPKG, "Package: a\nVersion: 1\n")], &[]);
        assert_eq!(names(&[below.clone(), later.clone()]), ["a 1", "x 1", "y 1"]);
        assert_eq!(names(&[later, below.clone()]), ["a 1", "b 2", "x 1", "y 1"], "the order counts");
        for (gone, left) in [
            (&["./app/node_modules/.wh.x"][..], &["a 1", "b 2", "y 1"][..]),
            (&["app/.wh.node_modules"], &["a 1", "b 2"]),
            (&["app/node_modules/.wh..wh..opq"], &["a 1", "b 2"]),
            (&[".wh..wh..opq"], &[]),
            (&["app/node_modules/.wh.xy", "app/node_modules/other"], &["a 1", "b 2", "x 1", "y 1"]),
            // a link in the place of the list
            (&[DPKG], &["x 1", "y 1"]),
        ] {
            assert_eq!(names(&[below.clone(), layer(&[], gone)]), left, "{gone:?}");
        }
        // what is there again
        let again = layer(&[(&x.0, &x.1)], &["app/node_modules/.wh..wh..opq"]);
        assert_eq!(names(&[below, again]), ["a 1", "b 2", "x 1"]);
    }

    proptest! {
        #[test]
        fn anything_may_stand_in_an_image(
            path in prop::sample::select(vec![
                DPKG, "lib/apk/db/installed", "etc/os-release", "x/a.dist-info/METADATA", "node_modules/@a/b/package.json",
            ]),
            content in prop::collection::vec(any::<u8>(), 0..300),
            lines in "((Package|P|Name|V|Version|Status|A|ID|VERSION_ID)[:=] ?.{0,12}\n|\n| .{0,5}\n){0,12}",
        ) {
            for content in [content.as_slice(), lines.as_bytes()] {
                let mut layer = Layer::default();
                layer.file(path, content).unwrap();
                let inventory = Inventory::of([&layer]).unwrap();
                for package in inventory.packages.keys() {
                    prop_assert!(!package.name.is_empty() && !package.version.is_empty());
                    prop_assert!(!package.name.contains(char::is_control) && !package.version.contains(char::is_control));
                }
                for form in [Form::CycloneDx, Form::Spdx] {
                    let document = Document { image: "sha256:0", name: "x", time: "2026-01-01T00:00:00Z", version: "1", serial: [7; 16] };
                    prop_assert_eq!(document.write(form, &inventory), document.write(form, &inventory));
                }
            }
        }
    }
}
