//! What `features` prints. Refuses to say more than is done.

/// As JSON.
pub fn text() -> String {
    serde_json::json!({ "ociVersionMin": "1.0.0", "ociVersionMax": super::config::SPEC_VERSION }).to_string()
}
