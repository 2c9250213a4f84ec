//! The list as a document: CycloneDX 1.6 (<https://cyclonedx.org/docs/1.6/json/>), SPDX 2.3 (<https://spdx.github.io/spdx-spec/v2.3/>).
//! Packages are named by their package URL (<https://github.com/package-url/purl-spec>).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Distribution, Inventory, Kind, Package, read::scope};

/// The most files that are named as telling of one package.
const MAX_PLACES: usize = 100;
const NOTHING: &str = "NOASSERTION";

/// What a document is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// CycloneDX, in JSON.
    CycloneDx,
    /// SPDX, in JSON.
    Spdx,
}

impl Form {
    /// What such a file is called.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::CycloneDx => "sbom.cdx.json",
            Self::Spdx => "sbom.spdx.json",
        }
    }
}

/// What a document says beside the packages.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    /// The digest of the image's configuration.
    pub image: &'a str,
    /// What it is called.
    pub name: &'a str,
    /// When it was made, in RFC 3339: the commit's time.
    pub time: &'a str,
    /// The version of who writes.
    pub version: &'a str,
    /// What no other document has.
    pub serial: [u8; 16],
}

impl Document<'_> {
    /// The document. The same inventory gives the same bytes.
    #[must_use]
    pub fn write(&self, form: Form, inventory: &Inventory) -> String {
        let document = match form {
            Form::CycloneDx => self.cyclone_dx(inventory),
            Form::Spdx => self.spdx(inventory),
        };
        format!("{document:#}\n")
    }

    fn cyclone_dx(&self, inventory: &Inventory) -> Value {
        let system = inventory.distribution.iter().map(|distribution| {
            let mut system = json!({
                "type": "operating-system",
                "bom-ref": format!("os:{}", distribution.id),
                "name": distribution.id,
            });
            if !distribution.version.is_empty() {
                system["version"] = distribution.version.as_str().into();
            }
            system
        });
        let packages = named(inventory).map(|(package, url, places)| {
            let occurrences: Vec<Value> =
                places.iter().take(MAX_PLACES).map(|place| json!({"location": place})).collect();
            let mut component = json!({
                "type": "library",
                "bom-ref": url,
                "name": scope_of(package).1,
                "version": package.version,
                "purl": url,
                "evidence": {"occurrences": occurrences},
            });
            if let Some(group) = scope_of(package).0 {
                component["group"] = group.into();
            }
            if let Some(license) = &package.license {
                component["licenses"] = json!([{"license": {"name": license}}]);
            }
            component
        });
        json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": format!("urn:uuid:{}", self.uuid()),
            "version": 1,
            "metadata": {
                "timestamp": self.time,
                "tools": {"components": [{"type": "application", "name": "segue", "version": self.version}]},
                "component": {"type": "container", "bom-ref": self.image, "name": self.name, "version": self.image},
            },
            "components": system.chain(packages).collect::<Vec<_>>(),
        })
    }

    fn spdx(&self, inventory: &Inventory) -> Value {
        let image = json!({
            "SPDXID": "SPDXRef-Image",
            "name": self.name,
            "versionInfo": self.image,
            "primaryPackagePurpose": "CONTAINER",
            "downloadLocation": NOTHING,
            "filesAnalyzed": false,
            "licenseConcluded": NOTHING,
            "licenseDeclared": NOTHING,
            "copyrightText": NOTHING,
        });
        let system = inventory.distribution.iter().map(|distribution| {
            let mut system = json!({
                "SPDXID": "SPDXRef-System",
                "name": distribution.id,
                "primaryPackagePurpose": "OPERATING-SYSTEM",
                "downloadLocation": NOTHING,
                "filesAnalyzed": false,
                "licenseConcluded": NOTHING,
                "licenseDeclared": NOTHING,
                "copyrightText": NOTHING,
            });
            if !distribution.version.is_empty() {
                system["versionInfo"] = distribution.version.as_str().into();
            }
            system
        });
        let packages = named(inventory).enumerate().map(|(number, (package, url, places))| {
            let places: Vec<&str> = places.iter().take(MAX_PLACES).map(String::as_str).collect();
            let mut one = json!({
                "SPDXID": format!("SPDXRef-Package-{}", number + 1),
                "name": package.name,
                "versionInfo": package.version,
                "downloadLocation": NOTHING,
                "filesAnalyzed": false,
                "licenseConcluded": NOTHING,
                "licenseDeclared": NOTHING,
                "copyrightText": NOTHING,
                "sourceInfo": format!("told of by {}", places.join(", ")),
                "externalRefs": [{
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": url,
                }],
            });
            // its own words are not always an expression
            if let Some(license) = &package.license {
                one["licenseComments"] = format!("The package says: {license}").into();
            }
            one
        });
        let contained: Vec<Value> = system.chain(packages).collect();
        let relation = |from: &str, kind: &str, to: &Value| json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to});
        let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", &image["SPDXID"])];
        relations.extend(contained.iter().map(|one| relation("SPDXRef-Image", "CONTAINS", &one["SPDXID"])));
        json!({
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": self.name,
            "documentNamespace": format!("urn:uuid:{}", self.uuid()),
            "creationInfo": {"created": self.time, "creators": [format!("Tool: segue-{}", self.version)]},
            "packages": std::iter::once(image).chain(contained).collect::<Vec<_>>(),
            "relationships": relations,
        })
    }

    /// A UUID of version 8 (<https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-8>).
    fn uuid(&self) -> String {
        let mut bytes = self.serial;
        bytes[6] = (bytes[6] & 0x0f) | 0x80;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }
}

/// Every package once, with its URL: of two that differ in their licence alone, the first.
fn named(inventory: &Inventory) -> impl Iterator<Item = (&Package, String, &BTreeSet<String>)> {
    let mut known = BTreeSet::new();
    let all = inventory
        .packages
        .iter()
        .map(|(package, places)| (package, package_url(package, inventory.distribution.as_ref()), places));
    all.filter(move |(_, url, _)| known.insert(url.clone()))
}

fn scope_of(package: &Package) -> (Option<&str>, &str) {
    if package.kind == Kind::Npm { scope(&package.name) } else { (None, &package.name) }
}

fn package_url(package: &Package, distribution: Option<&Distribution>) -> String {
    let system = |default: &str| distribution.map_or(default, |it| it.id.as_str()).to_lowercase();
    let (kind, namespace, name) = match package.kind {
        Kind::Deb => ("deb", Some(system("debian")), package.name.to_lowercase()),
        Kind::Apk => ("apk", Some(system("alpine")), package.name.to_lowercase()),
        Kind::Python => ("pypi", None, package.name.to_lowercase().replace('_', "-")),
        Kind::Npm => {
            let (scope, name) = scope(&package.name);
            ("npm", scope.map(str::to_owned), name.to_owned())
        }
    };
    let namespace = namespace.map(|namespace| encoded(&namespace) + "/").unwrap_or_default();
    let mut qualifiers = Vec::new();
    if matches!(package.kind, Kind::Deb | Kind::Apk) {
        qualifiers.extend(package.architecture.as_ref().map(|one| format!("arch={}", encoded(one))));
        let version = |it: &Distribution| {
            let dash = if it.version.is_empty() { "" } else { "-" };
            format!("distro={}", encoded(&format!("{}{dash}{}", it.id, it.version)))
        };
        qualifiers.extend(distribution.map(version));
    }
    let mark = if qualifiers.is_empty() { "" } else { "?" };
    format!("pkg:{kind}/{namespace}{}@{}{mark}{}", encoded(&name), encoded(&package.version), qualifiers.join("&"))
}

fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::{super::Layer, *};

    fn inventory() -> Inventory {
        let mut layer = Layer::default();
        for (path, content) in [
            ("etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n"),
            ("var/lib/dpkg/status", "Package: g++\nVersion: 4:14.2.0-1+b1\nArchitecture: amd64\n"),
            ("x/Flask_Login-1.dist-info/METADATA", "Name: Flask_Login\nVersion: 0.6.3\nLicense: MIT\n"),
            ("node_modules/@types/node/package.json", r#"{"name":"@types/node","version":"22.0.0","license":"MIT"}"#),
            ("a/node_modules/@types/node/package.json", r#"{"name":"@types/node","version":"22.0.0","license":"MIT"}"#),
        ] {
            layer.file(path, content.as_bytes()).unwrap();
        }
        Inventory::of([&layer]).unwrap()
    }

    const DOCUMENT: Document<'_> = Document {
        image: "sha256:abc",
        name: "registry.example/shop",
        time: "2026-01-31T10:00:00Z",
        version: "0.1.0",
        serial: [0xff; 16],
    };
    const URLS: [&str; 3] = [
        "pkg:deb/debian/g%2B%2B@4:14.2.0-1%2Bb1?arch=amd64&distro=debian-13",
        "pkg:pypi/flask-login@0.6.3",
        "pkg:npm/%40types/node@22.0.0",
    ];

    #[test]
    fn as_cyclone_dx() {
        let document: Value = serde_json::from_str(&DOCUMENT.write(Form::CycloneDx, &inventory())).unwrap();
        assert_eq!(document["serialNumber"], "urn:uuid:ffffffff-ffff-8fff-bfff-ffffffffffff");
        assert_eq!(document["metadata"]["component"]["version"], "sha256:abc");
        let components = document["components"].as_array().unwrap();
        assert_eq!((&components[0]["name"], &components[0]["version"]), (&"debian".into(), &"13".into()));
        let urls: Vec<&str> = components[1..].iter().filter_map(|one| one["purl"].as_str()).collect();
        assert_eq!(urls, URLS);
        assert_eq!((&components[3]["group"], &components[3]["name"]), (&"@types".into(), &"node".into()));
        assert_eq!(components[3]["licenses"], json!([{"license": {"name": "MIT"}}]));
        assert_eq!(components[3]["evidence"]["occurrences"].as_array().unwrap().len(), 2, "both places of one package");
    }

    #[test]
    fn as_spdx() {
        let document: Value = serde_json::from_str(&DOCUMENT.write(Form::Spdx, &inventory())).unwrap();
        let packages = document["packages"].as_array().unwrap();
        let urls: Vec<&str> =
            packages.iter().filter_map(|one| one["externalRefs"][0]["referenceLocator"].as_str()).collect();
        assert_eq!(urls, URLS);
        assert_eq!(packages[4]["name"], "@types/node");
        let relations = document["relationships"].as_array().unwrap();
        assert_eq!(relations.len(), packages.len(), "each is contained in the image, and that is described");
        assert_eq!(document["creationInfo"]["created"], "2026-01-31T10:00:00Z");
    }
}
