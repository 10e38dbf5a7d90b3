//! How a connection ends: the verdict, the peer's Close, a failed write, and which half reports it.
//!
//! The first verdict is the cause and stays. The stream returns it once, and then `None`; sends
//! fail with it as soon as there is one. A write that fails also ends the connection, but the
//! peer's last messages are worth reading, so the stream continues for as long as a closing
//! handshake may take. The sending half returns the write's error once, and then that the
//! connection is closed.

use std::boxed::Box;

use crate::error::{CloseHandshake, Error, PeerClose, Verdict};

/// How the connection ends. Takes only a pointer until it does.
#[derive(Debug)]
pub(super) struct Teardown<E> {
    ending: Option<Box<Ending<E>>>,
    /// Whether the stream has returned how the connection ended.
    reported: bool,
    /// Whether the stream has returned `None`.
    terminated: bool,
}

#[derive(Debug)]
struct Ending<E> {
    verdict: Option<Verdict>,
    /// The code with which the program began to close.
    close_code: Option<u16>,
    peer_close: Option<PeerClose>,
    write_failure: Option<WriteFailure<E>>,
    /// Why the inner sink refused a displaced message, for the sending half.
    refusal: Option<Error<E>>,
}

/// A failed write, with its error unless the sending half has returned that.
#[derive(Debug)]
struct WriteFailure<E>(Option<E>);

impl<E> Teardown<E> {
    pub(super) const fn new() -> Self {
        Self {
            ending: None,
            reported: false,
            terminated: false,
        }
    }

    pub(super) fn verdict(&self) -> Option<&Verdict> {
        self.ending.as_ref()?.verdict.as_ref()
    }

    pub(super) fn peer_close(&self) -> Option<PeerClose> {
        self.ending.as_ref()?.peer_close.clone()
    }

    pub(super) fn close_code(&self) -> Option<u16> {
        self.ending.as_ref()?.close_code
    }

    pub(super) fn write_failed(&self) -> bool {
        self.ending
            .as_ref()
            .is_some_and(|ending| ending.write_failure.is_some())
    }

    pub(super) fn is_terminated(&self) -> bool {
        self.terminated
    }

    fn ending(&mut self) -> &mut Ending<E> {
        self.ending.get_or_insert_with(|| {
            Box::new(Ending {
                verdict: None,
                close_code: None,
                peer_close: None,
                write_failure: None,
                refusal: None,
            })
        })
    }

    /// Records the first verdict.
    pub(super) fn set_verdict(&mut self, verdict: Verdict) {
        self.ending().verdict.get_or_insert(verdict);
    }

    /// Records the outcome of the closing handshake after a verdict.
    pub(super) fn set_close_handshake(&mut self, outcome: CloseHandshake) {
        let verdict = self
            .ending
            .as_mut()
            .and_then(|ending| ending.verdict.as_mut());
        if let Some(verdict) = verdict {
            verdict.close_handshake = outcome;
        }
    }

    pub(super) fn set_close_code(&mut self, code: u16) {
        self.ending().close_code = Some(code);
    }

    pub(super) fn set_peer_close(&mut self, close: PeerClose) {
        self.ending().peer_close = Some(close);
    }

    pub(super) fn set_refusal(&mut self, error: Error<E>) {
        self.ending().refusal = Some(error);
    }

    /// Records the first failure of a write: the error, or `None` if the sending half has it
    /// already.
    pub(super) fn set_write_failure(&mut self, error: Option<E>) {
        self.ending()
            .write_failure
            .get_or_insert(WriteFailure(error));
    }

    /// Whether the sending half has nothing to report. Usually true, and cheap to compute.
    #[inline]
    pub(super) fn allows_sends(&self) -> bool {
        self.ending
            .as_ref()
            .is_none_or(|ending| ending.refusal.is_none())
    }

    /// Returns once why a displaced message was refused.
    pub(super) fn take_refusal(&mut self) -> Option<Error<E>> {
        self.ending.as_mut()?.refusal.take()
    }

    /// Returns what the sending half reports of a failed write: its error once, and then that the
    /// connection is closed.
    pub(super) fn take_write_failure(&mut self) -> Option<Error<E>> {
        let WriteFailure(error) = self.ending.as_mut()?.write_failure.as_mut()?;
        Some(error.take().map_or(Error::Closed, Error::Socket))
    }

    /// Returns the inner stream's error, after which the stream only returns `None`.
    pub(super) fn report_error(&mut self, error: E) -> Error<E> {
        self.reported = true;
        Error::Socket(error)
    }

    /// Returns what the stream yields once the connection has ended: the verdict or the failed
    /// write once, and then `None`.
    pub(super) fn end_of_stream(&mut self) -> Option<Error<E>> {
        let error = if std::mem::replace(&mut self.reported, true) {
            None
        } else {
            self.last_error()
        };
        self.terminated |= error.is_none();
        error
    }

    fn last_error(&mut self) -> Option<Error<E>> {
        let ending = self.ending.as_mut()?;
        if let Some(verdict) = &ending.verdict {
            return Some(Error::Verdict(verdict.clone()));
        }
        // After the peer's Close a failed write is a clean end.
        if ending.peer_close.is_some() {
            return None;
        }
        self.take_write_failure()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_half_reports_a_failed_write_once() {
        let mut teardown = Teardown::new();
        assert!(teardown.take_write_failure().is_none());
        teardown.set_write_failure(Some("broken"));
        teardown.set_write_failure(Some("again"));
        assert!(teardown.write_failed());
        assert!(matches!(
            teardown.take_write_failure(),
            Some(Error::Socket("broken"))
        ));
        assert!(matches!(teardown.take_write_failure(), Some(Error::Closed)));
        assert!(matches!(teardown.end_of_stream(), Some(Error::Closed)));
        assert!(!teardown.is_terminated());
        assert!(teardown.end_of_stream().is_none() && teardown.is_terminated());
    }

    /// Guards rule 15.
    #[test]
    fn after_the_peers_close_a_failed_write_is_a_clean_end() {
        let mut teardown = Teardown::new();
        teardown.set_peer_close(PeerClose { code: Some(1000) });
        teardown.set_write_failure(Some("broken"));
        assert!(teardown.end_of_stream().is_none() && teardown.is_terminated());
    }

    #[test]
    fn the_stream_ends_after_its_error() {
        let mut teardown = Teardown::new();
        teardown.set_write_failure(Some("broken"));
        assert!(matches!(
            teardown.report_error("reset"),
            Error::Socket("reset")
        ));
        assert!(!teardown.is_terminated());
        assert!(teardown.end_of_stream().is_none() && teardown.is_terminated());
    }
}
