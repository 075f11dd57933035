// Up to an hour of running counts, and the spans between them, of which every rate is made.

/** Samples further apart than this do not belong together, and nothing is drawn: the server keeps one of ten of the older. */
const GAP_SECONDS = 25;

/** How much of it the charts show. */
export const shown = { seconds: 300 };

export class History {
  /** Two neighbouring samples each, oldest first; `seconds` is null where there is a gap. */
  #all = [];
  latest = null;
  #seconds = 0;

  /** The server keeps so many seconds, and so does the page. */
  know(seconds) {
    this.#seconds = seconds;
  }

  add(sample) {
    const before = this.latest;
    this.latest = sample;
    if (!before) return;
    const seconds = (sample.up_us - before.up_us) / 1e6;
    if (seconds <= 0) return;
    this.#all.push({ at: sample.at_ms / 1000, seconds: seconds <= GAP_SECONDS ? seconds : null, before, after: sample });
    const oldest = sample.at_ms / 1000 - this.#seconds;
    while (this.#all.length && this.#all[0].at < oldest) this.#all.shift();
  }

  clear() {
    this.#all = [];
    this.latest = null;
  }

  /** What the charts show of it. */
  get spans() {
    const oldest = (this.#all.at(-1)?.at ?? 0) - shown.seconds;
    return this.#all.slice(this.#all.findIndex((span) => span.at >= oldest));
  }

  /** Times for an axis, in seconds. */
  times() {
    return this.spans.map((span) => span.at);
  }

  /** What a count gained per second, span by span; null where there is a gap. */
  rates(pick) {
    return this.spans.map((span) => rate(span, pick));
  }

  /** A level as it was, span by span. */
  levels(pick) {
    return this.spans.map((span) => (span.seconds === null ? null : pick(span.after)));
  }

  /** What a count gained per second in the latest span. */
  rateNow(pick) {
    const last = this.#all.at(-1);
    return last ? rate(last, pick) : null;
  }
}

function rate(span, pick) {
  if (span.seconds === null) return null;
  const [before, after] = [pick(span.before), pick(span.after)];
  return before === undefined || after === undefined ? null : (after - before) / span.seconds;
}
