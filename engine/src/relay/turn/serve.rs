//! A TURN server without a validator: a thread for each core.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::{ListenError, TurnConfig, TurnConfigError, TurnCore, TurnMeters, check_ports, steer};
use crate::{
    core_loop::Clock,
    process::Stop,
    relay::threads::{ThreadError, serve_all},
};

/// Sleep at most so long, so that a stop request is seen, ns.
const MAX_SLEEP: u64 = 100_000_000;
/// How often a core tells its numbers, ns.
const REPORT: u64 = 500_000_000;

/// Why a TURN server did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// What it was told.
    #[error(transparent)]
    Config(#[from] TurnConfigError),
    /// A port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system.
    #[error("a socket failed: {0}")]
    Io(io::Error),
    /// No randomness.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// A core's thread.
    #[error(transparent)]
    Thread(#[from] ThreadError),
}

/// Serves on `cores` threads until `stop` is requested. `ready` is called once all ports are open; `report` ten times a second
/// with the numbers of all cores, which are new twice a second.
///
/// # Errors
/// See [`ServeError`]; one core's error ends all.
pub fn serve(
    config: &TurnConfig,
    cores: u16,
    pin: bool,
    stop: &Stop,
    ready: impl FnOnce(),
    mut report: impl FnMut(&TurnMeters),
) -> Result<(), ServeError> {
    check_ports(config)?;
    let steering = steer(config, cores)?;
    let clock = Clock::start();
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(ServeError::Random)?;
    let meters: Vec<Mutex<TurnMeters>> = (0..cores).map(|_| Mutex::default()).collect();
    let steering = steering.as_deref();
    let serve_one = |(core, meters): (u16, &Mutex<TurnMeters>), open: &dyn Fn()| {
        let mut seed = seed;
        seed[..2].iter_mut().zip(core.to_le_bytes()).for_each(|(byte, core)| *byte ^= core);
        let made = TurnCore::new(config, (core, cores), clock, &seed, steering)?;
        open();
        run(made, clock, stop, meters)
    };
    let watch = || {
        let mut all = TurnMeters::default();
        for core in &meters {
            all.merge(&core.lock().unwrap_or_else(PoisonError::into_inner));
        }
        report(&all);
    };
    let served = serve_all("turn", (0..cores).zip(&meters).collect(), pin, stop, serve_one, ready, watch);
    served.map_err(|errors| errors.into_iter().next().expect("one core's at least"))
}

fn run(mut core: TurnCore, clock: Clock, stop: &Stop, meters: &Mutex<TurnMeters>) -> Result<(), ServeError> {
    let mut next_report = 0;
    while !stop.is_requested() {
        let more = core.turn().map_err(ServeError::Io)?;
        let now = clock.now();
        if now >= next_report {
            next_report = now + REPORT;
            meters.lock().unwrap_or_else(PoisonError::into_inner).clone_from(core.meters());
        }
        if !more {
            wait(&core, now)?;
        }
    }
    Ok(())
}

fn wait(core: &TurnCore, now: u64) -> Result<(), ServeError> {
    let until = core.poll_timeout().unwrap_or(u64::MAX).min(now + MAX_SLEEP);
    let nanos = i64::try_from(until.saturating_sub(now)).expect("at most MAX_SLEEP");
    let descriptor = core.descriptor();
    let mut descriptors = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    match poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: nanos })) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(ServeError::Io(error.into())),
    }
}
