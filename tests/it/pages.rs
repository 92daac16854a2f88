//! The operator's pages in a real browser: sound at every width, light and dark, without scripts, by keyboard alone, and closed to who may only look.

use std::path::{Path, PathBuf};

use reqwest::{Client, Response, StatusCode, header, redirect::Policy};
use serde_json::Value;

use crate::{
    browser::{self, Browser, Look},
    world::{Daemon, World, left_out, until},
};

/// Tokens of the tests, by role.
const TOKENS: [(&str, &str, &str); 3] = [("vera", "viewer", "rtd_vera"), ("otto", "operator", "rtd_otto"), ("ada", "officer", "rtd_ada")];

/// What the pages are asked for, each with a name for its picture.
const PAGES: [(&str, &str); 13] = [
    ("overview", "/"),
    ("jobs", "/jobs"),
    ("job", "/jobs/1"),
    ("jobs-open", "/jobs?state=open&order=due"),
    ("ask", "/explain"),
    ("explain", "/explain?account=due-1"),
    ("plan", "/plan"),
    ("holds", "/holds"),
    ("guard", "/guard"),
    ("requests", "/requests"),
    ("activity", "/activity"),
    ("reports", "/reports?from=2020-01-01"),
    ("system", "/system"),
];

/// A world with tokens and the daemon in it.
struct Served {
    world: World,
    daemon: Daemon,
    base: String,
}

async fn served(world: World) -> Served {
    let mut world = world;
    for (name, role, token) in TOKENS {
        let hash = hex::encode(retentiond::desk::hash(token));
        world.rules = format!("{}\n[[http.tokens]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{hash}\"\n", world.rules);
    }
    let daemon = world.daemon();
    let started = daemon.wait_for("the start", |line| line["event"] == "daemon.started").await;
    let base = format!("http://{}", started["listen"].as_str().unwrap());
    Served { world, daemon, base }
}

/// Ten accounts in every state that a job can be in, with a hold, a request and a pause.
async fn ten() -> World {
    let world = World::new().await;
    for n in 1..=4 {
        world.account(&format!("due-{n}"), "null", "now() - interval '31 days'", "null").await;
    }
    for n in 1..=5 {
        world.account(&format!("later-{n}"), "null", &format!("now() - interval '{} days'", 30 - 3 * n), "null").await;
    }
    world.account("a <b>bold</b> & \"quoted\" id", "null", "null", "now() - interval '6 days'").await;
    world.run_passes().await.unwrap();
    let held = world.cli(&[
        "hold",
        "place",
        "--account",
        "later-1",
        "--reason",
        "Litigation 2026/17",
        "--by",
        "Grace",
        "--until",
        "2099-01-01T00:00:00Z",
    ]);
    assert!(held.status.success(), "{}", String::from_utf8_lossy(&held.stderr));
    let asked = world.cli(&["request", "--account", "later-2", "--reason", "art. 17", "--by", "Grace"]);
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let paused = world.cli(&["pause", "--account", "later-3", "--reason", "migration", "--by", "Grace"]);
    assert!(paused.status.success(), "{}", String::from_utf8_lossy(&paused.stderr));
    world
}

fn pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots")
}

async fn sign_in(browser: &Browser, served: &Served, token: &str) {
    browser.open(&format!("{}/sign-in", served.base)).await;
    browser.fill("#token", token).await;
    browser.click("main button").await;
}

/// Everything that is wrong with the page that is shown, in words.
const SOUND: &str = r"
const wrong = [];
const seen = new Set();
for (const element of document.querySelectorAll('[id]')) {
  if (seen.has(element.id)) wrong.push('the id ' + element.id + ' is there twice');
  seen.add(element.id);
}
if (document.documentElement.scrollWidth > window.innerWidth) {
  const wide = [...document.querySelectorAll('body *')].find(e => e.getBoundingClientRect().right > window.innerWidth + 1 && !e.closest('.scroll, .unseen, svg'));
  wrong.push('the page is ' + document.documentElement.scrollWidth + ' px wide: ' + (wide ? wide.outerHTML.slice(0, 120) : '?'));
}
for (const field of document.querySelectorAll('input:not([type=hidden]), select, textarea')) {
  if (!field.labels.length || !field.labels[0].textContent.trim()) wrong.push('no label: ' + field.outerHTML);
}
for (const button of document.querySelectorAll('button, a, summary')) {
  if (!button.textContent.trim()) wrong.push('no words: ' + button.outerHTML);
}
let level = 0;
for (const heading of document.querySelectorAll('h1, h2, h3, h4')) {
  const next = Number(heading.tagName[1]);
  if (next > level + 1) wrong.push('after h' + level + ' comes h' + next + ': ' + heading.textContent);
  level = next;
}
if (document.querySelectorAll('h1').length !== 1) wrong.push('not one h1');
if (document.querySelectorAll('main').length !== 1) wrong.push('not one main');
if (document.documentElement.lang !== 'en') wrong.push('no language');
const parse = text => { const n = text.match(/[\d.]+/g).map(Number); return {rgb: n.slice(0, 3), alpha: n.length > 3 ? n[3] : 1}; };
const light = rgb => { const c = rgb.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * c[0] + .7152 * c[1] + .0722 * c[2]; };
const ground = element => { for (let e = element; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.alpha > .99) return c.rgb; } return [255, 255, 255]; };
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let texts = 0;
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || element.closest('.unseen, .skip, script, title, desc, option, details:not([open]) > :not(summary)') || !element.getClientRects().length) continue;
  const style = getComputedStyle(element);
  const drawn = element.closest('svg');
  const size = parseFloat(style.fontSize) * (drawn && drawn.viewBox.baseVal.width ? drawn.getBoundingClientRect().width / drawn.viewBox.baseVal.width : 1);
  if (size < 11) wrong.push('text of ' + size.toFixed(1) + ' px: ' + walker.currentNode.textContent);
  const front = light(parse(drawn ? style.fill : style.color).rgb), back = light(ground(element));
  const ratio = (Math.max(front, back) + .05) / (Math.min(front, back) + .05);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  texts += 1;
  if (ratio < (large ? 3 : 4.5)) wrong.push('contrast ' + ratio.toFixed(2) + ': ' + walker.currentNode.textContent.trim().slice(0, 40) + ' in ' + element.outerHTML.slice(0, 80));
}
if (texts < 5) wrong.push('only ' + texts + ' texts');
return [...new Set(wrong)];
";

async fn is_sound(browser: &Browser, what: &str) {
    let wrong = browser.run(SOUND).await;
    assert_eq!(wrong, Value::Array(Vec::new()), "{what}");
    assert_eq!(browser.complaints().await, Vec::<String>::new(), "{what}");
}

async fn every_page(look: Look, widths: &[u32], jobs: &str, world: World) {
    let Some(programs) = browser::installed() else { return left_out("chromium, chromium-driver") };
    let served = served(world).await;
    let browser = Browser::start(&programs, look).await;
    let ground = if look == Look::Dark { "dark" } else { "light" };
    browser.size(360, 800).await;
    browser.open(&format!("{}/sign-in", served.base)).await;
    is_sound(&browser, "sign-in").await;
    sign_in(&browser, &served, "rtd_ada").await;
    // The figures are counted beside the first page.
    until("the jobs are counted", || async {
        browser.open(&format!("{}/plan", served.base)).await;
        !browser.text(".lead").await.contains("being counted")
    })
    .await;
    for (name, address) in PAGES.iter().filter(|(name, _)| jobs != "zero" || *name != "job") {
        browser.open(&format!("{}{address}", served.base)).await;
        for width in widths {
            browser.size(*width, 900).await;
            is_sound(&browser, &format!("{name} at {width}, {ground}, {jobs} jobs")).await;
            browser.picture(&pictures().join(format!("{name}-{jobs}-{width}-{ground}.png"))).await;
        }
    }
    finds_what_is_wrong(&browser, &served).await;
    drop(served.daemon);
}

/// A check that finds nothing proves nothing: this one is shown a page that was spoilt.
async fn finds_what_is_wrong(browser: &Browser, served: &Served) {
    browser.open(&format!("{}/jobs", served.base)).await;
    browser.size(360, 900).await;
    browser.run("document.querySelector('.lead').style.color = getComputedStyle(document.body).backgroundColor").await;
    browser.run("document.querySelector('label[for=f-account]').remove()").await;
    browser.run("document.querySelector('h1').style.width = '900px'").await;
    browser.run("document.querySelector('.foot').style.fontSize = '8px'").await;
    browser.run("document.body.append(Object.assign(document.createElement('h3'), {textContent: 'deep'}))").await;
    let wrong = browser.run(SOUND).await.to_string();
    for found in ["contrast 1.00", "no label: <input id=\\\"f-account", "px wide", "text of 8.0 px", "after h1 comes h3"] {
        assert!(wrong.contains(found), "{found}: {wrong}");
    }
    browser.run("document.head.append(Object.assign(document.createElement('style'), {textContent: 'p { color: red }'}))").await;
    assert!(browser.complaints().await.iter().any(|line| line.contains("Content Security Policy")), "what the policy forbids is noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_sound_at_every_width_with_ten_accounts_on_a_light_ground() {
    every_page(Look::Light, &[360, 1_280, 1_920], "ten", ten().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_sound_at_every_width_with_ten_accounts_on_a_dark_ground() {
    every_page(Look::Dark, &[360, 1_280, 1_920], "ten", ten().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_sound_at_every_width_with_no_job() {
    every_page(Look::Light, &[360, 1_280, 1_920], "zero", World::new().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_works_without_scripts() {
    let Some(programs) = browser::installed() else { return left_out("chromium, chromium-driver") };
    let served = served(ten().await).await;
    let browser = Browser::start(&programs, Look::Scriptless).await;
    sign_in(&browser, &served, "rtd_ada").await;
    for (name, address) in PAGES {
        browser.open(&format!("{}{address}", served.base)).await;
        assert!(browser.text("main").await.len() > 40, "{name}");
    }
    browser.open(&format!("{}/jobs", served.base)).await;
    browser.fill("#f-account", "later-1").await;
    browser.click("form.filter button").await;
    assert_eq!(browser.count("table.rows tbody tr").await, 2, "the jobs of one account");
    browser.click("table.rows td .id").await;
    assert!(browser.text("h1").await.contains("later-1"));
    browser.click("a.button").await;
    browser.fill("#place-reason", "no script").await;
    browser.click("form.act button").await;
    assert!(browser.text(".said.done").await.contains("The hold is in force"));
    assert_eq!(served.world.count("retention.holds where account_id = 'later-1' and placed_by = 'ada' and reason = 'no script'").await, 1);
}

/// Presses Tab until the focus is on what a selector finds.
async fn tab_to(browser: &Browser, selector: &str) {
    for _ in 0..200 {
        browser.keys("\u{e004}").await;
        if browser.run(&format!("return document.activeElement.matches({selector:?})")).await == Value::Bool(true) {
            let outlined = browser.run("return getComputedStyle(document.activeElement).outlineStyle").await;
            assert_eq!(outlined, "solid", "{selector} does not show that it has the focus");
            return;
        }
    }
    panic!("no way leads to {selector}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_is_placed_and_released_with_the_keyboard_alone() {
    const ENTER: &str = "\u{e007}";
    let Some(programs) = browser::installed() else { return left_out("chromium, chromium-driver") };
    let served = served(ten().await).await;
    let browser = Browser::start(&programs, Look::Light).await;
    browser.open(&format!("{}/holds", served.base)).await;
    tab_to(&browser, "#token").await;
    browser.keys(&format!("rtd_ada{ENTER}")).await;
    until("the way back to the holds", || async { browser.count("#h-account").await == 1 }).await;
    tab_to(&browser, "main details.fold > summary").await;
    browser.keys(ENTER).await;
    tab_to(&browser, "#place-account").await;
    browser.keys("later-4").await;
    tab_to(&browser, "#place-reason").await;
    browser.keys(&format!("by keyboard{ENTER}")).await;
    until("the hold", || async { browser.count(".said.done").await == 1 }).await;
    let in_force = "retention.holds where account_id = 'later-4' and placed_by = 'ada' and reason = 'by keyboard' and released_at is null";
    assert_eq!(served.world.count(in_force).await, 1);
    browser.open(&format!("{}/holds?account=later-4", served.base)).await;
    tab_to(&browser, "td details.fold > summary").await;
    browser.keys(ENTER).await;
    tab_to(&browser, "td input[name=reason]").await;
    browser.keys("over").await;
    tab_to(&browser, "td input[name=confirm]").await;
    browser.keys(&format!("later{ENTER}")).await;
    until("the refusal", || async { browser.count("main .slim").await == 1 }).await;
    assert!(browser.text("main").await.contains("what was typed to confirm"));
    assert_eq!(served.world.count(in_force).await, 1, "half an account id releases nothing");
    browser.open(&format!("{}/holds?account=later-4", served.base)).await;
    tab_to(&browser, "td details.fold > summary").await;
    browser.keys(ENTER).await;
    tab_to(&browser, "td input[name=reason]").await;
    browser.keys("over").await;
    tab_to(&browser, "td input[name=confirm]").await;
    browser.keys(&format!("later-4{ENTER}")).await;
    until("the release", || async { browser.count(".said.done").await == 1 }).await;
    assert_eq!(served.world.count(in_force).await, 0);
}

/// A client that follows nothing and keeps nothing.
fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().redirect(Policy::none()).build().unwrap()
}

async fn get(served: &Served, path: &str, token: &str) -> Response {
    let cookie = format!("retentiond_token={token}");
    client().get(format!("{}{path}", served.base)).header(header::COOKIE, cookie).send().await.unwrap()
}

async fn post(served: &Served, path: &str, token: &str, body: &str) -> Response {
    let request = client().post(format!("{}{path}", served.base)).header(header::COOKIE, format!("retentiond_token={token}"));
    request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body.to_owned()).send().await.unwrap()
}

#[tokio::test]
async fn a_viewer_sees_no_form_and_what_a_viewer_sends_is_refused() {
    let served = served(ten().await).await;
    for (name, address) in PAGES {
        let page = get(&served, address, "rtd_vera").await;
        assert_eq!(page.status(), StatusCode::OK, "{name}");
        assert!(!page.text().await.unwrap().contains("class=\"act\""), "{name}");
    }
    let before = served.world.count("retention.acts").await;
    for (path, body) in [
        ("/holds", "account_id=later-4&reason=x"),
        ("/holds/1/release", "reason=x&confirm=later-1&seen=*"),
        ("/pause", "reason=x&confirm=pause+everything"),
        ("/resume", "account_id=later-3&reason=x"),
        ("/guard/release", "reason=x&confirm=release&seen=*"),
        ("/requests", "account_id=later-4&confirm=later-4&reason=x"),
        ("/requests/1/withdraw", "reason=x&seen=*"),
        ("/jobs/1/retry", ""),
        ("/policy/accept", "reason=x&confirm=accept&seen=*"),
    ] {
        let refused = post(&served, path, "rtd_vera", &format!("{body}&idempotency_key=k1")).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{path}");
        assert!(refused.text().await.unwrap().contains("This is not for whoever asks"), "{path}");
    }
    // An operator may stop, and not let go.
    assert_eq!(post(&served, "/holds/1/release", "rtd_otto", "reason=x&confirm=later-1&seen=*&idempotency_key=k2").await.status(), 403);
    assert_eq!(served.world.count("retention.acts").await, before);
    assert_eq!(post(&served, "/holds", "rtd_otto", "account_id=later-4&reason=x&idempotency_key=k3").await.status(), StatusCode::SEE_OTHER);
    assert_eq!(served.world.count("retention.acts where actor = 'otto' and surface = 'page' and act = 'hold place'").await, 1);
}

#[tokio::test]
async fn a_form_that_is_sent_twice_acts_once_and_one_that_is_out_of_date_not_at_all() {
    let served = served(ten().await).await;
    for _ in 0..2 {
        let answer = post(&served, "/holds", "rtd_ada", "account_id=later-5&reason=once&idempotency_key=twice").await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    }
    assert_eq!(served.world.count("retention.holds where account_id = 'later-5'").await, 1);
    let id = served.world.json(&["hold", "list"]).as_array().unwrap().iter().find(|h| h["account_id"] == "later-5").unwrap()["id"].clone();
    let path = format!("/holds/{}/release", id.as_str().unwrap());
    let stale = post(&served, &path, "rtd_ada", "reason=x&confirm=later-5&seen=%22old%22&idempotency_key=k4").await;
    assert_eq!(stale.status(), StatusCode::PRECONDITION_FAILED);
    assert!(stale.text().await.unwrap().contains("It has changed meanwhile"));
    let unseen = post(&served, &path, "rtd_ada", "reason=x&confirm=later-5&idempotency_key=k5").await;
    assert_eq!(unseen.status(), StatusCode::PRECONDITION_REQUIRED);
    assert_eq!(served.world.count("retention.holds where account_id = 'later-5' and released_at is null").await, 1);
}

#[tokio::test]
async fn everything_is_paused_only_by_who_has_typed_so() {
    let served = served(World::new().await).await;
    let everything = "retention.pauses where account_id is null and data_class is null and resumed_at is null";
    assert_eq!(post(&served, "/pause", "rtd_otto", "reason=x&confirm=pause&idempotency_key=k1").await.status(), 422);
    assert_eq!(served.world.count(everything).await, 0);
    assert_eq!(post(&served, "/pause", "rtd_otto", "reason=x&confirm=pause+everything&idempotency_key=k2").await.status(), 303);
    assert_eq!(served.world.count(everything).await, 1);
    let page = get(&served, "/", "rtd_vera").await.text().await.unwrap();
    assert!(page.contains("Everything is paused. Nothing is deleted."), "{page}");
    assert_eq!(post(&served, "/resume", "rtd_otto", "reason=x&idempotency_key=k3").await.status(), 422);
    assert_eq!(post(&served, "/resume", "rtd_otto", "reason=x&confirm=resume&idempotency_key=k4").await.status(), 303);
    assert_eq!(served.world.count(everything).await, 0);
}

#[tokio::test]
async fn whoever_is_not_signed_in_is_led_to_the_sign_in_and_back() {
    let served = served(World::new().await).await;
    let led = client().get(format!("{}/jobs?state=open", served.base)).send().await.unwrap();
    assert_eq!(led.status(), StatusCode::SEE_OTHER);
    assert_eq!(led.headers()[header::LOCATION], "/sign-in?back=%2Fjobs%3Fstate%3Dopen");
    let asks = client().get(format!("{}/sign-in?back=%2Fjobs%3Fstate%3Dopen", served.base)).send().await.unwrap();
    assert!(asks.text().await.unwrap().contains("name=\"back\" value=\"/jobs?state=open\""));
    let wrong = post(&served, "/sign-in", "", "token=rtd_eve&back=%2Fjobs").await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(wrong.headers().get(header::SET_COOKIE).is_none());
    let right = post(&served, "/sign-in", "", "token=rtd_vera&back=%2Fjobs%3Fstate%3Dopen").await;
    assert_eq!((right.status(), right.headers()[header::LOCATION].to_str().unwrap()), (StatusCode::SEE_OTHER, "/jobs?state=open"));
    let cookie = right.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    assert_eq!(cookie, "retentiond_token=rtd_vera; Path=/; HttpOnly; SameSite=Lax");
    for elsewhere in ["https%3A%2F%2Fevil.example", "%2F%2Fevil.example", "%2F%5Cevil.example"] {
        let led = post(&served, "/sign-in", "", &format!("token=rtd_vera&back={elsewhere}")).await;
        assert_eq!(led.headers()[header::LOCATION], "/", "{elsewhere}");
    }
    let left = post(&served, "/sign-out", "rtd_vera", "").await;
    assert!(left.headers()[header::SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
}

#[tokio::test]
async fn pages_say_what_is_refused_in_words_and_files_are_sent_once() {
    let mut served = served(World::new().await).await;
    for (path, status, words) in [
        ("/nothing", 404, "There is no such thing"),
        ("/jobs/77", 404, "there is no job 77"),
        ("/jobs/x", 400, "is no id"),
        ("/jobs?state=gone", 400, "is none of scheduled"),
        ("/jobs?cursor=x", 400, "is none that a"),
        ("/plan?until=x", 400, "is no day"),
        ("/plan?until=-262143-01-01", 400, "is too far from now"),
        ("/reports?from=2027-01-01&to=2026-01-01", 400, "from is not before to"),
        ("/holds?cursor=x", 400, "is no id"),
    ] {
        let page = get(&served, path, "rtd_vera").await;
        assert_eq!(page.status().as_u16(), status, "{path}");
        assert_eq!(page.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8", "{path}");
        assert!(page.text().await.unwrap().contains(words), "{path}");
    }
    let sheet = get(&served, "/assets/desk.css", "").await;
    let policy = sheet.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let tag = sheet.headers()[header::ETAG].clone();
    let again = client().get(format!("{}/assets/desk.css", served.base)).header(header::IF_NONE_MATCH, tag).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(get(&served, "/assets/..%2f..%2fCargo.toml", "rtd_vera").await.status(), StatusCode::NOT_FOUND);
    let elsewhere = client()
        .post(format!("{}/pause", served.base))
        .header("sec-fetch-site", "cross-site")
        .header(header::COOKIE, "retentiond_token=rtd_otto");
    assert_eq!(elsewhere.send().await.unwrap().status(), StatusCode::FORBIDDEN);
    served.daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(served.daemon.ended().await, Some(0));
}
