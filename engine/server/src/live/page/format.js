// Numbers and times as text, and the few things all parts do with elements.

/** Between a number and its unit no line ends. */
export const TIGHT = "\u00a0";

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

const threeDigits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** A count, digit by digit: 12,345. */
export const count = (number) => grouped.format(number);

/** A number in three digits or so: 0.5, 42, 1.23 k, 45.6 M. */
export function short(number) {
  if (number == null) return "–";
  for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (number >= unit) {
      // 12,345 is 12.3 k: below ten thousand the digits themselves are short enough.
      const scaled = number / (unit === 1e4 ? 1e3 : unit);
      return threeDigits.format(scaled) + TIGHT + letter;
    }
  }
  if (number > 0 && number < 9.95) return number.toFixed(1).replace(/\.0$/, "");
  return grouped.format(number);
}

/** Bytes a second. */
export const bytes = (number) => (number == null ? "–" : `${short(number)}${number < 1e4 ? TIGHT : ""}B/s`);

/** Microseconds. */
export function duration(us) {
  if (us < 1000) return `${us}${TIGHT}µs`;
  if (us < 1e6) return `${digits(us / 1000)}${TIGHT}ms`;
  return `${digits(us / 1e6)}${TIGHT}s`;
}

const digits = (number) => (number < 10 ? number.toFixed(1) : number.toFixed(0));

/** Seconds as people say them: 3.2 s, 5 min, 2 h 10 min, 4 d 3 h. */
export function span(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)}${TIGHT}s`;
  if (seconds < 60) return `${Math.floor(seconds)}${TIGHT}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}${TIGHT}min`;
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)}${TIGHT}h ${minutes % 60}${TIGHT}min`;
  return `${Math.floor(minutes / 1440)}${TIGHT}d ${Math.floor((minutes % 1440) / 60)}${TIGHT}h`;
}

/** A time of day, with the date if it is another day's. */
export function moment(ms) {
  const at = new Date(ms);
  const time = at.toLocaleTimeString("en-GB");
  return at.toDateString() === new Date().toDateString() ? time : `${at.toISOString().slice(0, 10)} ${time}`;
}

/** A share of one as per cent. */
export const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)}${TIGHT}%`;

export const byId = (id) => document.getElementById(id);

/** Sets a text, and touches the page only if it is another. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** An element with attributes and children; texts are texts, never markup: names come from whoever sends events. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** The beginning of a payload that has so many bytes. */
export function beginning(payload, bytes) {
  const text = payload.text ?? payload.base64;
  const shown = payload.text === undefined ? atob(text).length : new TextEncoder().encode(text).length;
  const name = `Payload${payload.text === undefined ? ", as base64" : ""}${shown < bytes ? `, the first ${count(shown)} bytes` : ""}`;
  return element("details", {}, element("summary", {}, name), element("pre", {}, text));
}

/** A bar for the eye alone; the number stands beside it. */
export const bar = () => element("div", { class: "bar", "aria-hidden": "true" }, element("div"));

/** Fills a bar. */
export const setBar = (bar, share) => (bar.firstChild.style.width = `${Math.min(1, share) * 100}%`);

/** Makes a table's body say these rows; the first cell of each names it. */
export function fill(body, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, at) => {
    const row = body.rows[at] ?? body.insertRow();
    cells.forEach((text, place) => {
      let cell = row.cells[place];
      if (!cell) {
        cell = element(place ? "td" : "th", place ? {} : { scope: "row" });
        row.append(cell);
      }
      say(cell, text);
    });
  });
}
