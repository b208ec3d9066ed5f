//! The main job, done in a clean Debian by what was installed there.

use std::process::Command;
use std::time::Duration;

use super::Debian;
use crate::eventually::eventually;
use crate::images;

/// Two servers at one address, each heard by its own network alone.
pub fn two_vpcs_with_one_cidr(debian: &Debian) {
    let cc = |args: &[&str]| debian.run("ccloud", args);
    let layout = images::build("busybox").expect("the image can be made");
    let copied = Command::new("cp").arg("-r").arg(&layout).arg(debian.share().join("busybox")).status();
    assert!(copied.is_ok_and(|status| status.success()), "the image cannot be copied");
    cc(&["image", "load", "oci:/srv/busybox:latest", "--name", "localhost/busybox:latest"]).ok();
    for vpc in ["blue", "red", "empty"] {
        cc(&["vpc", "create", "--cidr", "10.0.0.0/24", "--name", vpc]).ok();
    }
    let image = ["--image", "localhost/busybox:latest"];
    cc(&["group", "create", "--name", "closed"]).ok();
    for (name, vpc, group) in
        [("web-blue", "blue", "default"), ("web-red", "red", "default"), ("closed", "blue", "closed")]
    {
        let serve = format!("mkdir /www; echo hello from {vpc} >/www/index.html; exec httpd -f -p 80 -h /www");
        let own = if group == "default" { &[][..] } else { &["--group", group] };
        let run = ["run", "-d", "--name", name, "--vpc", vpc, "--memory", "64MiB"];
        cc(&[&run[..], own, &image, &["sh", "-c", &serve]].concat()).ok();
    }
    let url = |name: &str| {
        let address = cc(&["inspect", name]).json()[0]["ipv4"].as_str().expect("it has an address").to_owned();
        format!("http://{}/", address.split('/').next().unwrap_or_default())
    };
    let (web, closed) = (url("web-blue"), url("closed"));
    assert_eq!(web, url("web-red"), "the first of each network has its first address");
    // With an init: whoever is process 1 is ended by no signal that it does not wait for.
    let get = |vpc: &str, url: &str| {
        let run = ["run", "--rm", "--init", "--vpc", vpc];
        cc(&[&run[..], &image, &["timeout", "3", "wget", "-q", "-O", "-", url]].concat())
    };
    for vpc in ["blue", "red"] {
        let what = format!("the server of {vpc}");
        let said = eventually(&what, Duration::from_secs(10), || get(vpc, &web).ok_or_none());
        assert_eq!(said.stdout, format!("hello from {vpc}\n"));
    }
    assert_ne!(get("empty", &web).code, 0, "a network without a server has heard another's");
    // Nor what no rule allows, in the same network.
    assert_ne!(get("blue", &closed).code, 0, "a group without rules let somebody in");
    let metrics = |name: &str| cc(&["metrics", name, "--json"]).json()[0].clone();
    let (web, closed) = (metrics("web-blue"), metrics("closed"));
    assert!(web["received"]["packets"].as_u64() > Some(0), "{web:#}");
    assert!(!closed["drops"].as_array().is_some_and(Vec::is_empty), "{closed:#}");
}
