//! The end of a connection: the verdict, the peer's Close frame, a failed write, and the half that
//! reports each.
//!
//! The first verdict is the cause, and is never replaced. The stream yields it once, and then
//! `None`; sends fail with it as soon as there is one. A failed write also ends the connection, but
//! the peer's last messages may still arrive, so the stream continues for as long as a closing
//! handshake may take. The sending half returns the write's error once, and [`Error::Closed`] from
//! then on.

use std::boxed::Box;

use crate::error::{CloseHandshake, Error, PeerClose, Verdict};

/// How the connection ends. Until then, the state is only a null pointer.
#[derive(Debug)]
pub(super) struct Teardown<E> {
    ending: Option<Box<Ending<E>>>,
    /// Whether the stream has yielded its last error.
    reported: bool,
    /// Whether the stream has yielded `None`.
    terminated: bool,
}

#[derive(Debug)]
struct Ending<E> {
    verdict: Option<Verdict>,
    /// The code of the program's Close frame.
    close_code: Option<u16>,
    peer_close: Option<PeerClose>,
    write_failure: Option<WriteFailure<E>>,
    /// The error of a displaced message that was lost, for the sending half.
    refusal: Option<Error<E>>,
}

/// A failed write, and its error until the sending half has returned it.
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

    /// Records the first failed write: its error, or `None` if the sending half has returned that
    /// already.
    pub(super) fn set_write_failure(&mut self, error: Option<E>) {
        self.ending()
            .write_failure
            .get_or_insert(WriteFailure(error));
    }

    /// Returns whether the sending half has a lost message to report. Usually false, and cheap to
    /// compute.
    #[inline]
    pub(super) fn has_refusal(&self) -> bool {
        self.ending
            .as_ref()
            .is_some_and(|ending| ending.refusal.is_some())
    }

    /// Takes the error of a displaced message that was lost.
    pub(super) fn take_refusal(&mut self) -> Option<Error<E>> {
        self.ending.as_mut()?.refusal.take()
    }

    /// Returns the error that the sending half reports for a failed write, if any: the write's
    /// error once, and then [`Error::Closed`].
    pub(super) fn take_write_failure(&mut self) -> Option<Error<E>> {
        let WriteFailure(error) = self.ending.as_mut()?.write_failure.as_mut()?;
        Some(error.take().map_or(Error::Closed, Error::Socket))
    }

    /// Returns the inner stream's error for the stream, which only yields `None` after it.
    pub(super) fn report_error(&mut self, error: E) -> Error<E> {
        self.reported = true;
        Error::Socket(error)
    }

    /// Returns the stream's next item once the connection has ended: the verdict or the failed
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
        // After the peer's Close frame, a failed write is a clean end.
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
