// The page: plots and tables of what the proxy reports, while somebody looks.

import * as tablesOf from "./columns.js";
import { addButtons } from "./copy.js";
import { count, duration, element, octets, rate } from "./format.js";
import { matches, parse } from "./filter.js";
import { Live } from "./live.js";
import { Bars, Timeline } from "./plot.js";
import { Table } from "./table.js";
import { Tabs } from "./tabs.js";

const LINKS = { waiting: "connecting", live: "live", off: "no connection, trying again" };
const part = (id) => document.getElementById(id);
const say = (id, text) => {
  if (part(id).textContent !== text) part(id).textContent = text;
};
const sum = (counts) => Object.values(counts).reduce((all, number) => all + number, 0);

const PLOTS = {
  traffic: new Timeline(
    "Octets a second",
    [
      { name: "received", color: "blue", of: (sample) => sample.received },
      { name: "sent", color: "orange", of: (sample) => sample.sent },
    ],
    rate,
    1000,
  ),
  connections: new Timeline(
    "Connections a second",
    [{ name: "accepted", color: "accent", of: (sample) => sample.connections }],
    count,
    5,
  ),
  sources: new Timeline(
    "Certificates a second",
    [
      { name: "memory", color: "blue", of: (sample) => sample.memory, stacked: true },
      { name: "disk", color: "violet", of: (sample) => sample.disk, stacked: true },
      { name: "made", color: "orange", of: (sample) => sample.made, stacked: true },
    ],
    count,
    5,
  ),
  retrieval: new Bars("Time to read or make a certificate", "accent", "none has been read or made yet"),
  dial: new Bars("Time to reach an origin", "accent", "no origin has been dialled yet"),
  first_byte: new Bars("Time to a response's first byte", "accent", "no request has been seen yet"),
};

class Page {
  constructor() {
    this.terms = [];
    this.paused = false;
    const now = () => this.live?.now ?? 0;
    this.tables = {};
    for (const [kind, made] of Object.entries(tablesOf)) {
      const { label, columns, facts, empty } = made(now);
      this.tables[kind] = new Table(label, columns, facts, empty);
    }
    part("plots").append(...Object.values(PLOTS).map((plot) => plot.figure));
    this.rules = element("ul", { class: "chips", "aria-label": "Refusals by rule" });
    const boxOf = (kind) => this.tables[kind].box;
    this.tabs = new Tabs(part("tabs"), part("panels"), [
      ["tunnels", "Tunnels", [boxOf("tunnels")]],
      ["requests", "Requests", [boxOf("requests")]],
      ["refusals", "Refusals", [this.rules, boxOf("refusals")]],
      ["held", "Certificates", [boxOf("held")]],
      ["learned", "Bypasses", [boxOf("learned")]],
    ], () => this.draw());
    this.listen();
    this.live = new Live(() => this.changed(), (state) => this.linked(state));
  }

  listen() {
    const filter = part("filter");
    filter.addEventListener("input", () => {
      this.terms = parse(filter.value);
      this.draw();
    });
    filter.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") this.tables[this.tabs.name].enter();
      else if (event.key !== "Escape") return;
      else if (filter.value === "") filter.blur();
      else return; // the search field clears itself
      event.preventDefault();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest("input")) return;
      event.preventDefault();
      filter.focus();
      filter.select();
    });
    part("panels").addEventListener("show", ({ detail }) => {
      this.filter(detail.filter, detail.tab);
      this.tabs.focus(); // the button that was pressed is hidden now
    });
    part("pause").addEventListener("click", () => {
      this.paused = !this.paused;
      part("pause").setAttribute("aria-pressed", String(this.paused));
      this.draw();
    });
  }

  filter(text, tab) {
    part("filter").value = text;
    this.terms = parse(text);
    this.tabs.choose(tab);
  }

  linked(state) {
    part("link").dataset.state = state;
    say("link", LINKS[state]);
  }

  changed() {
    this.numbers();
    if (!this.paused) this.draw();
  }

  numbers() {
    const { snapshot, before, history } = this.live;
    const { counts, gauges, facts } = snapshot;
    const last = this.live.sample() ?? { connections: 0, received: 0, sent: 0 };
    const recent = history.reduce(
      (all, { memory, disk, made }) => ({ memory: all.memory + memory, rest: all.rest + disk + made }),
      { memory: 0, rest: 0 },
    );
    const asked = recent.memory + recent.rest;
    say("tile-tunnels", count(gauges.tunnels));
    say("sub-tunnels", `${count(sum(counts.tunnels))} have ended`);
    say("tile-connections", count(last.connections));
    say("sub-connections", `${count(gauges.connections)} open, ${count(counts.connections.accepted)} in all`);
    say("tile-received", rate(last.received));
    say("sub-received", `${octets(counts.octets.received)} in all`);
    say("tile-sent", rate(last.sent));
    say("sub-sent", `${octets(counts.octets.sent)} in all`);
    say("tile-hits", asked ? `${Math.round((100 * recent.memory) / asked)} %` : "–");
    say("sub-hits", `${count(gauges.contexts)} of ${count(gauges.contexts_max)} names held`);
    say("tile-refused", count(sum(counts.refusals)));
    say("sub-refused", Object.keys(counts.refusals).join(", ") || "nothing yet");
    say("version", facts.version);
    const cpu = before ? (snapshot.cpu_seconds - before.cpu_seconds) / (snapshot.now - before.now) : 0;
    say("uptime", `${duration(Math.round(snapshot.now - snapshot.started))}, ${octets(gauges.memory_bytes)}, ${Math.max(0, Math.round(cpu * 100))} % of a core`);
    for (const name of ["traffic", "connections", "sources"]) PLOTS[name].show(history, snapshot.now);
    for (const [name, data] of Object.entries(snapshot.histograms)) PLOTS[name].show(data);
  }

  rowsOf(kind) {
    const { snapshot } = this.live;
    if (kind === "held") return snapshot.held.map((entry) => ({ key: entry.name, ...entry }));
    if (kind === "learned") return snapshot.learned.map((entry) => ({ key: `${entry.client} ${entry.name}`, ...entry }));
    return this.live.latest(kind);
  }

  draw() {
    if (!this.live?.snapshot) return;
    const kind = this.tabs.name;
    for (const other of Object.keys(this.tables)) this.tabs.number(other, count(this.rowsOf(other).length));
    const rows = this.rowsOf(kind);
    const found = this.terms.length ? rows.filter((row) => matches(this.terms, row)) : rows;
    this.tables[kind].show(found, rows.length && !found.length ? "No row has all of these words." : undefined);
    say("shown", this.terms.length ? `${count(found.length)} of ${count(rows.length)} shown.` : "");
    if (kind === "refusals") this.ruleChips();
  }

  ruleChips() {
    const { refusals } = this.live.snapshot.counts;
    const chips = Object.entries(refusals).sort(([, one], [, other]) => other - one);
    const text = chips.map(([rule, number]) => `${rule} ${count(number)}`).join();
    if (this.rules.dataset.text === text) return;
    this.rules.dataset.text = text;
    this.rules.replaceChildren(...chips.map(([rule, number]) => {
      const chip = element("button", { type: "button", title: "Show only these" }, `${rule} ${count(number)}`);
      chip.addEventListener("click", () => this.filter(`refused:${rule}`, "refusals"));
      return element("li", {}, chip);
    }));
  }
}

addButtons(document);
if (location.pathname === "/sign-in") history.replaceState(null, "", "/");
document.body.classList.add("js");
if (document.body.dataset.live === "yes") new Page();
