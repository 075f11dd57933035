// The latest warnings, errors and refusals.

import { credentials } from "./feed.js";
import { byId, count, element, moment, say } from "./format.js";

export class Errors {
  #known = null;
  #busy = false;

  /** The server has noted something so many times: reads the list if that is news. */
  async show(noted) {
    if (noted === this.#known || this.#busy) return;
    this.#busy = true;
    try {
      const response = await fetch("/live/errors", { headers: credentials(), cache: "no-store" });
      if (!response.ok) return;
      const { kept_max, errors } = await response.json();
      this.#known = noted;
      say(byId("errors-note"), errors.length === 0
        ? "No warning, no error and no refusal since the start."
        : `Warnings, errors and refusals: the latest ${count(kept_max)} different ones at most, with how often each was seen.`);
      byId("errors-list").replaceChildren(...errors.map(item));
    } catch {
      // The next reading asks again.
    } finally {
      this.#busy = false;
    }
  }
}

const item = ({ kind, text, reason, count: times, last_ms }) =>
  element("li", { class: kind },
    element("div", {}, element("b", {}, kind), ` ${text}`, reason ? element("small", {}, reason) : ""),
    element("span", { class: "many" }, `${times > 1 ? `${count(times)} times, last ` : ""}${moment(last_ms)}`));
