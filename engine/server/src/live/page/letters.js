// The dead letters: the newest of them, and a button to send one or all once more.

import { credentials, trouble } from "./feed.js";
import { beginning, byId, count, element, moment, say } from "./format.js";

/** Between two readings at least: each goes through the whole folder. */
const PAUSE_MS = 3000;

export class Letters {
  #known = null;
  #busy = false;
  #due = 0;

  constructor() {
    byId("replay-all").addEventListener("click", () => {
      if (confirm("Send all dead letters once more?")) this.#replay({ all: true });
    });
  }

  /** There are so many that this process has put aside: reads the list if that is news. */
  async show(number) {
    if (number === this.#known || this.#busy || performance.now() < this.#due) return;
    this.#known = number;
    await this.#read();
  }

  async #read() {
    this.#busy = true;
    try {
      const response = await fetch("/live/dead-letters", { headers: credentials(), cache: "no-store" });
      if (!response.ok) throw new Error(await trouble(response));
      this.#draw(await response.json());
    } catch (error) {
      // Asked again when it is time: another viewer may be reading.
      this.#known = null;
      this.#say(`The dead letters could not be read: ${error.message}`, true);
    } finally {
      this.#busy = false;
      this.#due = performance.now() + PAUSE_MS;
    }
  }

  #draw({ count: all, listed_max, payloads, letters }) {
    byId("letters").hidden = all === 0 && byId("letters-said").textContent === "";
    byId("replay-all").hidden = all === 0;
    const shown = all > listed_max ? `The newest ${count(listed_max)} of ${count(all)}. ` : "";
    const hint = payloads ? "" : " Payloads are shown where the server has API_KEYS.";
    say(byId("letters-note"), all === 0 ? "None is left." : `${shown}What could not be delivered. Replay sends it to this server once more; what is refused again comes back as a new one.${hint}`);
    byId("letters-list").replaceChildren(...letters.map((letter) => this.#item(letter)));
  }

  #item({ offset, at_ms, id, side, code, reason, payload, payload_bytes }) {
    const button = element("button", { type: "button" }, "Replay", element("span", { class: "spoken" }, ` dead letter ${offset}`));
    button.addEventListener("click", () => this.#replay({ offset }));
    const body = element("div", {},
      element("b", {}, id || "without an id"), ` ${moment(at_ms)}, ${side}: ${code}`,
      element("small", {}, `${reason} (${count(payload_bytes)} bytes)`));
    if (payload && payload_bytes > 0) body.append(beginning(payload, payload_bytes));
    return element("li", {}, body, button);
  }

  async #replay(asked) {
    if (this.#busy) return;
    this.#busy = true;
    this.#buttons(true);
    this.#say("Sending …", false);
    try {
      const headers = { ...credentials(), "content-type": "application/json" };
      const response = await fetch("/live/dead-letters/replay", { method: "POST", headers, body: JSON.stringify(asked) });
      if (!response.ok) throw new Error(await trouble(response));
      const { sent, failed, left, failures } = await response.json();
      const parts = [`${count(sent)} accepted once more`];
      if (failed) parts.push(`${count(failed)} not accepted`);
      if (left) parts.push(`${count(left)} not tried`);
      const why = failures.map(({ offset, why }) => `dead letter ${offset}: ${why}`).join("; ");
      this.#say(`${parts.join(", ")}.${why ? ` ${why}` : ""}`, failed + left > 0);
    } catch (error) {
      this.#say(`Not replayed: ${error.message}`, true);
    }
    this.#buttons(false);
    await this.#read();
  }

  #buttons(disabled) {
    for (const button of byId("letters").querySelectorAll("button")) button.disabled = disabled;
  }

  #say(text, isBad) {
    say(byId("letters-said"), text);
    byId("letters-said").classList.toggle("bad", isBad);
    byId("letters").hidden = false;
  }
}
