//! What a browser has instead of a key: tickets, which are good once and for moments, and sessions, which a ticket buys and which
//! buy tickets. Both are 256 random bits, kept as their hash and in memory only: a daemon that starts anew knows none. Refuses to hold
//! more than a bounded number for each key, and to outlive the key that they were made with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cc_common::api::fault::Fault;
use cc_common::api::signing::to_hex;
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};
use tonic::Code;
use zeroize::Zeroizing;

use super::layer::{lock, refusal};
use super::{Caller, keys};
use crate::ids::now_ms;
use crate::store::Store;

/// A link that is printed waits for a person.
const LINK_FOR: Duration = Duration::from_secs(300);
/// A page opens its socket at once.
const SOCKET_FOR: Duration = Duration::from_secs(30);
/// A working day; then a person asks for a link again.
const SESSION_FOR: Duration = Duration::from_secs(12 * 3600);
/// Of each kind, for each key: the next one takes the place of the one that would end first.
const PER_KEY_MAX: usize = 64;

const TICKET_PREFIX: &str = "cct_";
const SESSION_PREFIX: &str = "ccw_";

type Hash = [u8; 32];

#[derive(Clone)]
pub struct Tickets {
    store: Arc<dyn Store>,
    held: Arc<Mutex<Held>>,
    clock: fn() -> u64,
}

#[derive(Default)]
struct Held {
    tickets: HashMap<Hash, Pass>,
    sessions: HashMap<Hash, Pass>,
}

#[derive(Debug, Clone)]
struct Pass {
    caller: Caller,
    expires_ms: u64,
    /// A session may be had for it.
    opens: bool,
}

/// What a ticket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// A person, who opens the console with it, or a program, for one request.
    Link,
    /// The one socket that a page opens with it: no session can make itself another.
    Socket,
}

/// What is given out, at the only moment at which its text exists here.
pub struct Issued {
    pub text: Zeroizing<String>,
    pub expires_ms: u64,
}

impl Tickets {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self::with_clock(store, now_ms)
    }

    fn with_clock(store: Arc<dyn Store>, clock: fn() -> u64) -> Self {
        Tickets { store, held: Arc::default(), clock }
    }

    pub fn issue(&self, caller: &Caller, what_for: For) -> Issued {
        let good_for = if what_for == For::Link { LINK_FOR } else { SOCKET_FOR };
        let held = &mut *lock(&self.held);
        self.add(&mut held.tickets, TICKET_PREFIX, caller, good_for, what_for == For::Link)
    }

    /// The caller that the ticket stands for, once.
    pub async fn redeem(&self, ticket: &str) -> Result<Caller, Fault> {
        self.spend(ticket, false).await
    }

    async fn spend(&self, ticket: &str, to_open: bool) -> Result<Caller, Fault> {
        let hash = hash(TICKET_PREFIX, ticket);
        let pass = hash.and_then(|hash| lock(&self.held).tickets.remove(&hash));
        self.check(pass.filter(|pass| pass.opens || !to_open)).await.and_then(|caller| {
            caller.ok_or_else(|| {
                refusal(Code::Unauthenticated, "auth.bad_ticket", "the ticket is unknown, used already, or too old")
                    .next("ask for another link: cc console")
            })
        })
    }

    /// A session for whoever brought a ticket.
    pub async fn open_session(&self, ticket: &str) -> Result<(Caller, Issued), Fault> {
        let caller = self.spend(ticket, true).await?;
        let held = &mut *lock(&self.held);
        let session = self.add(&mut held.sessions, SESSION_PREFIX, &caller, SESSION_FOR, false);
        Ok((caller, session))
    }

    pub async fn of_session(&self, session: &str) -> Result<Caller, Fault> {
        let pass = hash(SESSION_PREFIX, session).and_then(|hash| lock(&self.held).sessions.get(&hash).cloned());
        self.check(pass).await.and_then(|caller| {
            caller.ok_or_else(|| {
                refusal(Code::Unauthenticated, "auth.no_session", "the session is unknown or over")
                    .next("ask for another link: cc console")
            })
        })
    }

    pub fn close_session(&self, session: &str) {
        if let Some(hash) = hash(SESSION_PREFIX, session) {
            lock(&self.held).sessions.remove(&hash);
        }
    }

    fn add(
        &self,
        passes: &mut HashMap<Hash, Pass>,
        prefix: &str,
        caller: &Caller,
        good_for: Duration,
        opens: bool,
    ) -> Issued {
        let now_ms = (self.clock)();
        let expires_ms = now_ms.saturating_add(u64::try_from(good_for.as_millis()).unwrap_or(u64::MAX));
        let mut bits = Zeroizing::new([0u8; 32]);
        rand::rng().fill_bytes(&mut *bits);
        let text = Zeroizing::new(format!("{prefix}{}", to_hex(&*bits)));
        passes.retain(|_, pass| pass.expires_ms > now_ms);
        let own = |pass: &Pass| pass.caller.project == caller.project && pass.caller.key == caller.key;
        if passes.values().filter(|pass| own(pass)).count() >= PER_KEY_MAX {
            let oldest = passes.iter().filter(|(_, pass)| own(pass)).min_by_key(|(_, pass)| pass.expires_ms);
            if let Some(hash) = oldest.map(|(hash, _)| *hash) {
                passes.remove(&hash);
            }
        }
        passes.insert(Sha256::digest(text.as_bytes()).into(), Pass { caller: caller.clone(), expires_ms, opens });
        Issued { text, expires_ms }
    }

    /// `None` when it is over, or when the key behind it is not what it was.
    async fn check(&self, pass: Option<Pass>) -> Result<Option<Caller>, Fault> {
        let Some(Pass { caller, expires_ms, .. }) = pass else { return Ok(None) };
        if expires_ms <= (self.clock)() {
            return Ok(None);
        }
        if let Some(id) = &caller.key {
            let key = keys::lookup(&*self.store, id).await.map_err(Fault::from)?;
            if key.is_none_or(|key| key.project != caller.project || key.role != caller.role) {
                return Ok(None);
            }
        }
        Ok(Some(caller))
    }
}

/// Found by its hash, so that a comparison that stops early tells nothing of the text.
fn hash(prefix: &str, text: &str) -> Option<Hash> {
    text.starts_with(prefix).then(|| Sha256::digest(text.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::Role;
    use super::*;
    use crate::ids::{Name, default_project};
    use crate::store::SqliteStore;

    fn tickets(clock: fn() -> u64) -> (Tickets, Arc<dyn Store>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&dir.path().join("s")).unwrap());
        (Tickets::with_clock(store.clone(), clock), store, dir)
    }

    fn root() -> Caller {
        Caller { project: default_project(), role: Role::Admin, local: true, key: None }
    }

    #[tokio::test]
    async fn a_ticket_is_good_once_and_a_session_until_it_is_closed() {
        let (tickets, _store, _dir) = tickets(now_ms);
        let ticket = tickets.issue(&root(), For::Link);
        let (caller, session) = tickets.open_session(&ticket.text).await.unwrap();
        assert_eq!(caller, root());
        assert_eq!(tickets.redeem(&ticket.text).await.unwrap_err().code, "auth.bad_ticket", "a second time");
        assert_eq!(tickets.of_session(&session.text).await.unwrap(), root());
        assert_eq!(tickets.redeem(&session.text).await.unwrap_err().code, "auth.bad_ticket", "a session is no ticket");
        assert_eq!(tickets.of_session(&ticket.text).await.unwrap_err().code, "auth.no_session");
        assert_eq!(tickets.of_session("").await.unwrap_err().code, "auth.no_session");
        tickets.close_session(&session.text);
        assert_eq!(tickets.of_session(&session.text).await.unwrap_err().code, "auth.no_session");
    }

    #[tokio::test]
    async fn they_end_by_the_clock() {
        static NOW: AtomicU64 = AtomicU64::new(1_000);
        let (tickets, _store, _dir) = tickets(|| NOW.load(Ordering::Relaxed));
        let late = tickets.issue(&root(), For::Socket);
        let (_, session) = tickets.open_session(&tickets.issue(&root(), For::Link).text).await.unwrap();
        NOW.store(late.expires_ms, Ordering::Relaxed);
        assert_eq!(tickets.redeem(&late.text).await.unwrap_err().code, "auth.bad_ticket");
        assert!(tickets.of_session(&session.text).await.is_ok());
        NOW.store(session.expires_ms, Ordering::Relaxed);
        assert_eq!(tickets.of_session(&session.text).await.unwrap_err().code, "auth.no_session");
    }

    #[tokio::test]
    async fn a_revoked_key_takes_its_tickets_and_sessions_along() {
        let (tickets, store, _dir) = tickets(now_ms);
        let project = Name::parse("blue").unwrap();
        let key = keys::create(&*store, project.clone(), Role::Operator).await.unwrap();
        let caller = Caller { project, role: Role::Operator, local: false, key: Some(key.id.clone()) };
        let ticket = tickets.issue(&caller, For::Link);
        let (_, session) = tickets.open_session(&tickets.issue(&caller, For::Link).text).await.unwrap();
        keys::revoke(&*store, &key.id).await.unwrap();
        assert_eq!(tickets.redeem(&ticket.text).await.unwrap_err().code, "auth.bad_ticket");
        assert_eq!(tickets.of_session(&session.text).await.unwrap_err().code, "auth.no_session");
    }

    #[tokio::test]
    async fn a_session_cannot_make_itself_another() {
        let (tickets, _store, _dir) = tickets(now_ms);
        let ticket = tickets.issue(&root(), For::Socket);
        assert_eq!(tickets.open_session(&ticket.text).await.err().unwrap().code, "auth.bad_ticket");
        assert_eq!(tickets.redeem(&ticket.text).await.unwrap_err().code, "auth.bad_ticket", "it is spent all the same");
    }

    #[tokio::test]
    async fn who_asks_for_too_many_loses_its_own_oldest() {
        static NOW: AtomicU64 = AtomicU64::new(1_000);
        let (tickets, _store, _dir) = tickets(|| NOW.fetch_add(1, Ordering::Relaxed));
        let blue = Caller { project: Name::parse("blue").unwrap(), ..root() };
        let others = tickets.issue(&root(), For::Link);
        let own: Vec<_> = (0..=PER_KEY_MAX).map(|_| tickets.issue(&blue, For::Link)).collect();
        assert_eq!(tickets.redeem(&own[0].text).await.unwrap_err().code, "auth.bad_ticket");
        for kept in &own[1..] {
            assert_eq!(tickets.redeem(&kept.text).await.unwrap(), blue);
        }
        assert_eq!(tickets.redeem(&others.text).await.unwrap(), root());
    }
}
