//! What a preview is called: one label of a host name, and the name of a service instance of its own.

/// Characters of a label of a host name (RFC 1035, 2.3.4).
pub const LONGEST_NAME: usize = 63;

/// The name of a pull request's preview of a service: `pr-NUMBER-SERVICE` in lower case. Where that would be no label, would be too
/// long or is taken, it ends in a digest of repository and service: the same for the same two, in every pull request.
#[must_use]
pub fn name(repository: &str, number: u64, service: &str, is_taken: bool) -> String {
    let label = label(service);
    let plain = format!("pr-{number}-{label}");
    if label == service && plain.len() <= LONGEST_NAME && !is_taken {
        return plain;
    }
    let digest = format!("{:08x}", fingerprint(&[repository, service]));
    let room = LONGEST_NAME - digest.len() - 1;
    let head: String = plain.chars().take(room).collect();
    format!("{}-{digest}", head.trim_end_matches('-'))
}

/// Whether a name is one that previews have: `pr-NUMBER-...`.
#[must_use]
pub fn is_preview(name: &str) -> bool {
    let number = name.strip_prefix("pr-").and_then(|rest| rest.split_once('-')).map(|(number, _)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// The letters, digits and single dashes of a name.
fn label(service: &str) -> String {
    let mut label = String::with_capacity(service.len());
    for c in service.chars() {
        if c.is_ascii_alphanumeric() {
            label.push(c.to_ascii_lowercase());
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
    }
    label.truncate(label.trim_end_matches('-').len());
    label
}

/// FNV-1a, 32 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>), over the texts with a zero behind each.
fn fingerprint(texts: &[&str]) -> u32 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_name_says_which_pull_request_and_which_service() {
        for (number, service, wanted) in [
            (7, "web", "pr-7-web"),
            (12_345, "api-v2", "pr-12345-api-v2"),
            (7, "Web", "pr-7-web-"),
            (7, "web_api", "pr-7-web-api-"),
            (7, "web.api", "pr-7-web-api-"),
            (7, "web--api", "pr-7-web-api-"),
            (7, "web-", "pr-7-web-"),
            (7, "___", "pr-7-"),
        ] {
            let name = name("acme/shop", number, service, false);
            let rest = name.strip_prefix(wanted).unwrap_or_else(|| panic!("{name} does not begin with {wanted}"));
            let is_digest = rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(if wanted.ends_with('-') { is_digest } else { rest.is_empty() }, "{service}: {name}");
        }
    }

    #[test]
    fn every_name_is_a_label_of_a_host_name() {
        let long = "x".repeat(64);
        let dashes = format!("{}-{}", "y".repeat(44), "z".repeat(19));
        for service in ["web", "WEB", "a.b_c", "___", long.as_str(), dashes.as_str()] {
            for (number, is_taken) in [(1, false), (1, true), (u64::MAX, false)] {
                let name = name("acme/shop", number, service, is_taken);
                assert!(is_preview(&name), "{name}");
                assert!(name.len() <= LONGEST_NAME, "{name}");
                let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
                assert!(is_plain && !name.starts_with('-') && !name.ends_with('-'), "{name}");
            }
        }
    }

    #[test]
    fn others_are_told_apart_from_previews() {
        for name in ["web", "pr-", "pr--web", "pr-7", "pr-7x-web", "api-pr-7-web", ""] {
            assert!(!is_preview(name), "{name}");
        }
    }

    #[test]
    fn services_that_look_alike_have_names_of_their_own() {
        let names: HashSet<String> = ["web.api", "web_api", "web-api", "Web-Api", "web--api"]
            .iter()
            .map(|service| name("acme/shop", 7, service, false))
            .collect();
        assert_eq!(names.len(), 5);
        let (ours, theirs) = (name("acme/shop", 7, "web", false), name("acme/blog", 7, "web", true));
        assert_ne!(ours, theirs);
        assert_ne!(theirs, name("acme/other", 7, "web", true));
        assert_eq!(theirs, name("acme/blog", 7, "web", true));
    }
}
