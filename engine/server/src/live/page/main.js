// The page: takes what the feed brings and has each part show it, once a frame at most.

import { Lines, coreLines } from "./charts.js";
import { Delivery } from "./delivery.js";
import { Errors } from "./errors.js";
import { showEvents } from "./events.js";
import { Feed, key } from "./feed.js";
import { byId, bytes, count, fill, say, short, span } from "./format.js";
import { Funnel } from "./funnel.js";
import { History, shown } from "./history.js";
import { Latency } from "./latency.js";
import { Letters } from "./letters.js";
import { Tail } from "./tail.js";

const NOTHING = "Nothing was read yet.";
const history = new History();
const latency = new Latency();
const delivery = new Delivery();
const letters = new Letters();
const errors = new Errors();
const throughput = new Lines(byId("throughput"), short);
const refusals = new Lines(byId("refusals"), short);
const queue = new Lines(byId("queue"), short);
let hello = null;
let present = null;
let asked = false;
/** When the latest sample came, by this machine's clock: the difference to the server's is nobody's business. */
let arrived = 0;

new Tail();
new Funnel(() => (history.latest ? history.latest.at_ms + (performance.now() - arrived) + 1 : Date.now()));

function refresh() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    if (hello && history.latest) show();
  });
}

function show() {
  const { latest } = history;
  tiles(latest);
  const cores = latest.cores.accepted.map((_, core) => history.rates((sample) => sample.cores.accepted[core]));
  throughput.show(history.times(), coreLines(cores), NOTHING);
  fill(byId("cores"), latest.cores.accepted.map((accepted, core) =>
    [String(core), short(cores[core].at(-1)), count(accepted), count(latest.cores.queued[core])]));
  const kinds = Object.keys(latest.refusals).filter((kind) => kind !== "unavailable" && latest.refusals[kind] > 0);
  kinds.unshift("unavailable");
  refusals.show(history.times(), kinds.map((kind) => ({ name: kind, values: history.rates((sample) => sample.refusals[kind]) })), NOTHING);
  latency.show(history);
  const depths = history.levels((sample) => sample.queued);
  queue.show(history.times(), [{ name: "messages", values: depths }], NOTHING);
  say(byId("queue-summary"), `Now ${count(latest.queued)}, at most ${count(Math.max(latest.queued, ...depths))} when it was read in the time shown; ${count(hello.queue_capacity)} fit.`);
  delivery.showSinks(history, present);
  if (present) {
    delivery.showLevels(present, hello.ack_default);
    letters.show(present.dead_letters);
    errors.show(present.errors_noted);
    showEvents(present.events, hello.events_minutes);
  }
  byId("start").hidden = latest.received + turnedAway(latest) > 0;
}

const unavailable = ({ refusals }) => refusals.unavailable;
const turnedAway = ({ refusals }) => Object.values(refusals).reduce((sum, number) => sum + number, 0);

function tiles(latest) {
  for (const name of ["accepted", "processed"]) {
    say(byId(`${name}-rate`), short(history.rateNow((sample) => sample[name])));
    say(byId(`${name}-total`), count(latest[name]));
  }
  say(byId("errors-total"), count(latest.errors));
  say(byId("refused-rate"), short(history.rateNow(turnedAway)));
  say(byId("unavailable-total"), count(unavailable(latest)));
  say(byId("callers-total"), count(turnedAway(latest) - unavailable(latest) - latest.refusals.rejected));
  say(byId("rejected-total"), latest.refusals.rejected ? `${count(latest.refusals.rejected)} refused for ever where they go, ` : "");
  say(byId("queued"), short(latest.queued));
  say(byId("queue-capacity"), count(hello.queue_capacity));
  say(byId("connections"), count(latest.connections));
  const [inward, outward] = [history.rateNow((sample) => sample.bytes_in), history.rateNow((sample) => sample.bytes_out)];
  say(byId("network"), `in ${bytes(inward)}, out ${bytes(outward)}`);
  const up = span(latest.up_us / 1e6);
  say(byId("facts"), `${hello.version} on ${hello.node}, up ${up}. ${count(hello.cores)} ${hello.cores === 1 ? "core" : "cores"}, queue ${hello.queue_type}; “accepted” means ${hello.ack_default}.`);
}

const feed = new Feed({
  event(name, data) {
    if (name === "hello") {
      // Another run counts from zero: its numbers have nothing to do with those before.
      if (hello && hello.run !== data.run) history.clear();
      hello = data;
      history.know(data.history_seconds);
      latency.know(data.latencies);
      commands();
    }
    if (name === "sample") {
      history.add(data);
      arrived = performance.now();
    }
    if (name === "present") {
      present = data;
      state("live", data.verdict.state, data.verdict);
    }
    refresh();
  },
  state,
});

/** What stands at the top: the server's verdict on itself, or why there is none. */
function state(name, text, verdict) {
  const status = byId("status");
  const reason = byId("reason");
  say(reason, verdict?.reason ?? "");
  reason.hidden = !verdict?.reason;
  for (const place of [status, reason]) place.dataset.verdict = verdict?.state ?? "";
  document.title = verdict && verdict.state !== "good" ? `${verdict.state}: Tidegate` : "Tidegate";
  if (name === "locked") say(byId("key-trouble"), text);
  say(status, { locked: "asks for a key", ending: `${text}: reconnecting when it is back` }[name] ?? text);
  status.dataset.state = name;
  document.body.classList.toggle("stale", name !== "live");
  byId("locked").hidden = name !== "locked";
}

function commands() {
  const { origin } = location;
  const secret = key.get() ? " -H \"x-api-key: $KEY\"" : "";
  say(byId("send-message"), `curl ${origin}/ingest -H 'Content-Type: application/json' -d '{"source":"test","data":"Hello World"}'`);
  say(byId("send-event"), `curl ${origin}/v1/events${secret} -H 'Content-Type: application/json' -d '{"user_id":"u-1","event_type":"EVENT_TYPE_USER","source":"test"}'`);
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim());
  feed.unlocked();
});

for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", async () => {
    const source = byId(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.firstChild.data = "Copied";
    } catch {
      // Without TLS, browsers have a clipboard on localhost alone: marking it is what is left.
      getSelection().selectAllChildren(source);
      button.firstChild.data = "Marked: Ctrl+C";
    }
    setTimeout(() => (button.firstChild.data = "Copy"), 2000);
  });
}

byId("window").addEventListener("change", (event) => {
  shown.seconds = Number(event.target.value);
  refresh();
});

feed.run();
