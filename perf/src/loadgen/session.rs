//! A connection that survives its validator.
//!
//! It belongs to a home validator. When the connection is lost, the next validators are tried in turn; as soon as the home
//! answers a question again (an open port is not enough: a stopped process has that too), the session moves back. A
//! validator can be left, too ([`Session::leave`]): one that is behind answers, and serves nobody.
//! Each new connection is announced once ([`Session::take_fresh`]), and starts with nothing on its way.

use std::{io, net::SocketAddr, os::fd::AsFd, rc::Rc, time::Duration};

use dag::{
    Address,
    client::{Response, encode_account},
};
use rustix::event::{PollFd, PollFlags};

use super::schedule::nanoseconds;
use crate::client::Link;

/// Bounds connecting, and the home's answer before moving back.
const CONNECT_TIMEOUT: u64 = 2_000_000_000;
/// Wait before the second round over all validators; doubles with each round.
const FIRST_WAIT: u64 = 50_000_000;
/// Wait between attempts to move back home; doubles with each.
const FIRST_HOMING: u64 = 250_000_000;
/// A validator that takes no transactions is left after so long.
const PATIENCE: u64 = 500_000_000;
/// Where waits stop to double.
const LONGEST_WAIT: u64 = 5_000_000_000;

/// Which of a session's two connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The one that carries the load.
    Main,
    /// The attempt to move back home.
    Homing,
}

#[derive(Debug)]
enum State {
    Waiting {
        until: u64,
    },
    /// Connected, or about to be.
    Open {
        link: Link,
    },
}

/// The attempts to move back.
#[derive(Debug)]
struct Homing {
    link: Option<Link>,
    /// Start of the present attempt, or time of the next.
    at: u64,
    /// Attempts since the home last served for [`LONGEST_WAIT`]: a home that answers questions and serves nobody, or not all,
    /// is tried more and more rarely.
    attempts: u32,
}

/// One connection of the load generator. Times are nanoseconds, from any origin.
#[derive(Debug)]
pub struct Session {
    validators: Rc<[SocketAddr]>,
    home: usize,
    current: usize,
    state: State,
    /// Attempts since a validator last decided on a transaction.
    attempts: u32,
    /// Start of the connecting, last sign of life, or last time at which no answer was due: whichever is latest.
    heard: u64,
    stall_timeout: u64,
    homing: Homing,
    fresh: bool,
    /// Since when the present connection stands.
    since: u64,
    lost: u64,
}

impl Session {
    /// A session that connects to `home` (an index into `validators`) at its first [`tick`](Self::tick).
    pub fn new(validators: Rc<[SocketAddr]>, home: usize, stall_timeout: Duration) -> Session {
        Session {
            home,
            current: home,
            state: State::Waiting { until: 0 },
            attempts: 0,
            heard: 0,
            stall_timeout: nanoseconds(stall_timeout),
            homing: Homing { link: None, at: 0, attempts: 0 },
            fresh: false,
            since: 0,
            lost: 0,
            validators,
        }
    }

    /// Connections that stood and were lost.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether there is a new connection since the last call.
    pub fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// The connection, where it can take a frame now.
    pub fn clear_link(&mut self) -> Option<&mut Link> {
        match &mut self.state {
            State::Open { link } if link.is_up() && link.is_clear() => Some(link),
            _ => None,
        }
    }

    /// What to poll for.
    pub fn poll<'a>(&'a self, mut add: impl FnMut(Role, PollFd<'a>)) {
        let poll_fd = |link: &'a Link| PollFd::from_borrowed_fd(link.as_fd(), link.interest());
        if let State::Open { link } = &self.state {
            add(Role::Main, poll_fd(link));
        }
        if let Some(link) = &self.homing.link {
            add(Role::Homing, poll_fd(link));
        }
    }

    /// Does what time asks for. `outstanding` is the number of answers due.
    pub fn tick(&mut self, now: u64, outstanding: usize) {
        match &self.state {
            State::Waiting { until } if now >= *until => self.connect(now),
            State::Waiting { .. } => {}
            State::Open { link } if link.is_up() && outstanding == 0 => self.heard = now,
            State::Open { link } => {
                let limit = if link.is_up() { self.stall_timeout } else { CONNECT_TIMEOUT };
                if now.saturating_sub(self.heard) > limit {
                    self.lose(now);
                }
            }
        }
        if self.current != self.home && now >= self.homing.at {
            self.tick_homing(now);
        }
    }

    /// Serves a connection that poll has reported. What has arrived is then to be taken by
    /// [`take_response`](Self::take_response).
    pub fn ready(&mut self, role: Role, events: PollFlags, now: u64) {
        let served = match role {
            Role::Main => self.serve_main(events, now),
            Role::Homing => self.serve_homing(now),
        };
        match (served, role) {
            (Ok(()), _) => {}
            (Err(_), Role::Main) => self.lose(now),
            (Err(_), Role::Homing) => self.put_off_homing(now),
        }
    }

    /// Takes the next response that has arrived. A peer that sends nonsense is left.
    pub fn take_response(&mut self, now: u64) -> Option<Response> {
        let State::Open { link } = &mut self.state else { return None };
        match link.take() {
            Ok(response) => {
                if response.is_some() {
                    self.heard = now;
                }
                response
            }
            Err(_) => {
                self.lose(now);
                None
            }
        }
    }

    /// For the caller: the validator has decided on a transaction.
    pub fn served(&mut self, now: u64) {
        self.attempts = 0;
        if self.current == self.home && now.saturating_sub(self.since) >= LONGEST_WAIT {
            self.homing.attempts = 0;
        }
    }

    /// For the caller: the validator answers that it does not take transactions. The next one is tried, if there is one, and
    /// if this one had [`PATIENCE`] to find its feet. Once it is left, what else it had answered leaves it no further.
    pub fn leave(&mut self, now: u64) {
        let is_there = matches!(self.state, State::Open { .. });
        if is_there && self.validators.len() > 1 && now.saturating_sub(self.since) >= PATIENCE {
            self.fail_over(now);
        }
    }

    /// Gives the connection up and tries the next validator. For the caller: after a send that failed, and where the
    /// peer answers what was not asked.
    pub fn lose(&mut self, now: u64) {
        self.lost += u64::from(matches!(&self.state, State::Open { link } if link.is_up()));
        self.fail_over(now);
    }

    fn fail_over(&mut self, now: u64) {
        let validators = u32::try_from(self.validators.len()).expect("few validators");
        let wait = match self.attempts / validators {
            0 => 0,
            round => doubled(FIRST_WAIT, round - 1),
        };
        self.attempts = self.attempts.saturating_add(1);
        if self.current == self.home {
            self.put_off_homing(now);
        }
        self.current = (self.current + 1) % self.validators.len();
        if self.current == self.home {
            self.homing.link = None;
        }
        self.state = State::Waiting { until: now.saturating_add(wait) };
    }

    fn connect(&mut self, now: u64) {
        match Link::start(self.validators[self.current]) {
            Ok(link) => (self.state, self.heard) = (State::Open { link }, now),
            Err(_) => self.fail_over(now),
        }
    }

    fn serve_main(&mut self, events: PollFlags, now: u64) -> io::Result<()> {
        let State::Open { link } = &mut self.state else { return Ok(()) };
        if !link.is_up() {
            if link.finish_connect()? {
                (self.fresh, self.heard, self.since) = (true, now, now);
            }
            return Ok(());
        }
        link.flush()?;
        let readable = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        if events.intersects(readable) { link.fill() } else { Ok(()) }
    }

    fn tick_homing(&mut self, now: u64) {
        if self.homing.link.is_none() {
            self.homing.at = now;
            match Link::start(self.validators[self.home]) {
                Ok(link) => self.homing.link = Some(link),
                Err(_) => self.put_off_homing(now),
            }
        } else if now - self.homing.at > CONNECT_TIMEOUT {
            self.put_off_homing(now);
        }
    }

    fn put_off_homing(&mut self, now: u64) {
        self.homing.link = None;
        self.homing.at = now.saturating_add(doubled(FIRST_HOMING, self.homing.attempts));
        self.homing.attempts = self.homing.attempts.saturating_add(1);
    }

    fn serve_homing(&mut self, now: u64) -> io::Result<()> {
        let Some(link) = &mut self.homing.link else { return Ok(()) };
        if !link.is_up() {
            if link.finish_connect()? {
                let mut question = Vec::new();
                encode_account(0, &Address::default(), &mut question);
                link.send(&question, &[])?;
            }
            return Ok(());
        }
        link.flush()?;
        link.fill()?;
        if link.take().map_err(io::Error::other)?.is_some() {
            let link = self.homing.link.take().expect("just used");
            self.state = State::Open { link };
            self.current = self.home;
            (self.fresh, self.heard, self.since) = (true, now, now);
        }
        Ok(())
    }
}

fn doubled(wait: u64, times: u32) -> u64 {
    wait.saturating_mul(1 << times.min(20)).min(LONGEST_WAIT)
}
