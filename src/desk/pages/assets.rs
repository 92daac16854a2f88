//! The files that every page names: one style sheet, one optional script. Served from memory, and known by what is in them.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// A file in memory.
#[derive(Debug, Clone, Copy)]
pub struct Asset {
    /// Where it is.
    pub path: &'static str,
    /// Its media type.
    pub kind: &'static str,
    /// What is in it.
    pub body: &'static str,
}

/// Light and dark, narrow and wide, and on paper.
pub const CSS: Asset = Asset { path: "/assets/desk.css", kind: "text/css; charset=utf-8", body: include_str!("desk.css") };
/// Looks again every thirty seconds and keeps relative times true; every page works without it.
pub const JS: Asset = Asset { path: "/assets/desk.js", kind: "text/javascript; charset=utf-8", body: include_str!("desk.js") };
/// In the page itself, so that no browser asks for one.
pub const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' r='6.5' fill='none' stroke='%23277a73' stroke-width='2.4'/%3E%3Cpath d='M8 4.5V8l2.4 1.6' fill='none' stroke='%23277a73' stroke-width='1.8' stroke-linecap='round'/%3E%3C/svg%3E";

static TAGS: LazyLock<[(&str, String); 2]> = LazyLock::new(|| {
    [CSS, JS].map(|asset| {
        let digest = Sha256::digest(asset.body.as_bytes());
        (asset.path, format!("\"{}\"", hex::encode(&digest[..12])))
    })
});

/// Every asset.
#[must_use]
pub fn all() -> [Asset; 2] {
    [CSS, JS]
}

impl Asset {
    /// Its entity tag, quotes and all: another one for another content.
    #[must_use]
    pub fn tag(&self) -> &'static str {
        TAGS.iter().find(|(path, _)| *path == self.path).map_or("", |(_, tag)| tag.as_str())
    }
}
