//! The parts of TLS's record layer that a meter below TLS needs.

/// "enum { .. handshake(22) .. } ContentType" (RFC 8446, 5.1): the first byte of a TLS connection,
/// in either direction. No other WebSocket connection begins with it.
const HANDSHAKE: u8 = 22;

/// A byte of type, two of version, then "uint16 length".
const HEADER: usize = 5;

/// The record layer in one direction.
#[derive(Debug, Default)]
pub(super) enum Records {
    #[default]
    NothingYet,
    /// Not TLS.
    Plain,
    Tls(Record),
}

/// An incomplete record.
#[derive(Debug, Default)]
pub(super) struct Record {
    header: [u8; HEADER],
    /// How many bytes of the record have passed, including its header.
    passed: usize,
}

impl Records {
    /// Records bytes that pass. While the connection `begins`, TLS may follow other bytes, such as
    /// the answer to `CONNECT`, if these came in a separate read.
    #[inline]
    pub(super) fn pass(&mut self, bytes: &[u8], begins: bool) {
        match self {
            Self::Tls(record) => record.pass(bytes),
            Self::Plain if !begins => {}
            Self::Plain | Self::NothingYet => match bytes {
                [] => {}
                [HANDSHAKE, ..] => {
                    let mut record = Record::default();
                    record.pass(bytes);
                    *self = Self::Tls(record);
                }
                _ => *self = Self::Plain,
            },
        }
    }

    /// Returns how many bytes of the incomplete record have passed, or `None` without TLS.
    pub(super) fn incomplete(&self) -> Option<usize> {
        match self {
            Self::Tls(record) => Some(record.passed),
            Self::NothingYet | Self::Plain => None,
        }
    }
}

impl Record {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            if let Some(place) = self.header.get_mut(self.passed) {
                *place = first;
                self.passed += 1;
                bytes = &bytes[1..];
            } else {
                let taken = bytes.len().min(self.len() - self.passed);
                self.passed += taken;
                bytes = &bytes[taken..];
            }
            if self.passed >= HEADER && self.passed == self.len() {
                self.passed = 0;
            }
        }
    }

    /// Returns the record's length, including its header, which must be complete.
    fn len(&self) -> usize {
        let [.., high, low] = self.header;
        HEADER + usize::from(u16::from_be_bytes([high, low]))
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn record(kind: u8, payload: usize) -> Vec<u8> {
        let [high, low] = (payload as u16).to_be_bytes();
        let mut bytes = Vec::from([kind, 3, 3, high, low]);
        bytes.resize(HEADER + payload, 7);
        bytes
    }

    /// This holds however the bytes are cut into pieces.
    #[test]
    fn a_record_is_incomplete_until_its_last_byte() {
        let mut stream = record(HANDSHAKE, 300);
        let mut wholes = Vec::from([stream.len()]);
        for payload in [1, 0, 16_401, 65_535] {
            stream.extend(record(23, payload));
            wholes.push(stream.len());
        }
        for piece in [1, 2, 4, 5, 6, 7, 299, 5000, stream.len()] {
            let mut records = Records::default();
            let mut passed = 0;
            for bytes in stream.chunks(piece) {
                records.pass(bytes, false);
                passed += bytes.len();
                let whole = wholes.iter().filter(|&&whole| whole <= passed).max();
                let expected = passed - whole.unwrap_or(&0);
                assert_eq!(records.incomplete(), Some(expected), "{piece}, {passed}");
            }
        }
    }

    #[test]
    fn what_follows_a_handshake_of_http_is_not_tls() {
        for first in [&b"GET / HTTP/1.1"[..], b"HTTP/1.1 101"] {
            let mut records = Records::default();
            records.pass(b"", true);
            records.pass(first, true);
            records.pass(&record(HANDSHAKE, 300)[..100], false);
            assert_eq!(records.incomplete(), None);
        }
    }
}
