//! What a page calls by its usual name and a test has elsewhere: the daemon's directories, and images of a public registry. Refuses every
//! other change: what else is written is what is run.

/// Which programs' arguments an image's name is looked for in: after these words.
const BEFORE_IMAGES: [&str; 4] = ["--image", "pull", "remove", "rm"];
/// What a name without a registry stands for.
const PUBLIC: &str = "docker.io/library";

#[derive(Debug, Default)]
pub struct Names {
    /// As it is written, and where it is.
    paths: Vec<(String, String)>,
    /// `HOST:PORT`, and the names of the images that it has.
    registry: Option<(String, Vec<String>)>,
}

impl Names {
    pub fn path(mut self, written: &str, real: &str) -> Names {
        self.paths.push((written.to_owned(), real.to_owned()));
        // What is below another goes first.
        self.paths.sort_by_key(|(written, _)| std::cmp::Reverse(written.len()));
        self
    }

    pub fn registry(mut self, address: &str, images: &[&str]) -> Names {
        self.registry = Some((address.to_owned(), images.iter().map(|&image| image.to_owned()).collect()));
        self
    }

    /// Where a file of that name is; none for one that is nobody's here.
    pub fn file(&self, written: &str) -> Option<String> {
        let below = |(name, real): &(String, String)| Some(format!("{real}{}", written.strip_prefix(name.as_str())?));
        self.paths.iter().find_map(below)
    }

    /// A command as it is run.
    pub fn real(&self, command: &str) -> String {
        let mut text = command.to_owned();
        for (written, real) in &self.paths {
            text = text.replace(written, real);
        }
        self.with_registry(&text)
    }

    /// What was said, as the page would have it.
    pub fn written(&self, said: &str) -> String {
        let mut text = said.to_owned();
        for (written, real) in &self.paths {
            text = text.replace(real, written);
        }
        match &self.registry {
            Some((address, _)) => text.replace(&format!("{address}/library"), PUBLIC).replace(address, "docker.io"),
            None => text,
        }
    }

    fn with_registry(&self, command: &str) -> String {
        let Some((address, images)) = &self.registry else { return command.to_owned() };
        let (mut text, mut before) = (String::new(), String::new());
        for piece in command.split_inclusive(char::is_whitespace) {
            let word = piece.trim_end();
            let name = word.split([':', '@']).next().unwrap_or_default();
            if BEFORE_IMAGES.contains(&before.as_str()) && images.iter().any(|image| image == name) {
                text.push_str(&format!("{address}/library/{piece}"));
            } else {
                text.push_str(piece);
            }
            if !word.is_empty() {
                before = word.to_owned();
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_changed_where_they_are_meant() {
        let names = Names::default()
            .path("/var/lib/cc", "/tmp/w/state")
            .path("/var/lib/cc/volumes", "/tmp/v")
            .registry("127.0.0.1:5000", &["nginx"]);
        for (written, real) in [
            ("cc run --image nginx -- nginx -v", "cc run --image 127.0.0.1:5000/library/nginx -- nginx -v"),
            ("cc image pull nginx:1.2", "cc image pull 127.0.0.1:5000/library/nginx:1.2"),
            ("cc run --image mine --name nginx", "cc run --image mine --name nginx"),
            ("cc run \\\n  --image nginx", "cc run \\\n  --image 127.0.0.1:5000/library/nginx"),
            ("du /var/lib/cc /var/lib/cc/volumes", "du /tmp/w/state /tmp/v"),
        ] {
            assert_eq!(names.real(written), real);
        }
        assert_eq!(
            names.written("127.0.0.1:5000/library/nginx in /tmp/w/state/x"),
            "docker.io/library/nginx in /var/lib/cc/x"
        );
        assert_eq!(names.file("/var/lib/cc/a").as_deref(), Some("/tmp/w/state/a"));
        assert_eq!(names.file("/etc/passwd"), None);
    }
}
