//! Accepting connections and speaking HTTP/1.1 on them, bounded in number, size and time.
//!
//! Most connections take an ordinary slot. When those are gone, a few reserved slots remain: on them one request is
//! read quickly and only health is answered, so that "is it alive" never waits behind load. When those are gone too,
//! nothing is accepted until one is free: the kernel's backlog is the queue.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::error::Problem;
use super::front::{Front, Peer};
use super::listener::Listener;
use super::meter::{Metered, count_answer};
use super::origin::Via;
use super::turn::{Answer, Turn};
use super::unparsed::Unparsed;
use super::websocket::Upgrade;
use crate::error::Error;
use crate::lifecycle::Tasks;

/// Slots that only answer health.
const RESERVED: usize = 8;
/// How long the head of a request may take, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The same on a reserved slot.
const RESERVED_HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// What hyper reads of a head at most; [`super::front`] refuses less than that with a typed answer.
pub(super) const HEAD_BYTES: usize = 256 * 1024;
/// How many header fields hyper reads; more are refused with its answer for a head that is too large.
pub(super) const HEAD_FIELDS: usize = 100;
/// Bytes of a body that are read in one piece, and of answers that wait to be written.
const BUFFER_BYTES: usize = 512 * 1024;
/// How long a rejected body is read and thrown away, so that its sender gets to see the answer.
const LINGER: Duration = Duration::from_secs(1);
/// How long a peer may leave sent bytes unread before its connection is given up.
const UNREAD: Duration = Duration::from_secs(300);
/// How long to wait after descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections there may be.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    ordinary: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    limit: usize,
}

#[derive(Debug)]
struct Slot {
    _permit: OwnedSemaphorePermit,
    reserved: bool,
}

impl Slots {
    /// `limit` ordinary slots; without one, half of the descriptors that this process may have.
    pub(super) fn new(limit: Option<usize>) -> Self {
        let limit = limit.unwrap_or_else(|| {
            let soft = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
                .map_or(1024, |(soft, _)| soft);
            usize::try_from(soft / 2)
                .unwrap_or(usize::MAX)
                .clamp(16, 16 * 1024)
        });
        let (ordinary, reserved) = (
            Arc::new(Semaphore::new(limit)),
            Arc::new(Semaphore::new(RESERVED)),
        );
        Self {
            ordinary,
            reserved,
            limit,
        }
    }

    fn ordinary(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.ordinary).try_acquire_owned().ok()?;
        Some(Slot {
            _permit: permit,
            reserved: false,
        })
    }

    /// A slot of either kind; waits when there is none.
    async fn any(&self) -> Result<Slot, Error> {
        if let Some(slot) = self.ordinary() {
            return Ok(slot);
        }
        let permit = Arc::clone(&self.reserved).acquire_owned().await;
        let permit = permit.map_err(|_| Error::Internal {
            reason: "the slots are gone".into(),
        })?;
        Ok(Slot {
            _permit: permit,
            reserved: true,
        })
    }

    /// Swaps a reserved slot for an ordinary one that became free meanwhile.
    fn upgrade(&self, slot: Slot) -> Slot {
        if slot.reserved {
            self.ordinary().unwrap_or(slot)
        } else {
            slot
        }
    }
}

/// Serves one listener.
#[derive(Debug)]
pub(super) struct Server {
    front: Arc<Front>,
    slots: Slots,
    users: Vec<u32>,
    tasks: Tasks,
    open: TaskTracker,
}

impl Server {
    pub(super) fn new(front: Arc<Front>, slots: Slots, users: &[u32], tasks: Tasks) -> Self {
        let mut users = users.to_vec();
        users.extend([0, nix::unistd::geteuid().as_raw()]);
        Self {
            front,
            slots,
            users,
            tasks,
            open: TaskTracker::new(),
        }
    }

    /// Accepts until the daemon stops, then waits for open requests, but not longer than the trees are left alive.
    pub(super) async fn run(self, listener: Listener) -> Result<(), Error> {
        loop {
            let slot = tokio::select! {
                () = self.tasks.stopping() => break,
                slot = self.slots.any() => slot?,
            };
            tokio::select! {
                () = self.tasks.stopping() => break,
                accepted = accept(&listener) => match accepted {
                    Ok(socket) => self.take(socket, self.slots.upgrade(slot)),
                    Err(error) => self.refused(&error).await,
                },
            }
        }
        drop(listener);
        self.open.close();
        tokio::select! {
            () = self.open.wait() => {}
            () = async { self.tasks.killing().await; tokio::time::sleep(LINGER).await } => {}
        }
        Ok(())
    }

    /// A failed accept concerns one connection, but for missing descriptors or memory, where a pause helps.
    async fn refused(&self, error: &io::Error) {
        if matches!(
            error.raw_os_error(),
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
        ) {
            tracing::warn!(%error, "no connection can be accepted now");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    fn take(&self, socket: Socket, slot: Slot) {
        let limit = slot.reserved.then_some(self.slots.limit);
        let connection = Connection {
            front: Arc::clone(&self.front),
            tasks: self.tasks.clone(),
            limit,
            linger: AtomicBool::new(false),
            upgrade: Mutex::default(),
            turn: Arc::default(),
        };
        match socket {
            Socket::Tcp(stream, bound) => {
                if let Err(error) = prepare(&stream) {
                    tracing::debug!(%error, "a connection ended before its first byte");
                    return;
                }
                let serve = connection.serve(stream, Via::Tcp(bound), slot);
                self.tasks
                    .detach("http connection", self.open.track_future(serve));
            }
            Socket::Unix(stream) => match stream.peer_cred() {
                Ok(peer) if self.users.contains(&peer.uid()) => {
                    let serve = connection.serve(stream, Via::Unix, slot);
                    self.tasks
                        .detach("http connection", self.open.track_future(serve));
                }
                Ok(peer) => tracing::warn!(uid = peer.uid(), "a user that is not listed tried the socket"),
                Err(error) => tracing::warn!(%error, "the user behind a connection cannot be told"),
            },
        }
    }
}

/// Answers are written whole, so waiting to fill a segment would only delay them; and a peer that stops reading does
/// not keep its slot for ever.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let unread = u32::try_from(UNREAD.as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, TcpUserTimeout, &unread).map_err(io::Error::from)
}

enum Socket {
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream),
}

/// Cancel-safe, as the accepts of tokio are.
async fn accept(listener: &Listener) -> io::Result<Socket> {
    match listener {
        Listener::Tcp(listener, bound) => listener
            .accept()
            .await
            .map(|(stream, _)| Socket::Tcp(stream, bound.ip())),
        Listener::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
    }
}

/// One connection.
struct Connection {
    front: Arc<Front>,
    tasks: Tasks,
    /// On a reserved slot: the number of ordinary ones.
    limit: Option<usize>,
    /// Whether the last request was rejected while its body was still on its way.
    linger: AtomicBool,
    /// What becomes of it when hyper lets go of it.
    upgrade: Mutex<Option<Upgrade>>,
    turn: Arc<Turn>,
}

impl Connection {
    async fn serve<S>(self, stream: S, via: Via, slot: Slot)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|request| Box::pin(self.answer(request, via)));
        let mut http = http1::Builder::new();
        let head_timeout = if slot.reserved {
            RESERVED_HEAD_TIMEOUT
        } else {
            HEAD_TIMEOUT
        };
        http.timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .keep_alive(!slot.reserved)
            .max_header_size(HEAD_BYTES)
            .max_buf_size(BUFFER_BYTES)
            .writev(true);
        let stream = Unparsed::new(stream, Arc::clone(&self.turn));
        let mut connection = http.serve_connection(TokioIo::new(stream), service);
        let mut stopping = std::pin::pin!(self.tasks.stopping());
        let mut asked_to_stop = false;
        let end = loop {
            tokio::select! {
                end = std::future::poll_fn(|context| connection.poll_without_shutdown(context)) => break end,
                () = &mut stopping, if !asked_to_stop => {
                    asked_to_stop = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        };
        let parts = connection.into_parts();
        let stream = parts.io.into_inner();
        let upgrade = self.upgrade.lock().take().filter(|_| end.is_ok());
        if let Some(upgrade) = upgrade {
            return upgrade.serve(Box::new(stream.into_inner()), parts.read_buf).await;
        }
        self.close(end, stream, head_timeout).await;
    }

    /// Ends a connection that hyper is done with, saying why where it did not.
    async fn close<S>(&self, end: hyper::Result<()>, mut stream: Unparsed<S>, head_timeout: Duration)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let rejected = match end {
            Ok(()) => self.linger.load(Ordering::Relaxed),
            Err(error) => {
                tracing::debug!(%error, "connection ended");
                // After a request was answered, running into the timeout is the ordinary end of an idle connection.
                if error.is_timeout() && !self.turn.had_request() {
                    let said = stream.refuse(&Problem::slow_head(head_timeout)).await;
                    tracing::trace!(?said, "a head did not come in time");
                } else if error.is_parse() && self.turn.is_silent() && !stream.has_refused() {
                    let problem =
                        Problem::bad_request("only HTTP/1.0 and HTTP/1.1 are spoken here, not HTTP/2");
                    let said = stream.refuse(&problem).await;
                    tracing::trace!(?said, "the preface of HTTP/2 was refused");
                } else if !error.is_parse() {
                    return;
                }
                true
            }
        };
        finish(stream, rejected && !self.tasks.is_stopping()).await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        via: Via,
    ) -> Result<Response<Answer>, std::convert::Infallible> {
        self.turn.begin();
        let body_follows = !hyper::body::Body::is_end_stream(request.body());
        let peer = Peer {
            via,
            no_slot: self.limit,
        };
        let metrics = self.front.metrics();
        let request = request.map(|body| Body::new(Metered::new(body, Arc::clone(metrics))));
        let mut response = self.front.answer(request, peer).await;
        if let Some(upgrade) = response.extensions_mut().remove::<Upgrade>() {
            *self.upgrade.lock() = Some(upgrade);
        }
        count_answer(metrics, response.headers(), response.body());
        self.linger.store(
            body_follows && response.status().as_u16() >= 400,
            Ordering::Relaxed,
        );
        Ok(response.map(|body| Answer::new(body, Arc::clone(&self.turn))))
    }
}

/// Closes the connection; with `linger` not before the peer had a chance to read the answer, because unread bytes at
/// the close make the kernel reset the connection and throw the answer away.
async fn finish<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, linger: bool) {
    if stream.shutdown().await.is_err() || !linger {
        return;
    }
    let mut scratch = vec![0; 64 * 1024];
    let discard = async { while stream.read(&mut scratch).await.is_ok_and(|read| read > 0) {} };
    // When the time is up the peer has had its chance.
    let _ = tokio::time::timeout(LINGER, discard).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_slots_are_reserved_and_given_up_for_ordinary_ones() {
        let slots = Slots::new(Some(2));
        let ordinary = [slots.any().await.unwrap(), slots.any().await.unwrap()];
        assert!(ordinary.iter().all(|slot| !slot.reserved));
        let mut reserved = Vec::new();
        for _ in 0..RESERVED {
            reserved.push(slots.any().await.unwrap());
        }
        assert!(reserved.iter().all(|slot| slot.reserved));
        let none_left = tokio::time::timeout(Duration::from_millis(1), slots.any()).await;
        assert!(none_left.is_err(), "{none_left:?}");
        let slot = slots.upgrade(reserved.remove(0));
        assert!(slot.reserved);
        drop(ordinary);
        assert!(!slots.upgrade(slot).reserved);
    }
}
