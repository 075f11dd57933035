// The stream of samples. Read with fetch and not with EventSource, which cannot send a key.

const KEY = "tidegate-key";
/** The server says something every second, or that it is still there: this long without a byte, and the line is dead. */
export const SILENCE_MS = 15_000;
/** What the server says when it goes: a stream's last word, or the answer to who comes then. */
const ENDING = "the server is shutting down";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** Fields that a request of this page carries. */
export const credentials = () => (key.get() ? { "x-api-key": key.get() } : {});

/** What went wrong, in the server's words if it said any. */
export async function trouble(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).message || text;
  } catch {
    return text.slice(0, 300) || `HTTP ${response.status}`;
  }
}

/** The events of a stream as they come; `heard` is called whenever anything does. */
export async function* frames(response, heard) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const frame = read(text.slice(0, end));
      text = text.slice(end + 2);
      if (frame) yield frame;
    }
  }
}

function read(frame) {
  let [id, name, data] = ["", "message", ""];
  for (const line of frame.split("\n")) {
    const [field, value] = [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trimStart()];
    if (field === "id") id = value;
    if (field === "event") name = value;
    if (field === "data") data += value;
  }
  return data && { id, name, data: JSON.parse(data) };
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Reads for ever. `on.event(name, data)` gets what comes, `on.state(state, text)` how the connection is: `live`,
 * `connecting`, `ending`, `locked` (then it waits for `unlocked()`), `refused`.
 */
export class Feed {
  #seen = "";
  #unlock = null;
  #on;

  constructor(on) {
    this.#on = on;
  }

  /** There is a key to try. */
  unlocked() {
    this.#unlock?.();
  }

  async run() {
    let attempt = 0;
    let ended = false;
    for (;;) {
      try {
        const watched = await this.#watch();
        attempt = watched ? 0 : attempt + 1;
        // Stays so until it is back: who looks meanwhile shall read why there is nothing.
        ended = watched === "ending" || (ended && !watched);
      } catch {
        attempt += 1;
      }
      if (!ended) this.#on.state("connecting", "no connection: trying again");
      await pause(Math.min(10_000, 500 * 2 ** attempt));
    }
  }

  async #watch() {
    const abort = new AbortController();
    let timer = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const headers = { accept: "text/event-stream", ...credentials() };
      if (this.#seen) headers["last-event-id"] = this.#seen;
      const response = await fetch("/live/events", { headers, cache: "no-store", signal: abort.signal });
      if (response.status === 401) {
        clearTimeout(timer);
        this.#on.state("locked", key.get() ? await trouble(response) : "");
        await new Promise((resolve) => (this.#unlock = resolve));
        return "locked";
      }
      if (!response.ok) {
        const text = await trouble(response);
        this.#on.state(text === ENDING ? "ending" : "refused", text);
        await pause(5000);
        return false;
      }
      let outcome = "watched";
      const heard = () => {
        clearTimeout(timer);
        timer = setTimeout(() => abort.abort(), SILENCE_MS);
      };
      for await (const frame of frames(response, heard)) {
        if (this.#take(frame) === "ending") outcome = "ending";
      }
      return outcome;
    } finally {
      clearTimeout(timer);
    }
  }

  #take({ id, name, data }) {
    if (id) this.#seen = id;
    if (name === "ending") this.#on.state("ending", data);
    else this.#on.event(name, data);
    return name;
  }
}
