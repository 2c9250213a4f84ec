//! Which files of an image tell of packages, and what they say.

use super::{Distribution, Kind, MAX_TOLD, Package, Told};

/// The longest name, version or licence, in characters.
const MAX_TEXT: usize = 500;
const MIB: u64 = 1024 * 1024;

/// A file that tells of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The most bytes of it that are read.
    pub most: u64,
    /// Whether a longer one is of no use: where it is not, what it begins with says enough.
    pub is_whole: bool,
    pub(super) source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// <https://www.debian.org/doc/debian-policy/ch-controlfields.html>
    Dpkg,
    /// <https://wiki.alpinelinux.org/wiki/Apk_spec>
    Apk,
    /// <https://www.freedesktop.org/software/systemd/man/latest/os-release.html>
    Release,
    /// <https://packaging.python.org/en/latest/specifications/core-metadata/>
    Python,
    /// <https://docs.npmjs.com/cli/configuring-npm/package-json>
    Npm,
}

/// What a file is, by its path from the root.
#[must_use]
pub fn wanted(path: &str) -> Option<Wanted> {
    let of = |source, most, is_whole| Some(Wanted { most, is_whole, source });
    let path = super::plain(path);
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
    match (folder, name) {
        ("var/lib/dpkg", "status") => of(Source::Dpkg, 128 * MIB, true),
        ("var/lib/dpkg/status.d", name) if !name.ends_with(".md5sums") => of(Source::Dpkg, MIB, true),
        ("lib/apk/db" | "usr/lib/apk/db", "installed") => of(Source::Apk, 128 * MIB, true),
        ("etc" | "usr/lib", "os-release") => of(Source::Release, MIB, false),
        (folder, "METADATA") if folder.ends_with(".dist-info") => of(Source::Python, MIB, false),
        (folder, "PKG-INFO") if folder.ends_with(".egg-info") => of(Source::Python, MIB, false),
        (folder, "package.json") => {
            let (above, last) = folder.rsplit_once('/')?;
            let (above, is_scope) = match above.rsplit_once('/') {
                Some((above, scope)) if scope.starts_with('@') => (above, true),
                None if above.starts_with('@') => return None,
                _ => (above, false),
            };
            let is_package = above == "node_modules" || above.ends_with("/node_modules");
            (is_package && (is_scope || !last.starts_with('@'))).then_some(())?;
            of(Source::Npm, 4 * MIB, true)
        }
        _ => None,
    }
}

pub(super) fn told(source: Source, text: &str) -> Told {
    match source {
        Source::Dpkg => {
            Told::Packages(stanzas(text).filter_map(|fields| of_dpkg(&fields)).take(MAX_TOLD + 1).collect())
        }
        Source::Apk => Told::Packages(stanzas(text).filter_map(|fields| of_apk(&fields)).take(MAX_TOLD + 1).collect()),
        Source::Python => Told::Packages(stanzas(text).take(1).filter_map(|fields| of_python(&fields)).collect()),
        Source::Npm => Told::Packages(of_npm(text).into_iter().collect()),
        Source::Release => release(text).map_or_else(|| Told::Packages(Vec::new()), Told::Distribution),
    }
}

type Fields<'t> = Vec<(&'t str, &'t str)>;

/// Blocks of `NAME: value` between empty lines. A line that goes on with the one before says nothing that is looked for.
fn stanzas(text: &str) -> impl Iterator<Item = Fields<'_>> {
    let mut lines = text.lines().map(|line| line.strip_suffix('\r').unwrap_or(line));
    std::iter::from_fn(move || {
        let first = lines.by_ref().find(|line| !line.trim().is_empty())?;
        let rest = lines.by_ref().take_while(|line| !line.trim().is_empty());
        let named = |line: &str| !line.starts_with([' ', '\t']);
        let fields = std::iter::once(first).chain(rest).filter(|line| named(line));
        Some(fields.filter_map(|line| line.split_once(':')).collect())
    })
}

fn field(fields: &Fields<'_>, name: &str) -> Option<String> {
    let found = fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.and_then(|(_, value)| clean(value))
}

/// A text without what is none; `None`: nothing is left.
fn clean(text: &str) -> Option<String> {
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn of_dpkg(fields: &Fields<'_>) -> Option<Package> {
    // what was removed and has left its settings is not there
    let status = field(fields, "Status");
    if status.is_some_and(|status| status.split_whitespace().nth(2) != Some("installed")) {
        return None;
    }
    Some(Package {
        kind: Kind::Deb,
        name: field(fields, "Package")?,
        version: field(fields, "Version")?,
        architecture: field(fields, "Architecture"),
        license: None,
    })
}

fn of_apk(fields: &Fields<'_>) -> Option<Package> {
    // `P` and `p` are two
    let exact = |name: &str| fields.iter().find(|(known, _)| *known == name).and_then(|(_, value)| clean(value));
    Some(Package {
        kind: Kind::Apk,
        name: exact("P")?,
        version: exact("V")?,
        architecture: exact("A"),
        license: exact("L"),
    })
}

fn of_python(fields: &Fields<'_>) -> Option<Package> {
    let license = field(fields, "License-Expression").or_else(|| field(fields, "License"));
    Some(Package {
        kind: Kind::Python,
        name: field(fields, "Name")?,
        version: field(fields, "Version")?,
        architecture: None,
        license: license.filter(|license| license != "UNKNOWN"),
    })
}

fn of_npm(text: &str) -> Option<Package> {
    // a package may hold examples of broken ones
    let package: serde_json::Value = serde_json::from_str(text).ok()?;
    let text = |name: &str| package.get(name).and_then(serde_json::Value::as_str).and_then(clean);
    Some(Package {
        kind: Kind::Npm,
        name: text("name")?,
        version: text("version")?,
        architecture: None,
        license: text("license"),
    })
}

fn release(text: &str) -> Option<Distribution> {
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.trim().split_once('='));
        let (_, value) = lines.find(|(known, _)| *known == name)?;
        clean(value.trim().trim_matches(['"', '\'']))
    };
    Some(Distribution { id: value("ID")?, version: value("VERSION_ID").unwrap_or_default() })
}

/// Where a package's name says whose it is: `@scope/name`.
pub(super) fn scope(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((scope, name)) => (Some(scope), name),
        None => (None, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expected: &[&str]) {
        let Some(Wanted { source, .. }) = wanted(path) else { panic!("{path} is not looked at") };
        let Told::Packages(packages) = told(source, text) else { panic!("{path} tells of no packages") };
        let shown = |package: &Package| {
            let of = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("{} {} [{}] {}", package.name, package.version, of(&package.architecture), of(&package.license))
        };
        assert_eq!(packages.iter().map(shown).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn packages_are_read_from_what_tells_of_them() {
        let dpkg = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\nVersion: 2.41-12\nDescription: C\n more\n Version: 9\n\n\
                    Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: half\nStatus: install ok unpacked\nVersion: 1\n\n\
                    Version: 3\n\nPackage: nothing\n";
        check("var/lib/dpkg/status", dpkg, &["libc6 2.41-12 [amd64] "]);
        check("/var/lib/dpkg/status.d/tzdata", "Package: tzdata\r\nVersion: 2026a-1\r\n", &["tzdata 2026a-1 [] "]);
        let apk = "C:Q1abc=\nP:musl\nV:1.2.5-r9\nA:x86_64\nL:MIT\np:so:libc.musl=1\n\n\nP:busybox\nV:1.37\nA:x86_64\n";
        check("lib/apk/db/installed", apk, &["musl 1.2.5-r9 [x86_64] MIT", "busybox 1.37 [x86_64] "]);
        let python = "Metadata-Version: 2.4\nName: Flask\nVersion: 3.1.0\nLicense-Expression: BSD-3-Clause\n\n# Flask\n\nName: no\nVersion: 0\n";
        check("usr/lib/python3/dist-packages/flask-3.1.0.dist-info/METADATA", python, &["Flask 3.1.0 [] BSD-3-Clause"]);
        check("x/y.egg-info/PKG-INFO", "Name: y\nVersion: 1\nLicense: UNKNOWN\n", &["y 1 [] "]);
        let npm = r#"{"name":"@types/node","version":"22.0.0","license":"MIT"}"#;
        check("app/node_modules/@types/node/package.json", npm, &["@types/node 22.0.0 [] MIT"]);
        check(
            "node_modules/a/node_modules/b/package.json",
            r#"{"name":"b","version":"1","license":{"type":"MIT"}}"#,
            &["b 1 [] "],
        );
        for broken in ["", "{", "[]", r#"{"name":"b"}"#, r#"{"name":7,"version":"1"}"#, r#"{"name":" ","version":"1"}"#]
        {
            check("node_modules/b/package.json", broken, &[]);
        }
    }

    #[test]
    fn nothing_else_is_looked_at() {
        for path in [
            "var/lib/dpkg/status-old",
            "var/lib/dpkg/status.d/tzdata.md5sums",
            "x/var/lib/dpkg/status",
            "package.json",
            "app/package.json",
            "node_modules/package.json",
            "node_modules/@types/package.json",
            "node_modules/a/lib/package.json",
            "METADATA",
            "etc/os-release/x",
        ] {
            assert_eq!(wanted(path), None, "{path}");
        }
    }

    #[test]
    fn a_distribution_says_what_it_is() {
        let Told::Distribution(found) = told(Source::Release, "NAME=\"Debian\"\nVERSION_ID=\"13\"\nID=debian\n") else {
            panic!()
        };
        assert_eq!((found.id.as_str(), found.version.as_str()), ("debian", "13"));
        assert!(matches!(told(Source::Release, "NAME=x\n"), Told::Packages(none) if none.is_empty()));
    }
}
