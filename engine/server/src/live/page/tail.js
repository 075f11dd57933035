// The tail: the latest messages as the server accepts them, those with a text in them, while somebody watches.

import { SILENCE_MS, credentials, frames, trouble } from "./feed.js";
import { beginning, byId, count, element, moment, say } from "./format.js";

/** Messages that stay on the page. */
const LISTED_MAX = 100;
const HINT = "Payloads are shown where the server has API_KEYS.";

export class Tail {
  #abort = null;
  #opened = null;
  /** What came since the page was drawn last, oldest first. */
  #came = [];

  constructor() {
    byId("tail-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#watch(byId("tail-text").value);
    });
    byId("tail-stop").addEventListener("click", () => this.#abort?.abort());
  }

  async #watch(contains) {
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    this.#came = [];
    byId("tail-list").replaceChildren();
    say(byId("tail-trouble"), "");
    say(byId("tail-said"), "Opening …");
    this.#isOn(true);
    let why = "";
    let timer;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        why = "the server is silent";
        abort.abort();
      }, SILENCE_MS);
    };
    try {
      heard();
      const query = new URLSearchParams({ contains });
      const response = await fetch(`/live/tail?${query}`, { headers: credentials(), cache: "no-store", signal: abort.signal });
      if (!response.ok) throw new Error(await trouble(response));
      for await (const { name, data } of frames(response, heard)) {
        if (name === "ending") why = data;
        else if (this.#abort === abort) this.#take(name, data);
      }
      why ||= "the connection has ended";
    } catch (error) {
      if (!abort.signal.aborted) why = error.message;
    }
    clearTimeout(timer);
    // Another one may have begun.
    if (this.#abort !== abort) return;
    this.#abort = null;
    this.#isOn(false);
    if (byId("tail-said").textContent === "Opening …") say(byId("tail-said"), "");
    if (why) say(byId("tail-trouble"), `Not watching any more: ${why}.`);
  }

  #take(name, data) {
    if (name === "opened") {
      this.#opened = data;
      const { copied_per_second_max: most, cores, payloads } = data;
      say(byId("tail-note"), `The latest messages as they are accepted, at most ${count(most)} a second of each core${cores > 1 ? ` (${count(cores)} cores)` : ""}; repeats are left out.${payloads ? "" : ` ${HINT}`}`);
    }
    if (name === "message") {
      this.#came.push(data);
      if (this.#came.length === 1) requestAnimationFrame(() => this.#draw());
    }
    if (name === "counts") this.#count(data);
  }

  #draw() {
    const list = byId("tail-list");
    list.prepend(...this.#came.slice(-LISTED_MAX).reverse().map(item));
    this.#came = [];
    while (list.children.length > LISTED_MAX) list.lastChild.remove();
  }

  #count({ cores, looked_at, matched, shown }) {
    const { contains, cores: all } = this.#opened;
    const found = contains ? ` with “${contains}” in them, among ${count(looked_at)}` : "";
    const missing = cores < all ? ` ${count(all - cores)} of ${count(all)} cores do not answer.` : "";
    const listed = shown > LISTED_MAX ? ` The latest ${count(LISTED_MAX)} are listed.` : "";
    say(byId("tail-said"), `${count(shown)} of ${count(matched)} ${matched === 1 ? "message" : "messages"} shown${found}.${listed}${missing}`);
  }

  #isOn(isOn) {
    byId("tail-stop").hidden = !isOn;
    say(byId("tail-watch"), isOn ? "Watch anew" : "Watch");
  }
}

function item({ at_ms, core, kind, event_type, id, source, level, metadata, is_cut, payload_bytes, payload }) {
  const pairs = metadata.map(([key, value]) => `${key}=${value}`).join(", ");
  const size = `${count(payload_bytes)} ${payload_bytes === 1 ? "byte" : "bytes"}`;
  const body = element("div", {},
    element("b", {}, event_type || kind), ` ${id}`,
    element("small", {}, `${source ? `from ${source}, ` : ""}${size}, ${level}, core ${core}${pairs ? `; ${pairs}` : ""}${is_cut ? " (shortened)" : ""}`));
  if (payload && payload_bytes > 0) body.append(beginning(payload, payload_bytes));
  return element("li", {}, body, element("span", { class: "many" }, moment(at_ms)));
}
