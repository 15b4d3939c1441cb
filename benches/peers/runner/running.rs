//! A server while it runs, and the load generator.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use ropewalk_peers::{Mode, Phase, Report, Result, on_cores};
use rustix::process::{Pid, Signal, kill_process};

use crate::peers::Peer;
use crate::root;

/// How long a server may take to say where it listens.
const STARTING: Duration = Duration::from_secs(20);

/// A server that is killed when this value goes.
pub struct Server {
    child: Child,
    stdin: ChildStdin,
    stdout: Option<BufReader<ChildStdout>>,
    pub addr: SocketAddr,
    /// The certificate it shows, of one over TLS.
    cert: Option<PathBuf>,
}

impl Server {
    /// Starts a server on these cores, and waits until it says where it listens.
    pub fn start(peer: &Peer, mode: Mode, size: u64, cores: &[usize]) -> Result<Self> {
        Self::start_command(peer, peer.command(mode, size), cores)
    }

    /// The same under a tool, which is a program and its options.
    pub fn start_under(tool: &[String], peer: &Peer, mode: Mode, size: u64, cores: &[usize]) -> Result<Self> {
        let command = peer.command(mode, size);
        let mut under = Command::new(&tool[0]);
        under.args(&tool[1..]).arg(command.get_program()).args(command.get_args());
        Self::start_command(peer, under, cores)
    }

    fn start_command(peer: &Peer, mut command: Command, cores: &[usize]) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = on_cores(cores, || command.spawn())?.map_err(|error| format!("{}: {error}", peer.name))?;
        let (stdin, stdout) = (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
        let (told, tells) = channel();
        std::thread::spawn(move || {
            let (mut stdout, mut line) = (BufReader::new(stdout), String::new());
            let _ = stdout.read_line(&mut line);
            let _ = told.send((stdout, line));
        });
        let cert = peer.certificate.as_ref().map(|certificate| certificate.cert.clone());
        let mut server = Self { child, stdin, stdout: None, addr: SocketAddr::from(([127, 0, 0, 1], 0)), cert };
        let (stdout, line) = tells.recv_timeout(STARTING).map_err(|_| format!("{} does not listen", peer.name))?;
        server.addr = line.trim().parse().map_err(|_| format!("{} does not start: {command:?}", peer.name))?;
        server.stdout = Some(stdout);
        Ok(server)
    }

    /// Starts a server that is told its port, and waits until it accepts.
    pub fn start_on_port(name: &str, command: impl Fn(u16) -> Command, cores: &[usize]) -> Result<Self> {
        // Another may take it in between; then this fails, and says so.
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = command(addr.port());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = on_cores(cores, || command.spawn())?.map_err(|error| format!("{name}: {error}"))?;
        let stdin = child.stdin.take().ok_or("no stdin")?;
        let mut server = Self { child, stdin, stdout: None, addr, cert: None };
        let begun = Instant::now();
        while TcpStream::connect(addr).is_err() {
            if server.child.try_wait()?.is_some() || begun.elapsed() > STARTING {
                return Err(format!("{name} does not listen: {command:?}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it end, and waits until it has.
    pub fn stop(mut self) -> Result {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        self.child.wait()?;
        Ok(())
    }

    /// The bytes allocated now, and how often something was allocated so far, of a server that
    /// counts.
    pub fn allocated(&mut self) -> Result<(f64, f64)> {
        self.stdin.write_all(b"\n")?;
        let mut line = String::new();
        self.stdout.as_mut().ok_or("no stdout")?.read_line(&mut line)?;
        let (bytes, times) = line.trim().split_once(' ').ok_or("the server does not count")?;
        Ok((bytes.parse()?, times.parse()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The load generator for this server, on these cores.
pub fn load(server: &Server, mode: Mode, cores: &[usize], arguments: &[(&str, String)]) -> Result<Report> {
    let mut command = generator(server, mode);
    arguments.iter().for_each(|(name, value)| {
        command.arg(name);
        if !value.is_empty() {
            command.arg(value);
        }
    });
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = on_cores(cores, || command.output())??;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn generator(server: &Server, mode: Mode) -> Command {
    let mut command = Command::new(root().join("target/release/loadgen"));
    command.args(["--json", "--addr", &server.addr.to_string(), "--mode", &mode.to_string()]);
    command.args(["--server-pid", &server.pid().to_string()]);
    if let Some(cert) = &server.cert {
        command.arg("--tls").arg(cert);
    }
    command
}

/// A load generator that holds idle connections, and is told when to go on.
pub struct Idle {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Idle {
    pub fn start(
        server: &Server,
        mode: Mode,
        conns: usize,
        net: usize,
        big: Option<u64>,
        cores: &[usize],
    ) -> Result<Self> {
        let mut command = generator(server, mode);
        command.args(["--idle", "--step", "--depth", "1", "--conns", &conns.to_string(), "--net", &net.to_string()]);
        if let Some(big) = big {
            command.args(["--big", &big.to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = on_cores(cores, || command.spawn())??;
        let (stdin, stdout) = (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
        Ok(Self { child, stdin, stdout: BufReader::new(stdout) })
    }

    /// The next phase that is over; `None` after the last.
    pub fn phase(&mut self) -> Result<Option<Phase>> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line)? {
            0 if self.child.wait()?.success() => Ok(None),
            0 => Err("the load generator failed".into()),
            _ => Ok(Some(serde_json::from_str(&line)?)),
        }
    }

    /// Lets it go on.
    pub fn step(&mut self) -> Result {
        Ok(self.stdin.write_all(b"\n")?)
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
