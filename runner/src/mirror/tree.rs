//! What git's own formats say: a raw tree object, and the lines of `ls-remote`. Pure.

use segue_schemas::id::CommitSha;

use super::{name::RefName, reader::Object};

/// A file or folder in a folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The name of its object.
    pub id: String,
}

/// The regular files of a tree in git's order, which is that of the names' bytes. A tree is a row of
/// `<mode> <name>\0<object>`, the object in 20 or (SHA-256) 32 raw bytes.
/// <https://git-scm.com/book/en/v2/Git-Internals-Git-Objects>
///
/// # Errors
/// What is wrong with the tree, in words.
pub fn files(tree: &Object) -> Result<Vec<Entry>, String> {
    entries(tree, b"100")
}

/// The folders of a tree, in the same order.
///
/// # Errors
/// As [`files`].
pub fn folders(tree: &Object) -> Result<Vec<Entry>, String> {
    entries(tree, b"40000")
}

fn entries(tree: &Object, mode: &[u8]) -> Result<Vec<Entry>, String> {
    let id_length = tree.id.len() / 2;
    let mut rest = tree.bytes.as_slice();
    let mut files = Vec::new();
    while !rest.is_empty() {
        let broken = || format!("tree {} is damaged", tree.id);
        let name_end = rest.iter().position(|&b| b == 0).ok_or_else(broken)?;
        let (head, tail) = rest.split_at(name_end);
        let mode_end = head.iter().position(|&b| b == b' ').ok_or_else(broken)?;
        let (id, tail) = tail[1..].split_at_checked(id_length).ok_or_else(broken)?;
        if head[..mode_end].starts_with(mode) {
            let name = String::from_utf8_lossy(&head[mode_end + 1..]).into_owned();
            files.push(Entry { name, id: hex::encode(id) });
        }
        rest = tail;
    }
    Ok(files)
}

/// The commit that `git ls-remote` says a ref points to; for an annotated tag the commit behind it.
pub fn ref_target(lines: &str, git_ref: &str) -> Option<CommitSha> {
    let find = |wanted: &str| {
        let mut pairs = lines.lines().filter_map(|line| line.split_once('\t')).filter(|(_, name)| *name == wanted);
        pairs.find_map(|(id, _)| id.parse().ok())
    };
    find(&format!("{git_ref}^{{}}")).or_else(|| find(git_ref))
}

/// What `git ls-remote --symref <source> HEAD` says the default branch is, and where it stands.
pub fn default_branch(lines: &str) -> Option<(RefName, CommitSha)> {
    let branch = lines.lines().find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"))?;
    Some((RefName::parse(branch).ok()?, ref_target(lines, "HEAD")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(bytes: &[u8]) -> Object {
        Object { kind: "tree".into(), id: "0".repeat(40), bytes: bytes.to_vec() }
    }

    #[test]
    fn a_tree_gives_its_regular_files_only() {
        let mut bytes = Vec::new();
        for (mode, name) in [("100644", "a.yml"), ("120000", "link.yml"), ("40000", "sub"), ("100755", "z.yml")] {
            bytes.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            bytes.extend_from_slice(&[0xab; 20]);
        }
        let files = files(&tree(&bytes)).unwrap();
        assert_eq!(files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["a.yml", "z.yml"]);
        assert_eq!(files[0].id, "ab".repeat(20));
        assert_eq!(
            folders(&tree(&bytes)).unwrap().iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(),
            ["sub"]
        );
    }

    #[test]
    fn a_damaged_tree_is_an_error() {
        for bytes in [&b"100644 a.yml"[..], b"100644 a.yml\0short", b"100644\0aaaaaaaaaaaaaaaaaaaa"] {
            assert!(files(&tree(bytes)).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn the_lines_of_ls_remote() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let tag = format!("{a}\trefs/tags/v1\n{b}\trefs/tags/v1^{{}}\n");
        assert_eq!(ref_target(&tag, "refs/tags/v1").unwrap().as_str(), b);
        assert_eq!(ref_target(&format!("{a}\trefs/heads/x\n"), "refs/heads/x").unwrap().as_str(), a);
        assert_eq!(ref_target(&tag, "refs/tags/v2"), None);
        let (branch, commit) = default_branch(&format!("ref: refs/heads/trunk\tHEAD\n{a}\tHEAD\n")).unwrap();
        assert_eq!((branch.as_str(), commit.as_str()), ("refs/heads/trunk", a.as_str()));
        assert_eq!(default_branch(""), None);
    }
}
