// Events of the last hour by type and by source, as rows with a bar.

import { bar, byId, count, element, percent, say, setBar } from "./format.js";

export function showEvents(events, minutes) {
  const note = byId("events-note");
  if (events === null) {
    say(note, "Events are not added up here: analytics.enabled is off.");
    return;
  }
  const what = `in the last ${minutes} minutes, by their own times.`;
  say(note, events.total ? `${count(events.total)} ${events.total === 1 ? "event" : "events"} ${what}` : `No events ${what}`);
  byId("sources-title").hidden = events.total === 0;
  bars(byId("event-types"), events.by_type, events.total);
  bars(byId("event-sources"), events.by_source, events.total);
  const known = byId("known-types");
  const names = events.by_type.top.map(([name]) => name);
  if (known.dataset.names !== names.join("\n")) {
    known.dataset.names = names.join("\n");
    known.replaceChildren(...names.map((name) => element("option", { value: name })));
  }
}

function bars(body, { top, more_names, more_events }, total) {
  const rows = top.map(([name, events]) => [name || "(none)", events]);
  if (more_names) rows.push([`${count(more_names)} more`, more_events]);
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach(([name, events], at) => {
    let row = body.rows[at];
    if (!row) {
      row = element("tr", {}, element("th", { scope: "row" }), element("td", {}, bar(), element("span", { class: "spoken" })), element("td"));
      body.append(row);
    }
    const share = total ? events / total : 0;
    const [label, picture, number] = row.cells;
    say(label, name);
    label.title = name;
    setBar(picture.firstChild, share);
    say(picture.lastChild, percent(share));
    say(number, count(events));
  });
}
