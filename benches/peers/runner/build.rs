//! Builds the peers whose tools are installed, and reports those left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ropewalk_peers::{Certificate, Result};

use crate::peers::Peer;
use crate::root;

const JARS: [&str; 6] = ["buffer", "codec", "common", "handler", "resolver", "transport"];

/// What was built.
#[derive(Clone, Default)]
struct Built {
    version: String,
    class_path: String,
}

impl Built {
    fn of(version: String) -> Self {
        Self { version, ..Self::default() }
    }
}

/// The load generator, and our servers with it.
pub fn generator() -> Result {
    if !cargo(&["--bins"]) {
        return Err("the load generator and our servers do not build".into());
    }
    Ok(fs::create_dir_all(root().join("target/peers"))?)
}

/// The peers that could be built.
pub fn all(only_ours: bool) -> Vec<Peer> {
    built(Peer::all(), only_ours)
}

/// Those over TLS that could be built, with a certificate made anew.
pub fn all_tls(only_ours: bool) -> Result<Vec<Peer>> {
    let certificate = Certificate::make(&root().join("target/peers/tls"))?;
    let mut peers = built(Peer::all_tls(), only_ours);
    peers.iter_mut().for_each(|peer| peer.certificate = Some(certificate.clone()));
    Ok(peers)
}

/// The example `memcached`, and the original.
pub struct Pair {
    pub ours: PathBuf,
    pub theirs: PathBuf,
    /// Of both.
    pub version: String,
}

/// Both, or why there is nothing to measure.
pub fn memcached() -> Result<Pair, String> {
    // Debian's, whose version is `memcached 1.6.18`.
    let theirs = PathBuf::from("memcached");
    let version = output(Command::new(&theirs).arg("-V")).ok_or("as memcached is not installed (Debian: memcached)")?;
    if !cargo_of(&root().join("../../Cargo.toml"), &["--example", "memcached"]) {
        return Err("as the example does not build".into());
    }
    let version = format!("{}; {version}", locked("ropewalk"));
    Ok(Pair { ours: root().join("target/release/examples/memcached"), theirs, version })
}

/// The clients that others have written; those of ours are built with the load generator.
pub fn clients() {
    for feature in ["redis", "tokio-tower"] {
        if !cargo(&["--features", feature, "--bin", &format!("clients-{feature}")]) {
            eprintln!("left out: clients-{feature}, which does not build");
        }
    }
}

fn built(all: Vec<Peer>, only_ours: bool) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    let mut outcome: Option<(&str, Result<Built, String>)> = None;
    for mut peer in all {
        let program = peer.program();
        // Several servers are one program.
        if outcome.as_ref().is_none_or(|(built, _)| *built != program) {
            outcome = Some((program, build(program, only_ours)));
        }
        match &outcome {
            Some((_, Ok(built))) => {
                (peer.version, peer.class_path) = (built.version.clone(), built.class_path.clone());
                peers.push(peer);
            }
            Some((_, Err(why))) => eprintln!("left out: {}, {why}", peer.name),
            None => {}
        }
    }
    peers
}

/// Builds a program, or says why not.
fn build(program: &str, only_ours: bool) -> Result<Built, String> {
    let light = ["ours", "ours-tls", "bare-rustls", "epoll", "tokio-coalesce", "tokio-naive"];
    let heavy = !light.contains(&program);
    if heavy && only_ours {
        return Err("as --ours says".into());
    }
    match program {
        "ours" => Ok(Built::of(locked("ropewalk"))),
        "epoll" => Ok(Built::of(locked("rustix"))),
        "tokio-coalesce" | "tokio-naive" => Ok(Built::of(format!("{}, {}", locked("tokio"), locked("tokio-util")))),
        "ours-tls" if cargo(&["--features", "tls", "--bin", program]) => Ok(Built::of(locked("ropewalk"))),
        "bare-rustls" if cargo(&["--features", "tls", "--bin", program]) => {
            Ok(Built::of(format!("{}, {}", locked("tokio-rustls"), locked("rustls"))))
        }
        // Each by itself: one tree's features would change the others' code.
        "actix" if cargo(&["--features", "actix", "--bin", "actix"]) => {
            Ok(Built::of(format!("{}, {}", locked("actix-server"), locked("actix-codec"))))
        }
        "ntex" if cargo(&["--features", "ntex", "--bin", "ntex"]) => Ok(Built::of(locked("ntex"))),
        "go" => go().map(Built::of),
        "netty" => netty(),
        "twisted" => twisted().map(Built::of),
        _ => Err("which does not build".into()),
    }
}

fn cargo(arguments: &[&str]) -> bool {
    cargo_of(&root().join("Cargo.toml"), arguments)
}

fn cargo_of(manifest: &Path, arguments: &[&str]) -> bool {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--quiet", "--manifest-path"]).arg(manifest).args(arguments);
    // What `cargo run` says of this package would make the build script of ring run again, and with
    // it all that uses TLS.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    // Where the programs are looked for.
    command.env("CARGO_TARGET_DIR", root().join("target"));
    command.status().is_ok_and(|status| status.success())
}

/// `name version` as in the lock file.
fn locked(name: &str) -> String {
    let lock = include_str!("../Cargo.lock");
    let version = lock.split_once(&format!("name = \"{name}\"\nversion = \"")).map(|(_, rest)| rest);
    let version = version.and_then(|rest| rest.split('"').next()).unwrap_or_default();
    format!("{name} {version}")
}

/// The output of a command; `None` if it fails or is not installed.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

fn go() -> Result<String, String> {
    let version = output(Command::new("go").arg("version")).ok_or("as go is not installed (Debian: golang-go)")?;
    let built = Command::new("go")
        .args(["build", "-o"])
        .args([root().join("target/peers/echo-go"), root().join("servers/echo.go")])
        .env("GO111MODULE", "off")
        .status();
    if !built.is_ok_and(|status| status.success()) {
        return Err("which does not build".into());
    }
    Ok(version.trim_start_matches("go version ").to_owned())
}

fn netty() -> Result<Built, String> {
    let jar = |name: &&str| Path::new("/usr/share/java").join(format!("netty-{name}.jar"));
    let jars: Vec<PathBuf> = JARS.iter().map(jar).collect();
    if !jars.iter().all(|jar| jar.exists()) {
        return Err("as Netty is not installed (Debian: libnetty-java)".into());
    }
    let classes = root().join("target/peers/java");
    let class_path = jars.iter().chain([&classes]).map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    let mut javac = Command::new("javac");
    javac.args(["-nowarn", "-cp", &class_path, "-d"]).args([&classes, &root().join("servers/Echo.java")]);
    output(&mut javac).ok_or("as there is no javac (Debian: default-jdk-headless), or it fails")?;
    let java = output(Command::new("java").arg("--version")).unwrap_or_default();
    let netty = fs::read_dir("/usr/share/java").into_iter().flatten().flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = name.strip_prefix("netty-common-")?.strip_suffix(".jar")?;
        Some(format!("Netty {version}"))
    });
    let java = java.lines().next().unwrap_or_default();
    Ok(Built { version: format!("{}, {java}", netty.unwrap_or_else(|| "Netty".into())), class_path })
}

fn twisted() -> Result<String, String> {
    let venv = root().join("target/peers/venv");
    let python = venv.join("bin/python");
    let version = "import sys, twisted; print('Twisted', twisted.__version__ + ', Python', sys.version.split()[0])";
    let ask = || output(Command::new(&python).args(["-c", version]));
    if let Some(version) = ask() {
        return Ok(version);
    }
    output(Command::new("python3").args(["-m", "venv"]).arg(&venv))
        .ok_or("as there is no python3 with venv (Debian: python3-venv)")?;
    output(Command::new(&python).args(["-m", "pip", "install", "--quiet", "twisted"]))
        .ok_or("as pip can't install Twisted")?;
    ask().ok_or_else(|| "which does not start".into())
}
