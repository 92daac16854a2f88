//! `[http]`: where the daemon listens, and who may use the API and the pages. Tokens are configured by their hash, so that whoever reads the file cannot use them.

use std::net::{IpAddr, SocketAddr};

use chrono::{DateTime, Utc};

use super::{
    Http, Proxy, Role, Token,
    table::{Read, Table, text, texts, word},
    validate::label,
};

const ROLES: [(&str, Role); 4] =
    [("ingest", Role::Ingest), ("viewer", Role::Viewer), ("operator", Role::Operator), ("officer", Role::Officer)];
/// Longest name of a token: it is written with every act.
const LONGEST_NAME: usize = 100;

pub(super) fn http(t: &mut Table<'_>) -> Option<Http> {
    let listen = t.scalar("listen", |value| if text(value)? == "off" { Ok(None) } else { socket(value).map(Some) });
    let ops_listen = t.scalar("ops_listen", socket);
    let tokens = t.list("tokens", label(&["name"]), token);
    let whole = tokens.iter().all(Option::is_some);
    let tokens: Vec<Token> = tokens.into_iter().flatten().collect();
    let given = t.has("proxy");
    let proxy = given.then(|| t.section("proxy", proxy).flatten());
    for (at, token) in tokens.iter().enumerate() {
        if tokens.iter().take(at).any(|other| other.name == token.name) {
            t.fault("tokens", format!("{:?} is there twice; give each token a name of its own", token.name));
        }
        if tokens.iter().take(at).any(|other| other.sha256 == token.sha256) {
            t.fault("tokens", format!("{:?} has the hash of another token; make one of its own: `retentiond token`", token.name));
        }
    }
    if let (Some(Some(listen)), Some(ops)) = (listen, ops_listen)
        && listen == ops
        && ops.port() != 0
    {
        t.fault("ops_listen", format!("{ops} is http.listen too; give them different ports"));
    }
    if let Some(Some(listen)) = listen
        && !listen.ip().is_loopback()
        && tokens.is_empty()
        && !given
        && whole
    {
        let problem = format!(
            "{listen} is not a loopback address, and without tokens anybody could reach it: use 127.0.0.1, or add [[http.tokens]] (`retentiond token` makes one)"
        );
        t.fault("listen", problem);
    }
    let proxy = match proxy {
        None => None,
        Some(proxy) => Some(proxy?),
    };
    Some(Http { listen: listen?, ops_listen: ops_listen?, tokens, proxy })
}

fn token(t: &mut Table<'_>) -> Option<Token> {
    let name = t.need("name", "say whose it is, like \"grafana\" or \"ada\"", |value| {
        let name = text(value)?;
        if name.trim() == name && name.chars().count() <= LONGEST_NAME && !name.chars().any(char::is_control) {
            Ok(name)
        } else {
            Err(format!("is no name: at most {LONGEST_NAME} characters, without spaces around it"))
        }
    });
    let role = t.need("role", "one of viewer, operator, officer, ingest", word(&ROLES));
    let sha256 = t.need("sha256", "the hash that `retentiond token` printed", |value| {
        let mut hash = [0; 32];
        hex::decode_to_slice(text(value)?, &mut hash)
            .map_err(|_| "is not 64 hexadecimal digits; `retentiond token` prints them".to_owned())?;
        Ok(hash)
    });
    let until = t.maybe("until", |value| {
        let given = text(value)?;
        let until = DateTime::parse_from_rfc3339(&given);
        until.map(|at| at.with_timezone(&Utc)).map_err(|_| format!("{given:?} is no instant: write it like \"2027-01-31T00:00:00Z\""))
    });
    Some(Token { name: name?, role: role?, sha256: sha256?, until })
}

fn proxy(t: &mut Table<'_>) -> Option<Proxy> {
    let from = t.need("from", "the addresses of the proxy, like [\"10.0.0.5\"]", |value| {
        let given = texts(value)?;
        let parsed =
            |address: &String| address.parse::<IpAddr>().map_err(|_| format!("{address:?} is no address: write it like \"10.0.0.5\""));
        given.iter().map(parsed).collect::<Result<Vec<_>, _>>()
    });
    let user_header = t.need("user_header", "the header with the name of whoever signed in, like \"x-forwarded-user\"", header);
    let role_header = t.maybe("role_header", header);
    Some(Proxy { from: from?, user_header: user_header?, role_header })
}

fn header(value: &::config::Value) -> Read<String> {
    let given = text(value)?.to_ascii_lowercase();
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !given.is_empty() && given.chars().all(fits) && given != "authorization" && given != "cookie" && given != "host" {
        Ok(given)
    } else {
        Err(format!("{given:?} is no header that a proxy could set: write it like \"x-forwarded-user\""))
    }
}

fn socket(value: &::config::Value) -> Read<SocketAddr> {
    let given = text(value)?;
    given.parse().map_err(|_| format!("{given:?} is not an address and a port: write it like \"127.0.0.1:9464\""))
}
