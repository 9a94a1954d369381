//! Descriptors of others.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use netio::{Event, Wait};

use crate::{Node, PATIENCE, feature_masks};

/// Polls until the descriptor is readable, or for `patience`.
fn is_readable(node: &mut Node, patience: Duration) -> bool {
    let start = std::time::Instant::now();
    while start.elapsed() < patience {
        node.reactor.poll(Wait::For(patience), &mut node.events).expect("a working ring");
        if node.events.drain(..).any(|event| matches!(event, Event::Readable { .. })) {
            return true;
        }
    }
    false
}

#[test]
fn readiness_is_told_once_for_each_time_it_is_asked_for() {
    for mask in feature_masks() {
        let mut node = Node::with_features(mask);
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let watch = node.reactor.watch(OwnedFd::from(theirs.try_clone().unwrap()));
        assert!(!is_readable(&mut node, Duration::from_millis(20)));
        ours.write_all(b"x").unwrap();
        assert!(is_readable(&mut node, PATIENCE));
        assert!(!is_readable(&mut node, Duration::from_millis(20)), "nobody asked");
        node.reactor.watch_again(watch);
        node.reactor.watch_again(watch);
        assert!(is_readable(&mut node, PATIENCE), "still unread");
        theirs.read_exact(&mut [0]).unwrap();
        node.reactor.watch_again(watch);
        assert!(!is_readable(&mut node, Duration::from_millis(20)));
        ours.write_all(b"y").unwrap();
        assert!(is_readable(&mut node, PATIENCE));
    }
}
