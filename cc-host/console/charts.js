// Charts of what changes with time, as SVG. Each keeps the last samples of each of its lines and scales to the largest of them.

const SAMPLES_MAX = 150;
const COLOURS = ["#2f7ed8", "#d9822b", "#2ca25f", "#c0392b", "#8e5bb5", "#7f8c8d", "#16a5a5", "#b8860b"];
const SVG = "http://www.w3.org/2000/svg";

export class Chart {
  /** `show` makes a number readable. */
  constructor(title, show) {
    this.show = show;
    this.lines = new Map();
    this.figure = document.createElement("figure");
    this.figure.dataset.chart = title;
    const caption = this.figure.appendChild(document.createElement("figcaption"));
    caption.appendChild(document.createElement("span")).textContent = title;
    this.now = caption.appendChild(document.createElement("output"));
    this.svg = this.figure.appendChild(document.createElementNS(SVG, "svg"));
    this.svg.setAttribute("viewBox", `0 0 ${SAMPLES_MAX} 100`);
    this.svg.setAttribute("preserveAspectRatio", "none");
  }

  /** One number for each line, by its name. A line that is not named this time stays where it was not heard of. */
  add(numbers) {
    for (const [name, number] of Object.entries(numbers)) {
      if (!this.lines.has(name)) {
        const path = this.svg.appendChild(document.createElementNS(SVG, "path"));
        path.setAttribute("stroke", COLOURS[this.lines.size % COLOURS.length]);
        this.lines.set(name, { path, samples: [] });
      }
      const { samples } = this.lines.get(name);
      samples.push(number);
      samples.splice(0, samples.length - SAMPLES_MAX);
    }
    this.draw();
  }

  draw() {
    const all = [...this.lines.values()].flatMap((line) => line.samples);
    const top = Math.max(1e-9, ...all);
    const said = [];
    for (const [name, { path, samples }] of this.lines) {
      const at = (sample, index) =>
        `${SAMPLES_MAX - samples.length + index} ${(98 - (96 * sample) / top).toFixed(2)}`;
      path.setAttribute("d", samples.length > 1 ? `M${samples.map(at).join("L")}` : "");
      said.push(`${name} ${this.show(samples[samples.length - 1])}`);
    }
    this.now.value = said.join(" · ");
  }
}

/** What a counter has grown by in a second, between two moments in milliseconds. */
export function rate(before, after, fromMs, toMs) {
  const seconds = (toMs - fromMs) / 1000;
  return seconds > 0 ? Math.max(0, after - before) / seconds : 0;
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${count.toFixed(count < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

export function number(count) {
  return count >= 100 ? count.toFixed(0) : count.toFixed(1);
}
