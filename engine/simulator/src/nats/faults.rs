//! What goes wrong with a server, one by one or as a seed says, and how it is mended.

use engine_core::clock;

use super::{Inside, Limits, Server, stream::Stream};

impl Server {
    /// Makes a stream, as an administrator may; false when it is there, or another has one of its subjects.
    pub fn make_stream(&self, name: &str, subjects: &[&str], limits: Limits) -> bool {
        let subjects = subjects.iter().map(|subject| (*subject).to_owned()).collect();
        self.inside().make(name, subjects, limits)
    }

    /// The server stops: its connections end. Of what was sent on each the first `done` are worked on, and not answered.
    pub fn down(&self, done: usize) {
        let mut inside = self.inside();
        inside.cut(done);
        inside.is_down = true;
    }

    /// The server starts again, with all that it had stored.
    pub fn up(&self) {
        let mut inside = self.inside();
        if std::mem::take(&mut inside.is_down) {
            inside.streams.values_mut().for_each(Stream::restart);
        }
    }

    /// The server does nothing any more and keeps its connections, or goes on.
    pub fn stall(&self, is_stalled: bool) {
        self.inside().is_stalled = is_stalled;
    }

    /// All connections end. Of what was sent on each the first `done` are worked on, and not answered.
    pub fn cut(&self, done: usize) {
        self.inside().cut(done);
    }

    /// Nothing passes any more on the connections that there are, and nobody is told.
    pub fn half_open(&self) {
        let mut inside = self.inside();
        for connection in inside.connections.iter_mut().filter(|one| one.is_open) {
            connection.half_open.get_or_insert(clock::now());
        }
    }

    /// Turns JetStream off or on.
    pub fn turn_jetstream(&self, on: bool) {
        self.inside().is_bare = !on;
    }

    /// Sets `max_payload`: clients hear of it when they connect.
    pub fn set_max_payload(&self, bytes: usize) {
        self.inside().max_payload = bytes;
    }

    /// A message whose payload has this in it ends the connection that it comes on, for a reason that nobody says.
    pub fn poison(&self, bytes: &[u8]) {
        self.inside().poison = Some(bytes.to_vec());
    }

    /// Deletes a stream with all that it holds.
    pub fn delete_stream(&self, name: &str) -> bool {
        self.inside().streams.remove(name).is_some()
    }

    /// The first messages of a stream go, so many: by a purge, by age, or because they were worked on.
    pub fn take_away(&self, name: &str, count: usize) {
        if let Some(stream) = self.inside().streams.get_mut(name) {
            stream.take_away(count);
        }
    }

    /// Changes what a stream takes.
    pub fn set_limits(&self, name: &str, limits: Limits) {
        if let Some(stream) = self.inside().streams.get_mut(name) {
            stream.limits = limits;
        }
    }

    /// What a stream takes.
    pub fn limits(&self, name: &str) -> Limits {
        self.inside().streams.get(name).map(|stream| stream.limits.clone()).unwrap_or_default()
    }

    /// Seals a stream: it takes nothing any more.
    pub fn seal(&self, name: &str) {
        if let Some(stream) = self.inside().streams.get_mut(name) {
            stream.is_sealed = true;
        }
    }

    /// Another stream gets the subjects of this one.
    pub fn take_over(&self, name: &str) {
        let mut inside = self.inside();
        let Some(stream) = inside.streams.get_mut(name) else { return };
        let subjects = std::mem::replace(&mut stream.subjects, vec![format!("{OTHER}.nothing")]);
        inside.streams.insert(OTHER.to_owned(), Stream::new(subjects, Limits::default()));
    }

    /// It has them again.
    pub fn give_back(&self, name: &str) {
        let mut inside = self.inside();
        let Some(other) = inside.streams.remove(OTHER) else { return };
        if let Some(stream) = inside.streams.get_mut(name) {
            stream.subjects = other.subjects;
        }
    }

    /// Breaks the connection, the server or a stream; says what.
    pub fn fault(&self, rng: &mut fastrand::Rng) -> String {
        let streams = self.streams();
        let name = streams.iter().find(|name| *name != OTHER).cloned().unwrap_or_default();
        if rng.bool() {
            return self.connection_fault(rng);
        }
        let mut limits = self.limits(&name);
        match rng.u32(..8) {
            0 => {
                let count = rng.usize(..50);
                self.take_away(&name, count);
                format!("nats: {count} messages of {name} go")
            }
            1 => {
                self.delete_stream(&name);
                format!("nats: {name} is deleted")
            }
            2 => {
                limits.messages = rng.choice([Some(20), Some(100), None]).flatten();
                let said = format!("nats: {name} has max_msgs = {:?}", limits.messages);
                self.set_limits(&name, limits);
                said
            }
            3 => {
                limits.bytes = rng.choice([Some(5000), Some(50_000), None]).flatten();
                let said = format!("nats: {name} has max_bytes = {:?}", limits.bytes);
                self.set_limits(&name, limits);
                said
            }
            4 => {
                limits.message_bytes = rng.choice([Some(800), Some(2000), None]).flatten();
                let said = format!("nats: {name} has max_msg_size = {:?}", limits.message_bytes);
                self.set_limits(&name, limits);
                said
            }
            5 => {
                let on = rng.bool();
                self.turn_jetstream(on);
                format!("nats: JetStream is on: {on}")
            }
            6 => {
                if streams.iter().any(|name| name == OTHER) {
                    self.give_back(&name);
                    return format!("nats: {name} has its subjects again");
                }
                self.take_over(&name);
                format!("nats: {OTHER} has the subjects of {name}")
            }
            _ => {
                let bytes = *rng.choice(&[2000, 4000, 1 << 20]).unwrap_or(&4000);
                self.set_max_payload(bytes);
                format!("nats: max_payload = {bytes}")
            }
        }
    }

    /// Breaks the connection or the server; says what. Nothing is refused for it.
    pub fn connection_fault(&self, rng: &mut fastrand::Rng) -> String {
        let done = rng.usize(..20);
        match rng.u32(..6) {
            0 => {
                self.down(done);
                format!("nats: the server is down, {done} done")
            }
            1 => {
                self.up();
                self.stall(false);
                "nats: the server is up".to_owned()
            }
            2 => {
                self.stall(true);
                "nats: the server stalls".to_owned()
            }
            3 => {
                self.half_open();
                "nats: the connections are half open".to_owned()
            }
            _ => {
                self.cut(done);
                format!("nats: the connections are cut, {done} done")
            }
        }
    }

    /// Everything is mended: the server works, streams have their subjects and room. A stream that was deleted stays deleted,
    /// sizes stay as they were set.
    pub fn heal(&self) {
        self.up();
        self.stall(false);
        self.turn_jetstream(true);
        for name in self.streams().iter().filter(|name| *name != OTHER) {
            self.give_back(name);
            let limits = Limits { messages: None, bytes: None, ..self.limits(name) };
            self.set_limits(name, limits);
        }
        self.delete_stream(OTHER);
    }
}

/// A stream of somebody else's.
const OTHER: &str = "OTHER";

impl Inside {
    fn cut(&mut self, done: usize) {
        let works = !self.is_down && !self.is_stalled;
        let mut connections = std::mem::take(&mut self.connections);
        for connection in connections.iter_mut().filter(|one| one.is_open && one.half_open.is_none()) {
            let arrived = if works { done.min(connection.requests.len()) } else { 0 };
            for request in connection.requests.drain(..arrived) {
                if self.judge(request).is_none() {
                    break;
                }
            }
            connection.break_off();
        }
        self.connections = connections;
    }
}
