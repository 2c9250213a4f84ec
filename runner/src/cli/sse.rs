//! Server-sent events (WHATWG HTML, section 9.2), as far as Segue's own server speaks them: bytes in, events out.

/// The largest event that is taken, in bytes. What is larger does not come from Segue.
const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;

/// One event.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Event {
    /// `event:`; empty where the server named none.
    pub name: String,
    /// `data:`, its lines joined.
    pub data: String,
    /// `id:` of this event, where it has one.
    pub id: Option<String>,
}

/// An event grew beyond all bounds.
#[derive(Debug, thiserror::Error)]
#[error("the server sent an event of more than {MAX_EVENT_BYTES} bytes")]
pub struct TooLarge;

/// Cuts a stream of bytes into events.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    event: Event,
    has_data: bool,
}

impl Parser {
    /// Takes the next bytes, and gives the events that they complete to `each`.
    ///
    /// # Errors
    /// An event is larger than anything that Segue's server sends.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Event)) -> Result<(), TooLarge> {
        let mut pieces = bytes.split(|&byte| byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if self.line.len() + piece.len() + self.event.data.len() > MAX_EVENT_BYTES {
                return Err(TooLarge);
            }
            self.line.extend_from_slice(piece);
            if pieces.peek().is_some()
                && let Some(event) = self.end_line()
            {
                each(event);
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.name = value.into(),
            "id" => self.event.id = Some(value.into()),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            // comments keep the connection open, `retry` is the client's own affair
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&str]) -> Vec<Event> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.feed(piece.as_bytes(), |event| events.push(event)).unwrap();
        }
        events
    }

    fn event(name: &str, data: &str, id: Option<&str>) -> Event {
        Event { name: name.into(), data: data.into(), id: id.map(Into::into) }
    }

    #[test]
    fn an_event_is_the_same_wherever_the_network_cuts_it() {
        let text = ": keep\n\nevent: log\r\nid: 7\ndata: {\"a\": \"ä\"}\n\ndata:x\ndata:\ndata: y\n\nevent: lost\n\n";
        let expected = [event("log", "{\"a\": \"ä\"}", Some("7")), event("", "x\n\ny", None)];
        assert_eq!(parse(&[text]), expected);
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for byte in text.bytes() {
            parser.feed(&[byte], |event| events.push(event)).unwrap();
        }
        assert_eq!(events, expected);
    }

    #[test]
    fn an_unfinished_event_is_not_given_out() {
        assert_eq!(parse(&["data: x\n"]), []);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        let block = vec![b'x'; 1024 * 1024];
        let refused = (0..16).any(|_| parser.feed(&block, |_| ()).is_err());
        assert!(refused);
    }
}
