//! The console's files, which are part of the program. Refuses any other name: there is no directory to get out of.

use http::StatusCode;

use super::answer::{self, Answer};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Name, type and bytes. What is in `vendor` is another project's: see the notice there.
const FILES: [(&str, &str, &[u8]); 7] = [
    ("", HTML, include_bytes!("../../console/index.html")),
    ("console.css", CSS, include_bytes!("../../console/console.css")),
    ("console.js", SCRIPT, include_bytes!("../../console/console.js")),
    ("charts.js", SCRIPT, include_bytes!("../../console/charts.js")),
    ("xterm.js", SCRIPT, include_bytes!("../../console/vendor/xterm.js")),
    ("xterm.css", CSS, include_bytes!("../../console/vendor/xterm.css")),
    ("addon-fit.js", SCRIPT, include_bytes!("../../console/vendor/addon-fit.js")),
];

pub fn find(name: &str) -> Option<Answer> {
    let (_, content_type, bytes) = FILES.iter().find(|(file, _, _)| *file == name)?;
    Some(answer::bytes(StatusCode::OK, content_type, *bytes))
}
