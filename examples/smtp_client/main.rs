//! Try it: `cargo run --example smtp -- --maildir /tmp/mail`, then
//! `echo hello | cargo run --example smtp_client -- --from ann@example.org --rcpt bob@example.org`.

mod say;

use std::path::PathBuf;

use clap::Parser;
use ropewalk::tls::ClientTls;
use ropewalk::{Lines, Remote, Result, Session, connect};

use self::say::say;

#[derive(Parser)]
struct Cli {
    #[arg(long, default_value = "tcp:127.0.0.1:8007")]
    to: Remote,
    #[arg(long)]
    from: String,
    #[arg(long, required = true)]
    rcpt: Vec<String>,
    /// The roots by which the server is verified; if given, no mail is sent before the session is encrypted
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The name that the server's certificate must have
    #[arg(long, default_value = "localhost")]
    name: String,
}

#[tokio::main]
async fn main() -> Result {
    let Cli { to, from, rcpt, ca, name } = Cli::parse();
    let mail = std::io::read_to_string(std::io::stdin())?;
    let mut s = Session::over(connect(to).await?, Lines::crlf());
    say(&mut s, None).await?;
    say(&mut s, Some("EHLO localhost")).await?;
    if let Some(ca) = ca {
        say(&mut s, Some("STARTTLS")).await?;
        s.upgrade_tls(&ClientTls::new().ca(ca).name(name)).await?;
        say(&mut s, Some("EHLO localhost")).await?;
    }
    say(&mut s, Some(&format!("MAIL FROM:<{from}>"))).await?;
    for rcpt in rcpt {
        say(&mut s, Some(&format!("RCPT TO:<{rcpt}>"))).await?;
    }
    say(&mut s, Some("DATA")).await?;
    for line in mail.lines() {
        // A line that begins with a dot would look like the end.
        s.send(format!("{}{line}", if line.starts_with('.') { "." } else { "" })).await?;
    }
    say(&mut s, Some(".")).await?;
    say(&mut s, Some("QUIT")).await?;
    s.close().await
}
