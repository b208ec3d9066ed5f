//! `cc context`: commands go to the daemon that was chosen, as the key that was named, and no secret is kept.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use cc_tests::World;

#[test]
fn commands_go_where_they_were_sent() {
    let [near, far] = [World::new(), World::new()];
    let home = tempfile::tempdir().unwrap();
    let cc = |args: &[&str]| {
        let mut command = near.command(args);
        command.env_remove("CC_ENDPOINT_URL").env_remove("CC_CONTEXT").env("XDG_CONFIG_HOME", home.path());
        near.run_with_stdin(command, b"")
    };
    let host = |world: &World| world.cc(&["info", "--json"]).json()["host_id"].as_str().unwrap().to_owned();
    for (name, world) in [("near", &near), ("far", &far)] {
        cc(&["context", "add", name, "--cc-endpoint-url", &world.endpoint()]).ok();
    }
    let said = |args: &[&str]| cc(&[args, &["info", "--json"]].concat()).json()["host_id"].as_str().unwrap().to_owned();
    cc(&["context", "use", "far"]).ok();
    assert_eq!(said(&[]), host(&far));
    assert_eq!(said(&["--cc-context", "near"]), host(&near));
    assert_eq!(said(&["--cc-endpoint-url", &near.endpoint()]), host(&near), "what the command line says goes first");
    let listed = cc(&["context", "list"]).ok().stdout;
    assert!(listed.contains("far *") && listed.contains("local") && !listed.contains("near *"), "{listed}");
    cc(&["context", "add", "far"]).fails(1, "already");
    cc(&["context", "use", "nowhere"]).fails(1, "nowhere");
    cc(&["--cc-context", "nowhere", "ps"]).fails(1, "cc context list");
    cc(&["--cc-context", "nowhere", "run", "--image", "x"]).fails(125, "cc context list");
    let secret = ["--cc-access-token", "cca_x", "--cc-secret-key", "ccs_0000"];
    cc(&[&["context", "add", "key"][..], &secret].concat()).fails(1, "@FILE");
    let file = home.path().join("cc/contexts.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(&file).unwrap().contains("ccs_"));
    cc(&["context", "remove", "far"]).ok();
    assert!(cc(&["context", "list", "-q"]).ok().stdout.lines().eq(["local", "near"]));
    for world in [near, far] {
        world.assert_clean();
    }
}
