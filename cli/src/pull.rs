//! Shows the progress of a pull: a bar per layer for a person, one line per layer for a log. Refuses to pull.

use std::collections::HashMap;

use cc_common::api::v1::LayerProgress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::render::clean;
use crate::ui::Progress;

/// Beyond this a daemon is not describing an image; more bars would only cost memory.
const LAYERS_MAX: usize = 256;

#[derive(Debug)]
pub struct PullDisplay {
    progress: Progress,
    bars: MultiProgress,
    layers: HashMap<String, (ProgressBar, String)>,
}

impl PullDisplay {
    pub fn new(progress: Progress) -> Self {
        PullDisplay { progress, bars: MultiProgress::new(), layers: HashMap::new() }
    }

    pub fn update(&mut self, layer: &LayerProgress) {
        if self.progress == Progress::None {
            return;
        }
        let short = short(&layer.digest);
        if !self.layers.contains_key(&layer.digest) {
            if self.layers.len() >= LAYERS_MAX {
                return;
            }
            let bar =
                if self.progress == Progress::Bars { self.bars.add(new_bar(&short)) } else { ProgressBar::hidden() };
            self.layers.insert(layer.digest.clone(), (bar, String::new()));
        }
        let Some((bar, state)) = self.layers.get_mut(&layer.digest) else { return };
        bar.set_length(layer.total_bytes);
        bar.set_position(layer.done_bytes);
        if *state == layer.state {
            return;
        }
        state.clone_from(&layer.state);
        bar.set_message(clean(&layer.state).into_owned());
        let over = matches!(layer.state.as_str(), "done" | "exists");
        if over {
            bar.finish();
        }
        if self.progress == Progress::Lines && over {
            eprintln!("layer {short}: {}", clean(&layer.state));
        }
    }

    /// The bars must be gone before the container writes to the same terminal.
    pub fn finish(&mut self) {
        for (bar, _) in self.layers.values() {
            bar.finish_and_clear();
        }
        self.layers.clear();
    }
}

fn new_bar(short: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {bar:30} {bytes:>10}/{total_bytes:<10} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style).with_prefix(short.to_owned())
}

fn short(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    clean(&hex.chars().take(12).collect::<String>()).into_owned()
}
