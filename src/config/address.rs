//! Judges the address of a database: well-formed, nothing in it that the driver would ignore, TLS wherever it leaves this machine.
//! The address is a secret from its first to its last character; no message repeats it.

use std::{net::IpAddr, str::FromStr};

use secrecy::SecretString;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::table::Read;

/// An address to connect to.
pub(super) struct Address {
    pub(super) url: SecretString,
    /// Set when the address spells out less than a proof of identity.
    pub(super) warning: Option<String>,
}

/// Parameters of an address that mean something to the driver; it would log the value of any other.
const PARAMETERS: [&str; 19] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "options[",
];

/// Judges an address without ever repeating it, and makes TLS with proof of identity the default off this machine (§3).
pub(super) fn address(url: &str) -> Read<Address> {
    let url = url.trim();
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err("must start with postgres://".to_owned());
    }
    if url.contains('#') {
        return Err("holds a bare #; write it as %23".to_owned());
    }
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let names = || query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split('=').next().unwrap_or(pair));
    let known = |name: &&str| PARAMETERS.contains(name) || name.starts_with("options[");
    if let Some(unknown) = names().find(|name| !known(name)) {
        return Err(format!("has an unknown parameter {unknown:?}; known: {}", PARAMETERS[..18].join(", ")));
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| format!("is no postgres address: {error}"))?;
    let here = options.get_socket().is_some() || is_local(options.get_host());
    let spelt = names().any(|name| matches!(name, "sslmode" | "ssl-mode"));
    if here || spelt {
        let weak = !here && !matches!(options.get_ssl_mode(), PgSslMode::VerifyFull);
        let warning = weak
            .then(|| format!("its sslmode does not prove that {} is who it claims to be; sslmode=verify-full does", options.get_host()));
        return Ok(Address { url: url.into(), warning });
    }
    let joint = if url.contains('?') { '&' } else { '?' };
    Ok(Address { url: format!("{url}{joint}sslmode=verify-full").into(), warning: None })
}

fn is_local(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.starts_with('/') || host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}
