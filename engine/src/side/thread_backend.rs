//! The side executor as a plain thread with blocking calls.

use std::io;
use std::rc::Rc;
use std::thread::{self, JoinHandle};

use async_executor::LocalExecutor;
use futures_lite::future::block_on;

use super::disk::StdDisk;
use super::service::{Channels, Service};
use super::{Served, SideConfig};

/// Starts the thread.
pub(super) fn start(config: SideConfig, served: Vec<Served>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("side".into()).spawn(move || serve(config, served))
}

fn serve(config: SideConfig, served: Vec<Served>) {
    let config = Rc::new(config);
    let executor = LocalExecutor::new();
    let mut tasks = Vec::new();
    for client in served {
        let (service, Channels { segments, snapshots, scrubs }) =
            Service::new(StdDisk, config.clone(), client);
        tasks.push(executor.spawn(service.clone().serve_segments(segments)));
        tasks.push(executor.spawn(service.clone().serve_snapshots(snapshots)));
        tasks.push(executor.spawn(service.serve_scrubs(scrubs)));
    }
    block_on(executor.run(async {
        for task in tasks {
            task.await;
        }
    }));
}
