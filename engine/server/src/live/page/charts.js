// Line charts over the time that is shown, in the page's colours.

import { element } from "./format.js";
import { shown } from "./history.js";

/** The colours of this moment, light or dark, from the style sheet. */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    text: read("--soft"),
    line: read("--line"),
    accent: read("--accent"),
    series: [1, 2, 3, 4, 5, 6, 7, 8].map((number) => read(`--series-${number}`)),
  };
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const font = '12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

/** A time of day as clocks show it here. */
export const clock = (time) => new Date(time * 1000).toLocaleTimeString("en-GB");

/** Whole numbers: there is no half message. */
const steps = [1, 2, 5].flatMap((first) => Array.from({ length: 12 }, (_, power) => first * 10 ** power)).sort((a, b) => a - b);

/** An axis in the page's colours. */
export const axis = (colours, more) => ({
  stroke: colours.text,
  grid: { stroke: colours.line, width: 1 },
  ticks: { show: false },
  font,
  ...more,
});

/** The time axis: hours, minutes and seconds as clocks show them here. */
export const timeAxis = (colours) =>
  axis(colours, {
    space: 50,
    size: 30,
    incrs: [30, 60, 120, 300, 600, 900],
    values: (_, times) => times.map((time) => (time % 60 ? "" : clock(time).slice(0, 5))),
  });

/** The time that is shown, whether there is something to see in all of them or not. */
export const timeScale = { time: true, range: (_, __, latest) => [latest - shown.seconds, latest] };

/** A chart that is as wide as its place, and is made anew when its place or the colours change. */
export class Chart {
  #place;
  #make;
  #plot = null;
  #data = null;

  /** `make(colours, width)` gives uPlot's options. */
  constructor(place, make) {
    this.#place = place;
    this.#make = make;
    new ResizeObserver(() => this.#fit()).observe(place);
    dark.addEventListener("change", () => this.renew());
  }

  /** Shows data; without any, says that there is none. */
  show(data, nothing) {
    const isEmpty = data[0].length === 0;
    this.#data = isEmpty ? null : data;
    if (isEmpty) {
      this.#drop();
      if (!this.#place.querySelector(".nothing")) this.#place.replaceChildren(element("p", { class: "nothing" }, nothing));
      return;
    }
    if (this.#plot) this.#plot.setData(data);
    else this.renew();
  }

  /** Makes it anew: other series, other colours. */
  renew() {
    if (!this.#data || !this.#place.clientWidth) return;
    this.#drop();
    this.#place.replaceChildren();
    const size = { width: this.#place.clientWidth, height: this.#place.classList.contains("low") ? 120 : 200 };
    this.#plot = new uPlot({ ...size, ...this.#make(palette(), size.width) }, this.#data, this.#place);
  }

  #drop() {
    this.#plot?.destroy();
    this.#plot = null;
  }

  #fit() {
    const width = this.#place.clientWidth;
    if (!width) return;
    if (this.#plot) {
      if (this.#plot.width !== width) this.#plot.setSize({ width, height: this.#plot.height });
    } else this.renew();
  }
}

/** A chart of lines; `write` makes text of a value. */
export class Lines {
  #chart;
  #names = "";
  #place;
  #write;

  constructor(place, write) {
    this.#place = place;
    this.#write = write;
  }

  /** `series` are `{name, values}`; values may be null. */
  show(times, series, nothing) {
    const names = series.map((one) => one.name).join("\n");
    if (!this.#chart) this.#chart = new Chart(this.#place, (colours) => this.#options(colours));
    const renewed = names !== this.#names;
    this.#names = names;
    const data = [times, ...series.map((one) => one.values)];
    if (renewed) this.#chart.show([[]], nothing);
    this.#chart.show(data, nothing);
  }

  #options(colours) {
    const write = (value) => (value == null ? "–" : this.#write(value));
    const names = this.#names.split("\n");
    return {
      scales: { x: timeScale, y: { range: (_, __, highest) => [0, Math.max(highest || 0, 1) * 1.1] } },
      axes: [timeAxis(colours), axis(colours, { size: 62, incrs: steps, values: (_, values) => values.map(write) })],
      cursor: { y: false, points: { size: 6 } },
      legend: { live: true },
      series: [
        { label: "At", value: (plot, time) => clock(time ?? plot.data[0].at(-1)) },
        ...names.map((name, at) => ({
          label: name,
          stroke: colours.series[at % colours.series.length],
          fill: names.length === 1 ? `${colours.series[0]}22` : undefined,
          width: 1.5,
          points: { show: false },
          // Without a pointer, the latest.
          value: (plot, value, series, at) => write(at == null ? plot.data[series].at(-1) : value),
        })),
      ],
    };
  }
}

/** Lines for cores: each its own up to eight; of more, the most, the median and the least. */
export function coreLines(rows) {
  if (rows.length <= 8) return rows.map((values, core) => ({ name: `core ${core}`, values }));
  const pick = (place) =>
    rows[0].map((_, at) => {
      const values = rows.map((row) => row[at]).filter((value) => value !== null);
      return values.length ? values.sort((a, b) => b - a)[place(values.length)] : null;
    });
  return [
    { name: "busiest core", values: pick(() => 0) },
    { name: "median core", values: pick((cores) => cores >> 1) },
    { name: "idlest core", values: pick((cores) => cores - 1) },
  ];
}
