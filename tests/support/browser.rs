//! A browser of our own: Chromium, driven through the driver of its package over loopback; gone when its owner is gone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::Engine as _;
use serde_json::{Value, json};

/// A session: one window, with cookies of its own.
pub(crate) struct Browser {
    driver: Child,
    session: String,
    client: reqwest::Client,
    folder: tempfile::TempDir,
}

/// How pages are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// With scripts, on a light ground.
    Light,
    /// With scripts, on a dark ground.
    Dark,
    /// Without scripts.
    Scriptless,
}

/// Chromium and its driver, if they are installed.
pub(crate) fn installed() -> Option<(PathBuf, PathBuf)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file());
    Some((find("chromium")?, find("chromedriver")?))
}

impl Browser {
    /// Starts it.
    pub(crate) async fn start((chromium, driver): &(PathBuf, PathBuf), look: Look) -> Self {
        // The driver speaks plain HTTP, but the client wants to know how it would encrypt.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::Builder::new().prefix("retentiond-browser-").tempdir().expect("a temporary folder");
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a free port").port();
        // It ends when what it reads from ends: with its owner at the latest, however that ends.
        let ends_with_us = "\"$0\" \"$@\" </dev/null & server=$!; read -r dismissed; kill \"$server\"";
        let driver = Command::new("/bin/sh")
            .args(["-c", ends_with_us])
            .arg(driver)
            .arg(format!("--port={port}"))
            .env("HOME", folder.path())
            .env("XDG_CONFIG_HOME", folder.path())
            .env("XDG_CACHE_HOME", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let client = reqwest::Client::builder().timeout(Duration::from_mins(1)).build().expect("a client");
        let mut browser = Self { driver, session: format!("http://127.0.0.1:{port}"), client, folder };
        let deadline = Instant::now() + Duration::from_mins(1);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "chromedriver does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let profile = format!("--user-data-dir={}", browser.folder.path().join("profile").display());
        let mut arguments =
            vec!["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", &profile];
        match look {
            Look::Light => {}
            Look::Dark => arguments.push("--blink-settings=preferredColorScheme=0"),
            Look::Scriptless => arguments.push("--blink-settings=scriptEnabled=false"),
        }
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let made = browser.post("/session", &wanted).await;
        browser.session = format!("{}/session/{}", browser.session, made["sessionId"].as_str().expect("a session"));
        browser
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.client.post(format!("{}{path}", self.session)).header("content-type", "application/json").body(body.to_string());
        Self::value(path, &answer.send().await.expect("chromedriver answers").text().await.expect("an answer"))
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(format!("{}{path}", self.session)).send().await;
        Self::value(path, &answer.expect("chromedriver answers").text().await.expect("an answer"))
    }

    fn value(path: &str, text: &str) -> Value {
        let answer: Value = serde_json::from_str(text).expect("JSON");
        let value = answer["value"].clone();
        assert!(value["error"].is_null(), "{path}: {} {}", value["error"], value["message"]);
        value
    }

    /// Goes to an address and waits until it is loaded.
    pub(crate) async fn open(&self, address: &str) {
        self.post("/url", &json!({"url": address})).await;
    }

    /// Makes the window so many pixels wide and high: what pages see.
    pub(crate) async fn size(&self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.post("/goog/cdp/execute", &json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})).await;
    }

    /// What a function body returns in the page. Works without scripts of the page's own.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []})).await
    }

    /// Clicks what a selector finds first.
    pub(crate) async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        self.post(&format!("/element/{element}/click"), &json!({})).await;
    }

    /// Types into what a selector finds first.
    pub(crate) async fn fill(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        self.post(&format!("/element/{element}/value"), &json!({"text": text})).await;
    }

    /// The text of what a selector finds first, as it is shown.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let element = self.find(selector).await;
        self.get(&format!("/element/{element}/text")).await.as_str().unwrap_or_default().to_owned()
    }

    async fn find(&self, selector: &str) -> String {
        let found = self.post("/element", &json!({"using": "css selector", "value": selector})).await;
        let id = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
        id.expect("an element").to_owned()
    }

    /// How many a selector finds.
    pub(crate) async fn count(&self, selector: &str) -> usize {
        self.post("/elements", &json!({"using": "css selector", "value": selector})).await.as_array().map_or(0, Vec::len)
    }

    /// Presses keys where the focus is; `\u{e004}` is Tab, `\u{e006}` Enter.
    pub(crate) async fn keys(&self, keys: &str) {
        let presses: Vec<Value> = keys
            .chars()
            .flat_map(|key| [json!({"type": "keyDown", "value": key.to_string()}), json!({"type": "keyUp", "value": key.to_string()})])
            .collect();
        self.post("/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": presses}]})).await;
    }

    /// What the console said since it was asked last: errors, and what the policy of the page forbade.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let said = self.post("/se/log", &json!({"type": "browser"})).await;
        said.as_array().into_iter().flatten().map(|line| format!("{} {}", line["level"], line["message"])).collect()
    }

    /// The whole page as a picture.
    pub(crate) async fn picture(&self, file: &Path) {
        let shot =
            self.post("/goog/cdp/execute", &json!({"cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": true}})).await;
        let data = shot["data"].as_str().unwrap_or_default();
        let bytes = base64::engine::general_purpose::STANDARD.decode(data).expect("a picture");
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, bytes).expect("a file");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends Chromium with itself, once it is told to; then its reader ends.
        let session = self.session.trim_start_matches("http://").to_owned();
        if let Some((host, path)) = session.split_once('/')
            && let Ok(mut stream) = std::net::TcpStream::connect(host)
        {
            use std::io::{Read as _, Write as _};
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = write!(stream, "DELETE /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
        drop(self.driver.stdin.take());
        let _ = self.driver.wait();
    }
}
