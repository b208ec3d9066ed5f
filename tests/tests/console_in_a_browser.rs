//! The web console in a real browser: a person opens the link, sees what runs and how it fares, reads a log, types into a shell and reads the
//! answer; and what a container says is text, not a page.

use cc_tests::chromium::Browser;
use cc_tests::{World, images};

#[test]
fn a_person_sees_what_runs_and_types_into_a_shell() {
    let world = World::new();
    world.cc(&["vpc", "create", "--cidr", "10.9.0.0/24", "--name", "blue"]).ok();
    let layout = images::reference("busybox").unwrap();
    let says = "echo '<img src=x onerror=\"document.title=1\">'; while :; do echo tick; sleep 1; done";
    world.cc(&["run", "-d", "--name", "web", "--vpc", "blue", "--image", &layout, "sh", "-c", says]).ok();
    // Its first packets are dropped, to be counted: nobody is at that address.
    world
        .cc(&[
            "run",
            "-d",
            "--name",
            "knocks",
            "--vpc",
            "blue",
            "--image",
            &layout,
            "sh",
            "-c",
            "while :; do nc -w 1 10.9.0.77 1; sleep 1; done",
        ])
        .ok();
    world.cc(&["run", "--name", "over", "--image", &layout, "sh", "-c", "exit 3"]);
    let link = world.cc(&["console"]).line();

    let mut browser = Browser::start(&world.netns);
    browser.go(&link);
    browser.sees("[...document.querySelectorAll('#containers tr')].some(r => r.innerText.includes('web') && r.innerText.includes('running') && r.innerText.includes('blue') && r.innerText.includes('10.9.0.2'))");
    assert_eq!(browser.evaluate("location.hash"), "", "the ticket is out of the history");
    assert_eq!(browser.evaluate("document.querySelectorAll('#containers tr').length"), 2);
    browser.click("#all");
    browser.sees("[...document.querySelectorAll('#containers tr')].some(r => r.innerText.includes('over') && r.innerText.includes('(3)'))");

    let row = |name: &str| {
        format!("[...document.querySelectorAll('#containers tr')].find(r => r.cells[0].innerText === '{name}')")
    };
    let choose = |browser: &mut Browser, name: &str| {
        browser.evaluate(&format!("{}.id = 'row-{name}', true", row(name)));
        browser.click(&format!("#row-{name}"));
        browser.sees(&format!("document.getElementById('name').innerText.startsWith('{name} ')"));
    };
    choose(&mut browser, "knocks");
    // Two samples make a line, and a rate that is not zero shows that it is the counters' own.
    browser.sees(
        "document.querySelector('[data-chart=\"Drops a second\"] output').value.match(/egress \\w+ [0-9.]+/) !== null",
    );
    browser.sees("document.querySelector('[data-chart=\"Drops a second\"] path').getAttribute('d').includes('L')");
    browser.sees(
        "/in [0-9.]+ · out [0-9.]+/.test(document.querySelector('[data-chart=\"Packets a second\"] output').value)",
    );
    browser.sees("/memory [1-9]/.test(document.querySelector('[data-chart=\"Memory\"] output').value)");

    choose(&mut browser, "web");
    browser.click("[data-tab=logs]");
    browser.sees("document.getElementById('log').innerText.includes('tick\\ntick')");
    browser.sees("document.getElementById('log').innerText.includes('<img src=x')");
    assert_eq!(browser.evaluate("document.querySelectorAll('#log img').length"), 0);
    assert_eq!(browser.evaluate("document.title"), "Container cloud");

    browser.click("[data-tab=terminal]");
    browser.click("#open");
    browser.sees("document.querySelector('#screen .xterm-rows')?.innerText.includes('# ')");
    browser.types("echo the answer is $((6 * 7)); hostname -i\n");
    browser.sees("document.querySelector('#screen .xterm-rows').innerText.includes('the answer is 42')");
    browser.sees("document.querySelector('#screen .xterm-rows').innerText.includes('10.9.0.2')");
    browser.types("exit 9\n");
    browser.sees("document.querySelector('#screen .xterm-rows').innerText.includes('exit code 9')");

    // A reload goes on with the session, and leaving ends it.
    browser.go(link.split('#').next().unwrap());
    browser.sees("document.querySelectorAll('#containers tr').length === 2");
    browser.click("#leave");
    browser.sees("document.getElementById('notice')?.innerText.includes('cc console')");
    browser.go(&link);
    browser.sees("document.getElementById('notice')?.innerText.includes('used already')");
    let complaints: Vec<_> = browser.complaints.iter().filter(|said| !said.contains("401")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    drop(browser);
    world.cc(&["rm", "-f", "web", "knocks", "over"]).ok();
    world.cc(&["vpc", "delete", "blue"]).ok();
    world.assert_clean();
}
