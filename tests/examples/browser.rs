//! Chromium without a screen, driven through its debugging protocol: JSON on a WebSocket.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its part of it

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{PATIENCE, program, until};

/// A browser with one page. It ends with this value.
pub struct Browser {
    child: Child,
    socket: TcpStream,
    /// The number of the last request.
    asked: u64,
}

impl Browser {
    /// Opens an address; its own files are in this folder. `None` if there is no browser.
    pub fn open(address: &str, folder: &Path) -> Option<Self> {
        let mut command = Command::new(program("chromium")?);
        // Tests may run as root, for whom it has no sandbox; the page is our own.
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            "--window-size=1400,1000",
        ]);
        command.arg(format!("--user-data-dir={}", folder.display())).arg("about:blank");
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.unwrap();
        let mut page = None;
        until("the browser has a page", || {
            assert!(child.try_wait().unwrap().is_none(), "the browser has ended");
            page = page_of(&folder.join("DevToolsActivePort"));
            page.is_some()
        });
        let (port, path) = page.unwrap();
        let mut browser = Self { child, socket: connect(port), asked: 0 };
        browser.shake_hands(port, &path);
        browser.call("Page.navigate", &json!({ "url": address }));
        Some(browser)
    }

    fn shake_hands(&mut self, port: u16, path: &str) {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.socket.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(self.byte());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.socket.read_exact(&mut byte).unwrap();
        byte[0]
    }

    /// Sends a text with a mask of zeros, which leaves it as it is.
    fn send(&mut self, text: &str) {
        let mut frame = vec![0x81, 0x80 | 127];
        frame.extend((text.len() as u64).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.socket.write_all(&frame).unwrap();
    }

    /// The next text; others are skipped.
    fn receive(&mut self) -> String {
        loop {
            let kind = self.byte() & 0x0f;
            let length = match self.byte() {
                126 => u64::from(u16::from_be_bytes([self.byte(), self.byte()])),
                127 => (0..8).fold(0, |sum, _| sum << 8 | u64::from(self.byte())),
                short => u64::from(short),
            };
            let mut text = vec![0; usize::try_from(length).unwrap()];
            self.socket.read_exact(&mut text).unwrap();
            if kind == 1 {
                return String::from_utf8(text).unwrap();
            }
        }
    }

    /// Calls a method, and waits for its result.
    pub fn call(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let request = json!({ "id": self.asked, "method": method, "params": params });
        self.send(&request.to_string());
        loop {
            let answer: Value = serde_json::from_str(&self.receive()).unwrap();
            if answer["id"] == self.asked {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// The value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", &params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.value(expression) != true {
            assert!(Instant::now() < deadline, "waited in vain until {expression}");
        }
    }

    /// Presses a key and releases it.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            other => panic!("the code of {other} is not known here"),
        };
        let mut event = json!({ "type": "keyDown", "key": key, "code": key, "text": text, "windowsVirtualKeyCode": code });
        self.call("Input.dispatchKeyEvent", &event);
        event["type"] = json!("keyUp");
        event["text"] = json!("");
        self.call("Input.dispatchKeyEvent", &event);
    }

    /// Presses the mouse's button on the middle of an element, or releases it there.
    pub fn mouse(&mut self, kind: &str, selector: &str) {
        let middle = format!(
            "(() => {{ const r = document.querySelector('{selector}').getBoundingClientRect(); \
             return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        );
        let middle = self.value(&middle);
        let event = json!({ "type": kind, "x": middle[0], "y": middle[1], "button": "left", "clickCount": 1 });
        self.call("Input.dispatchMouseEvent", &event);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The port of the browser, which it has written to a file, and the path of its page.
fn page_of(file: &Path) -> Option<(u16, String)> {
    let port = fs::read_to_string(file).ok()?.lines().next()?.parse().ok()?;
    let mut socket = connect(port);
    let head =
        format!("GET /json/list HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).ok()?;
    let mut answer = Vec::new();
    // It may leave the connection open.
    let mut bytes = [0; 4096];
    loop {
        let n = socket.read(&mut bytes).ok()?;
        answer.extend(&bytes[..n]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        if let Ok(list) = serde_json::from_str::<Value>(body) {
            let page = list.as_array()?.iter().find(|target| target["type"] == "page")?;
            let url = page["webSocketDebuggerUrl"].as_str()?;
            return Some((port, format!("/{}", url.splitn(4, '/').nth(3)?)));
        }
        if n == 0 {
            return None;
        }
    }
}
