//! Buckets, objects and uploads in parts: what each operation does and answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::{Method, StatusCode, request::Parts};
use sha2::{Digest as _, Sha256};

use super::Operation;

/// Every part but the last has at least so many bytes.
const MIN_PART_BYTES: usize = 5 << 20;

/// An answer.
pub struct Answer {
    pub status: StatusCode,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl Answer {
    fn done() -> Self {
        Self { status: StatusCode::OK, headers: Vec::new(), body: Bytes::new() }
    }

    fn xml(text: &str) -> Self {
        let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{text}").into();
        Self { status: StatusCode::OK, headers: vec![("content-type", "application/xml".into())], body }
    }

    /// An error, under the status that belongs to its code.
    pub fn refusal(code: &str, message: &str) -> Self {
        let status = match code {
            "NoSuchBucket" | "NoSuchKey" | "NoSuchUpload" => StatusCode::NOT_FOUND,
            "PreconditionFailed" => StatusCode::PRECONDITION_FAILED,
            "InvalidRange" => StatusCode::RANGE_NOT_SATISFIABLE,
            "SlowDown" => StatusCode::SERVICE_UNAVAILABLE,
            "NotImplemented" => StatusCode::NOT_IMPLEMENTED,
            "AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "RequestTimeTooSkewed" => {
                StatusCode::FORBIDDEN
            }
            _ => StatusCode::BAD_REQUEST,
        };
        let text = format!("<Error><Code>{code}</Code><Message>{message}</Message><RequestId>1</RequestId></Error>");
        Self { status, ..Self::xml(&text) }
    }
}

/// A request.
pub struct Asked<'a> {
    pub bucket: &'a str,
    pub key: &'a str,
    pub query: &'a [(String, String)],
    pub head: &'a Parts,
    pub body: Bytes,
    pub now: DateTime<Utc>,
}

impl Asked<'_> {
    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }
}

/// What a request asks for; `None` for what is not known here.
pub fn operation(method: &Method, key: &str, query: &[(String, String)]) -> Option<Operation> {
    let has = |name: &str| query.iter().any(|(known, _)| known == name);
    Some(match (method.as_str(), key.is_empty()) {
        ("GET", true) if has("list-type") => Operation::List,
        ("POST", true) if has("delete") => Operation::DeleteMany,
        ("PUT", false) if has("uploadId") => Operation::Part,
        ("PUT", false) => Operation::Put,
        ("GET", false) => Operation::Get,
        ("HEAD", false) => Operation::Head,
        ("DELETE", false) if has("uploadId") => Operation::Abort,
        ("DELETE", false) => Operation::Delete,
        ("POST", false) if has("uploads") => Operation::Create,
        ("POST", false) if has("uploadId") => Operation::Complete,
        _ => return None,
    })
}

struct Object {
    bytes: Bytes,
    etag: String,
    modified: DateTime<Utc>,
}

struct Upload {
    bucket: String,
    key: String,
    parts: BTreeMap<u32, (String, Bytes)>,
}

/// Everything that lies here.
pub struct Buckets {
    buckets: BTreeMap<String, BTreeMap<String, Object>>,
    uploads: BTreeMap<String, Upload>,
    next_upload: u64,
    /// Objects on a page of a list.
    pub page: usize,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { buckets: BTreeMap::new(), uploads: BTreeMap::new(), next_upload: 1, page: 1000 }
    }
}

impl Buckets {
    pub fn make(&mut self, bucket: &str) {
        self.buckets.entry(bucket.into()).or_default();
    }

    pub fn names(&self, bucket: &str) -> Vec<String> {
        self.buckets.get(bucket).map_or_else(Vec::new, |objects| objects.keys().cloned().collect())
    }

    pub fn put(&mut self, bucket: &str, key: &str, bytes: Bytes, modified: DateTime<Utc>) -> String {
        let etag = etag(&bytes);
        let object = Object { bytes, etag: etag.clone(), modified };
        self.buckets.entry(bucket.into()).or_default().insert(key.into(), object);
        etag
    }

    pub fn remove(&mut self, bucket: &str, key: &str) {
        self.buckets.entry(bucket.into()).or_default().remove(key);
    }

    pub fn age(&mut self, by: TimeDelta) {
        self.buckets.values_mut().flat_map(BTreeMap::values_mut).for_each(|object| object.modified -= by);
    }

    pub fn open_uploads(&self) -> usize {
        self.uploads.len()
    }

    /// Does what is asked.
    pub fn perform(&mut self, operation: Operation, asked: &Asked<'_>) -> Answer {
        if !self.buckets.contains_key(asked.bucket) {
            return Answer::refusal("NoSuchBucket", "The specified bucket does not exist");
        }
        match operation {
            Operation::Put => self.put_object(asked),
            Operation::Get | Operation::Head => self.get(asked),
            Operation::Delete => {
                self.remove(asked.bucket, asked.key);
                Answer { status: StatusCode::NO_CONTENT, ..Answer::done() }
            }
            Operation::DeleteMany => self.delete_many(asked),
            Operation::List => self.list(asked),
            Operation::Create => self.create(asked),
            Operation::Part => self.part(asked),
            Operation::Complete => self.complete(asked),
            Operation::Abort => match self.uploads.remove(asked.query("uploadId").unwrap_or_default()) {
                Some(_) => Answer { status: StatusCode::NO_CONTENT, ..Answer::done() },
                None => no_upload(),
            },
        }
    }

    fn object(&self, asked: &Asked<'_>) -> Option<&Object> {
        self.buckets.get(asked.bucket)?.get(asked.key)
    }

    fn put_object(&mut self, asked: &Asked<'_>) -> Answer {
        if asked.header("if-none-match") == Some("*") && self.object(asked).is_some() {
            return Answer::refusal(
                "PreconditionFailed",
                "At least one of the pre-conditions you specified did not hold",
            );
        }
        let etag = self.put(asked.bucket, asked.key, asked.body.clone(), asked.now);
        Answer { headers: vec![("etag", etag)], ..Answer::done() }
    }

    fn get(&self, asked: &Asked<'_>) -> Answer {
        let Some(object) = self.object(asked) else {
            return Answer::refusal("NoSuchKey", "The specified key does not exist.");
        };
        let headers = vec![
            ("etag", object.etag.clone()),
            ("last-modified", object.modified.format("%a, %d %b %Y %H:%M:%S GMT").to_string()),
            ("accept-ranges", "bytes".into()),
        ];
        let mut answer = Answer { headers, body: object.bytes.clone(), ..Answer::done() };
        if let Some(range) = asked.header("range") {
            let Some((begin, end)) = ranged(range, object.bytes.len()) else {
                return Answer::refusal("InvalidRange", "The requested range is not satisfiable");
            };
            answer.status = StatusCode::PARTIAL_CONTENT;
            answer.headers.push(("content-range", format!("bytes {begin}-{}/{}", end - 1, object.bytes.len())));
            answer.body = object.bytes.slice(begin..end);
        }
        answer
    }

    fn delete_many(&mut self, asked: &Asked<'_>) -> Answer {
        let text = String::from_utf8_lossy(&asked.body).into_owned();
        let mut deleted = String::new();
        for key in between(&text, "<Key>", "</Key>") {
            self.remove(asked.bucket, key);
            deleted += &format!("<Deleted><Key>{key}</Key></Deleted>");
        }
        Answer::xml(&format!("<DeleteResult>{deleted}</DeleteResult>"))
    }

    fn list(&self, asked: &Asked<'_>) -> Answer {
        let prefix = asked.query("prefix").unwrap_or_default();
        let after = asked.query("continuation-token").or(asked.query("start-after")).unwrap_or_default();
        let wanted = asked.query("max-keys").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        let page = self.page.min(wanted);
        let all = self.buckets.get(asked.bucket).into_iter().flatten();
        let mut found = all.filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
        let mut contents = String::new();
        let mut last = "";
        let mut count = 0;
        for (key, object) in found.by_ref().take(page) {
            let modified = object.modified.format("%Y-%m-%dT%H:%M:%S.000Z");
            let (etag, size) = (&object.etag, object.bytes.len());
            contents += &format!(
                "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{etag}</ETag><Size>{size}</Size></Contents>"
            );
            (last, count) = (key, count + 1);
        }
        let is_truncated = found.next().is_some();
        let next =
            if is_truncated { format!("<NextContinuationToken>{last}</NextContinuationToken>") } else { String::new() };
        Answer::xml(&format!(
            "<ListBucketResult><Name>{}</Name><Prefix>{prefix}</Prefix><KeyCount>{count}</KeyCount><MaxKeys>{page}</MaxKeys>\
             <IsTruncated>{is_truncated}</IsTruncated>{next}{contents}</ListBucketResult>",
            asked.bucket
        ))
    }

    fn create(&mut self, asked: &Asked<'_>) -> Answer {
        let id = format!("upload-{}", self.next_upload);
        self.next_upload += 1;
        let upload = Upload { bucket: asked.bucket.into(), key: asked.key.into(), parts: BTreeMap::new() };
        self.uploads.insert(id.clone(), upload);
        let (bucket, key) = (asked.bucket, asked.key);
        Answer::xml(&format!(
            "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><UploadId>{id}</UploadId>\
             </InitiateMultipartUploadResult>"
        ))
    }

    fn part(&mut self, asked: &Asked<'_>) -> Answer {
        let number = asked.query("partNumber").and_then(|number| number.parse::<u32>().ok());
        let Some(number) = number.filter(|number| (1..=10_000).contains(number)) else {
            return Answer::refusal("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive");
        };
        let Some(upload) = self.uploads.get_mut(asked.query("uploadId").unwrap_or_default()) else {
            return no_upload();
        };
        let etag = etag(&asked.body);
        upload.parts.insert(number, (etag.clone(), asked.body.clone()));
        Answer { headers: vec![("etag", etag)], ..Answer::done() }
    }

    fn complete(&mut self, asked: &Asked<'_>) -> Answer {
        let id = asked.query("uploadId").unwrap_or_default();
        let Some(upload) = self.uploads.get(id) else { return no_upload() };
        let text = String::from_utf8_lossy(&asked.body).into_owned();
        let mut bytes = Vec::new();
        let mut before = 0;
        let named: Vec<&str> = between(&text, "<Part>", "</Part>").collect();
        for (index, part) in named.iter().enumerate() {
            let number =
                between(part, "<PartNumber>", "</PartNumber>").next().and_then(|n| n.parse().ok()).unwrap_or(0);
            let etag = between(part, "<ETag>", "</ETag>").next().unwrap_or_default().replace("&quot;", "\"");
            if number <= before {
                return Answer::refusal("InvalidPartOrder", "The list of parts was not in ascending order.");
            }
            before = number;
            match upload.parts.get(&number) {
                Some((known, part)) if known.trim_matches('"') == etag.trim_matches('"') => {
                    if part.len() < MIN_PART_BYTES && index + 1 < named.len() {
                        return Answer::refusal("EntityTooSmall", "Your proposed upload is smaller than the minimum.");
                    }
                    bytes.extend_from_slice(part);
                }
                _ => return Answer::refusal("InvalidPart", "One or more of the specified parts could not be found."),
            }
        }
        let Some(Upload { bucket, key, .. }) = self.uploads.remove(id) else { return no_upload() };
        let etag = self.put(&bucket, &key, bytes.into(), asked.now);
        Answer::xml(&format!(
            "<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><ETag>{etag}</ETag>\
             </CompleteMultipartUploadResult>"
        ))
    }
}

fn no_upload() -> Answer {
    Answer::refusal("NoSuchUpload", "The specified upload does not exist.")
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", &hex::encode(Sha256::digest(bytes))[..32])
}

/// `bytes=A-B`, `bytes=A-` and `bytes=-N`, as begin and end in a content of that length.
fn ranged(range: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (begin, end) = match (first.parse::<usize>().ok(), last.parse::<usize>().ok()) {
        (Some(begin), Some(last)) => (begin, (last + 1).min(length)),
        (Some(begin), None) => (begin, length),
        (None, Some(suffix)) => (length.saturating_sub(suffix), length),
        (None, None) => return None,
    };
    (begin < end).then_some((begin, end))
}

fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| rest.split_once(close).map(|(inside, _)| inside))
}
