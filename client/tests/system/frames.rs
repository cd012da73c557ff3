//! HTTP/2 as it is on the wire (RFC 9113, section 4), as far as these tests look at it.

/// What a client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's header.
const HEADER: usize = 9;
/// Bytes before a gRPC message: compressed or not, and its length.
const MESSAGE_HEADER: usize = 5;

/// Frame type: a part of a body.
pub(crate) const DATA: u8 = 0;
/// Frame type: the headers that open a stream.
pub(crate) const HEADERS: u8 = 1;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// The frames that are whole in what a client `sent`.
pub(crate) fn parse(sent: &[u8]) -> Vec<Frame> {
    let mut left = sent.strip_prefix(PREFACE).unwrap_or_default();
    let mut frames = Vec::new();
    while let Some((header, rest)) = left.split_at_checked(HEADER) {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            break;
        };
        frames.push(Frame {
            kind: header[3],
            flags: header[4],
            stream: u32::from_be_bytes([header[5], header[6], header[7], header[8]]) & 0x7fff_ffff,
            payload: payload.to_owned(),
        });
        left = rest;
    }
    frames
}

/// The gRPC messages in the DATA frames among `frames`, which are of one stream.
pub(crate) fn messages(frames: &[Frame]) -> Vec<Vec<u8>> {
    let data = frames.iter().filter(|frame| frame.kind == DATA);
    let body: Vec<u8> = data.flat_map(|frame| frame.payload.clone()).collect();
    split(&body)
}

/// The gRPC messages that are whole in `body`.
pub(crate) fn split(body: &[u8]) -> Vec<Vec<u8>> {
    let mut left = body;
    let mut messages = Vec::new();
    while let Some((header, rest)) = left.split_at_checked(MESSAGE_HEADER) {
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let Some((message, rest)) = rest.split_at_checked(length) else {
            break;
        };
        messages.push(message.to_owned());
        left = rest;
    }
    messages
}
