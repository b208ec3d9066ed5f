//! Manifests, indexes, configs and references that a stranger wrote: what is taken of them is within its limits, and a reference is one
//! segment of a key. Refuses registries.

use cc_host::ids::default_project;
use cc_host::image::fuzzing::{
    Document, INDEX_ENTRIES_MAX, LAYERS_MAX, check_reach, choose, is_digest, key, normal, parse_config, parse_document,
};

use crate::input::Input;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.below(3) {
        0 => document(input.rest()),
        1 => config(input.rest()),
        _ => reference(&String::from_utf8_lossy(input.rest())),
    }
}

fn document(bytes: &[u8]) {
    match parse_document("fuzz", bytes) {
        Ok(Document::Image { config, layers }) => {
            assert!(layers.len() <= LAYERS_MAX && is_digest(&config.digest));
            assert!(layers.iter().all(|layer| is_digest(&layer.digest)));
        }
        Ok(Document::Index(entries)) => {
            assert!(entries.len() <= INDEX_ENTRIES_MAX && entries.iter().all(|entry| is_digest(&entry.digest)));
            if let Ok(chosen) = choose("fuzz", &entries) {
                assert!(entries.iter().any(|entry| entry.digest == chosen.digest));
            }
        }
        Err(error) => drop(error.to_string()),
    }
}

fn config(bytes: &[u8]) {
    match parse_config("fuzz", bytes) {
        Ok(config) => {
            assert!(config.diff_ids.len() <= LAYERS_MAX && config.diff_ids.iter().all(|id| is_digest(id)));
            assert_eq!(config.os, "linux");
            let image = &config.image;
            let lists = image.entrypoint.iter().chain(&image.cmd).chain(&image.env);
            let mut texts = lists.chain([&image.user, &image.working_dir, &image.stop_signal]);
            assert!(texts.all(|text| !text.contains('\0')), "no NUL reaches a program");
        }
        Err(error) => drop(error.to_string()),
    }
}

fn reference(text: &str) {
    let Ok(full) = normal(text) else { return };
    assert_eq!(normal(&full).ok().as_deref(), Some(&*full), "{text:?}");
    let key = key(&default_project(), &full);
    let segment = key.strip_prefix("images/default/").expect("a key names its project");
    assert!(segment.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'), "{key:?}");
    // Who may not act as the host never speaks without TLS through it.
    assert!(check_reach(&full, true, false).is_err());
    if let Ok(()) = check_reach(&full, false, false) {
        assert!(check_reach(&full, true, true).is_ok());
    }
}
