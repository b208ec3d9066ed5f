//! The gate of the metrics' door: it finds out what the bearer of a token may see, or refuses. Refuses to take anything but a
//! token: a signed call's headers mean nothing here.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use cc_common::api::fault::Fault;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tonic::Code;

use super::Peer;
use super::layer::{lock, refusal};
use super::refusals::{Log, Refusals, Source};
use super::tally::{Door, Tally};
use super::tokens::{self, Scope};
use crate::ids::now_ms;
use crate::store::Store;

const SCHEME: &str = "Bearer";

pub struct BearerGate {
    store: Arc<dyn Store>,
    /// Of this door alone: a scraper with an old token does not lock its machine out of the API.
    refusals: Mutex<Refusals>,
    tally: Tally,
    clock: fn() -> u64,
}

impl BearerGate {
    pub fn new(store: Arc<dyn Store>, refusals_per_minute: u32, tally: Tally) -> Self {
        BearerGate { store, refusals: Mutex::new(Refusals::new(refusals_per_minute)), tally, clock: now_ms }
    }

    pub async fn admit(&self, address: SocketAddr, headers: &HeaderMap) -> Result<Scope, Fault> {
        let source = Source::from(Peer::Remote { address });
        let refused = self.check(source, headers).await;
        if let Err(fault) = &refused {
            self.tally.count(Door::Metrics, &fault.code);
            // Our own trouble is not the caller's guessing, and who is turned away is counted already.
            if fault.kind == Code::Unauthenticated {
                match lock(&self.refusals).count(source, (self.clock)()) {
                    Log::Each => tracing::warn!(%address, code = %fault.code, why = %fault.why, "refused a scrape"),
                    Log::Last => tracing::warn!(
                        %address, code = %fault.code, why = %fault.why,
                        "refused a scrape; this source is turned away unread until its minute is over"
                    ),
                }
            }
        }
        refused
    }

    async fn check(&self, source: Source, headers: &HeaderMap) -> Result<Scope, Fault> {
        if lock(&self.refusals).over_limit(source, (self.clock)()) {
            let why = "too many requests from the same source were refused within the minute";
            return Err(
                refusal(Code::ResourceExhausted, "auth.rate_limited", why).next("wait a minute; then check the token")
            );
        }
        let make = "make a token on the host: cc-host key create --role metrics --project PROJECT";
        let Some(token) = token_of(headers) else {
            let why = "it carries no header `Authorization: Bearer TOKEN`";
            return Err(refusal(Code::Unauthenticated, "auth.no_token", why).next(make));
        };
        let scope = tokens::verify(&*self.store, token).await.map_err(Fault::from)?;
        scope.ok_or_else(|| {
            refusal(Code::Unauthenticated, "auth.bad_token", "its token is unknown, wrong or revoked").next(make)
        })
    }
}

/// Exactly one header, or none: which of two would be meant?
fn token_of(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Name;
    use crate::store::SqliteStore;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    fn gate(dir: &std::path::Path, clock: fn() -> u64) -> BearerGate {
        let store = Arc::new(SqliteStore::open(&dir.join("s")).unwrap());
        BearerGate { clock, ..BearerGate::new(store, 3, Tally::default()) }
    }

    #[tokio::test]
    async fn only_a_whole_token_passes() {
        let dir = tempfile::tempdir().unwrap();
        let gate = BearerGate { refusals: Mutex::new(Refusals::new(100)), ..gate(dir.path(), now_ms) };
        let address = "192.0.2.1:5".parse().unwrap();
        let blue = Scope::Project(Name::parse("blue").unwrap());
        let token = tokens::create(&*gate.store, blue.clone()).await.unwrap();
        let good = format!("Bearer {}", *token.text);
        assert_eq!(gate.admit(address, &headers(&[&good])).await, Ok(blue.clone()));
        assert_eq!(gate.admit(address, &headers(&[&good.replace("Bearer", "bearer")])).await, Ok(blue));
        let bad = [
            (vec![], "auth.no_token"),
            (vec!["Bearer"], "auth.no_token"),
            (vec!["Bearer "], "auth.bad_token"),
            (vec![good.as_str(), good.as_str()], "auth.no_token"),
            (vec![&good[7..]], "auth.no_token"),
            (vec!["Basic Zm9vOmJhcg=="], "auth.no_token"),
            (vec![&good[..good.len() - 1]], "auth.bad_token"),
        ];
        for (values, code) in bad {
            let fault = gate.admit(address, &headers(&values)).await.unwrap_err();
            assert_eq!((fault.kind, fault.code.as_str()), (Code::Unauthenticated, code), "{values:?}");
        }
        assert_eq!(gate.tally.all().iter().map(|(_, _, count)| count).sum::<u64>(), 7);
    }

    #[tokio::test]
    async fn a_source_that_guesses_is_turned_away_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut gate = gate(dir.path(), || 1000);
        let token = tokens::create(&*gate.store, Scope::Host).await.unwrap();
        let good = headers(&[&format!("Bearer {}", *token.text)]);
        let guesser = "192.0.2.1:5".parse().unwrap();
        for _ in 0..3 {
            assert_eq!(gate.admit(guesser, &headers(&["Bearer x"])).await.unwrap_err().code, "auth.bad_token");
        }
        assert_eq!(gate.admit(guesser, &good).await.unwrap_err().code, "auth.rate_limited");
        assert_eq!(gate.admit("192.0.2.2:5".parse().unwrap(), &good).await, Ok(Scope::Host));
        gate.clock = || 62_000;
        assert_eq!(gate.admit(guesser, &good).await, Ok(Scope::Host), "its minute is over");
    }
}
