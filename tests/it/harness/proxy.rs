//! The way between the daemon and a broker, as slow as a test wants it, and cut when it wants.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::NatsServer;

/// Passes TCP connections on; what goes to the broker goes at a chosen pace.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    broker: SocketAddr,
    /// Bytes per second towards the broker, of each connection; 0 lets nothing through.
    pace: AtomicU64,
    /// How often connections were cut.
    cuts: AtomicU64,
    /// The two ends of each.
    connections: Mutex<Vec<[TcpStream; 2]>>,
}

impl Proxy {
    /// In front of `broker`.
    pub(crate) fn to(broker: &NatsServer) -> Self {
        Self::before(broker.url().trim_start_matches("nats://").parse().unwrap())
    }

    /// In front of whoever listens there: a broker, or the daemon itself.
    pub(crate) fn before(broker: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            broker,
            pace: AtomicU64::new(u64::MAX),
            cuts: AtomicU64::new(0),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for accepted in listener.incoming().flatten() {
                accepting.pass_on(accepted);
            }
        });
        Self { address, shared }
    }

    /// The address to dial instead.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL to dial instead of the broker's.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Bytes per second towards the broker, of each connection; 0 lets nothing through.
    pub(crate) fn pace(&self, bytes_per_second: u64) {
        self.shared.pace.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Cuts every connection; what was on its way is lost. New ones are passed on.
    pub(crate) fn cut(&self) {
        self.cut_after(b"");
    }

    /// The same, and the daemon is told as by a broker that its credential ran out.
    pub(crate) fn cut_as_expired(&self) {
        self.cut_after(b"-ERR 'User Authentication Expired'\r\n");
    }

    fn cut_after(&self, words: &[u8]) {
        self.shared.cuts.fetch_add(1, Ordering::Relaxed);
        for [daemon, broker] in self.shared.connections.lock().drain(..) {
            let _ = (&daemon).write_all(words);
            let _ = daemon.shutdown(Shutdown::Both);
            let _ = broker.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn pass_on(self: &Arc<Self>, daemon: TcpStream) {
        let Ok(broker) = TcpStream::connect(self.broker) else {
            return;
        };
        let mut connections = self.connections.lock();
        connections.push([&daemon, &broker].map(|end| end.try_clone().unwrap()));
        let (mut from_broker, mut to_daemon) = (broker.try_clone().unwrap(), daemon.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from_broker, &mut to_daemon);
            let _ = to_daemon.shutdown(Shutdown::Both);
        });
        let this = Arc::clone(self);
        std::thread::spawn(move || this.pass_slowly(daemon, broker));
    }

    fn pass_slowly(&self, mut daemon: TcpStream, mut broker: TcpStream) {
        let mut chunk = [0; 8192];
        let cuts = self.cuts.load(Ordering::Relaxed);
        while self.cuts.load(Ordering::Relaxed) == cuts {
            let pace = self.pace.load(Ordering::Relaxed);
            if pace == 0 {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            let Ok(read @ 1..) = daemon.read(&mut chunk) else {
                break;
            };
            if broker.write_all(&chunk[..read]).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_secs(1).mul_f64(read as f64 / pace as f64));
        }
        let _ = broker.shutdown(Shutdown::Both);
    }
}
