//! The signature of a request, checked as Amazon checks it.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>

use std::{collections::HashMap, fmt::Write as _};

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::request::Parts;
use sha2::{Digest as _, Sha256};

/// How far the clocks may be apart.
const MAX_SKEW: TimeDelta = TimeDelta::minutes(15);

/// Why a request is refused: Amazon's code, and what it says.
pub type Refusal = (&'static str, &'static str);

/// Whether a request was signed with one of the keys (id and secret), and not long ago; `now` is the store's time.
///
/// # Errors
/// The refusal.
pub fn check(head: &Parts, body: &[u8], keys: &HashMap<String, String>, now: DateTime<Utc>) -> Result<(), Refusal> {
    const MALFORMED: Refusal = ("AuthorizationHeaderMalformed", "The authorization header is malformed.");
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let authorization = header("authorization");
    if authorization.is_empty() {
        return Err(("AccessDenied", "Access Denied"));
    }
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or(MALFORMED)?;
    let fields: HashMap<&str, &str> = fields.split(',').filter_map(|field| field.trim().split_once('=')).collect();
    let field = |name| fields.get(name).copied().ok_or(MALFORMED);
    let (credential, signed, signature) = (field("Credential")?, field("SignedHeaders")?, field("Signature")?);
    let scope: Vec<&str> = credential.split('/').collect();
    let [id, date, region, "s3", "aws4_request"] = scope[..] else { return Err(MALFORMED) };
    let secret = keys
        .get(id)
        .ok_or(("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."))?;
    let time = header("x-amz-date");
    let sent = NaiveDateTime::parse_from_str(time, "%Y%m%dT%H%M%SZ").map_err(|_| MALFORMED)?.and_utc();
    if (now - sent).abs() > MAX_SKEW {
        return Err((
            "RequestTimeTooSkewed",
            "The difference between the request time and the server's time is too large.",
        ));
    }
    let names: Vec<&str> = signed.split(';').collect();
    if !names.contains(&"host") || !time.starts_with(date) {
        return Err(MALFORMED);
    }
    let hash = header("x-amz-content-sha256");
    if hash != "UNSIGNED-PAYLOAD" && hash != hex::encode(Sha256::digest(body)) {
        return Err((
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        ));
    }
    let mut request = format!("{}\n{}\n{}\n", head.method, head.uri.path(), canonical_query(head.uri.query()));
    for name in names {
        let value = header(name).split_whitespace().collect::<Vec<_>>().join(" ");
        // writing to a string does not fail
        let _ = writeln!(request, "{name}:{value}");
    }
    let _ = write!(request, "\n{signed}\n{hash}");
    let digest = hex::encode(Sha256::digest(&request));
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{date}/{region}/s3/aws4_request\n{digest}");
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [date, region, "s3", "aws4_request", &text] {
        key = hmac(&key, part.as_bytes());
    }
    if hex::encode(key) == signature {
        Ok(())
    } else {
        Err(("SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided."))
    }
}

/// The pairs of a query, decoded.
pub fn pairs(query: Option<&str>) -> Vec<(String, String)> {
    let split = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    };
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(split).collect()
}

/// `%41` is `A`.
pub fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| first == b'%').and_then(|digits| hex::decode(digits).ok());
        match escaped {
            Some(decoded) => {
                bytes.extend(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn canonical_query(query: Option<&str>) -> String {
    let mut pairs: Vec<(String, String)> =
        pairs(query).into_iter().map(|(name, value)| (encode(&name), encode(&value))).collect();
    pairs.sort();
    pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    // a key of any length will do
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}
