//! The images that the other tests rely on are what other tools take for images, and go through a real registry unchanged.

use std::process::Command;

use cc_tests::images::{self, Credentials, Registry};
use serde_json::Value;

fn skopeo(args: &[&str]) -> Result<Value, String> {
    let out = Command::new("skopeo").arg("inspect").args(args).output().unwrap();
    if out.status.success() {
        Ok(serde_json::from_slice(&out.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

#[test]
fn a_pushed_image_keeps_its_digest_and_shares_its_base() {
    let registry = Registry::start().unwrap();
    let mut lowest = Vec::new();
    for name in ["busybox", "net-tools"] {
        let reference = registry.push(name).unwrap();
        let there = skopeo(&["--tls-verify=false", &format!("docker://{reference}")]).unwrap();
        let here = skopeo(&[&images::reference(name).unwrap()]).unwrap();
        assert_eq!(there["Digest"], here["Digest"]);
        assert_eq!(there["Layers"], here["Layers"]);
        lowest.push(there["Layers"][0].clone());
    }
    assert_eq!(lowest[0], lowest[1]);
}

#[test]
fn a_registry_with_a_password_refuses_those_without() {
    let registry = Registry::start_with(Some(Credentials::TEST)).unwrap();
    let reference = format!("docker://{}", registry.push("busybox").unwrap());
    let refused = skopeo(&["--tls-verify=false", &reference]).unwrap_err();
    assert!(refused.contains("unauthorized") || refused.contains("authentication required"), "{refused}");
    let Credentials { user, password, .. } = Credentials::TEST;
    assert!(skopeo(&["--tls-verify=false", &format!("--creds={user}:{password}"), &reference]).is_ok());
}
