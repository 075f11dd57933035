// Where messages go: sinks with their state and lag, and the ack levels that can be had.

import { Lines } from "./charts.js";
import { byId, count, element, fill, say, short } from "./format.js";

const BAD = ["out of reach", "failed", "full", "standing still", "nothing to read from"];
const RESTING = ["idle"];
const MARKS = { honoured: "✓", "refused now": "✗", "not with these settings": "–" };

export class Delivery {
  #lag = new Lines(byId("lag"), short);

  showSinks(history, present) {
    const sinks = history.latest.sinks;
    const states = present?.states ?? {};
    const rate = (name) => history.rateNow((sample) => sample.sinks.find((sink) => sink.name === name)?.done);
    const body = byId("sinks");
    fill(body, sinks.map((sink) => [
      sink.name,
      [states[sink.name]?.state, states[sink.name]?.reason].filter(Boolean).join(": ") || "–",
      short(rate(sink.name)),
      count(sink.done) + (sink.failed ? ` (${count(sink.failed)} failed)` : ""),
      sink.in_flight === null ? "–" : count(sink.in_flight),
      sink.lag === null ? "–" : count(sink.lag),
    ]));
    sinks.forEach((sink, at) => {
      const state = states[sink.name]?.state;
      body.rows[at].classList.toggle("bad", BAD.includes(state));
      body.rows[at].classList.toggle("resting", RESTING.includes(state));
    });
    const lagging = sinks.filter((sink) => sink.lag !== null);
    byId("lag").hidden = lagging.length === 0;
    if (lagging.length) {
      const level = (name) => history.levels((sample) => sample.sinks.find((sink) => sink.name === name)?.lag ?? null);
      this.#lag.show(history.times(), lagging.map(({ name }) => ({ name: `${name} lag`, values: level(name) })), "No lag was read yet.");
    }
  }

  showLevels(present, usual) {
    const items = present.levels.map(({ name, state, reason }) => {
      const text = `${name}${name === usual ? " (the usual level)" : ""}: ${state}`;
      return element("li", { "data-state": state },
        element("span", { class: "mark", "aria-hidden": "true" }, MARKS[state] ?? ""),
        element("span", {}, element("b", {}, text), reason ? element("small", {}, reason) : ""));
    });
    const list = byId("levels");
    const key = JSON.stringify([present.levels, usual]);
    // Only what changed is drawn anew: who reads the list with a screen reader is not thrown out of it every second.
    if (list.dataset.key !== key) {
      list.dataset.key = key;
      list.replaceChildren(...items);
    }
    const letters = byId("dead-letters");
    letters.hidden = present.dead_letters === 0;
    say(letters, `${count(present.dead_letters)} messages could not be delivered and lie in the dead letters, which are listed below.`);
  }
}
