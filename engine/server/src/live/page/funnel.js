// A funnel that is put together here and counted by POST /v1/analytics/funnel.

import { credentials, trouble } from "./feed.js";
import { bar, byId, count, element, percent, say, setBar, span } from "./format.js";

const [STEPS_MIN, STEPS_MAX] = [2, 4];

export class Funnel {
  #steps = byId("steps");
  /** The server's clock: what it counts is stamped with it. */
  #now;

  constructor(now) {
    this.#now = now;
    for (let step = 0; step < STEPS_MIN; step += 1) this.#add();
    byId("add-step").addEventListener("click", () => this.#add().querySelector("input").focus());
    byId("remove-step").addEventListener("click", () => {
      this.#steps.lastElementChild.remove();
      this.#bound();
    });
    byId("funnel").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
  }

  #add() {
    const number = this.#steps.children.length + 1;
    const field = (label, name, more) =>
      element("div", {}, element("label", { for: `${name}-${number}` }, label), element("input", { id: `${name}-${number}`, name, autocomplete: "off", spellcheck: "false", ...more }));
    const step = element("li", {},
      element("fieldset", {},
        element("legend", {}, `Step ${number}`),
        field("Event type", "type", { list: "known-types", placeholder: "any" }),
        field("Property", "property", { placeholder: "none" }),
        field("equals", "value")));
    this.#steps.append(step);
    this.#bound();
    return step;
  }

  #bound() {
    byId("add-step").disabled = this.#steps.children.length >= STEPS_MAX;
    byId("remove-step").disabled = this.#steps.children.length <= STEPS_MIN;
  }

  #request() {
    const steps = [...this.#steps.children].map((step) => {
      const value = (name) => step.querySelector(`[name=${name}]`).value.trim();
      const [type, property, wanted] = [value("type"), value("property"), value("value")];
      const condition = property ? `${property} = ${wanted}` : "";
      return {
        name: [type, condition].filter(Boolean).join(", "),
        event_type: type,
        filters: property ? { [`properties.${property}`]: wanted } : {},
      };
    });
    const end = this.#now();
    const range = { start: new Date(end - byId("funnel-range").value * 1000).toISOString(), end: new Date(end).toISOString() };
    const within = Number(byId("funnel-within").value);
    return { steps, time_range: range, ...(within ? { step_timeout: `${within}s` } : {}) };
  }

  async #ask() {
    const complain = (text) => {
      say(byId("funnel-trouble"), text);
      byId("funnel-result").replaceChildren();
      byId("funnel-unknown").replaceChildren();
    };
    const request = this.#request();
    const empty = request.steps.findIndex((step) => !step.name);
    if (empty >= 0) {
      complain(`Step ${empty + 1} is empty: give an event type, a property, or both.`);
      this.#steps.children[empty].querySelector("input").focus();
      return;
    }
    try {
      const headers = { "content-type": "application/json", ...credentials() };
      const response = await fetch("/v1/analytics/funnel", { method: "POST", headers, body: JSON.stringify(request) });
      if (!response.ok) {
        complain(await trouble(response));
        return;
      }
      say(byId("funnel-trouble"), "");
      const result = await response.json();
      this.#show(result);
      this.#offer(request, result);
    } catch {
      complain("The server could not be reached.");
    }
  }

  /** A type that nobody took and that is not among those seen is likely a slip: the known ones are offered. */
  #offer(request, { steps }) {
    const known = [...byId("known-types").options].map((option) => option.value);
    const unknown = request.steps.findIndex(({ event_type: type }, at) => type && !known.includes(type) && !Number(steps[at].users));
    const place = byId("funnel-unknown");
    place.replaceChildren();
    if (unknown < 0) return;
    const type = request.steps[unknown].event_type;
    const offers = known.map((name) => {
      const button = element("button", { type: "button" }, name);
      button.addEventListener("click", () => {
        byId(`type-${unknown + 1}`).value = name;
        this.#ask();
      });
      return button;
    });
    place.append(
      element("p", { class: "trouble" }, `No event of the type “${type}” (step ${unknown + 1}) has come in the last hour. ${offers.length ? "These have; choose one:" : "No other has either."}`),
      element("div", { class: "row" }, ...offers));
  }

  #show({ steps, overallConversionRate }) {
    const first = Number(steps[0].users);
    if (!first) {
      byId("funnel-result").replaceChildren(element("p", {}, "No user took the first step in this time."));
      return;
    }
    const rows = steps.map((step, at) => {
      const users = Number(step.users);
      const seconds = parseFloat(step.avgTimeToConvert);
      const detail = at ? `${percent(step.conversionRate)} of the step before${users ? `, ${span(seconds)} after it on average` : ""}` : "";
      const picture = bar();
      setBar(picture, users / first);
      return element("li", {},
        element("div", { class: "step" }, element("b", {}, step.name), element("span", {}, `${count(users)} users`)),
        picture,
        element("small", {}, detail));
    });
    byId("funnel-result").replaceChildren(
      element("ol", { class: "funnel" }, ...rows),
      element("p", {}, element("b", { id: "funnel-overall" }, percent(overallConversionRate)), " took every step."));
  }
}
