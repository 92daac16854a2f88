//! The other end of `/livez`, for containers without a shell or curl. Liveness, not readiness: a database that is away
//! must not get the daemon restarted.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::terminal::printable;

/// How long the whole probe may take.
const LIMIT: Duration = Duration::from_secs(3);
/// As much of an answer as is looked at.
const ANSWER: usize = 8 * 1024;

/// Why the daemon does not count as alive.
#[derive(Debug, thiserror::Error)]
pub enum HealthcheckError {
    /// Nobody listens, or nobody answers in time.
    #[error("no answer from http://{addr}/livez")]
    Unreachable {
        /// Who was asked.
        addr: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// Somebody answers, but not that all is well.
    #[error("http://{addr}/livez says {answer}")]
    Unhealthy {
        /// Who was asked.
        addr: SocketAddr,
        /// Status and body, made printable.
        answer: String,
    },
}

/// Asks the daemon that listens on `addr` whether it is alive; three seconds at most, blocking. An unspecified address
/// (`0.0.0.0`, `[::]`) is asked on loopback.
///
/// # Errors
/// When it does not say that it is.
pub fn healthcheck(addr: SocketAddr) -> Result<(), HealthcheckError> {
    probe(addr, LIMIT)
}

fn probe(addr: SocketAddr, limit: Duration) -> Result<(), HealthcheckError> {
    let addr = reachable(addr);
    let answer = ask(addr, Instant::now() + limit).map_err(|source| HealthcheckError::Unreachable { addr, source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.starts_with("HTTP/1.1 200") {
        return Ok(());
    }
    let answer = printable(format!("{status} {}", body.trim()).trim()).into_owned();
    Err(HealthcheckError::Unhealthy { addr, answer })
}

fn reachable(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    addr
}

fn ask(addr: SocketAddr, deadline: Instant) -> io::Result<String> {
    let left = || match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let mut stream = TcpStream::connect_timeout(&addr, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    let request = format!("GET /livez HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    // A new limit for each read: one who sends a byte a second would otherwise hold the probe for hours.
    while answer.len() < ANSWER {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(got) => answer.extend_from_slice(part.get(..got).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What Linux calls a read that ran out of time.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// Somebody who answers one connection with `text`.
    fn answering(text: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(text.as_bytes()).unwrap();
        });
        addr
    }

    #[test]
    fn only_a_200_is_healthy_and_anything_else_is_told() {
        assert!(healthcheck(answering("HTTP/1.1 200 OK\r\n\r\n{}")).is_ok());
        let error = healthcheck(answering("HTTP/1.1 503 Away\r\n\r\npass \u{1b}[2Jhangs\n"));
        let text = error.unwrap_err().to_string();
        assert!(text.ends_with("/livez says HTTP/1.1 503 Away pass \\u{1b}[2Jhangs"), "{text}");
        assert!(healthcheck(answering("SSH-2.0-OpenSSH_9.2\r\n")).is_err());
        assert!(healthcheck(answering("")).is_err());
    }

    #[test]
    fn nobody_there_and_nobody_answering_are_errors_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let silent = probe(addr, Duration::from_millis(50));
        assert!(matches!(
            silent,
            Err(HealthcheckError::Unreachable { source, .. }) if source.kind() == io::ErrorKind::TimedOut
        ));
        drop(listener);
        let text = healthcheck(addr).unwrap_err().to_string();
        assert_eq!(text, format!("no answer from http://{addr}/livez"));
    }

    #[test]
    fn an_unspecified_address_is_asked_on_loopback() {
        for (listen, ask) in [("0.0.0.0:9464", "127.0.0.1:9464"), ("[::]:9464", "[::1]:9464"), ("10.1.2.3:9464", "10.1.2.3:9464")] {
            assert_eq!(reachable(listen.parse().unwrap()), ask.parse().unwrap());
        }
    }
}
