//! The loop over all streams.

use std::{
    net::SocketAddr,
    path::Path,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use dag::{Address, client::AccountState};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::getpriority_process,
    time::{ClockId, clock_gettime},
};

use super::{
    LoadError, LoadResult, Preparation, Progress, Target, Workload,
    acks::AckFile,
    plan::Plan,
    presign::{Script, presign},
    recorder::{Recorder, seconds},
    result::cause,
    schedule::nanoseconds,
    session::{Role, Session},
    stream::{Outcome, Stream},
};
use crate::client::{Client, ClientError};

/// What becomes due within this time, nanoseconds, is sent together.
const TICK: u64 = 1_000_000;
/// The slices of a processor's time that the load asks for.
const SLICE: Duration = Duration::from_micros(100);
/// How long a validator may take to answer the questions of the preparation.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long, after an answer, the next one is waited for.
const GRACE: Duration = Duration::from_secs(1);

/// A load, signed and ready.
#[derive(Debug)]
pub struct Prepared {
    scripts: Vec<Script>,
    validators: Rc<[SocketAddr]>,
    workload: Workload,
}

/// Asks the senders' sequences and signs all transactions, on all cores. `progress` is told of every thousand or so.
///
/// # Errors
/// The workload is impossible, no validator answers, or the network does not know the accounts.
pub fn prepare(
    target: &Target,
    workload: Workload,
    progress: &mut dyn FnMut(Preparation),
) -> Result<Prepared, LoadError> {
    workload.check(target)?;
    let plan = Plan::draw(&workload, target);
    let sequences = ask_sequences(&plan.senders, &workload, target)?;
    let scripts = presign(plan, &sequences, &workload, target, progress);
    Ok(Prepared { scripts, validators: target.submission.as_slice().into(), workload })
}

/// The last used sequence of each sender, by account: the highest that any validator tells, since one of them may be behind.
fn ask_sequences(senders: &[u32], workload: &Workload, target: &Target) -> Result<Vec<u64>, LoadError> {
    let index = |sender: u32| usize::try_from(sender).expect("an index");
    let addresses = senders.iter().map(|&sender| workload.accounts[index(sender)].address()).collect();
    let told = ask_all(&target.submission, &addresses)?;
    let mut sequences = vec![0; workload.accounts.len()];
    for (place, &sender) in senders.iter().enumerate() {
        let told = told.iter().filter_map(|states| states[place].as_ref());
        let highest = told.map(|state| state.sequence.max(state.pending)).max();
        sequences[index(sender)] = highest.ok_or(LoadError::UnknownAccount(sender))?;
    }
    Ok(sequences)
}

/// What the validators tell of the accounts: all that answer before there is a pause of [`GRACE`].
fn ask_all(
    validators: &[SocketAddr],
    accounts: &Arc<[Address]>,
) -> Result<Vec<Vec<Option<AccountState>>>, ClientError> {
    let (answer, answers) = mpsc::channel();
    for &validator in validators {
        let (answer, accounts) = (answer.clone(), Arc::clone(accounts));
        thread::spawn(move || {
            let ask = || Client::connect(validator, ASK_TIMEOUT)?.accounts(&accounts);
            // Nobody may wait any more.
            let _ = answer.send(ask());
        });
    }
    drop(answer);
    let (mut told, mut failed, mut patience) = (Vec::new(), None, Duration::MAX);
    while let Ok(answer) = answers.recv_timeout(patience) {
        match answer {
            Ok(states) => {
                told.push(states);
                patience = GRACE;
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if told.is_empty() { Err(failed.expect("each one answers or fails, and there is one")) } else { Ok(told) }
}

impl Prepared {
    /// How many transactions will be sent.
    pub fn transactions(&self) -> usize {
        self.scripts.iter().map(Script::len).sum()
    }

    /// Offers the load, from this thread, until its time is over and all is answered or the drain time has passed.
    ///
    /// `acks` names a file to which each acknowledgement is added (see [`read_acks`](super::read_acks)). Once `stop` is
    /// set, no more transactions become due. `progress` is told of each interval and should return quickly.
    ///
    /// # Errors
    /// Acknowledgements cannot be written down. What happens to validators and connections is no error: it is counted.
    pub fn run(
        self,
        acks: Option<&Path>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<LoadResult, LoadError> {
        let mut acks = acks.map(AckFile::open).transpose()?;
        let Workload { retries, stall_timeout, drain, .. } = self.workload;
        let new_stream = |script: Script| {
            let session = Session::new(Rc::clone(&self.validators), script.home, stall_timeout);
            Stream::new(script, session, retries)
        };
        let mut run = Run {
            streams: self.scripts.into_iter().map(new_stream).collect(),
            recorder: Recorder::new(self.workload.schedule()),
            origin: Instant::now(),
        };
        // Clients are other machines: that this one waits for a validator's slice to end is not the network's latency. Short slices come
        // sooner, and take no larger share. It is only a wish.
        let _ = netio::schedule_soon(SLICE, getpriority_process(None).unwrap_or(0));
        let started = SystemTime::now();
        let cpu_before = thread_cpu();
        run.drive(nanoseconds(drain), acks.as_mut(), stop, progress)?;
        let cpu_seconds = thread_cpu().saturating_sub(cpu_before).as_secs_f64();
        Ok(run.result(&self.workload, started, cpu_seconds))
    }
}

/// A run under way. Times are nanoseconds since `origin`, when the first transaction is due.
struct Run {
    streams: Vec<Stream>,
    recorder: Recorder,
    origin: Instant,
}

impl Run {
    fn now(&self) -> u64 {
        nanoseconds(self.origin.elapsed())
    }

    fn drive(
        &mut self,
        drain: u64,
        mut acks: Option<&mut AckFile>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<(), LoadError> {
        loop {
            let now = self.now();
            let mut told = false;
            while let Some(news) = self.recorder.roll(now) {
                progress(&news);
                told = true;
            }
            if stop.load(Ordering::Relaxed) {
                self.recorder.stop(now);
            }
            let due = self.recorder.schedule().due_before(now);
            self.streams.iter_mut().for_each(|stream| stream.tick(now, due));

            let end = self.recorder.schedule().end;
            let settled = || self.streams.iter().all(Stream::is_settled);
            let over = now >= end && (settled() || now >= end.saturating_add(drain));
            if let Some(acks) = acks.as_deref_mut().filter(|_| told || over) {
                acks.flush()?;
            }
            if over {
                return Ok(());
            }
            self.serve_until((now / TICK + 1) * TICK, acks.as_deref_mut())?;
        }
    }

    /// Serves sockets until this time.
    fn serve_until(&mut self, time: u64, mut acks: Option<&mut AckFile>) -> Result<(), LoadError> {
        loop {
            let now = self.now();
            if now >= time {
                return Ok(());
            }
            for (index, role, events) in self.wait(time - now).map_err(LoadError::Poll)? {
                let now = self.now();
                let mut outcome = Outcome { recorder: &mut self.recorder, acks: acks.as_deref_mut() };
                self.streams[index].ready(role, events, now, &mut outcome);
            }
        }
    }

    /// Waits for sockets, for so many nanoseconds at most. Returns those that are ready.
    fn wait(&self, nanoseconds: u64) -> std::io::Result<Vec<(usize, Role, PollFlags)>> {
        let (mut fds, mut owners): (Vec<PollFd<'_>>, Vec<(usize, Role)>) = Default::default();
        for (index, stream) in self.streams.iter().enumerate() {
            stream.poll(|role, fd| {
                fds.push(fd);
                owners.push((index, role));
            });
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::try_from(nanoseconds).expect("within a tick") };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let events = fds.iter().zip(owners).map(|(fd, (index, role))| (index, role, fd.revents()));
        Ok(events.filter(|(_, _, events)| !events.is_empty()).collect())
    }

    fn result(self, workload: &Workload, started: SystemTime, cpu_seconds: f64) -> LoadResult {
        let now = self.now();
        let schedule = *self.recorder.schedule();
        let (totals, samples) = self.recorder.finish(now);
        let measured = started + Duration::from_nanos(schedule.measured_from);
        let since_epoch = measured.duration_since(UNIX_EPOCH).unwrap_or_default();
        let duration_s = seconds(schedule.end.saturating_sub(schedule.measured_from));
        let offered = schedule.total() - schedule.due_before(schedule.measured_from);
        let (committed, rejected) = (totals.latency.len(), totals.rejected.values().sum::<u64>());
        let committed_per_second =
            if duration_s > 0.0 { totals.acked_in_time as f64 / duration_s } else { 0.0 };
        LoadResult {
            start_unix_us: u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX),
            duration_s,
            accounts: workload.accounts.len() as u64,
            offered_per_second: workload.rate as f64,
            offered,
            committed,
            committed_per_second,
            payees_per_second: committed_per_second * f64::from(workload.payees),
            rejected: totals.rejected.into_iter().map(|(code, count)| (cause(code), count)).collect(),
            unanswered: offered - committed - rejected,
            unsent: self.streams.iter().map(|stream| stream.unsent() as u64).sum(),
            latency: totals.latency,
            samples,
            lost_connections: self.streams.iter().map(Stream::lost).sum(),
            resubmitted: totals.resubmitted,
            retried: totals.retried,
            cpu_seconds,
        }
    }
}

/// Processor time of this thread so far.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
