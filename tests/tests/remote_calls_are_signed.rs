//! Over TLS every call is signed: a key works for its project and role, and nothing else does.

use cc_tests::World;
use serde_json::Value;

struct Remote {
    world: World,
    endpoint: String,
}

fn remote() -> Remote {
    // Inside a namespace of its own any port is free.
    let world = World::with_config(
        "listen = \"127.0.0.1:7443\"\npublish_projects = [\"beta\"]\n\
         privileged_projects = [\"beta\"]",
    );
    let info = world.cc(&["info", "--json"]).json();
    drop(info);
    let log = world.daemon().log();
    let at = log.find("https://127.0.0.1:7443#sha256=").expect("the daemon prints its endpoint");
    let endpoint = log[at..].split(|c: char| c.is_whitespace() || c == '"').next().unwrap().to_owned();
    Remote { world, endpoint }
}

impl Remote {
    fn key(&self, role: &str, project: &str) -> (String, String) {
        let key: Value = self.world.host(&["key", "create", "--role", role, "--project", project, "--json"]).json();
        (key["access_token"].as_str().unwrap().to_owned(), key["secret_key"].as_str().unwrap().to_owned())
    }

    fn cc(&self, endpoint: &str, key: Option<&(String, String)>, args: &[&str]) -> cc_tests::Ran {
        let mut command = self.world.command(args);
        command.env("CC_ENDPOINT_URL", endpoint);
        if let Some((token, secret)) = key {
            command.env("CC_ACCESS_TOKEN", token).env("CC_SECRET_KEY", secret);
        }
        self.world.netns.enter(&mut command);
        let output = command.output().unwrap();
        cc_tests::Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

#[test]
fn keys_work_for_their_project_and_role_only() {
    let remote = remote();
    let operator = remote.key("operator", "alpha");
    let viewer = remote.key("viewer", "alpha");
    let other = remote.key("operator", "beta");
    let url = remote.endpoint.clone();
    let id =
        remote.cc(&url, Some(&operator), &["vpc", "create", "--cidr", "10.0.0.0/24", "--name", "blue", "-q"]).line();
    assert!(remote.cc(&url, Some(&viewer), &["vpc", "list", "-q"]).ok().stdout.contains(&id));
    remote.cc(&url, Some(&viewer), &["vpc", "delete", "blue"]).fails(1, "role");
    remote.cc(&url, Some(&operator), &["guard", "list"]).fails(1, "role");
    // A viewer may ask what would become of a packet.
    remote.cc(&url, Some(&viewer), &["net", "why", "web", "internet:80"]).fails(1, "no container");
    // Another project's object does not exist: it is neither listed nor found, and deleting it is deleting the unknown.
    assert_eq!(remote.cc(&url, Some(&other), &["vpc", "list", "-q"]).ok().stdout, "");
    remote.cc(&url, Some(&other), &["vpc", "delete", &id]).ok();
    remote.cc(&url, Some(&other), &["status", "blue"]).fails(1, "no container");
    assert!(remote.cc(&url, Some(&viewer), &["vpc", "list", "-q"]).ok().stdout.contains(&id), "it is still there");
}

#[test]
fn added_capabilities_need_an_admin_or_a_grant() {
    let remote = remote();
    let keys = [("operator", "alpha"), ("admin", "alpha"), ("operator", "beta"), ("viewer", "beta")];
    let [operator, admin, granted, viewer] = keys.map(|(role, project)| remote.key(role, project));
    let url = remote.endpoint.clone();
    let layout = cc_tests::images::reference("busybox").unwrap();
    let run = |key, cap: &str, name: &str| {
        remote.cc(&url, Some(key), &["run", "-d", "--name", name, "--cap-add", cap, "--image", &layout, "true"])
    };
    run(&operator, "NET_ADMIN", "more").fails(125, "admins");
    // What everybody has is no privilege, and nor is less.
    run(&operator, "CHOWN", "usual").ok();
    run(&admin, "NET_ADMIN", "more").ok();
    run(&granted, "NET_ADMIN", "more").ok();
    run(&viewer, "CHOWN", "viewed").fails(125, "role");
    let with_hosts_users = |key, name: &str| {
        remote.cc(&url, Some(key), &["run", "-d", "--name", name, "--userns", "host", "--image", &layout, "true"])
    };
    with_hosts_users(&operator, "root").fails(125, "admins");
    with_hosts_users(&admin, "root").ok();
    with_hosts_users(&granted, "root").ok();
    remote.cc(&url, Some(&operator), &["exec", "root", "true"]).fails(125, "admins");
    remote.cc(&url, Some(&operator), &["attach", "root"]).fails(1, "admins");
    remote.cc(&url, Some(&operator), &["cp", "root:/etc/passwd", "-"]).fails(1, "admins");
    remote.cc(&url, Some(&operator), &["start", "root"]).fails(1, "admins");
    // Who may not run it may not start it again, either.
    remote.cc(&url, Some(&operator), &["wait", "more"]).ok();
    remote.cc(&url, Some(&operator), &["start", "more"]).fails(1, "admins");
    remote.cc(&url, Some(&operator), &["exec", "more", "true"]).fails(125, "admins");
    remote.cc(&url, Some(&operator), &["attach", "more"]).fails(1, "admins");
    remote.cc(&url, Some(&admin), &["start", "more"]).ok();
    remote.cc(&url, Some(&viewer), &["exec", "more", "true"]).fails(125, "role");
    remote.cc(&url, Some(&viewer), &["attach", "more"]).fails(1, "role");
}

#[test]
fn another_filter_of_system_calls_needs_an_admin_or_a_grant() {
    let remote = remote();
    let keys = [("operator", "alpha"), ("admin", "alpha"), ("operator", "beta")];
    let [operator, admin, granted] = keys.map(|(role, project)| remote.key(role, project));
    let url = remote.endpoint.clone();
    let layout = cc_tests::images::reference("busybox").unwrap();
    let file = remote.world.path("profile.json");
    std::fs::write(&file, r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
    let own = format!("seccomp={}", file.display());
    for (option, name) in [("seccomp=unconfined", "none"), (own.as_str(), "own")] {
        let run = |key| {
            let args = ["run", "-d", "--name", name, "--security-opt", option, "--image", &layout, "sleep", "600"];
            remote.cc(&url, Some(key), &args)
        };
        run(&operator).fails(125, "admins");
        run(&admin).ok();
        run(&granted).ok();
        // Whoever runs something there has what it has.
        remote.cc(&url, Some(&operator), &["exec", name, "true"]).fails(125, "admins");
        remote.cc(&url, Some(&operator), &["attach", name]).fails(1, "admins");
        remote.cc(&url, Some(&admin), &["exec", name, "true"]).ok();
        remote.cc(&url, Some(&operator), &["kill", name]).ok();
        remote.cc(&url, Some(&operator), &["wait", name]).ok();
        remote.cc(&url, Some(&operator), &["start", name]).fails(1, "admins");
        remote.cc(&url, Some(&operator), &["restart", name]).fails(1, "admins");
        remote.cc(&url, Some(&admin), &["start", name]).ok();
    }
    // What everybody has is no privilege.
    let args = ["run", "--rm", "--security-opt", "no-new-privileges", "--image", &layout, "true"];
    remote.cc(&url, Some(&operator), &args).ok();
    for key in [&admin, &granted] {
        remote.cc(&url, Some(key), &["rm", "-f", "none", "own"]).ok();
    }
}

#[test]
fn devices_need_an_admin_or_a_grant() {
    let remote = remote();
    let keys = [("operator", "alpha"), ("admin", "alpha"), ("operator", "beta")];
    let [operator, admin, granted] = keys.map(|(role, project)| remote.key(role, project));
    let url = remote.endpoint.clone();
    let layout = cc_tests::images::reference("busybox").unwrap();
    let run = ["run", "-d", "--name", "web", "--device", "/dev/zero:/dev/z", "--image", &layout, "sleep", "600"];
    remote.cc(&url, Some(&operator), &run).fails(125, "--device");
    remote.cc(&url, Some(&admin), &run).ok();
    remote.cc(&url, Some(&granted), &run).ok();
    remote.cc(&url, Some(&operator), &["exec", "web", "true"]).fails(125, "admins");
    remote.cc(&url, Some(&operator), &["restart", "-t", "0", "web"]).fails(1, "admins");
    remote.cc(&url, Some(&granted), &["exec", "web", "head", "-c", "1", "/dev/z"]).ok();
    for key in [&admin, &granted] {
        remote.cc(&url, Some(key), &["rm", "-f", "web"]).ok();
    }
}

#[test]
fn another_projects_container_does_not_exist() {
    let remote = remote();
    let (alpha, beta) = (remote.key("operator", "alpha"), remote.key("admin", "beta"));
    let url = remote.endpoint.clone();
    let layout = cc_tests::images::reference("busybox").unwrap();
    let run = ["run", "-d", "--name", "web", "--image", &layout, "sh", "-c", "echo secret; sleep 600"];
    let id = remote.cc(&url, Some(&alpha), &run).line();
    let image = remote.cc(&url, Some(&alpha), &["image", "list", "-q"]).line();
    assert_eq!(remote.cc(&url, Some(&beta), &["ps", "-a", "-q"]).ok().stdout, "");
    let calls: [&[&str]; 12] = [
        &["start", &id],
        &["restart", &id],
        &["attach", &id],
        &["status", &id],
        &["inspect", "web"],
        &["metrics", &id],
        &["logs", &id],
        &["stop", &id],
        &["kill", &id],
        &["rm", "-f", &id],
        &["wait", &id],
        &["net", "why", &id, "internet:80"],
    ];
    for call in calls {
        let ran = remote.cc(&url, Some(&beta), call).fails(1, "no container");
        assert!(!ran.stdout.contains("secret"), "{call:?}: {}", ran.stdout);
    }
    remote
        .cc(&url, Some(&beta), &["run", "--rm", "--pull", "never", "--image", &image, "true"])
        .fails(125, "this project has none");
    let events = remote.cc(&url, Some(&beta), &["events", "--json"]).ok().stdout;
    assert!(!events.contains(&id), "{events}");
    assert_eq!(remote.cc(&url, Some(&alpha), &["ps", "-q"]).line(), id, "it still runs");
}

#[test]
fn unsigned_unknown_and_wrongly_pinned_calls_are_refused() {
    let remote = remote();
    let good = remote.key("viewer", "alpha");
    let url = remote.endpoint.clone();
    remote.cc(&url, Some(&good), &["vpc", "list"]).ok();
    assert_ne!(remote.cc(&url, None, &["vpc", "list"]).code, 0);
    let unknown = ("cck_0000000000000000".to_owned(), good.1.clone());
    assert_ne!(remote.cc(&url, Some(&unknown), &["vpc", "list"]).code, 0);
    let other = remote.key("viewer", "alpha");
    let mixed = (good.0.clone(), other.1.clone());
    remote.cc(&url, Some(&mixed), &["vpc", "list"]).fails(1, "signature");
    let (base, pin) = url.split_once("sha256=").unwrap();
    let wrong: String = pin.chars().map(|c| if c == '0' { '1' } else { '0' }).collect();
    assert_ne!(remote.cc(&format!("{base}sha256={wrong}"), Some(&good), &["vpc", "list"]).code, 0);
    remote.cc("http://127.0.0.1:7443", Some(&good), &["vpc", "list"]).fails(1, "http");
    remote.world.host(&["key", "revoke", &good.0]).ok();
    assert_ne!(remote.cc(&url, Some(&good), &["vpc", "list"]).code, 0, "a revoked key is unknown");
}

#[test]
fn a_secret_on_the_command_line_warns_and_files_do_not() {
    let remote = remote();
    let (token, secret) = remote.key("viewer", "alpha");
    let file = remote.world.path("secret");
    std::fs::write(&file, &secret).unwrap();
    let url = remote.endpoint.clone();
    let literal = ["--cc-access-token", &token, "--cc-secret-key", &secret, "vpc", "list"];
    assert!(remote.cc(&url, None, &literal).ok().stderr.contains("warning"));
    let at = format!("@{}", file.display());
    let by_file = ["--cc-access-token", &token, "--cc-secret-key", &at, "vpc", "list"];
    assert!(!remote.cc(&url, None, &by_file).ok().stderr.contains("warning"));
}

#[test]
fn ports_of_the_host_are_published_by_admins_and_where_it_is_granted() {
    let remote = remote();
    let url = remote.endpoint.clone();
    let layout = cc_tests::images::reference("busybox").unwrap();
    let keys = [("operator", "alpha"), ("admin", "alpha"), ("operator", "beta")];
    let [refused, admin, granted] = keys.map(|(role, project)| remote.key(role, project));
    let create = ["vpc", "create", "--cidr", "10.0.0.0/24", "--name", "blue", "-q"];
    remote.cc(&url, Some(&refused), &create).ok();
    remote.cc(&url, Some(&refused), &["publish", "none", "8080:80"]).fails(1, "admin");
    let args = ["run", "-d", "--image", &layout, "--vpc", "blue", "--name", "web", "-p", "8080:80", "sleep", "600"];
    remote.cc(&url, Some(&refused), &args).fails(125, "admin");
    remote.cc(&url, Some(&admin), &args).ok();
    // Whose it is, but not by what name: it is another project's.
    remote.cc(&url, Some(&granted), &create).ok();
    let ran = remote.cc(&url, Some(&granted), &args);
    assert!(!ran.stderr.contains("container web"), "{}", ran.stderr);
    ran.fails(125, "another project");
    let other = ["run", "-d", "--image", &layout, "--vpc", "blue", "-p", "8081:80", "sleep", "600"];
    remote.cc(&url, Some(&granted), &other).ok();
    for key in [&admin, &granted] {
        let ids = remote.cc(&url, Some(key), &["ps", "-q"]).ok().stdout;
        let ids: Vec<&str> = ids.lines().collect();
        remote.cc(&url, Some(key), &[&["rm", "-f"], ids.as_slice()].concat()).ok();
    }
}

#[test]
fn a_container_runs_and_streams_over_tls() {
    let remote = remote();
    let operator = remote.key("operator", "alpha");
    let layout = cc_tests::images::reference("busybox").unwrap();
    let args = ["run", "--rm", "--image", &layout, "sh", "-c", "echo over tls; exit 4"];
    let ran = remote.cc(&remote.endpoint.clone(), Some(&operator), &args);
    assert_eq!((ran.code, ran.stdout.as_str()), (4, "over tls\n"), "{}", ran.stderr);
}
