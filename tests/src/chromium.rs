//! A browser without a screen, told what to do over its debugging protocol, inside a namespace. Refuses to keep a profile, and to reach
//! anything but where it is sent.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::eventually::within;
use crate::netns::Netns;
use crate::websocket::dial;

/// For a page to show what it is to show; a browser on a busy machine takes seconds to start.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);
/// What is said of a question to a page that is left before it has answered.
const LEFT: &str = "Inspected target navigated or closed";

pub struct Browser {
    child: Child,
    socket: WebSocket<TcpStream>,
    session: String,
    calls: u64,
    /// What the page said on its console, and what it threw.
    pub complaints: Vec<String>,
    _profile: tempfile::TempDir,
    _stderr: BufReader<ChildStderr>,
}

impl Browser {
    /// With one page, which is empty.
    pub fn start(netns: &Netns) -> Browser {
        let profile = tempfile::Builder::new().prefix(crate::world::PREFIX).tempdir().unwrap();
        let mut command = Command::new("chromium");
        // Root has no sandbox of Chromium's, and the background's connections go nowhere here.
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.args(["--disable-dev-shm-usage", "--remote-debugging-port=0", "--window-size=1280,900"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        netns.enter(&mut command);
        let mut child = command.spawn().expect("chromium is installed: cargo xtask setup --tests");
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let url = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "chromium ended: {:?}", child.wait());
            if let Some((_, url)) = line.trim().split_once("DevTools listening on ") {
                break url.to_owned();
            }
        };
        let address = url.trim_start_matches("ws://").split('/').next().unwrap().to_owned();
        let (socket, _) = tungstenite::client(&url, dial(netns, &address)).expect("chromium can be debugged");
        let mut browser = Browser {
            child,
            socket,
            session: String::new(),
            calls: 0,
            complaints: Vec::new(),
            _profile: profile,
            _stderr: stderr,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached =
            browser.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, json!({}));
        }
        browser
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.ask(method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn ask(&mut self, method: &str, parameters: Value) -> Result<Value, Value> {
        self.calls += 1;
        let mut call = json!({ "id": self.calls, "method": method, "params": parameters });
        if !self.session.is_empty() {
            call["sessionId"] = self.session.clone().into();
        }
        self.socket.send(Message::Text(call.to_string().into())).unwrap();
        loop {
            let Message::Text(text) = self.socket.read().unwrap_or_else(|e| panic!("{method}: {e}")) else { continue };
            let said: Value = serde_json::from_str(&text).unwrap();
            if said["id"] == self.calls {
                return if said["error"].is_null() { Ok(said["result"].clone()) } else { Err(said["error"].clone()) };
            }
            if matches!(said["method"].as_str(), Some("Runtime.exceptionThrown" | "Log.entryAdded")) {
                self.complaints.push(said["params"].to_string());
            }
        }
    }

    pub fn go(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// What a JavaScript expression gives, as JSON.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        self.evaluated(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    fn evaluated(&mut self, expression: &str) -> Result<Value, Value> {
        let given = self.ask("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true }))?;
        assert!(given["exceptionDetails"].is_null(), "{expression}: {given}");
        Ok(given["result"]["value"].clone())
    }

    /// Waits until the expression is true.
    #[track_caller]
    pub fn sees(&mut self, expression: &str) {
        let page = "document.body.innerText";
        let seen = within(SHOWN_WITHIN, || match self.evaluated(expression) {
            Ok(given) => (given == true).then_some(()),
            // The page that was asked gave way to the next one meanwhile.
            Err(error) if error["message"] == LEFT => None,
            Err(error) => panic!("{expression}: {error}"),
        });
        assert!(
            seen.is_some(),
            "not seen: {expression}; the page: {}; it complained: {:?}",
            self.evaluate(page),
            self.complaints
        );
    }

    /// With the mouse, in the middle of the first element that matches.
    pub fn click(&mut self, selector: &str) {
        let rectangle = format!(
            "(() => {{ const e = document.querySelector({selector:?}); e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        );
        let middle = self.evaluate(&rectangle);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": middle[0], "y": middle[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// With the keyboard, into whatever has the focus.
    pub fn types(&mut self, text: &str) {
        for character in text.chars() {
            let (key, text) = match character {
                '\n' => ("Enter".to_owned(), "\r".to_owned()),
                other => (other.to_string(), other.to_string()),
            };
            let code = if key == "Enter" { 13 } else { 0 };
            self.call(
                "Input.dispatchKeyEvent",
                json!({ "type": "keyDown", "key": key, "text": text, "windowsVirtualKeyCode": code }),
            );
            self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code }));
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends its own children, and closes its profile.
        let close = json!({ "id": 0, "method": "Browser.close" });
        let asked = self.socket.send(Message::Text(close.to_string().into()));
        let ended = asked.is_ok() && within(Duration::from_secs(10), || self.ended()).is_some();
        if !ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Browser {
    fn ended(&mut self) -> Option<()> {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)).then_some(())
    }
}
