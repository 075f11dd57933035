//! HTTP/1.1 by hand: what is sent is exactly what the test says, what comes back is read strictly.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;

use super::PATIENCE;

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a field; its name is compared without case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Peer {
    reader: BufReader<TcpStream>,
}

impl Peer {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { reader: BufReader::new(stream) }
    }

    /// Whether something has come that was not read yet.
    pub(crate) fn has_input(&self) -> bool {
        let stream = self.reader.get_ref();
        stream.set_nonblocking(true).unwrap();
        let has = stream.peek(&mut [0]).is_ok_and(|count| count > 0);
        stream.set_nonblocking(false).unwrap();
        has || !self.reader.buffer().is_empty()
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.reader.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Sends bytes to a peer that may have hung up already.
    pub(crate) fn send_if_open(&mut self, bytes: impl AsRef<[u8]>) {
        // The answer says what the peer thought of it.
        let _ = self.reader.get_mut().write_all(bytes.as_ref());
    }

    /// Reads one answer; `None` at the end of the connection. Interim answers are answers, too.
    pub(crate) fn answer(&mut self, to_head: bool) -> Option<Answer> {
        let line = self.line()?;
        let status = line.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("no status line: {line:?}"));
        let status: u16 = status[..3].parse().unwrap();
        let mut fields = Vec::new();
        loop {
            let line = self.line().expect("a head ends with an empty line");
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line:?}"));
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, fields, body: Vec::new() };
        if to_head || status < 200 || status == 204 || status == 304 {
            return Some(answer);
        }
        if answer.field("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.line().unwrap();
                let length = usize::from_str_radix(&line, 16).unwrap();
                let mut chunk = vec![0; length + 2];
                self.reader.read_exact(&mut chunk).unwrap();
                assert!(chunk.ends_with(b"\r\n"));
                if length == 0 {
                    return Some(answer);
                }
                answer.body.extend_from_slice(&chunk[..length]);
            }
        }
        let length = answer.field("content-length").expect("an answer says how long it is").parse().unwrap();
        answer.body = vec![0; length];
        self.reader.read_exact(&mut answer.body).unwrap();
        Some(answer)
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("reading a line: {error}"),
        }
        assert!(line.ends_with(b"\r\n"), "a line ends with CRLF: {:?}", String::from_utf8_lossy(&line));
        line.truncate(line.len() - 2);
        Some(String::from_utf8(line).unwrap())
    }

    /// Reads on until a line contains this.
    pub(crate) fn until(&mut self, wanted: &str) {
        let mut line = Vec::new();
        while !String::from_utf8_lossy(&line).contains(wanted) {
            line.clear();
            assert!(self.reader.read_until(b'\n', &mut line).unwrap() > 0, "it ends before {wanted:?}");
        }
    }

    /// Reads on to the end of the connection; what is left.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => {}
            // The peer threw away what we sent after its last answer.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection stays open: {error}"),
        }
        rest
    }
}

/// GET on a connection of its own.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    get_with_key(address, path, "")
}

/// GET with a key, which a server that asks for none does not look at.
#[track_caller]
pub(crate) fn get_with_key(address: SocketAddr, path: &str, key: &str) -> Answer {
    let mut peer = Peer::connect(address);
    let key = if key.is_empty() { String::new() } else { format!("X-Api-Key: {key}\r\n") };
    peer.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}\r\n"));
    peer.answer(false).expect("an answer")
}

/// POST of a JSON body on a connection of its own.
#[track_caller]
pub(crate) fn post_json(address: SocketAddr, path: &str, body: &str) -> Answer {
    let mut peer = Peer::connect(address);
    peer.send(format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    ));
    peer.answer(false).expect("an answer")
}
