// The last five minutes: running counts, and the spans between them, of which every rate is made.

/** Samples further apart than this do not belong together: between them nobody looked, and nothing is drawn. */
const GAP_SECONDS = 3.5;
export const WINDOW_SECONDS = 300;

export class History {
  /** Two neighbouring samples each, oldest first; `seconds` is null where nobody looked. */
  spans = [];
  latest = null;

  add(sample) {
    const before = this.latest;
    this.latest = sample;
    if (!before) return;
    const seconds = (sample.up_us - before.up_us) / 1e6;
    if (seconds <= 0) return;
    this.spans.push({ at: sample.at_ms / 1000, seconds: seconds <= GAP_SECONDS ? seconds : null, before, after: sample });
    const oldest = sample.at_ms / 1000 - WINDOW_SECONDS;
    while (this.spans.length && this.spans[0].at < oldest) this.spans.shift();
  }

  clear() {
    this.spans = [];
    this.latest = null;
  }

  /** Times for an axis, in seconds. */
  times() {
    return this.spans.map((span) => span.at);
  }

  /** What a count gained per second, span by span; null where nobody looked. */
  rates(pick) {
    return this.spans.map((span) => rate(span, pick));
  }

  /** A level as it was, span by span. */
  levels(pick) {
    return this.spans.map((span) => (span.seconds === null ? null : pick(span.after)));
  }

  /** What a count gained per second in the latest span. */
  rateNow(pick) {
    const last = this.spans.at(-1);
    return last ? rate(last, pick) : null;
  }
}

function rate(span, pick) {
  if (span.seconds === null) return null;
  const [before, after] = [pick(span.before), pick(span.after)];
  return before === undefined || after === undefined ? null : (after - before) / span.seconds;
}
