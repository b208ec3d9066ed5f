//! How a request is signed: the bytes that are signed, the headers that carry the signature, and the text forms of keys.
//! Both ends use it, so neither can drift. Refuses to read clocks or random sources, and to remember nonces.
//!
//! The hash of the first message travels in a header of its own, under the signature. The daemon can so verify the
//! signature before it reads a byte of the body: a stranger cannot make it buffer anything.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

/// Version of the signed bytes; a change of any of them is a new version.
pub const VERSION: &str = "1";
/// How far a signature's time may be from the daemon's, either way.
pub const WINDOW_MS: u64 = 60_000;
/// Longest RPC path that can be signed: its length is signed as 16 bits, and no path of the contract comes near.
pub const PATH_BYTES_MAX: usize = 256;

pub const HEADER_VERSION: &str = "cc-signature-version";
pub const HEADER_KEY: &str = "cc-key-id";
pub const HEADER_TIME: &str = "cc-time-ms";
pub const HEADER_NONCE: &str = "cc-nonce";
pub const HEADER_MESSAGE: &str = "cc-message-sha256";
pub const HEADER_SIGNATURE: &str = "cc-signature";
const HEADERS: [&str; 6] = [HEADER_VERSION, HEADER_KEY, HEADER_TIME, HEADER_NONCE, HEADER_MESSAGE, HEADER_SIGNATURE];

const KEY_PREFIX: &str = "cck_";
const SECRET_PREFIX: &str = "ccs_";
/// Keeps our signatures apart from anything else an Ed25519 key may sign.
const DOMAIN: &[u8] = b"cc.v1 request signature\0";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    #[error("it is not signed")]
    Unsigned,
    #[error("its header {0} is missing")]
    Missing(&'static str),
    #[error("its header {0} is given more than once")]
    Repeated(&'static str),
    #[error("its header {0} is malformed")]
    Malformed(&'static str),
    #[error("its signature has version {0:?}; this program knows {VERSION}")]
    UnknownVersion(String),
    #[error("an access token is cck_ and 24 lower-case hexadecimal digits")]
    BadKeyId,
    #[error("a secret key is ccs_ and 43 characters of base64url")]
    BadSecret,
    #[error("a public key is 43 characters of base64url that name a strong Ed25519 point")]
    BadPublicKey,
    #[error("the path has {0} bytes, more than {PATH_BYTES_MAX}")]
    PathTooLong(usize),
    #[error("its signature is not that of its key")]
    BadSignature,
}

/// Names an access key: what users know as the access token. Not a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(String);

impl KeyId {
    pub fn from_random(bytes: [u8; 12]) -> Self {
        KeyId(format!("{KEY_PREFIX}{}", to_hex(&bytes)))
    }

    pub fn parse(text: &str) -> Result<Self, SigningError> {
        let digits = text.strip_prefix(KEY_PREFIX).ok_or(SigningError::BadKeyId)?;
        from_hex::<12>(digits).ok_or(SigningError::BadKeyId)?;
        Ok(KeyId(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The secret half: a 32-byte seed, wiped when dropped. Its `Debug` says nothing.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        SecretKey(SigningKey::from_bytes(seed))
    }

    pub fn parse(text: &str) -> Result<Self, SigningError> {
        let encoded = text.strip_prefix(SECRET_PREFIX).ok_or(SigningError::BadSecret)?;
        let seed = Zeroizing::new(from_base64::<32>(encoded).ok_or(SigningError::BadSecret)?);
        Ok(Self::from_seed(&seed))
    }

    pub fn to_text(&self) -> Zeroizing<String> {
        let seed = Zeroizing::new(self.0.to_bytes());
        let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(*seed));
        Zeroizing::new(format!("{SECRET_PREFIX}{}", *encoded))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    pub fn parse(text: &str) -> Result<Self, SigningError> {
        let bytes = from_base64::<32>(text).ok_or(SigningError::BadPublicKey)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| SigningError::BadPublicKey)?;
        // A weak point verifies signatures of messages that nobody signed.
        if key.is_weak() { Err(SigningError::BadPublicKey) } else { Ok(PublicKey(key)) }
    }

    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.as_bytes())
    }
}

/// What a signature vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub key: KeyId,
    pub unix_ms: u64,
    pub nonce: [u8; 16],
    /// SHA-256 of the first gRPC frame of the request.
    pub message: [u8; 32],
}

impl Claim {
    /// Every field has a fixed length or is preceded by it, so no two claims share their bytes.
    fn signed_bytes(&self, path: &str, server: &[u8; 32]) -> Result<Vec<u8>, SigningError> {
        if path.len() > PATH_BYTES_MAX {
            return Err(SigningError::PathTooLong(path.len()));
        }
        let mut bytes = Vec::with_capacity(DOMAIN.len() + path.len() + 128);
        bytes.extend_from_slice(DOMAIN);
        for text in [VERSION, self.key.as_str(), path] {
            let length = u16::try_from(text.len()).expect("bounded above");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&self.unix_ms.to_be_bytes());
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(server);
        bytes.extend_from_slice(&self.message);
        Ok(bytes)
    }

    /// Signs the claim for one RPC on the server whose public key hashes to `server`.
    pub fn sign(self, secret: &SecretKey, path: &str, server: &[u8; 32]) -> Result<SignedClaim, SigningError> {
        let signature = secret.0.sign(&self.signed_bytes(path, server)?).to_bytes();
        Ok(SignedClaim { claim: self, signature })
    }
}

/// A claim as it travels; it is worth nothing until `verify` says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedClaim {
    pub claim: Claim,
    pub signature: [u8; 64],
}

impl SignedClaim {
    pub fn verify(&self, public: &PublicKey, path: &str, server: &[u8; 32]) -> Result<(), SigningError> {
        let bytes = self.claim.signed_bytes(path, server)?;
        let signature = ed25519_dalek::Signature::from_bytes(&self.signature);
        public.0.verify_strict(&bytes, &signature).map_err(|_| SigningError::BadSignature)
    }

    /// Replaces whatever the headers said of a signature.
    pub fn write(&self, headers: &mut HeaderMap) {
        let values = [
            VERSION.to_owned(),
            self.claim.key.to_string(),
            self.claim.unix_ms.to_string(),
            to_hex(&self.claim.nonce),
            to_hex(&self.claim.message),
            URL_SAFE_NO_PAD.encode(self.signature),
        ];
        for (name, value) in HEADERS.into_iter().zip(values) {
            headers.insert(name, HeaderValue::try_from(value).expect("ASCII by construction"));
        }
    }

    /// Strict: each header exactly once, in the one spelling that `write` gives it.
    pub fn read(headers: &HeaderMap) -> Result<Self, SigningError> {
        if HEADERS.iter().all(|name| !headers.contains_key(*name)) {
            return Err(SigningError::Unsigned);
        }
        let version = text(headers, HEADER_VERSION)?;
        if version != VERSION {
            return Err(SigningError::UnknownVersion(version.chars().take(16).collect()));
        }
        let time = text(headers, HEADER_TIME)?;
        let unix_ms = time.parse::<u64>().ok().filter(|ms| ms.to_string() == time);
        Ok(SignedClaim {
            claim: Claim {
                key: KeyId::parse(text(headers, HEADER_KEY)?).map_err(|_| SigningError::Malformed(HEADER_KEY))?,
                unix_ms: unix_ms.ok_or(SigningError::Malformed(HEADER_TIME))?,
                nonce: from_hex(text(headers, HEADER_NONCE)?).ok_or(SigningError::Malformed(HEADER_NONCE))?,
                message: from_hex(text(headers, HEADER_MESSAGE)?).ok_or(SigningError::Malformed(HEADER_MESSAGE))?,
            },
            signature: from_base64(text(headers, HEADER_SIGNATURE)?)
                .ok_or(SigningError::Malformed(HEADER_SIGNATURE))?,
        })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, SigningError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(SigningError::Missing(name))?;
    if values.next().is_some() {
        return Err(SigningError::Repeated(name));
    }
    value.to_str().map_err(|_| SigningError::Malformed(name))
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly `N` bytes in lower-case digits, or nothing.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn from_base64<const N: usize>(text: &str) -> Option<[u8; N]> {
    // The bound comes first: nothing is decoded that cannot fit.
    if text.len() != (N * 4).div_ceil(3) {
        return None;
    }
    let mut bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
    let array = <[u8; N]>::try_from(bytes.as_slice()).ok();
    bytes.iter_mut().for_each(|byte| *byte = 0);
    array
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATH: &str = "/cc.v1.HostService/Info";
    const SERVER: [u8; 32] = [9; 32];

    fn claim() -> Claim {
        Claim { key: KeyId::from_random([1; 12]), unix_ms: 1_700_000_000_000, nonce: [2; 16], message: [3; 32] }
    }

    #[test]
    fn a_signature_survives_its_headers() {
        let secret = SecretKey::from_seed(&[7; 32]);
        let signed = claim().sign(&secret, PATH, &SERVER).unwrap();
        let mut headers = HeaderMap::new();
        signed.write(&mut headers);
        let read = SignedClaim::read(&headers).unwrap();
        assert_eq!(read, signed);
        assert_eq!(read.verify(&secret.public(), PATH, &SERVER), Ok(()));
    }

    #[test]
    fn each_part_is_under_the_signature() {
        let secret = SecretKey::from_seed(&[7; 32]);
        let public = secret.public();
        let good = claim().sign(&secret, PATH, &SERVER).unwrap();
        let changes: [fn(&mut SignedClaim); 5] = [
            |s| s.claim.key = KeyId::from_random([0; 12]),
            |s| s.claim.unix_ms += 1,
            |s| s.claim.nonce[15] ^= 1,
            |s| s.claim.message[0] ^= 1,
            |s| s.signature[63] ^= 1,
        ];
        for change in changes {
            let mut bad = good.clone();
            change(&mut bad);
            assert_eq!(bad.verify(&public, PATH, &SERVER), Err(SigningError::BadSignature));
        }
        assert_eq!(good.verify(&public, "/cc.v1.HostService/Events", &SERVER), Err(SigningError::BadSignature));
        assert_eq!(good.verify(&public, PATH, &[8; 32]), Err(SigningError::BadSignature));
        let other = SecretKey::from_seed(&[8; 32]).public();
        assert_eq!(good.verify(&other, PATH, &SERVER), Err(SigningError::BadSignature));
    }

    #[test]
    fn headers_are_read_strictly() {
        let signed = claim().sign(&SecretKey::from_seed(&[7; 32]), PATH, &SERVER).unwrap();
        let mut good = HeaderMap::new();
        assert_eq!(SignedClaim::read(&good), Err(SigningError::Unsigned));
        signed.write(&mut good);
        for name in HEADERS {
            let mut headers = good.clone();
            headers.remove(name);
            assert_eq!(SignedClaim::read(&headers), Err(SigningError::Missing(name)));
            headers = good.clone();
            let value = headers[name].clone();
            headers.append(name, value);
            assert_eq!(SignedClaim::read(&headers), Err(SigningError::Repeated(name)));
        }
        for (name, value) in [
            (HEADER_TIME, "+1"),
            (HEADER_TIME, "01"),
            (HEADER_TIME, "18446744073709551616"),
            (HEADER_NONCE, "00"),
            (HEADER_NONCE, "0000000000000000000000000000000G"),
            (HEADER_KEY, "cck_"),
            (HEADER_SIGNATURE, "AA"),
        ] {
            let mut headers = good.clone();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(SignedClaim::read(&headers), Err(SigningError::Malformed(name)), "{value}");
        }
    }

    #[test]
    fn a_secret_reads_back_and_does_not_show() {
        let secret = SecretKey::from_seed(&[7; 32]);
        let text = secret.to_text();
        assert_eq!(text.len(), 47);
        assert_eq!(SecretKey::parse(&text).unwrap().public(), secret.public());
        assert_eq!(PublicKey::parse(&secret.public().to_text()), Ok(secret.public()));
        assert_eq!(format!("{secret:?}"), "SecretKey(…)");
    }

    #[test]
    fn a_weak_public_key_is_refused() {
        let mut identity = [0u8; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::parse(&URL_SAFE_NO_PAD.encode(identity)), Err(SigningError::BadPublicKey));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,64}") {
            let _ = (KeyId::parse(&text), SecretKey::parse(&text), PublicKey::parse(&text));
        }

        #[test]
        fn any_claim_round_trips(key: [u8; 12], unix_ms: u64, nonce: [u8; 16], message: [u8; 32], seed: [u8; 32]) {
            let secret = SecretKey::from_seed(&seed);
            let claim = Claim { key: KeyId::from_random(key), unix_ms, nonce, message };
            let signed = claim.sign(&secret, PATH, &SERVER).unwrap();
            let mut headers = HeaderMap::new();
            signed.write(&mut headers);
            let read = SignedClaim::read(&headers).unwrap();
            prop_assert_eq!(read.verify(&secret.public(), PATH, &SERVER), Ok(()));
        }

        #[test]
        fn paths_cannot_be_moved_into_other_fields(a in "[a-z/]{0,40}", b in "[a-z/]{0,40}") {
            prop_assume!(a != b);
            prop_assert_ne!(claim().signed_bytes(&a, &SERVER).unwrap(), claim().signed_bytes(&b, &SERVER).unwrap());
        }
    }
}
