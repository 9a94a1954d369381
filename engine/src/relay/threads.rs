//! Relay services without a validator: a thread for each core.

use std::{io, sync::mpsc, thread, time::Duration};

use crate::{process::Stop, topology::pin_to};

/// How often the thread that waits for the others looks after them.
const WATCH: Duration = Duration::from_millis(100);

/// What befell a core's thread.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// It did not begin.
    #[error("the system starts no thread: {0}")]
    NotStarted(io::Error),
    /// A programmer's error.
    #[error("a core has died of a panic; what it said stands above")]
    Panicked,
}

/// A thread that ends, however that comes, ends the others.
struct EndOfAll(Stop);

impl Drop for EndOfAll {
    fn drop(&mut self) {
        self.0.request();
    }
}

/// Serves each of `parts` by a thread of its own, kept on its processor if `pin` says so, until `stop` is requested or one of them
/// ends. `serve` gets a part and what to call when it is open; `ready` is called when all are, and `watch` ten times a second
/// meanwhile.
///
/// # Errors
/// Every thread's, in the order of the parts.
pub(super) fn serve_all<P: Send, E: From<ThreadError> + Send>(
    service: &str,
    parts: Vec<P>,
    pin: bool,
    stop: &Stop,
    serve: impl Fn(P, &dyn Fn()) -> Result<(), E> + Sync,
    ready: impl FnOnce(),
    mut watch: impl FnMut(),
) -> Result<(), Vec<E>> {
    let (serve, count) = (&serve, parts.len());
    thread::scope(|scope| {
        // Also this thread's, which a panic of `ready` or `watch` would be.
        let _end = EndOfAll(stop.clone());
        let (opened, open) = mpsc::channel();
        let begin = |(core, part): (u16, P)| {
            let (opened, end) = (opened.clone(), EndOfAll(stop.clone()));
            let run = move || {
                // Where it fails before it is open, nobody waits for it any more.
                let (opened, _end) = (opened, end);
                if pin {
                    pin_to(core);
                }
                serve(part, &|| {
                    // The one that waits may be on its way out.
                    let _ = opened.send(());
                })
            };
            thread::Builder::new().name(format!("{service}-{core}")).spawn_scoped(scope, run)
        };
        // All of them end when one can't be started: what it would have held is dropped.
        let threads: Vec<_> = (0..).zip(parts).map(begin).collect();
        drop(opened);
        if (0..count).all(|_| open.recv().is_ok()) {
            ready();
        }
        while !stop.is_requested() {
            thread::sleep(WATCH);
            watch();
        }
        let join = |thread: io::Result<thread::ScopedJoinHandle<'_, Result<(), E>>>| {
            thread.map_err(ThreadError::NotStarted)?.join().map_err(|_| ThreadError::Panicked)?
        };
        let errors: Vec<E> = threads.into_iter().map(join).filter_map(Result::err).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("part {0} failed")]
        Part(usize),
        #[error(transparent)]
        Thread(#[from] ThreadError),
    }

    /// Serves three parts by `serve`. Returns how often it was ready, and what the errors say.
    fn serve_three(
        stop: &Stop,
        serve: impl Fn(usize, &Stop) -> Result<(), Failure> + Sync,
        opens: impl Fn(usize) -> bool + Sync,
    ) -> (usize, Vec<String>) {
        let ready = AtomicUsize::new(0);
        let serve = |part, open: &dyn Fn()| {
            if opens(part) {
                open();
            }
            serve(part, stop)
        };
        let count = || {
            ready.fetch_add(1, Ordering::Relaxed);
        };
        let result = serve_all("test", vec![0, 1, 2], false, stop, serve, count, || ());
        let errors = result.err().unwrap_or_default().iter().map(Failure::to_string).collect();
        (ready.into_inner(), errors)
    }

    fn until(stop: &Stop) {
        while !stop.is_requested() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn it_is_ready_when_all_are_open() {
        let stop = Stop::default();
        let serve = |part, stop: &Stop| {
            if part == 2 {
                stop.request();
            }
            until(stop);
            Ok(())
        };
        assert_eq!(serve_three(&stop, serve, |_| true), (1, vec![]));
    }

    #[test]
    fn one_that_fails_ends_all() {
        let stop = Stop::default();
        let serve = |part, stop: &Stop| match part {
            1 => Err(Failure::Part(1)),
            _ => {
                until(stop);
                Ok(())
            }
        };
        assert_eq!(serve_three(&stop, serve, |part| part != 1), (0, vec!["part 1 failed".to_owned()]));
    }

    #[test]
    fn one_that_panics_ends_all() {
        let stop = Stop::default();
        let serve = |part, stop: &Stop| {
            assert!(part != 0, "as planned");
            until(stop);
            Ok(())
        };
        let (_, errors) = serve_three(&stop, serve, |_| true);
        assert_eq!(errors, [ThreadError::Panicked.to_string()]);
    }
}
