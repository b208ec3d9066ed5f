//! Where an image comes from: a registry, or files of this machine that are read here and streamed. Refuses to let a path
//! reach the daemon.

pub mod layout;
pub mod upload;

use std::path::PathBuf;

#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Source {
    Registry(String),
    OciLayout { dir: PathBuf, tag: Option<String> },
    DockerArchive { file: PathBuf, tag: Option<String> },
}

/// A colon may be part of a path: what exists as a whole is a path, and so is what ends behind a slash.
pub fn parse(text: &str) -> Source {
    if let Some(rest) = text.strip_prefix("oci:") {
        let whole = PathBuf::from(rest);
        return match rest.rsplit_once(':') {
            Some((dir, tag)) if !whole.is_dir() && !tag.contains('/') && !dir.is_empty() => {
                Source::OciLayout { dir: dir.into(), tag: Some(tag.to_owned()).filter(|tag| !tag.is_empty()) }
            }
            _ => Source::OciLayout { dir: whole, tag: None },
        };
    }
    if let Some(rest) = text.strip_prefix("docker-archive:") {
        let whole = PathBuf::from(rest);
        if whole.is_file() {
            return Source::DockerArchive { file: whole, tag: None };
        }
        let cuts: Vec<usize> = rest.match_indices(':').map(|(at, _)| at).collect();
        let existing = cuts.iter().copied().find(|&at| PathBuf::from(&rest[..at]).is_file());
        return match existing.or(cuts.first().copied()) {
            Some(at) => Source::DockerArchive { file: rest[..at].into(), tag: Some(rest[at + 1..].to_owned()) },
            None => Source::DockerArchive { file: whole, tag: None },
        };
    }
    Source::Registry(text.to_owned())
}

/// The name under which a local image is kept when none is given: nobody can pull from `localhost/`.
pub fn local_name(dir: &std::path::Path, tag: Option<&str>) -> String {
    let canonical = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let base = canonical.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name: String = base.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = name.trim_matches('-');
    format!("localhost/{}:{}", if name.is_empty() { "image" } else { name }, tag.unwrap_or("latest"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_decide() {
        assert_eq!(parse("debian:12"), Source::Registry("debian:12".into()));
        assert_eq!(parse("oci:/no/x:v1"), Source::OciLayout { dir: "/no/x".into(), tag: Some("v1".into()) });
        assert_eq!(parse("oci:/no:w/x"), Source::OciLayout { dir: "/no:w/x".into(), tag: None });
        assert_eq!(
            parse("docker-archive:/no/a.tar:r.io/a:1"),
            Source::DockerArchive { file: "/no/a.tar".into(), tag: Some("r.io/a:1".into()) }
        );
    }

    #[test]
    fn what_exists_is_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a:b");
        std::fs::create_dir(&odd).unwrap();
        assert_eq!(parse(&format!("oci:{}", odd.display())), Source::OciLayout { dir: odd.clone(), tag: None });
        let file = dir.path().join("c:d");
        std::fs::write(&file, "").unwrap();
        let text = format!("docker-archive:{}:x:1", file.display());
        assert_eq!(parse(&text), Source::DockerArchive { file, tag: Some("x:1".into()) });
    }

    #[test]
    fn names_are_made_of_the_directory() {
        assert_eq!(local_name("/no/My_Image".as_ref(), None), "localhost/my-image:latest");
        assert_eq!(local_name("/no/x".as_ref(), Some("v1")), "localhost/x:v1");
    }
}
