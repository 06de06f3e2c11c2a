// Tabs as in the ARIA Authoring Practices: arrow keys choose, and only one is in the tab order.

import { element } from "./format.js";

export class Tabs {
  // "chosen" is called with the name of each tab that is shown.
  constructor(list, panels, names, chosen) {
    this.tabs = new Map();
    this.chosen = chosen;
    for (const [name, title, content] of names) {
      const number = element("span", { class: "count" });
      const tab = element(
        "button",
        { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}` },
        title,
        " ",
        number,
      );
      const panel = element("div", { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}` }, ...content);
      tab.addEventListener("click", () => this.choose(name));
      list.append(tab);
      panels.append(panel);
      this.tabs.set(name, { tab, panel, number });
    }
    list.addEventListener("keydown", (event) => this.key(event));
    this.choose(names[0][0]);
  }

  choose(name) {
    this.name = name;
    for (const [other, { tab, panel }] of this.tabs) {
      tab.setAttribute("aria-selected", String(other === name));
      tab.tabIndex = other === name ? 0 : -1;
      panel.hidden = other !== name;
    }
    this.chosen(name);
  }

  number(name, text) {
    this.tabs.get(name).number.textContent = text;
  }

  key(event) {
    const names = [...this.tabs.keys()];
    const at = names.indexOf(this.name);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: names.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.choose(names[(to + names.length) % names.length]);
    this.focus();
  }

  focus() {
    this.tabs.get(this.name).tab.focus();
  }
}
