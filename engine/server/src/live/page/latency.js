// The heat map of durations: time from left to right, duration from bottom to top, and the more of them in a second, the
// stronger the colour.

import { Chart, axis, clock, palette, timeAxis, timeScale } from "./charts.js";
import { TIGHT, byId, count, duration, fill, say, short } from "./format.js";

const MEANINGS = {
  answer: ["Answering a request", "From the read that completed a request, or the acknowledgement that it waited for, to its answer being given to the socket. Time spent waiting for the disk or a broker is not in it."],
  log: ["Commit to the log", "Write and fdatasync of a commit, which is a batch of messages."],
  nats: ["Publish to NATS", "From sending a message to JetStream's acknowledgement, of a sample of messages."],
  kafka: ["Publish to Kafka", "From sending a message to the acknowledgement of all replicas, of a sample of messages."],
};
/** Rows that are shown at least, so that one busy bucket is not the whole picture. */
const ROWS_MIN = 6;

export class Latency {
  #bounds = {};
  #of = "answer";
  #history = null;
  #chart = null;
  #rows = [0, ROWS_MIN];

  constructor() {
    const select = byId("latency-of");
    select.addEventListener("change", () => {
      this.#of = select.value;
      this.#explain();
      this.#chart?.show([[]], "");
      if (this.#history) this.show(this.#history);
    });
  }

  /** What there is to choose from: names with their bounds. */
  know(latencies) {
    this.#bounds = Object.fromEntries(latencies);
    if (!(this.#of in this.#bounds)) this.#of = latencies[0][0];
    const select = byId("latency-of");
    select.replaceChildren(...latencies.map(([name]) => new Option(MEANINGS[name]?.[0] ?? name, name, false, name === this.#of)));
    this.#explain();
  }

  #explain() {
    say(byId("latency-meaning"), MEANINGS[this.#of]?.[1] ?? "");
  }

  show(history) {
    this.#history = history;
    const bounds = this.#bounds[this.#of];
    if (!bounds) return;
    const spans = history.spans;
    const cells = spans.map((span) => this.#gained(span));
    const all = this.#sum(cells);
    const now = spans.at(-1)?.at ?? 0;
    const minute = this.#sum(cells.filter((_, at) => spans[at].at > now - 60));
    const total = all.reduce((sum, number) => sum + number, 0);
    say(byId("latency-summary"), this.#summary(minute));
    const bound = (at) => (at < bounds.length ? duration(bounds[at]) : `over ${duration(bounds.at(-1))}`);
    const used = all.map((_, at) => at).filter((at) => all[at] > 0);
    fill(byId("latency-rows"), used.map((at) => [bound(at), count(minute[at]), count(all[at])]));
    const [low, high] = used.length ? [used[0], used.at(-1) + 1] : [0, ROWS_MIN];
    const missing = Math.max(0, ROWS_MIN - (high - low));
    const top = Math.min(all.length, high + Math.ceil(missing / 2));
    this.#rows = [Math.max(0, Math.min(low - Math.floor(missing / 2), top - ROWS_MIN)), top];
    this.#chart ??= new Chart(byId("latency"), (colours) => this.#options(colours));
    const times = total ? history.times() : [];
    this.#chart.show([times, times.map(() => null)], "Nothing was measured in the time shown.");
  }

  /** What a span added to each bucket. */
  #gained({ seconds, before, after }) {
    const [earlier, later] = [before.latencies[this.#of], after.latencies[this.#of]];
    return seconds === null || !earlier || !later ? null : later.map((number, at) => number - earlier[at]);
  }

  #sum(cells) {
    const sums = new Array(this.#bounds[this.#of].length + 1).fill(0);
    for (const cell of cells) cell?.forEach((number, at) => (sums[at] += number));
    return sums;
  }

  /** Bounds, not estimates: the share that certainly took no longer. */
  #summary(buckets) {
    const total = buckets.reduce((sum, number) => sum + number, 0);
    if (!total) return "Nothing was measured in the last minute.";
    const bounds = this.#bounds[this.#of];
    const within = (share) => {
      let sum = 0;
      const at = buckets.findIndex((number) => (sum += number) >= total * share);
      return at < bounds.length ? `within ${duration(bounds[at])}` : `over ${duration(bounds.at(-1))}`;
    };
    return `Last minute, ${count(total)} measured: half ${within(0.5)}, 99${TIGHT}% ${within(0.99)}.`;
  }

  #options(colours) {
    const label = (row) => {
      const bounds = this.#bounds[this.#of];
      // The line below a row is the bound of the row under it.
      return row === 0 ? "0" : row <= bounds.length ? duration(bounds[row - 1]) : "";
    };
    const splits = () => {
      const [low, high] = this.#rows;
      const step = high - low > 10 ? 2 : 1;
      return Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, at) => low + at * step);
    };
    return {
      scales: { x: timeScale, y: { range: () => this.#rows } },
      axes: [timeAxis(colours), axis(colours, { size: 62, splits, values: (_, rows) => rows.map(label) })],
      series: [{}, { label: "count", paths: () => null, points: { show: false } }],
      legend: { show: false },
      cursor: { points: { show: false } },
      hooks: {
        draw: [(plot) => this.#draw(plot)],
        setCursor: [(plot) => this.#point(plot)],
      },
    };
  }

  #draw(plot) {
    const { ctx } = plot;
    const spans = this.#history.spans;
    const cells = spans.map((span) => this.#gained(span));
    const most = Math.max(1e-9, ...cells.flatMap((cell, at) => (cell ? cell.map((number) => number / spans[at].seconds) : 0)));
    ctx.save();
    ctx.beginPath();
    ctx.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height);
    ctx.clip();
    ctx.fillStyle = palette().accent;
    cells.forEach((cell, at) => {
      if (!cell) return;
      const left = Math.floor(plot.valToPos(spans[at].at - spans[at].seconds, "x", true));
      const right = Math.floor(plot.valToPos(spans[at].at, "x", true));
      cell.forEach((number, row) => {
        if (!number) return;
        const [top, bottom] = [plot.valToPos(row + 1, "y", true), plot.valToPos(row, "y", true)].map(Math.round);
        // A root, so that the few slow ones are seen beside the many quick ones.
        ctx.globalAlpha = 0.15 + 0.85 * Math.sqrt(number / spans[at].seconds / most);
        ctx.fillRect(left, top + 1, Math.max(1, right - left), Math.max(1, bottom - top - 1));
      });
    });
    ctx.restore();
  }

  /** Says what lies under the pointer. */
  #point(plot) {
    const { left, top } = plot.cursor;
    if (left == null || left < 0) return;
    const [time, row] = [plot.posToVal(left, "x"), Math.floor(plot.posToVal(top, "y"))];
    const span = this.#history.spans.find(({ at }) => at >= time);
    const cell = span && this.#gained(span);
    if (!cell || row < 0 || row >= cell.length) return;
    const bounds = this.#bounds[this.#of];
    const [from, to] = [row ? duration(bounds[row - 1]) : "0", row < bounds.length ? duration(bounds[row]) : "more"];
    say(byId("latency-summary"), `${clock(span.at)}: ${short(cell[row] / span.seconds)}/s took ${from} to ${to}.`);
  }
}
