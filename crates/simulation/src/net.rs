//! The wires: connections that delay, slow down, break at a byte, change a byte; and calls from process to process.
//!
//! A connection is two streams of [`Piece`]s, each with a window: who sends more than the other end has read waits. What a
//! piece stands for is looked at by its receiver only; here it has a length, so that a stream can break at any byte.
//! Ends are closed by dropping them, so a process that dies closes what it had; one that vanishes with its machine does
//! not, and its peers hear nothing more.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use zipline_contract::limits::RECORD_HEAD_BYTES;
use zipline_core::time::Monotonic;

use crate::content::Chunk;
use crate::exec::{NATURE, ProcessId};
use crate::faults::FaultKind;
use crate::proxy::Proxy;
use crate::wait::Bell;
use crate::world::World;

/// What a sender passes at a time of a payload.
const PIECE_BYTES: u32 = 256 * 1024;
/// Bytes that are counted for a head, whatever its text.
const HEAD_BYTES: u64 = 400;
/// A silent connection attempt's other end is closed after this.
const SILENT: Duration = Duration::from_secs(4);

/// The head of a message.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// Method and path, or nothing for an answer.
    pub(crate) line: Option<(&'static str, String)>,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Matter {
    Head(Box<Head>),
    Record([u8; RECORD_HEAD_BYTES]),
    Bytes(Chunk),
    /// A descriptor: all of these bytes at once, without a copy.
    Descriptor(Chunk),
}

/// A piece of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) matter: Matter,
    /// It is not what was sent.
    pub(crate) tampered: bool,
}

enum Item {
    Piece(Piece, u64),
    End,
}

/// One direction of a connection.
struct Direction {
    queue: VecDeque<(Monotonic, Item)>,
    in_flight: u64,
    sent: u64,
    cut_at: Option<u64>,
    last_arrival: Monotonic,
    /// From then on sending fails.
    fails_at: Option<Monotonic>,
    /// Nothing arrives any more, and nobody is told.
    is_void: bool,
}

struct Connection {
    processes: [ProcessId; 2],
    directions: [Direction; 2],
    latency: Duration,
    rate: u64,
    window: u64,
    halves: bool,
    is_descriptor_channel: bool,
    closed: [bool; 2],
    bells: [Rc<Bell>; 2],
}

/// All wires of a world.
#[derive(Default)]
pub(crate) struct Net {
    listeners: RefCell<BTreeMap<SocketAddr, Rc<Proxy>>>,
    /// Addresses of machines that are gone: nothing answers there, not even with a refusal.
    silent: RefCell<BTreeSet<SocketAddr>>,
    vanished: RefCell<BTreeSet<ProcessId>>,
    isolated: RefCell<BTreeMap<ProcessId, Monotonic>>,
    open: Cell<usize>,
}

/// Which door of a proxy is knocked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Pull,
    Handover,
}

/// Nobody listens at the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// The connection is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// One end of a connection. Dropping it closes the connection.
pub(crate) struct End {
    world: Rc<World>,
    connection: Rc<RefCell<Connection>>,
    side: usize,
}

impl Net {
    pub(crate) fn listen(&self, address: SocketAddr, proxy: &Rc<Proxy>) {
        self.silent.borrow_mut().remove(&address);
        self.listeners.borrow_mut().insert(address, Rc::clone(proxy));
    }

    pub(crate) fn unlisten(&self, address: SocketAddr, process: ProcessId) {
        let mut listeners = self.listeners.borrow_mut();
        if listeners.get(&address).is_some_and(|proxy| proxy.process == process) {
            listeners.remove(&address);
        }
    }

    /// The machine is gone: nobody is told.
    pub(crate) fn vanish(&self, address: SocketAddr, process: ProcessId) {
        self.silent.borrow_mut().insert(address);
        self.vanished.borrow_mut().insert(process);
    }

    /// Nothing passes to or from the process before that time.
    pub(crate) fn isolate(&self, process: ProcessId, until: Monotonic) {
        self.isolated.borrow_mut().insert(process, until);
    }

    /// Until when nothing passes between the two.
    pub(crate) fn blocked_until(&self, a: ProcessId, b: ProcessId) -> Monotonic {
        let isolated = self.isolated.borrow();
        let of = |process| isolated.get(&process).copied().unwrap_or(Monotonic::ZERO);
        if a == b { Monotonic::ZERO } else { of(a).max(of(b)) }
    }

    pub(crate) fn has_vanished(&self, process: ProcessId) -> bool {
        self.vanished.borrow().contains(&process)
    }

    /// Forgets who listens.
    pub(crate) fn close(&self) {
        self.listeners.take();
    }

    /// Connections with at least one end open.
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }
}

impl World {
    /// How long a message takes from one process to another.
    pub(crate) fn latency(&self, from: ProcessId, to: ProcessId) -> Duration {
        if from == to {
            return Duration::from_micros(5);
        }
        let (low, high) = self.settings().latency;
        let usual = Duration::from_nanos(self.between(low.as_nanos() as u64, high.as_nanos() as u64));
        let blocked = self.now().until(self.net.blocked_until(from, to));
        if self.strikes_at(FaultKind::Delay, from) {
            return usual + blocked + self.fault_millis(FaultKind::Delay, 10, 4_000);
        }
        usual + blocked
    }

    /// Connects to a door of whoever listens at the address. Where nobody can say that nobody does, this never returns.
    pub(crate) async fn connect(self: &Rc<Self>, from: ProcessId, to: SocketAddr, door: Door) -> Result<End, Refused> {
        let target = self.net.listeners.borrow().get(&to).map(|proxy| proxy.process);
        self.sleep(self.latency(from, target.unwrap_or(NATURE))).await;
        if self.net.silent.borrow().contains(&to) {
            return std::future::pending().await;
        }
        let listener = self.net.listeners.borrow().get(&to).cloned();
        let Some(proxy) = listener else { return Err(Refused) };
        if self.strikes_at(FaultKind::Refuse, from) {
            return Err(Refused);
        }
        if door == Door::Pull && self.strikes_at(FaultKind::Duplicate, from) {
            let silent = self.dial(NATURE, &proxy, door);
            let world = Rc::clone(self);
            self.exec.spawn(NATURE, async move {
                world.sleep(SILENT).await;
                drop(silent);
            });
        }
        Ok(self.dial(from, &proxy, door))
    }

    /// A connection that is there at once.
    pub(crate) fn dial(self: &Rc<Self>, from: ProcessId, proxy: &Rc<Proxy>, door: Door) -> End {
        let is_slow = self.strikes_at(FaultKind::Slow, from);
        let cut = [self.draw_cut(FaultKind::Cut), self.draw_cut(FaultKind::HalfCut)];
        let direction = |cut_at| Direction {
            queue: VecDeque::new(),
            in_flight: 0,
            sent: 0,
            cut_at,
            last_arrival: self.now(),
            fails_at: None,
            is_void: false,
        };
        // What comes back is what is worth cutting; now and then it is what goes.
        let cut_at = cut[0].or(cut[1]);
        let (out, back) = if self.chance(0.15) { (cut_at, None) } else { (None, cut_at) };
        let latency = self.latency(from, proxy.process);
        let settings = self.settings();
        let connection = Rc::new(RefCell::new(Connection {
            processes: [from, proxy.process],
            directions: [direction(out), direction(back)],
            latency,
            rate: if is_slow { self.faults.draw(FaultKind::Slow, 20_000, 2_000_000) } else { settings.rate },
            window: if is_slow { self.faults.draw(FaultKind::Slow, 500, 60_000) } else { settings.window },
            halves: cut[0].is_none(),
            is_descriptor_channel: door == Door::Handover,
            closed: [false; 2],
            bells: [Rc::default(), Rc::default()],
        }));
        self.net.open.set(self.net.open.get() + 1);
        let end = |side| End { world: Rc::clone(self), connection: Rc::clone(&connection), side };
        proxy.accept(end(1), door);
        end(0)
    }

    fn draw_cut(&self, kind: FaultKind) -> Option<u64> {
        if !self.strikes(kind) {
            return None;
        }
        // Within the head, at its end, at a block's ends, anywhere.
        let block = 1 << 20;
        Some(match self.faults.draw(kind, 1, 5) {
            1 => self.faults.draw(kind, 1, HEAD_BYTES),
            2 => HEAD_BYTES + self.faults.draw(kind, 1, 120) - 1,
            3 => {
                HEAD_BYTES + self.faults.draw(kind, 1, 3) * (block + RECORD_HEAD_BYTES as u64) - self.faults.draw(kind, 1, 3) + 1
            }
            _ => HEAD_BYTES + self.faults.draw(kind, 1, 4 * block),
        })
    }
}

impl Direction {
    /// Puts an item on its way; nothing overtakes.
    fn push(&mut self, at: Monotonic, item: Item) {
        if self.is_void {
            return;
        }
        self.last_arrival = self.last_arrival.max(at);
        self.queue.push_back((self.last_arrival, item));
    }
}

impl End {
    /// Sends a head or a record's head.
    pub(crate) async fn send(&self, matter: Matter) -> Result<(), Broken> {
        self.send_piece(matter).await
    }

    /// Sends payload, piece by piece; `progress` is called after each.
    pub(crate) async fn send_bytes(&self, mut chunk: Chunk, mut progress: impl FnMut()) -> Result<(), Broken> {
        while chunk.length > 0 {
            let (piece, rest) = chunk.split(chunk.length.min(PIECE_BYTES));
            self.send_piece(Matter::Bytes(piece)).await?;
            progress();
            chunk = rest;
        }
        Ok(())
    }

    /// Sends if the other end has room for it now.
    pub(crate) fn try_send(&self, matter: Matter) {
        let bytes = length(&matter);
        let connection = self.connection.borrow();
        if connection.has_room(self.side, bytes) && connection.sends(self.side, self.world.now()) {
            drop(connection);
            self.push(Piece { matter, tampered: false });
        }
    }

    /// The next piece; `None`: the other end closed, or the connection broke.
    pub(crate) async fn receive(&self) -> Option<Piece> {
        let bell = Rc::clone(&self.connection.borrow().bells[self.side]);
        bell.until(&self.world.exec, || self.poll_receive()).await
    }

    /// Whether something waits to be read, or the connection is no more.
    pub(crate) fn is_readable(&self) -> bool {
        let connection = self.connection.borrow();
        let arrival = connection.directions[1 - self.side].queue.front().map(|(at, _)| *at);
        arrival.is_some_and(|at| at <= self.world.now())
    }

    /// Waits until [`End::is_readable`].
    pub(crate) async fn readable(&self) {
        let bell = Rc::clone(&self.connection.borrow().bells[self.side]);
        bell.until(&self.world.exec, || {
            let arrival = self.connection.borrow().directions[1 - self.side].queue.front().map(|(at, _)| *at)?;
            if arrival > self.world.now() {
                self.world.exec.wake_me_at(arrival);
                return None;
            }
            Some(())
        })
        .await;
    }

    fn poll_receive(&self) -> Option<Option<Piece>> {
        let mut connection = self.connection.borrow_mut();
        let incoming = &mut connection.directions[1 - self.side];
        let (arrival, item) = incoming.queue.pop_front()?;
        if arrival > self.world.now() {
            incoming.queue.push_front((arrival, item));
            self.world.exec.wake_me_at(arrival);
            return None;
        }
        match item {
            Item::Piece(piece, bytes) => {
                incoming.in_flight -= bytes;
                connection.bells[1 - self.side].ring(&self.world.exec);
                Some(Some(piece))
            }
            Item::End => {
                incoming.queue.push_front((arrival, Item::End)); // It stays closed.
                Some(None)
            }
        }
    }

    async fn send_piece(&self, matter: Matter) -> Result<(), Broken> {
        let bytes = length(&matter);
        let bell = Rc::clone(&self.connection.borrow().bells[self.side]);
        bell.until(&self.world.exec, || {
            let connection = self.connection.borrow();
            if !connection.sends(self.side, self.world.now()) {
                return Some(Err(Broken));
            }
            if let Some(at) = connection.directions[self.side].fails_at {
                self.world.exec.wake_me_at(at);
            }
            connection.has_room(self.side, bytes).then_some(Ok(()))
        })
        .await?;
        let tampered = !self.connection.borrow().is_descriptor_channel && self.world.strikes_at(FaultKind::Flip, NATURE);
        let matter = if tampered { self.changed(matter) } else { matter };
        self.push(Piece { matter, tampered });
        Ok(())
    }

    fn push(&self, piece: Piece) {
        let world = &self.world;
        let bytes = length(&piece.matter);
        let mut connection = self.connection.borrow_mut();
        let [from, to] = [connection.processes[self.side], connection.processes[1 - self.side]];
        let travel = connection.latency + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / connection.rate);
        let blocked = world.now().until(world.net.blocked_until(from, to));
        // Bytes follow each other at the connection's rate.
        let begins = world.now().max(connection.directions[self.side].last_arrival.saturating_sub(connection.latency));
        let arrival = begins + travel + blocked;
        let (halves, fails_at) = (connection.halves, world.now() + connection.latency);
        let outgoing = &mut connection.directions[self.side];
        outgoing.sent += bytes;
        let beyond = outgoing.cut_at.and_then(|cut_at| outgoing.sent.checked_sub(cut_at));
        match beyond {
            None => {
                outgoing.in_flight += bytes;
                outgoing.push(arrival, Item::Piece(piece, bytes));
            }
            Some(beyond) => {
                // Of a payload the part before the cut arrives; a head that is cut is none.
                let arrives = bytes.saturating_sub(beyond);
                if let Matter::Bytes(chunk) = piece.matter
                    && arrives > 0
                {
                    let (chunk, _) = chunk.split(u32::try_from(arrives).unwrap_or(u32::MAX));
                    outgoing.in_flight += arrives;
                    outgoing.push(arrival, Item::Piece(Piece { matter: Matter::Bytes(chunk), ..piece }, arrives));
                }
                outgoing.push(arrival, Item::End);
                outgoing.is_void = true;
                if !halves {
                    outgoing.fails_at = Some(fails_at);
                    let incoming = &mut connection.directions[1 - self.side];
                    incoming.push(arrival, Item::End);
                    incoming.is_void = true;
                    incoming.fails_at = Some(arrival);
                }
                world.note(from, || format!("connection to {} breaks", world.name(to)));
            }
        }
        connection.bells[1 - self.side].ring(&world.exec);
        connection.bells[self.side].ring(&world.exec);
    }

    /// The same with one byte, or one character, changed.
    fn changed(&self, matter: Matter) -> Matter {
        let draw = |low, high| self.world.faults.draw(FaultKind::Flip, low, high);
        match matter {
            Matter::Head(mut head) => {
                let at = draw(1, head.headers.len() as u64) as usize - 1;
                let value = &mut head.headers[at].1;
                let place = draw(1, value.len() as u64) as usize - 1;
                let new = if value.as_bytes().get(place) == Some(&b'1') { "7" } else { "1" };
                if value.is_char_boundary(place) && value.is_char_boundary(place + 1) {
                    value.replace_range(place..=place, new);
                }
                Matter::Head(head)
            }
            Matter::Record(mut wire) => {
                // The length, the flags and what is behind them, each as likely.
                let at = match draw(1, 3) {
                    1 => draw(1, 4) - 1,
                    2 => 4,
                    _ => draw(6, RECORD_HEAD_BYTES as u64) - 1,
                };
                wire[at as usize] ^= 1 << (draw(1, 8) - 1);
                Matter::Record(wire)
            }
            Matter::Bytes(chunk) if chunk.length > 0 => {
                let at = draw(1, u64::from(chunk.length)) as u32 - 1;
                Matter::Bytes(Chunk { damage: Some(at), ..chunk })
            }
            whole => whole,
        }
    }
}

fn length(matter: &Matter) -> u64 {
    match matter {
        Matter::Head(_) => HEAD_BYTES,
        Matter::Record(_) => RECORD_HEAD_BYTES as u64,
        Matter::Bytes(chunk) => u64::from(chunk.length),
        Matter::Descriptor(_) => 1,
    }
}

impl Connection {
    fn has_room(&self, side: usize, bytes: u64) -> bool {
        let outgoing = &self.directions[side];
        outgoing.in_flight == 0 || outgoing.in_flight + bytes <= self.window
    }

    fn sends(&self, side: usize, now: Monotonic) -> bool {
        self.directions[side].fails_at.is_none_or(|at| at > now)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let world = &self.world;
        let connection = &mut *self.connection.borrow_mut();
        let own = connection.processes[self.side];
        connection.closed[self.side] = true;
        if connection.closed == [true; 2] {
            world.net.open.set(world.net.open.get().saturating_sub(1));
        }
        if world.net.has_vanished(own) {
            return;
        }
        let at = world.now()
            + connection.latency
            + world.now().until(world.net.blocked_until(own, connection.processes[1 - self.side]));
        connection.directions[self.side].push(at, Item::End);
        connection.directions[1 - self.side].fails_at = Some(at);
        for bell in &connection.bells {
            bell.ring(&world.exec);
        }
    }
}
