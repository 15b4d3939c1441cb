//! The servers that are measured.

use std::process::Command;

use ropewalk_peers::{Certificate, Mode};

use crate::root;

/// The role of a server in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What the kernel alone costs
    Limit,
    Ours,
    /// Ours under five layers
    Layers,
    /// Ours with a codec of somebody's own
    Codec,
    /// A peer's best: measured against
    Peer,
    /// To show where it stands
    Reference,
}

#[derive(Clone, Copy, Debug)]
enum Program {
    Rust(&'static str),
    Go,
    Netty,
    Twisted,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Peer {
    pub name: &'static str,
    pub words: &'static str,
    pub kind: Kind,
    variant: &'static str,
    program: Program,
    /// Its sources, with their version.
    pub version: String,
    /// Netty's jars.
    pub class_path: String,
    /// Further arguments of the program.
    options: &'static [&'static str],
    /// What it shows over TLS.
    pub certificate: Option<Certificate>,
}

impl Peer {
    fn new(name: &'static str, words: &'static str, kind: Kind, program: Program, variant: &'static str) -> Self {
        let (version, class_path, options, certificate) = (String::new(), String::new(), &[], None);
        Self { name, words, kind, variant, program, version, class_path, options, certificate }
    }

    /// All of them, in the order of the tables.
    pub fn all() -> Vec<Self> {
        use Kind::{Codec, Layers, Limit, Ours, Reference};
        use Program::{Go, Netty, Rust, Twisted};
        vec![
            Self::new("epoll", "bare epoll", Limit, Rust("epoll"), "raw"),
            Self::new("epoll-frames", "bare epoll, frames found", Reference, Rust("epoll"), "frames"),
            Self::new("framed", "ropewalk `framed`", Ours, Rust("ours"), "framed"),
            Self::new("session", "ropewalk `session`, the plain loop", Ours, Rust("ours"), "session"),
            Self::new("layers", "ropewalk `framed` under five layers", Layers, Rust("ours"), "layers"),
            Self::new(
                "layers-static",
                "ropewalk under five layers, state no `Arc`",
                Layers,
                Rust("ours"),
                "layers-static",
            ),
            Self::new("codec-copies", "ropewalk, a codec with `take_frame`", Codec, Rust("ours"), "codec-copies"),
            Self::new("codec-shares", "ropewalk, a codec with `split_to`", Codec, Rust("ours"), "codec-shares"),
            Self::new("tokio-coalesce", "tokio-util, coalescing by hand", Kind::Peer, Rust("tokio-coalesce"), ""),
            Self::new("go", "Go, coalescing by hand", Kind::Peer, Go, ""),
            Self::new("actix", "actix, coalescing by hand", Kind::Peer, Rust("actix"), ""),
            Self::new("ntex", "ntex", Kind::Peer, Rust("ntex"), ""),
            Self::new("netty", "Netty", Reference, Netty, ""),
            Self::new("twisted", "Twisted", Reference, Twisted, ""),
            Self::new("tokio-naive", "tokio-util, the plain loop", Reference, Rust("tokio-naive"), ""),
        ]
    }

    /// Those over TLS, which are measured by themselves.
    pub fn all_tls() -> Vec<Self> {
        use Kind::{Ours, Reference};
        use Program::Rust;
        vec![
            Self::new("framed-tls", "ropewalk `framed` on `tls:`", Ours, Rust("ours-tls"), ""),
            Self::new("bare-rustls", "bare tokio-rustls, lines found", Kind::Peer, Rust("bare-rustls"), "lines"),
            Self::new(
                "bare-rustls-framed",
                "tokio-rustls and tokio-util, coalescing by hand",
                Kind::Peer,
                Rust("bare-rustls"),
                "framed",
            ),
            Self::new("bare-rustls-raw", "bare tokio-rustls", Reference, Rust("bare-rustls"), "raw"),
        ]
    }

    /// A service that waits, under ropewalk or by hand.
    pub fn waiting(variant: &'static str) -> Self {
        Self::new(variant, "", Kind::Reference, Program::Rust("waiting"), variant)
    }

    /// A server that passes what one connection sends to all.
    pub fn fanout(variant: &'static str) -> Self {
        Self::new(variant, "", Kind::Reference, Program::Rust("fanout"), variant)
    }

    /// The name of the program in the target folder, or of what else it is written in.
    pub fn program(&self) -> &'static str {
        match self.program {
            Program::Rust(program) => program,
            Program::Go => "go",
            Program::Netty => "netty",
            Program::Twisted => "twisted",
        }
    }

    /// Whether it is a program of machine code, which can be run under valgrind.
    pub fn is_native(&self) -> bool {
        matches!(self.program, Program::Rust(_))
    }

    /// Seconds it has to run before it is as fast as it gets.
    pub fn warmup(&self, quick: bool) -> f64 {
        match self.program {
            // It compiles as it goes.
            Program::Netty if !quick => 3.0,
            _ if quick => 0.1,
            _ => 0.3,
        }
    }

    /// The command that serves.
    pub fn command(&self, mode: Mode, size: u64) -> Command {
        let built = root().join("target/peers");
        let mut command = match self.program {
            Program::Rust(program) => {
                let mut command = Command::new(root().join("target/release").join(program));
                command.args([&mode.to_string(), self.variant]).args(self.options);
                if let Some(Certificate { cert, key }) = &self.certificate {
                    command.arg("--cert").arg(cert).arg("--key").arg(key);
                }
                return command;
            }
            Program::Go => Command::new(built.join("echo-go")),
            Program::Netty => {
                let mut command = Command::new("java");
                command.args(["-cp", &self.class_path, "Echo"]);
                command
            }
            Program::Twisted => {
                let mut command = Command::new(built.join("venv/bin/python"));
                command.arg(root().join("servers/twisted_echo.py"));
                command
            }
        };
        command.arg(mode.to_string());
        // By hand one takes larger buffers for larger frames.
        if matches!(self.program, Program::Go) && size >= 4096 {
            command.arg("65536");
        }
        command
    }

    /// The same server, told this besides.
    pub fn with_options(&self, options: &'static [&'static str]) -> Self {
        Self { options, ..self.clone() }
    }

    /// The same server with every allocation counted; ours only.
    pub fn counted(&self) -> Option<Self> {
        let ours = matches!(self.program, Program::Rust("ours"));
        ours.then(|| Self { program: Program::Rust("ours-counted"), ..self.clone() })
    }
}
