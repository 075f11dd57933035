//! HTTP/2 on a connection: the state machine, what it serves, and what comes to its streams from elsewhere.

use std::{
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    cold::{ColdEvent, ColdEvents},
    connection::{Origin, Wants},
    core::Core,
    counters::Cause,
    h2::{Connection, ErrorCode, Limits, StreamId, Waiting},
    hook::{Hook, Phase},
    service_h2::Service,
};

/// Bytes of answers of the cold lane that are put into the output before it is sent.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// The HTTP/2 state of a connection.
pub(crate) struct Http2 {
    connection: Connection<Service>,
    service: Service,
    /// An event of the cold lane that woke the connection and was not worked on yet.
    next: Option<(u32, ColdEvent)>,
    notice_sent: bool,
    last_sent: bool,
}

/// The limits of HTTP/2 that follow from those of the front ends.
pub(crate) fn limits(limits: &crate::Limits) -> Arc<Limits> {
    let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Arc::new(Limits {
        max_concurrent_streams: count(limits.concurrent_streams_max),
        header_list_bytes_max: count(limits.header_list_bytes_max),
        header_fields_max: count(limits.header_fields_max),
        frame_bytes_max: count(limits.frame_bytes_max),
        ..Limits::default()
    })
}

impl Http2 {
    pub(crate) fn new(core: &Rc<Core>, origin: &Origin, hook: &Rc<Hook>) -> Self {
        Self {
            connection: Connection::new(Arc::clone(&core.h2_limits)),
            service: Service::new(Rc::clone(core), *origin, Rc::clone(hook)),
            next: None,
            notice_sent: false,
            last_sent: false,
        }
    }

    pub(crate) fn phase(&self) -> (Phase, u64) {
        let phase = match self.connection.waiting_for() {
            Waiting::Preface | Waiting::Settings => Phase::Preface,
            Waiting::HeaderBlock => Phase::Head,
            Waiting::PeerWindow => Phase::Window,
            // A stream of messages flows at the client's pace, or stands because we withhold its window; only a
            // request that we collect has to arrive in time.
            Waiting::Frame | Waiting::Body if self.service.collecting() > 0 => Phase::Body,
            Waiting::Frame if self.connection.open_streams() == 0 => Phase::Head,
            Waiting::Frame | Waiting::Body | Waiting::Work => Phase::Work,
            Waiting::Idle => Phase::Idle,
        };
        (phase, self.connection.received_data_bytes())
    }

    pub(crate) fn wants_drain(&self, hook: &Hook) -> bool {
        !self.notice_sent || (hook.grace_is_over() && !self.last_sent) || self.connection.is_drained()
    }

    pub(crate) fn waits_for_room(&self) -> bool {
        self.service.first_in_line().is_some()
    }

    /// Whether its streams got room since the last call.
    pub(crate) fn got_room(&mut self) -> bool {
        self.service.got_room()
    }

    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        self.service.next_deadline_ms()
    }

    /// Whether answers wait for the output to be sent.
    pub(crate) fn wants_output(&self) -> bool {
        self.connection.wants_output()
    }

    /// A time limit was hit.
    pub(crate) fn expire(&mut self, cause: Cause, out: &mut Vec<u8>) {
        let code = match cause {
            Cause::IdleTimeout | Cause::ShutdownTimeout => ErrorCode::NO_ERROR,
            _ => ErrorCode::ENHANCE_YOUR_CALM,
        };
        self.connection.close_with(code, cause.label(), out);
        self.connection.disconnect(&mut self.service);
    }

    /// The socket is gone.
    pub(crate) fn disconnect(&mut self) {
        self.connection.disconnect(&mut self.service);
    }

    pub(crate) fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.next.is_none() {
            let Some(events) = self.service.events() else { return Poll::Pending };
            match events.poll_recv(context) {
                Poll::Ready(Some(event)) => self.next = Some(event),
                // We hold a sender ourselves, so the channel never ends.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    /// Works on what came from elsewhere: room in the output, answers of the cold lane, room in the queue, time
    /// limits of single requests, the drain.
    pub(crate) fn resume(&mut self, hook: &Hook, nudged: bool, now_ms: u64, out: &mut Vec<u8>) -> Wants {
        let Self { connection, service, .. } = self;
        if connection.wants_output() && connection.output_drained(now_ms, service, out).is_err() {
            return self.end();
        }
        if connection.waiting_for() == Waiting::PeerWindow {
            let timeout = service.write_timeout_ms();
            if connection.reset_stalled(now_ms, timeout, service, out).is_err() {
                return self.end();
            }
        }
        for settled in hook.settled.take() {
            let id = StreamId::new(settled.stream);
            match connection.stream(id, out) {
                Some((stream, mut replies)) => service.settle(id, stream, &settled, &mut replies),
                // The client has reset it meanwhile; its work ends with the last of its messages.
                None if service.settle_abandoned(id) => connection.work_ended(),
                None => {}
            }
        }
        for id in service.take_dirty() {
            if let Some((stream, mut replies)) = connection.stream(id, out) {
                service.advance(id, stream, &mut replies);
            }
        }
        while out.len() < OUTPUT_BYTES_MAX {
            let event = self
                .next
                .take()
                .or_else(|| service.events().and_then(|events: &mut ColdEvents| events.try_recv().ok()));
            let Some((id, event)) = event else { break };
            if let Some((stream, mut replies)) = connection.stream(StreamId::new(id), out) {
                service.answer(StreamId::new(id), stream, event, &mut replies);
            }
        }
        while let Some(id) = service.first_in_line() {
            match connection.stream(id, out) {
                Some((stream, mut replies)) => service.resume(id, stream, &mut replies),
                None => service.leave_line(id),
            }
            if service.is_in_line(id) {
                // It found no room, or not enough.
                break;
            }
        }
        for id in service.take_expired(now_ms) {
            if let Some((stream, mut replies)) = connection.stream(id, out) {
                service.expire(id, stream, &mut replies);
            }
        }
        for id in service.take_flushes(now_ms) {
            if let Some((stream, mut replies)) = connection.stream(id, out) {
                service.flush(id, stream, &mut replies);
            }
        }
        if hook.drain.get() {
            if !self.notice_sent {
                self.notice_sent = true;
                connection.go_away_notice(out);
            } else if hook.grace_is_over() && !self.last_sent {
                self.last_sent = true;
                connection.go_away(out);
            }
            if self.last_sent {
                connection.for_each_stream(out, |id, stream, replies| service.advance(id, stream, replies));
            }
        }
        if connection.settle(service, out).is_err() || connection.is_drained() {
            return self.end();
        }
        self.return_credit(out);
        if nudged && hook.phase.get() == Phase::Idle {
            // Woken while idle: an idle connection keeps only what it must.
            self.connection.shrink();
        }
        Wants::Input
    }

    /// Works on input; says how much was used.
    pub(crate) fn receive(
        &mut self,
        core: &Core,
        input: &[u8],
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> (usize, Wants) {
        match self.connection.receive(input, now_ms, &mut self.service, out) {
            Ok(used) => {
                self.return_credit(out);
                (used, if self.connection.is_drained() { self.end() } else { Wants::Input })
            }
            Err(error) => {
                core.counters.hit(match error.code {
                    ErrorCode::ENHANCE_YOUR_CALM => Cause::EnhanceYourCalm,
                    _ => Cause::Http2Protocol,
                });
                tracing::debug!(code = ?error.code, reason = error.reason, "HTTP/2 connection error");
                (input.len(), self.end())
            }
        }
    }

    fn end(&mut self) -> Wants {
        self.connection.disconnect(&mut self.service);
        Wants::Close
    }

    /// What of the cold lane's answers has left the streams' queues may be followed by more.
    fn return_credit(&mut self, out: &mut Vec<u8>) {
        let Self { connection, service, .. } = self;
        if service.cold_streams() == 0 {
            return;
        }
        let mut sent = Vec::new();
        connection.for_each_stream(out, |id, stream, _| {
            if Service::owes_credit(stream) {
                sent.push(id);
            }
        });
        for id in sent {
            let queued = connection.queued_bytes(id);
            if let Some((stream, _)) = connection.stream(id, out) {
                Service::credit_sent(stream, queued);
            }
        }
    }
}
