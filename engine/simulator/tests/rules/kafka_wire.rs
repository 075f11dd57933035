//! Produce requests as Kafka's protocol guide has them (Produce v8, message format 2), so that a rule can say which sequence
//! a batch has.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::kafka::{Record, Sender};

/// Sends a batch, waits for the answer: the error's code, and the places of the records that are named.
pub fn produce(
    connection: &mut TcpStream,
    (topic, partition): (&str, i32),
    sender: Option<Sender>,
    records: &[Record<'_>],
) -> (i16, Vec<usize>) {
    let mut body = Vec::new();
    // Key and version of the request, its number, the client's name.
    body.extend([0, 0, 0, 8, 0, 0, 0, 1, 0xff, 0xff]);
    // No transaction; acks=all; 10 s.
    body.extend([0xff, 0xff, 0xff, 0xff]);
    body.extend(10_000_i32.to_be_bytes());
    body.extend(1_i32.to_be_bytes());
    body.extend((topic.len() as i16).to_be_bytes());
    body.extend(topic.as_bytes());
    body.extend(1_i32.to_be_bytes());
    body.extend(partition.to_be_bytes());
    let batch = batch(sender, records);
    body.extend((batch.len() as i32).to_be_bytes());
    body.extend(batch);
    connection.write_all(&(body.len() as i32).to_be_bytes()).unwrap();
    connection.write_all(&body).unwrap();

    let mut length = [0; 4];
    connection.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    connection.read_exact(&mut answer).unwrap();
    // Number, one topic with its name, one partition with its number.
    let mut rest = &answer[4 + 4 + 2 + topic.len() + 4 + 4..];
    let code = i16::from_be_bytes(take(&mut rest));
    // Offset, time and first offset.
    take::<24>(&mut rest);
    let named = (0..i32::from_be_bytes(take(&mut rest))).map(|_| {
        let place = i32::from_be_bytes(take(&mut rest)) as usize;
        let bytes = i16::from_be_bytes(take(&mut rest)).max(0) as usize;
        rest = &rest[bytes..];
        place
    });
    (code, named.collect())
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (first, behind) = rest.split_first_chunk::<N>().unwrap();
    *rest = behind;
    *first
}

fn batch(sender: Option<Sender>, records: &[Record<'_>]) -> Vec<u8> {
    let (id, epoch, sequence) =
        sender.map_or((-1, -1, -1), |sender| (sender.id as i64, sender.epoch as i16, sender.sequence as i32));
    let now = engine_core::clock::wall_ms() as i64;
    // From the attributes on: what the checksum is of.
    let mut summed = Vec::new();
    summed.extend([0, 0]);
    summed.extend((records.len() as i32 - 1).to_be_bytes());
    summed.extend(now.to_be_bytes());
    summed.extend(now.to_be_bytes());
    summed.extend(id.to_be_bytes());
    summed.extend(epoch.to_be_bytes());
    summed.extend(sequence.to_be_bytes());
    summed.extend((records.len() as i32).to_be_bytes());
    for (place, record) in records.iter().enumerate() {
        let mut bytes = vec![0, 0];
        varint(&mut bytes, place as i64);
        match record.key {
            Some(key) => {
                varint(&mut bytes, key.len() as i64);
                bytes.extend(key.as_bytes());
            }
            None => varint(&mut bytes, -1),
        }
        varint(&mut bytes, record.bytes as i64);
        bytes.extend(std::iter::repeat_n(b'x', record.bytes));
        varint(&mut bytes, 0);
        varint(&mut summed, bytes.len() as i64);
        summed.extend(bytes);
    }
    let mut batch = Vec::new();
    batch.extend(0_i64.to_be_bytes());
    batch.extend((summed.len() as i32 + 9).to_be_bytes());
    batch.extend((-1_i32).to_be_bytes());
    batch.push(2);
    batch.extend(crc32c::crc32c(&summed).to_be_bytes());
    batch.extend(summed);
    batch
}

/// Zigzag, seven bits to a byte, the lowest first.
fn varint(bytes: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}
