// A table whose rows come and go without losing the keyboard focus, and open to show all that is known.

import { element } from "./format.js";

const SHORT = 20; // characters that fit into any column: more may be cut, and are shown to who points at them
const FIELDS = [["Request", "request_fields"], ["Response", "response_fields"]];

// Makes a node as it should be, and touches only what differs: a selection in the rest stays, and the keyboard focus.
function update(node, wanted) {
  if (node.isEqualNode(wanted)) return;
  const parts = [...node.childNodes];
  const others = [...wanted.childNodes];
  const alike = node.nodeName === wanted.nodeName && node.className === wanted.className;
  if (alike && parts.length > 0 && parts.length === others.length) parts.forEach((part, at) => update(part, others[at]));
  else node.replaceWith(wanted);
}

export class Table {
  // Columns: { title, text(row), small(row), tone(row), kind }. "facts" returns pairs of label and text for a row.
  constructor(label, columns, facts, empty) {
    this.columns = columns;
    this.facts = facts;
    this.nothing = empty;
    this.entries = new Map();
    const heads = columns.map(({ title, kind }) => element("th", { scope: "col", class: kind }, title));
    this.table = element("table", { "aria-label": label }, element("thead", {}, element("tr", {}, ...heads)));
    this.empty = element("p", { class: "empty" }, empty);
    this.box = element("div", { class: "table-box" }, this.table, this.empty);
    this.table.addEventListener("click", (event) => this.click(event));
    this.table.addEventListener("keydown", (event) => this.key(event));
  }

  // Takes the rows in the order to show them, each with a unique "key".
  show(rows, nothing) {
    const focused = document.activeElement;
    const held = this.table.contains(focused) ? this.entryOf(focused) : undefined;
    const place = held === undefined ? 0 : this.buttons().indexOf(held.button);
    const keys = new Set(rows.map((row) => row.key));
    for (const [key, entry] of this.entries) {
      if (!keys.has(key)) {
        entry.body.remove();
        this.entries.delete(key);
      }
    }
    const fresh = this.entries.size > 0; // rows that join others are seen to arrive
    let next = this.table.tBodies[0] ?? null;
    for (const row of rows) {
      const entry = this.entries.get(row.key) ?? this.add(row, fresh);
      if (entry.row !== row) this.fill(entry, row);
      if (entry.body === next) next = next.nextElementSibling;
      else this.table.insertBefore(entry.body, next);
    }
    if (held !== undefined && focused !== document.activeElement) this.refocus(focused, held, place);
    if (!this.table.querySelector(".more[tabindex='0']")) this.table.querySelector(".more")?.setAttribute("tabindex", "0");
    this.table.hidden = rows.length === 0;
    this.empty.hidden = rows.length > 0;
    this.empty.textContent = nothing ?? this.nothing;
  }

  // Gives the focus back to what was moved; if that is gone, to its row, or to the one in the place of that. Does not
  // scroll: the user may look elsewhere.
  refocus(focused, held, place) {
    if (this.table.contains(focused)) {
      focused.focus({ preventScroll: true });
      return;
    }
    const buttons = this.buttons();
    const next = buttons.includes(held.button) ? held.button : buttons[Math.min(place, buttons.length - 1)];
    if (next !== undefined) this.focus(next, false);
  }

  buttons() {
    return [...this.table.querySelectorAll(".more")];
  }

  add(row, fresh) {
    const button = element("button", { type: "button", class: "more", "aria-expanded": "false", tabindex: "-1" });
    const cells = this.columns.map(({ kind }, index) => {
      const text = new Text();
      const small = element("small");
      return { text, small, td: element("td", { class: kind }, index === 0 ? button : text, " ", small) };
    });
    button.append(cells[0].text);
    const body = element("tbody", { class: fresh ? "new" : null }, element("tr", {}, ...cells.map(({ td }) => td)));
    const entry = { key: row.key, row: null, body, button, cells, detail: null };
    this.entries.set(row.key, entry);
    this.fill(entry, row);
    return entry;
  }

  fill(entry, row) {
    entry.row = row;
    this.columns.forEach(({ text, small, tone, kind }, index) => {
      const cell = entry.cells[index];
      const said = text(row);
      if (cell.text.data !== said) cell.text.data = said;
      const more = small?.(row) ?? "";
      if (cell.small.textContent !== more) cell.small.textContent = more;
      if (tone) cell.td.className = `${kind ?? ""} ${tone(row)}`;
      cell.td.title = said.length > SHORT ? said : "";
    });
    entry.button.ariaLabel = this.columns.slice(0, 4).map(({ text }) => text(row)).join(" ");
    if (entry.detail !== null) this.describe(entry);
  }

  describe(entry) {
    const facts = this.facts(entry.row).filter(([, value]) => value !== null && value !== undefined && value !== "");
    const list = element("dl", { class: "facts" });
    for (const [label, value, wide] of facts) {
      list.append(element("div", { class: wide ? "wide" : null }, element("dt", {}, label), element("dd", {}, value)));
    }
    const heads = FIELDS.filter(([, key]) => entry.row[key]?.length).map(([title, key]) => {
      const lines = entry.row[key].map(([name, value]) => element("li", {}, element("span", {}, `${name}: `), value));
      return element("section", {}, element("h3", {}, `${title} fields`), element("ul", {}, ...lines));
    });
    const fields = heads.length ? element("div", { class: "fields" }, ...heads) : null;
    update(entry.detail.firstChild, element("td", { colspan: this.columns.length }, list, fields));
  }

  toggle(entry) {
    if (entry.detail === null) {
      entry.detail = element("tr", { class: "detail" }, element("td", { colspan: this.columns.length }));
      this.describe(entry);
      entry.body.append(entry.detail);
    } else {
      entry.detail.remove();
      entry.detail = null;
    }
    entry.button.setAttribute("aria-expanded", String(entry.detail !== null));
  }

  entryOf(node) {
    const body = node.closest("tbody");
    return [...this.entries.values()].find((entry) => entry.body === body);
  }

  click(event) {
    // Selecting text with the mouse must not open a row; a key (detail 0) must, whatever is selected.
    const selects = event.detail > 0 && !getSelection().isCollapsed;
    if (event.target.closest(".detail") || selects) return;
    const entry = this.entryOf(event.target);
    if (entry === undefined) return;
    this.toggle(entry);
    this.focus(entry.button);
  }

  key(event) {
    const buttons = this.buttons();
    const at = buttons.indexOf(document.activeElement);
    if (at < 0) return;
    const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: buttons.length - 1, PageUp: at - 10, PageDown: at + 10 };
    if (!(event.key in to)) return;
    event.preventDefault();
    this.focus(buttons[Math.max(0, Math.min(buttons.length - 1, to[event.key]))]);
  }

  enter() {
    const first = this.table.querySelector(".more");
    if (first !== null) this.focus(first);
  }

  // Only one row at a time is in the tab order.
  focus(button, scrolls = true) {
    for (const other of this.table.querySelectorAll(".more[tabindex='0']")) other.setAttribute("tabindex", "-1");
    button.setAttribute("tabindex", "0");
    button.focus({ preventScroll: true });
    if (scrolls) button.closest("tr").scrollIntoView({ block: "nearest" });
  }
}
