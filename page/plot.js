// Plots in SVG: lines or stacked bars over the last minutes, and histograms. Pointer or arrow keys read out values.

import { clock, count, duration, element } from "./format.js";

const WIDTH = 300;
const HEIGHT = 80;
const MARKED = [0.001, 0.01, 0.1, 1, 10]; // bounds of a histogram that are labelled

function shape(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// The next of 1, 2, 5, 10 … times "least" that is not below a value: the axis must not jitter.
function ceiling(value, least) {
  let top = least;
  for (let step = 0; top < value; step += 1) top *= [2, 2.5, 2][step % 3];
  return top;
}

class Plot {
  constructor(title, legend, slots) {
    this.slots = slots;
    this.at = null; // the slot whose value is read out
    this.svg = shape("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", tabindex: "0", "aria-label": title,
    });
    this.top = element("span", { class: "top", "aria-hidden": "true" });
    this.axis = element("div", { class: "axis", "aria-hidden": "true" });
    this.reading = element("p", { class: "reading" });
    const keys = legend.map(([name, color]) => element("span", { class: `key ${color}` }, name));
    this.figure = element(
      "figure",
      {},
      element("figcaption", {}, element("strong", {}, title), ...keys),
      element("div", { class: "area-box" }, this.top, this.svg),
      this.axis,
      this.reading,
    );
    this.title = title;
    this.svg.addEventListener("pointermove", (event) => {
      const box = this.svg.getBoundingClientRect();
      this.read(Math.floor(((event.clientX - box.left) / box.width) * this.slots));
    });
    for (const left of ["pointerleave", "blur"]) this.svg.addEventListener(left, () => this.read(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const last = this.slots - 1;
    const at = this.at ?? last;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.read(to);
  }

  read(at) {
    this.at = at === null ? null : Math.max(0, Math.min(this.slots - 1, at));
    this.draw();
  }

  marker() {
    const x = ((this.at + 0.5) / this.slots) * WIDTH;
    return shape("line", { class: "marker", x1: x, x2: x, y1: 0, y2: HEIGHT });
  }

  // Marks below the plot: each a text and its position from the left, 0 to 1.
  ticks(marks) {
    if (this.axis.childElementCount) return;
    for (const [text, part] of marks) {
      const tick = element("span", { class: part === 0 ? "first" : part === 1 ? "last" : null }, text);
      tick.style.left = `${part * 100}%`;
      this.axis.append(tick);
    }
  }

  paint(shapes, reading) {
    const lines = [0, 0.5, 1].map((part) =>
      shape("line", { class: "grid", x1: 0, x2: WIDTH, y1: part * HEIGHT, y2: part * HEIGHT }),
    );
    this.svg.replaceChildren(...lines, ...shapes, ...(this.at === null ? [] : [this.marker()]));
    this.reading.textContent = reading;
    this.svg.setAttribute("aria-label", `${this.title}. ${reading}`);
  }
}

// Series: { name, color, of(sample), stacked }. Stacked ones are drawn as bars on top of each other, others as lines.
export class Timeline extends Plot {
  constructor(title, series, unit, least) {
    super(title, series.map(({ name, color }) => [name, color]), WIDTH);
    this.series = series;
    this.unit = unit;
    this.least = least;
    this.samples = null;
    this.ticks([["5 min", 0], ["4", 0.2], ["3", 0.4], ["2", 0.6], ["1", 0.8], ["now", 1]]);
  }

  show(samples, now) {
    this.end = Math.floor(now);
    this.samples = new Array(WIDTH).fill(null);
    for (const sample of samples) {
      const slot = WIDTH - 1 - (this.end - sample.at);
      if (slot >= 0 && slot < WIDTH) this.samples[slot] = sample;
    }
    this.draw();
  }

  draw() {
    if (!this.samples) return;
    const stacked = this.series.some((one) => one.stacked);
    const values = this.series.map((one) => this.samples.map((sample) => (sample === null ? 0 : one.of(sample))));
    const heights = stacked ? values[0].map((_, at) => values.reduce((sum, one) => sum + one[at], 0)) : values.flat();
    const top = ceiling(Math.max(0, ...heights), this.least);
    const y = (value) => (HEIGHT - (value / top) * HEIGHT).toFixed(2);
    const below = new Array(WIDTH).fill(0);
    const shapes = this.series.flatMap(({ color }, index) => {
      const group = shape("g", { class: color });
      if (stacked) {
        let path = "";
        values[index].forEach((value, x) => {
          if (value) path += `M${x} ${y(below[x])}V${y(below[x] + value)}H${x + 1}V${y(below[x])}Z`;
          below[x] += value;
        });
        group.append(shape("path", { class: "bars", d: path }));
      } else {
        const points = values[index].map((value, x) => `${x + 0.5} ${y(value)}`).join("L");
        group.append(
          shape("path", { class: "area", d: `M0.5 ${HEIGHT}L${points}L${WIDTH - 0.5} ${HEIGHT}Z` }),
          shape("path", { class: "series", d: `M${points}` }),
        );
      }
      return [group];
    });
    this.top.textContent = this.unit(top);
    const at = this.at ?? WIDTH - 1;
    const said = this.series.map((one, index) => `${this.unit(values[index][at])} ${one.name}`).join(", ");
    this.paint(shapes, `${this.at === null ? "Now" : clock(this.end - (WIDTH - 1 - at))}: ${said}`);
  }
}

// The value below which this part of all values lies, interpolated between the bounds.
function quantile({ bounds, counts }, part) {
  const all = counts.reduce((sum, number) => sum + number, 0);
  let seen = 0;
  for (const [index, number] of counts.entries()) {
    if (number && seen + number >= part * all) {
      const low = index === 0 ? 0 : bounds[index - 1];
      const high = bounds[index] ?? low;
      return low + ((part * all - seen) / number) * (high - low);
    }
    seen += number;
  }
  return null;
}

export class Bars extends Plot {
  constructor(title, color, none) {
    super(title, [], 1);
    this.top.classList.add("right"); // where there are few bars
    this.color = color;
    this.none = none;
  }

  show(data) {
    this.data = data;
    this.slots = data.counts.length;
    this.draw();
  }

  draw() {
    if (!this.data) return;
    const { bounds, counts } = this.data;
    const all = counts.reduce((sum, number) => sum + number, 0);
    const top = Math.max(...counts, 1);
    const wide = WIDTH / counts.length;
    const group = shape("g", { class: this.color });
    counts.forEach((number, index) => {
      const high = number ? Math.max(2, (number / top) * HEIGHT) : 0;
      group.append(
        shape("rect", { class: "bars", x: index * wide + 1, y: HEIGHT - high, width: wide - 2, height: high }),
      );
    });
    this.ticks(MARKED.map((bound) => [duration(bound), (bounds.indexOf(bound) + 1) / counts.length]));
    const within = (part) => `${Math.round(part * 100)} % within ${duration(quantile(this.data, part))}`;
    let reading = all ? `${count(all)} in all, ${within(0.5)}, ${within(0.95)}` : this.none;
    if (this.at !== null) {
      const low = this.at === 0 ? 0 : bounds[this.at - 1];
      const span = bounds[this.at] === undefined ? `over ${duration(low)}` : `${duration(low)} to ${duration(bounds[this.at])}`;
      reading = `${count(counts[this.at])} took ${span}`;
    }
    this.top.textContent = all ? count(top) : "";
    this.paint([group], reading);
  }
}
