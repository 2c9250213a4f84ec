//! Waits for the code that GitHub gives out: at a page of the loopback to which GitHub sends the browser back, and on standard input,
//! for those whose browser is elsewhere and can't reach it.

use std::{
    io::BufRead as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    response::{Html, IntoResponse},
    routing::get,
};
use reqwest::Url;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use tokio::sync::mpsc;

use super::page;
use crate::cli::ending::{Explain as _, Failure};

/// Where GitHub sends the browser back to.
pub const BACK: &str = "/back";
/// The longest code; GitHub's have 40 characters.
const CODE_CHARS: usize = 200;
/// The longest line that is read.
const LINE_BYTES: usize = 8 * 1024;

/// A port of the loopback that is taken.
pub struct Listener {
    inner: TcpListener,
    address: SocketAddr,
}

struct Pages {
    first: String,
    state: String,
    codes: mpsc::Sender<String>,
}

#[derive(Deserialize)]
struct Back {
    code: Option<String>,
    state: Option<String>,
}

/// What somebody pasted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pasted {
    Code(String),
    /// What is wrong with it.
    Unusable(&'static str),
}

impl Listener {
    /// Takes a port, any where it is 0.
    ///
    /// # Errors
    /// It is taken.
    pub fn open(port: u16) -> Result<Self, Failure> {
        let doing = format_args!("cannot listen on port {port} of this machine");
        let inner = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).explain(doing)?;
        inner.set_nonblocking(true).explain(doing)?;
        let address = inner.local_addr().explain(doing)?;
        Ok(Self { inner, address })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The code, once it has come with the state that belongs to it. The page is at `door` alone: it holds the state, and others of
    /// this machine can reach the port.
    ///
    /// # Errors
    /// It does not come within the limit.
    pub async fn code(self, first: String, door: &str, state: &str, limit: Duration) -> Result<String, Failure> {
        let (codes, mut come) = mpsc::channel(1);
        read_input(state.to_owned(), codes.clone());
        let pages = Arc::new(Pages { first, state: state.to_owned(), codes });
        let listener = tokio::net::TcpListener::from_std(self.inner).explain("cannot listen")?;
        let server = axum::serve(listener, router(pages, door));
        tokio::select! {
            code = come.recv() => code.ok_or_else(|| Failure::new("nobody can bring the code any more")),
            ended = std::future::IntoFuture::into_future(server) => {
                Err(Failure::new(format_args!("the page on this machine ended: {ended:?}")))
            }
            () = tokio::time::sleep(limit) => Err(Failure::new(format_args!(
                "GitHub's code did not come within {} s; nothing was made or written here",
                limit.as_secs()
            ))
            .remedy("begin again; with --wait there is more time, and an App that was made without its key is deleted in its settings at GitHub")),
        }
    }
}

fn router(pages: Arc<Pages>, door: &str) -> Router {
    Router::new().route(&format!("/{door}"), get(first)).route(BACK, get(back)).with_state(pages)
}

async fn first(State(pages): State<Arc<Pages>>) -> Html<String> {
    Html(pages.first.clone())
}

async fn back(State(pages): State<Arc<Pages>>, Query(back): Query<Back>) -> impl IntoResponse {
    let is_ours = back.state.is_some_and(|state| is_same(&state, &pages.state));
    if !is_ours {
        // somebody else's page may have led the browser here
        let said = "This is not what was begun here: go back to the page that segue printed, and begin again.";
        return (StatusCode::BAD_REQUEST, Html(page::text(said)));
    }
    let Some(code) = back.code.filter(|code| is_code(code)) else {
        return (StatusCode::BAD_REQUEST, Html(page::text("GitHub sent no code with this.")));
    };
    // one is enough; what comes after it is the same page, looked at again
    let _is_first = pages.codes.try_send(code);
    (
        StatusCode::OK,
        Html(page::text("The App is there. What is left to do stands in the terminal; this page can be closed.")),
    )
}

/// Whoever pastes an address that their browser could not open, or the code of it. Lines that are neither are told, and read past.
fn read_input(state: String, codes: mpsc::Sender<String>) {
    // it ends with the command: a read of a terminal can't be broken off
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if line.trim().is_empty() {
                continue;
            }
            match pasted(&line, &state) {
                Pasted::Code(code) => {
                    let _is_awaited = codes.blocking_send(code);
                    return;
                }
                Pasted::Unusable(problem) => anstream::eprintln!("{problem}"),
            }
        }
    });
}

fn pasted(line: &str, state: &str) -> Pasted {
    let line = line.trim();
    if line.len() > LINE_BYTES {
        return Pasted::Unusable("this is longer than any address of GitHub's");
    }
    if is_code(line) {
        return Pasted::Code(line.to_owned());
    }
    let Ok(url) = Url::parse(line) else {
        return Pasted::Unusable(
            "this is neither an address nor a code: paste the address that the browser was sent to",
        );
    };
    let of = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    match (of("code").filter(|code| is_code(code)), of("state")) {
        (None, _) => Pasted::Unusable("there is no `code` in this address: paste the one that the browser was sent to"),
        (Some(code), Some(theirs)) if is_same(&theirs, state) => Pasted::Code(code),
        (Some(_), _) => {
            Pasted::Unusable("this address belongs to another attempt: its `state` is not the one of this page")
        }
    }
}

fn is_code(text: &str) -> bool {
    (10..=CODE_CHARS).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn is_same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_a_code_may_be_pasted_and_another_attempts_is_refused() {
        let code = "a180b1a3d263c81bc6441d7b990bae27d4c10679";
        let cases = [
            (format!(" {code}\n"), true),
            (format!("http://127.0.0.1:4000/back?code={code}&state=mine"), true),
            (format!("http://127.0.0.1:4000/back?state=mine&code={code}"), true),
            (format!("http://127.0.0.1:4000/back?code={code}&state=other"), false),
            (format!("http://127.0.0.1:4000/back?code={code}"), false),
            ("http://127.0.0.1:4000/back?code=../../x&state=mine".to_owned(), false),
            ("http://127.0.0.1:4000/".to_owned(), false),
            ("what?".to_owned(), false),
            ("x".repeat(10_000), false),
        ];
        for (line, is_taken) in cases {
            let read = pasted(&line, "mine");
            assert_eq!(read == Pasted::Code(code.into()), is_taken, "{line:.80}: {read:?}");
        }
    }
}
