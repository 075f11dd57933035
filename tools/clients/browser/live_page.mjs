// Opens the live page in a real Chromium, as wide as a phone and as a desk, and says what a person would see.
//
// node live_page.mjs PLAN, a JSON object: `modules` (where playwright-core is), `chromium`, `url`, and what to do: `key` to
// give when asked, `verdict` and `texts` to wait for (by element id), `unknown` (an event type that nobody sends), `funnel` to count (`type`, `property`, `value` of each step), `replay` to send the newest dead letter once more, `tail` to watch messages with this text
// in them (a line says that it is watching; it goes on when `found` of them are listed), `shots`
// (a folder for pictures), `dark`. Writes a line of JSON per width. With `ending` the last page stays open after that,
// and a further line says what it shows when the server has gone.

import { createRequire } from "node:module";
import { join } from "node:path";

const plan = JSON.parse(process.argv[2]);
const { chromium } = createRequire(join(plan.modules, "package.json"))("playwright-core");
const WIDTHS = [[400, 800], [1280, 900]];
const PATIENCE_MS = 20_000;

const write = (report) => process.stdout.write(`${JSON.stringify(report)}\n`);

const browser = await chromium.launch({
  executablePath: plan.chromium,
  // As root, in a container, and where /dev/shm is small.
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
});
try {
  let page;
  for (const [width, height] of WIDTHS) {
    await page?.context().close();
    page = await look(width, height);
  }
  if (plan.ending) {
    await page.waitForFunction(() => document.getElementById("status").dataset.state === "ending", null, { timeout: PATIENCE_MS });
    write({ status: await page.textContent("#status") });
  }
} finally {
  await browser.close();
}

async function look(width, height) {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: plan.dark ? "dark" : "light",
    reducedMotion: "reduce",
  });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  const [complaints, elsewhere] = [[], []];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    // A 401 is what tells the page to ask for a key; Chromium writes each down as an error.
    const isExpected = plan.key && message.text().includes("401");
    if (["error", "warning"].includes(message.type()) && !isExpected) complaints.push(message.text());
  });
  const own = new URL(plan.url).host;
  await context.route("**", (route) => {
    const host = new URL(route.request().url()).host;
    if (host !== own) elsewhere.push(host);
    return host === own ? route.continue() : route.abort();
  });
  await page.goto(plan.url);
  if (plan.key) {
    await page.fill("#key", plan.key);
    await page.click("#key-form button");
  }
  await page.waitForFunction(() => document.getElementById("status").dataset.state === "live");
  if (plan.verdict) {
    await page.waitForFunction((verdict) => document.getElementById("status").dataset.verdict === verdict, plan.verdict);
  }
  for (const [id, text] of Object.entries(plan.texts ?? {})) {
    await page.waitForFunction(([id, text]) => document.getElementById(id).textContent.includes(text), [id, text]);
  }
  // Two samples make the first rate, and with it the first chart.
  await page.waitForSelector("#throughput canvas");
  const funnel = plan.funnel ? await count(page) : null;
  const replayed = plan.replay ? await replay(page) : null;
  const tail = plan.tail === undefined ? null : await watch(page);
  const offered = plan.unknown ? await offers(page) : null;
  if (plan.shots) {
    await page.screenshot({ path: join(plan.shots, `${width}${plan.dark ? "-dark" : ""}.png`), fullPage: true });
  }
  write({
    width,
    complaints,
    elsewhere,
    funnel,
    offered,
    replayed,
    tail,
    letters: await page.$$eval("#letters-list li b", (all) => all.map((one) => one.textContent)),
    errors: await page.$$eval("#errors-list li", (all) => all.map((one) => one.textContent)),
    status: await page.textContent("#status"),
    reason: await page.textContent("#reason"),
    charts: await page.$$eval("#refusals .u-label", (all) => all.map((one) => one.textContent)),
    workers: await page.$$eval("#sinks tr", (rows) => rows.filter((row) => row.cells[0].textContent === "workers").map((row) => row.cells[1].textContent)),
    overflow: await page.evaluate(() => document.documentElement.scrollWidth - innerWidth),
    start: await page.isVisible("#start"),
    command: await page.textContent("#send-message"),
    types: await page.$$eval("#event-types tr", (rows) => rows.map((row) => [row.cells[0].textContent, row.cells[2].textContent])),
    unnamed: await page.$$eval("input, select, button", (all) => all.filter((one) => !one.labels?.length && !one.textContent.trim()).map((one) => one.outerHTML)),
  });
  return page;
}

// What the form offers instead of a type that nobody sends, and what it makes of the first of them.
async function offers(page) {
  for (const step of [1, 2]) await page.fill(`#type-${step}`, plan.unknown);
  await page.click("#funnel button[type=submit]");
  await page.waitForSelector("#funnel-unknown button");
  const types = await page.$$eval("#funnel-unknown button", (all) => all.map((one) => one.textContent));
  await page.click("#funnel-unknown button");
  // The first step is known now, and the second is the one that nobody took.
  await page.waitForFunction(() => document.getElementById("funnel-unknown").textContent.includes("step 2"));
  return { types, chosen: await page.inputValue("#type-1") };
}

// What the page says when the newest dead letter is sent once more.
async function replay(page) {
  await page.waitForSelector("#letters-list li");
  const before = await page.locator("#letters-list li").count();
  await page.click("#letters-list li button");
  await page.waitForFunction((left) => document.querySelectorAll("#letters-list li").length === left, before - 1);
  return page.textContent("#letters-said");
}

// What the tail lists of messages that come once it watches.
async function watch(page) {
  await page.fill("#tail-text", plan.tail);
  await page.click("#tail-watch");
  await page.waitForFunction(() => /^0 of 0 /.test(document.getElementById("tail-said").textContent));
  write({ watching: true });
  await page.waitForFunction((found) => document.querySelectorAll("#tail-list li").length === found, plan.found);
  await page.waitForFunction((found) => document.getElementById("tail-said").textContent.startsWith(`${found} of ${found} `), plan.found);
  const listed = await page.$$eval("#tail-list li > div", (all) => all.map((one) => one.textContent));
  const said = await page.textContent("#tail-said");
  if (!plan.shots) await page.click("#tail-stop");
  return { listed, said, trouble: await page.textContent("#tail-trouble") };
}

async function count(page) {
  while ((await page.locator("#steps li").count()) < plan.funnel.length) await page.click("#add-step");
  for (const [at, step] of plan.funnel.entries()) {
    for (const [name, value] of Object.entries(step)) await page.fill(`#${name}-${at + 1}`, value);
  }
  await page.click("#funnel button[type=submit]");
  await page.waitForSelector("#funnel-result li");
  return {
    users: await page.$$eval("#funnel-result .step span", (all) => all.map((one) => one.textContent)),
    // Between a number and its unit no line ends.
    overall: (await page.textContent("#funnel-overall")).replaceAll("\u00a0", " "),
  };
}
