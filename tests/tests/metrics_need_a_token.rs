//! Off loopback, metrics are for those with a token, over TLS, and a token is for metrics: of its project, or of the host.

use cc_tests::World;
use cc_tests::exposition::Scrape;
use cc_tests::netns::Netns;

/// Of an address range for documentation: in a namespace of our own it is nobody else's.
const ADDRESS: &str = "192.0.2.1";

struct Remote {
    world: World,
    /// Where metrics are, by TLS.
    url: String,
    ca: String,
    /// Where the API is.
    endpoint: String,
}

fn remote(extra: &str) -> Remote {
    let netns = Netns::new().unwrap();
    let added = netns.command("ip").args(["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"]).status().unwrap();
    assert!(added.success());
    let config = format!("metrics_listen = \"{ADDRESS}:9477\"\nlisten = \"{ADDRESS}:7443\"\n{extra}");
    let world = World::in_netns(netns, &config);
    // It listens before it serves; once it answers, it has said where.
    world.cc(&["info"]).ok();
    let log = world.daemon().log();
    let at = log.find("https://192.0.2.1:7443#sha256=").expect("the daemon prints its endpoint");
    let endpoint = log[at..].split(|c: char| c.is_whitespace() || c == '"').next().unwrap().to_owned();
    let ca = world.path("state/tls/ca.pem").display().to_string();
    Remote { world, url: format!("https://{ADDRESS}:9477/metrics"), ca, endpoint }
}

impl Remote {
    /// Id and token.
    fn token(&self, whose: &[&str]) -> (String, String) {
        let args = [&["key", "create", "--role", "metrics", "--json"], whose].concat();
        let made = self.world.host(&args).json();
        assert_eq!(made["role"], "metrics");
        let text = |key: &str| made[key].as_str().unwrap().to_owned();
        (text("access_token"), text("bearer_token"))
    }

    fn get(&self, token: &str) -> (u16, String) {
        self.world.curl(&["--cacert", &self.ca, "--header", &format!("Authorization: Bearer {token}"), &self.url])
    }

    fn scrape(&self, token: &str) -> Scrape {
        let (status, body) = self.get(token);
        assert_eq!(status, 200, "{body}");
        Scrape::parse(&body).unwrap()
    }

    fn cc(&self, key: &str, secret: &str, args: &[&str]) -> cc_tests::Ran {
        let mut command = self.world.command(args);
        command.env("CC_ENDPOINT_URL", &self.endpoint).env("CC_ACCESS_TOKEN", key).env("CC_SECRET_KEY", secret);
        self.world.netns.enter(&mut command);
        self.world.run_with_stdin(command, b"")
    }
}

#[test]
fn strangers_need_tls_and_a_token() {
    let remote = remote("");
    let world = &remote.world;
    let (id, token) = remote.token(&["--all-projects"]);
    assert_eq!(remote.get(&token).0, 200);
    // Without TLS, without trust in the certificate, without a token, with a wrong one: nothing.
    let plain = remote.url.replace("https", "http");
    let bearer = format!("Authorization: Bearer {token}");
    assert_ne!(world.curl(&["--header", &bearer, &plain]).0, 200);
    assert_eq!(world.curl(&["--header", &bearer, &remote.url]).0, 0);
    let (status, body) = world.curl(&["--cacert", &remote.ca, &remote.url]);
    assert_eq!(status, 401, "{body}");
    assert!(body.contains("auth.no_token") && !body.contains("cc_"), "{body}");
    let last = if token.ends_with('0') { "1" } else { "0" };
    let (status, body) = remote.get(&format!("{}{last}", &token[..token.len() - 1]));
    assert_eq!(status, 401, "{body}");
    assert!(body.contains("auth.bad_token"), "{body}");
    let post = world.curl(&["--cacert", &remote.ca, "--header", &bearer, "--data", "x", &remote.url]);
    assert_eq!(post.0, 405);
    assert_eq!(world.curl(&["--cacert", &remote.ca, &remote.url.replace("metrics", "x")]).0, 404);
    // It was counted, and is where tokens are listed and revoked.
    let scrape = remote.scrape(&token);
    for code in ["auth.no_token", "auth.bad_token"] {
        assert_eq!(scrape.value("cc_api_refusals_total", &[("door", "metrics"), ("code", code)]), Some(1.0), "{code}");
    }
    let listed = world.host(&["key", "list"]).ok().stdout;
    assert!(listed.contains(&id) && !listed.contains(&token), "{listed}");
    world.host(&["key", "revoke", &id]).ok();
    assert_eq!(remote.get(&token).0, 401);
    assert!(!world.host(&["key", "list"]).ok().stdout.contains(&id));
}

#[test]
fn a_projects_token_shows_that_projects_containers() {
    let remote = remote("");
    let world = &remote.world;
    let run = |project: &str| {
        let image = cc_tests::images::reference("busybox").unwrap();
        let mut command = world.command(&["run", "-d", "--name", "web", "--image", &image, "sleep", "600"]);
        command.env("CC_PROJECT", project);
        world.run_with_stdin(command, b"").line()
    };
    let (alpha, beta) = (run("alpha"), run("beta"));
    let scrape = remote.scrape(&remote.token(&["--project", "alpha"]).1);
    assert_eq!(scrape.value("cc_container_pids", &[("id", &alpha), ("project", "alpha")]), Some(1.0));
    for sample in &scrape.samples {
        let whose = sample.labels.get("project").map(String::as_str);
        assert!(whose == Some("alpha") || sample.name == "cc_scrape_truncated", "{sample:?}");
    }
    let (_, body) = remote.get(&remote.token(&["--project", "alpha"]).1);
    assert!(!body.contains(&beta) && !body.contains("beta"), "{body}");
    let nobody = remote.scrape(&remote.token(&["--project", "gamma"]).1);
    assert_eq!(nobody.series("cc_container_pids", &[]).count(), 0);
    let all = remote.scrape(&remote.token(&["--all-projects"]).1);
    assert_eq!(all.series("cc_container_pids", &[]).count(), 2);
    for project in ["alpha", "beta"] {
        let mut command = world.command(&["rm", "-f", "web"]);
        command.env("CC_PROJECT", project);
        world.run_with_stdin(command, b"").ok();
    }
}

#[test]
fn tokens_open_metrics_only_and_keys_everything_else() {
    let remote = remote("");
    let world = &remote.world;
    let key = world.host(&["key", "create", "--role", "admin", "--project", "alpha", "--json"]).json();
    let (key, secret) = (key["access_token"].as_str().unwrap(), key["secret_key"].as_str().unwrap());
    remote.cc(key, secret, &["vpc", "list"]).ok();
    // Not even an admin's key reads metrics, however it is presented.
    for text in [key.to_owned(), secret.to_owned(), format!("{key}.{secret}")] {
        assert_eq!(remote.get(&text).0, 401);
    }
    // And no part of a token calls anything.
    let (id, token) = remote.token(&["--all-projects"]);
    let (_, token_secret) = token.split_once('.').unwrap();
    let as_key = id.replace("ccm_", "cck_");
    for (name, secret) in [(id.as_str(), secret), (&as_key, secret), (&id, token_secret), (&token, secret)] {
        for call in [&["vpc", "list"][..], &["ps"], &["info"], &["metrics", "web"]] {
            let ran = remote.cc(name, secret, call);
            assert!(ran.code != 0 && ran.stdout.is_empty(), "{name} {call:?}: {}", ran.stdout);
        }
    }
    // A refusal for want of a role is counted, too.
    let viewer = world.host(&["key", "create", "--role", "viewer", "--project", "alpha", "--json"]).json();
    let (name, secret) = (viewer["access_token"].as_str().unwrap(), viewer["secret_key"].as_str().unwrap());
    remote.cc(name, secret, &["vpc", "delete", "blue"]).fails(1, "role");
    let scrape = remote.scrape(&token);
    assert_eq!(scrape.value("cc_api_refusals_total", &[("door", "grpc"), ("code", "auth.role")]), Some(1.0));
    let unknown = scrape.value("cc_api_refusals_total", &[("door", "grpc"), ("code", "auth.unknown_key")]);
    assert!(unknown >= Some(1.0), "{unknown:?}");
    // Only metrics can be had of all projects.
    world.host(&["key", "create", "--role", "viewer", "--all-projects"]).fails(1, "key.all_projects");
    world.host(&["key", "create", "--role", "metrics"]).fails(2, "--project");
    world.host(&["key", "create", "--role", "metrics", "--all-projects", "--project", "a"]).fails(2, "--project");
}

#[test]
fn who_guesses_is_turned_away() {
    let remote = remote("refusals_per_minute = 3\n");
    let (_, token) = remote.token(&["--all-projects"]);
    for _ in 0..3 {
        assert_eq!(remote.get("x").0, 401);
    }
    let (status, body) = remote.get(&token);
    assert_eq!(status, 429, "{body}");
}
