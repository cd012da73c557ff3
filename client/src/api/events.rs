//! [`Events`]: the server-sent events of the own peer about one transfer.
//!
//! Invariant: no more than [`MAX_LINE`] bytes of it are held, and no more than [`MAX_BODY`] read.
//! Who reads them does without them when they fail: nothing here is worth an error to a user.

use awc::ClientResponse;
use bytes::Bytes;
use futures_util::StreamExt;
use vecino_rest::event::{self, Transfer};

/// Longest line: 64 providers with their faults are well below it.
const MAX_LINE: usize = 128 << 10;
/// Most bytes that are read of one connection: hours of events.
const MAX_BODY: usize = 256 << 20;

/// What the own peer tells while it fetches.
pub(crate) struct Events {
    response: ClientResponse,
    parser: Parser,
    read: usize,
    chunk: Bytes,
}

impl Events {
    pub(super) fn new(response: ClientResponse) -> Self {
        Self {
            response,
            parser: Parser::default(),
            read: 0,
            chunk: Bytes::new(),
        }
    }

    /// What is told next about a transfer; `None` when nothing more comes, or nothing that can be
    /// understood.
    pub(crate) async fn next(&mut self) -> Option<Transfer> {
        loop {
            while let Some(end) = self.chunk.iter().position(|byte| *byte == b'\n') {
                let line = self.chunk.split_to(end + 1);
                if let Some(transfer) = self.parser.push(&line[..end])? {
                    return Some(transfer);
                }
            }
            self.parser.hold(&self.chunk)?;
            self.chunk = self.response.next().await?.ok()?;
            self.read = self.read.saturating_add(self.chunk.len());
            if self.read > MAX_BODY {
                return None;
            }
        }
    }
}

/// Reads lines of `text/event-stream` (WHATWG HTML, section 9.2.6): `event` and `data`.
#[derive(Debug, Default)]
struct Parser {
    /// The beginning of a line.
    line: Vec<u8>,
    is_transfer: bool,
    data: Vec<u8>,
}

impl Parser {
    /// Keeps the beginning of a line for later; `None` when it is too long.
    fn hold(&mut self, beginning: &[u8]) -> Option<()> {
        if self.line.len() + beginning.len() > MAX_LINE {
            return None;
        }
        self.line.extend_from_slice(beginning);
        Some(())
    }

    /// Takes the end of a line. `None` when it is too long; a transfer when it ends one.
    fn push(&mut self, end: &[u8]) -> Option<Option<Transfer>> {
        self.hold(end)?;
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            let is_transfer = std::mem::take(&mut self.is_transfer);
            // What a later version tells in another way is not for us.
            let transfer = is_transfer.then(|| serde_json::from_slice(&data).ok());
            return Some(transfer.flatten());
        }
        if let Some(kind) = field(line, b"event:") {
            self.is_transfer = kind == event::TRANSFER.as_bytes();
        } else if let Some(data) = field(line, b"data:") {
            if self.data.len() + data.len() > MAX_LINE {
                return None;
            }
            self.data.extend_from_slice(data);
        }
        Some(None)
    }
}

/// The value of a field, without the space that may come before it.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vecino_rest::{Digest, Name, body::DownloadState};

    use super::*;

    fn transfer() -> Transfer {
        Transfer {
            name: Name::parse("a").unwrap(),
            digest: Digest::of(b"a"),
            size: 1,
            state: DownloadState::Running,
            verified_bytes: 0,
            wasted_bytes: 7,
            bytes_a_second: 0,
            providers_known: 3,
            providers: Vec::new(),
            error: None,
        }
    }

    fn parse(text: &str) -> Option<Vec<Transfer>> {
        let mut parser = Parser::default();
        let mut all = Vec::new();
        for line in text.split_terminator('\n') {
            all.extend(parser.push(line.as_bytes())?);
        }
        Some(all)
    }

    #[test]
    fn transfers_are_taken_and_the_rest_is_left() {
        let json = serde_json::to_string(&transfer()).unwrap();
        let text = format!(
            ": hello\n\nevent: file\ndata: {{}}\n\nid: 4\nevent: transfer\ndata: {json}\n\n\
             event:transfer\r\ndata:{json}\r\n\r\nevent: transfer\ndata: {{\n\n\
             data: {json}\n\nevent: transfer\ndata: {json}\n"
        );
        assert_eq!(parse(&text), Some(vec![transfer(), transfer()]));
    }

    #[test]
    fn a_line_without_end_ends_it() {
        let mut parser = Parser::default();
        assert!(parser.hold(&vec![b'x'; MAX_LINE]).is_some());
        assert!(parser.hold(b"x").is_none());
        let long = format!("data: {}\n", "x".repeat(MAX_LINE / 2 + 1));
        assert_eq!(parse(&long.repeat(2)), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(event: ?transfer\n|data: ?\\PC{0,20}\n|\\PC{0,9}\n|\n){0,9}") {
            let _ = parse(&text);
        }
    }
}
