//! `tidings doctor`: what could keep the server from working well here, in words.

use std::{
    fmt,
    io::{IsTerminal as _, Write as _},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use reqwest::Client;
use rustix::process::{Resource, getrlimit};
use tidings_broker::embedded;

use super::{DoctorArguments, Exit, Failure};
use crate::{config::Config, wiring};

/// Below this much room the log may soon be unable to grow: its history limit, and a checkpoint.
const DISK_SPARE_BYTES: u64 = 1 << 30;

/// How long a server may take to answer that it is ready.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// A certificate that ends sooner than this has missed its renewal: those that are renewed by
/// themselves are at a third of their life, which is 90 days at the most usual authority.
const CERTIFICATE_SPARE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What was found of one thing.
struct Finding {
    verdict: Verdict,
    subject: &'static str,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It works, but not as well as it could.
    Doubtful,
    Bad,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "ok  ",
            Self::Doubtful => "note",
            Self::Bad => "BAD ",
        })
    }
}

/// Looks at everything and prints what it sees. Fails if something is bad.
pub(crate) async fn run(arguments: &DoctorArguments) -> Result<(), Failure> {
    let config = arguments.config.load(None)?.config;
    let mut findings = vec![
        Finding { verdict: Verdict::Good, subject: "configuration", text: "valid".to_owned() },
        credentials(&config, arguments.dev),
        data_dir(&config.data_dir),
        log(&config.data_dir),
        disk(&config.data_dir),
        open_files(config.limits.max_connections),
    ];
    findings.push(store(&config).await);
    findings.extend(outboxes(&config).await);
    findings.extend(certificate(&config));
    findings.extend(jwks(&config).await);
    findings.push(server(&config).await);

    let mut out = std::io::stdout().lock();
    let has_colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for Finding { verdict, subject, text } in &findings {
        let (on, off) = match verdict {
            _ if !has_colour => ("", ""),
            Verdict::Good => ("\x1b[32m", "\x1b[0m"),
            Verdict::Doubtful => ("\x1b[33m", "\x1b[0m"),
            Verdict::Bad => ("\x1b[31m", "\x1b[0m"),
        };
        writeln!(out, "{on}{verdict}{off}  {subject:<14} {text}")?;
    }
    match findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count() {
        0 => Ok(()),
        bad => Err(Failure::new(Exit::Failed, format!("{bad} of {} findings are bad", findings.len()))),
    }
}

fn finding(verdict: Verdict, subject: &'static str, text: impl Into<String>) -> Finding {
    Finding { verdict, subject, text: text.into() }
}

fn credentials(config: &Config, is_dev: bool) -> Finding {
    let auth = &config.auth;
    match (is_dev, auth.has_credentials()) {
        (true, _) => finding(Verdict::Good, "credentials", "those of development"),
        (false, true) => finding(Verdict::Good, "credentials", "configured"),
        (false, false) => finding(
            Verdict::Bad,
            "credentials",
            "none: `serve` refuses to start; set auth.api_keys, auth.jwt_hs256_secret, auth.jwt_public_keys or auth.jwks_url",
        ),
    }
}

fn data_dir(dir: &Path) -> Finding {
    if !dir.exists() {
        return finding(Verdict::Good, "data_dir", format!("{} does not exist yet; `serve` makes it", dir.display()));
    }
    let probe = dir.join(".doctor");
    match std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe)) {
        Ok(()) => finding(Verdict::Good, "data_dir", format!("{} can be written to", dir.display())),
        Err(error) => finding(Verdict::Bad, "data_dir", format!("{} cannot be written to: {error}", dir.display())),
    }
}

fn log(dir: &Path) -> Finding {
    if !dir.join(embedded::DATABASE_FILE).exists() {
        return finding(Verdict::Good, "log", "none yet");
    }
    let report = match embedded::inspect(dir) {
        Ok(report) => report,
        Err(error) => return finding(Verdict::Bad, "log", format!("{:#}", anyhow::Error::from(error))),
    };
    if let Some(damage) = report.damage.first() {
        let text = format!("{} is damaged: {damage}; restore data_dir from a backup", report.path.display());
        return finding(Verdict::Bad, "log", text);
    }
    if report.schema_version > report.schema_known {
        let text =
            format!("written by a newer version (schema {}, known is {})", report.schema_version, report.schema_known);
        return finding(Verdict::Bad, "log", text);
    }
    let text = format!(
        "sound: {} events and {} keys in {} MiB, WAL {} MiB, schema {}",
        report.events,
        report.used_keys,
        report.database_bytes >> 20,
        report.wal_bytes >> 20,
        report.schema_version
    );
    finding(Verdict::Good, "log", text)
}

async fn store(config: &Config) -> Finding {
    match wiring::store::schema(config).await {
        Err(error) => finding(Verdict::Bad, "store", format!("{error:#}")),
        Ok(None) => finding(Verdict::Good, "store", "none yet"),
        Ok(Some(schema)) if schema.found > schema.known => {
            let (found, known) = (schema.found, schema.known);
            finding(Verdict::Bad, "store", format!("written by a newer version (schema {found}, known is {known})"))
        }
        Ok(Some(schema)) => {
            let text = match schema.found == schema.known {
                true => format!("{:?} can be used, schema {}", config.store.url, schema.found),
                false => format!("{:?}: `serve` brings schema {} to {}", config.store.url, schema.found, schema.known),
            };
            finding(Verdict::Good, "store", text)
        }
    }
}

async fn outboxes(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    // What the configuration holds has been checked.
    for outbox in wiring::outbox::settings(config).unwrap_or_default() {
        let name = &outbox.name;
        findings.push(match tidings_store::outbox::check(&outbox).await {
            Ok(waiting) => finding(Verdict::Good, "outbox", format!("{name} can be drained, {waiting} rows wait")),
            Err(cause) => finding(Verdict::Bad, "outbox", format!("{name}: {cause}")),
        });
    }
    findings
}

fn disk(dir: &Path) -> Finding {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
    match rustix::fs::statvfs(existing) {
        Err(error) => finding(Verdict::Doubtful, "disk", format!("room unknown: {error}")),
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let text = format!("{} MiB free", free >> 20);
            let verdict = if free < DISK_SPARE_BYTES { Verdict::Doubtful } else { Verdict::Good };
            finding(verdict, "disk", text)
        }
    }
}

fn open_files(streams: usize) -> Finding {
    match getrlimit(Resource::Nofile).maximum {
        Some(max) if max < streams as u64 => finding(
            Verdict::Doubtful,
            "open files",
            format!("at most {max}, below limits.max_connections = {streams}; raise `ulimit -Hn` or LimitNOFILE"),
        ),
        Some(max) => finding(Verdict::Good, "open files", format!("up to {max}")),
        None => finding(Verdict::Good, "open files", "no limit"),
    }
}

async fn jwks(config: &Config) -> Option<Finding> {
    let url = config.auth.jwks_url.as_ref()?;
    Some(match get(&Client::new(), url).await {
        Ok((200, _)) => finding(Verdict::Good, "JWKS", "can be fetched"),
        Ok((status, _)) => finding(Verdict::Bad, "JWKS", format!("auth.jwks_url answers {status}")),
        Err(error) => finding(Verdict::Bad, "JWKS", format!("auth.jwks_url cannot be fetched: {error:#}")),
    })
}

/// When the certificate ends. That it can be read and is the key's has been seen with the configuration.
fn certificate(config: &Config) -> Option<Finding> {
    let (path, _) = config.tls.files()?;
    let ends_at = std::fs::read(path).ok().and_then(|pem| {
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
        let not_after = pem.parse_x509().ok()?.validity().not_after.timestamp();
        Some(UNIX_EPOCH + Duration::from_secs(not_after.try_into().unwrap_or_default()))
    });
    let Some(ends_at) = ends_at else {
        return Some(finding(Verdict::Doubtful, "TLS", "it cannot be seen when the certificate ends"));
    };
    Some(match ends_at.duration_since(SystemTime::now()) {
        Err(_) => finding(Verdict::Bad, "TLS", format!("the certificate in {} has expired", path.display())),
        Ok(left) => {
            let days = left.as_secs() / (24 * 60 * 60);
            let verdict = if left < CERTIFICATE_SPARE { Verdict::Doubtful } else { Verdict::Good };
            finding(verdict, "TLS", format!("the certificate in {} ends in {days} days", path.display()))
        }
    })
}

async fn server(config: &Config) -> Finding {
    let scheme = if config.tls.files().is_some() { "https" } else { "http" };
    let origin = format!("{scheme}://{}", config.listen);
    let url = format!("{origin}/readyz");
    // Its certificate is for a name, and it is asked by address; it is told nothing that is secret.
    let client = Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap_or_default();
    match get(&client, &url).await {
        Ok((200, _)) => finding(Verdict::Good, "server", format!("running and ready at {origin}")),
        Ok((status, text)) => finding(Verdict::Bad, "server", format!("{url} answers {status}: {}", text.trim())),
        Err(_) => finding(Verdict::Doubtful, "server", format!("none is running at {origin}")),
    }
}

async fn get(client: &Client, url: &str) -> anyhow::Result<(u16, String)> {
    let response = client.get(url).timeout(ANSWER_TIMEOUT).send().await?;
    Ok((response.status().as_u16(), response.text().await?))
}
