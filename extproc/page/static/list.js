// A table of any length: only the rows that can be seen are there. j and k go down and up, Enter opens.

import { h } from "./dom.js";

const HEIGHT = 30;
const BEYOND = 12;

export class List {
  /** `columns`: {title, cell(row), class}; `open(row)`; `more()` is called when the end is near. */
  constructor(label, columns, open, more = () => {}) {
    this.rows = [];
    this.columns = columns;
    this.open = open;
    this.more = more;
    this.chosen = -1;
    this.body = h("div", { class: "rows", role: "rowgroup" });
    const titles = columns.map((each) => h("span", { role: "columnheader", class: each.class }, each.title));
    this.head = h("div", { class: "head", role: "rowgroup" }, h("div", { class: "row", role: "row" }, titles));
    this.element = h("div", {
      class: "list", role: "table", "aria-label": label, "data-list": true, tabindex: 0,
      onscroll: () => this.draw(),
      onstep: (event) => this.step(event.detail),
      onkeydown: (event) => this.key(event),
    }, this.head, this.body);
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.element);
  }

  set(rows) {
    this.rows = rows;
    this.draw();
  }

  step(by) {
    if (!this.rows.length) return;
    this.chosen = Math.min(Math.max(this.chosen + by, 0), this.rows.length - 1);
    const top = this.chosen * HEIGHT;
    const room = this.element.clientHeight - this.head.offsetHeight;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top + HEIGHT > this.element.scrollTop + room) this.element.scrollTop = top + HEIGHT - room;
    this.draw();
    this.body.querySelector("[aria-selected]")?.querySelector("a")?.focus({ preventScroll: true });
  }

  key(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      this.step(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Enter" && this.chosen >= 0 && event.target === this.element) {
      this.open(this.rows[this.chosen]);
    }
  }

  draw() {
    const room = Math.max(this.element.clientHeight, HEIGHT * 4);
    const first = Math.max(0, Math.floor(this.element.scrollTop / HEIGHT) - BEYOND);
    const last = Math.min(this.rows.length, Math.ceil((this.element.scrollTop + room) / HEIGHT) + BEYOND);
    const focused = this.body.contains(document.activeElement);
    this.element.setAttribute("aria-rowcount", this.rows.length + 1);
    this.body.style.height = `${this.rows.length * HEIGHT}px`;
    const shown = this.rows.slice(first, last).map((row, index) => this.row(row, first + index));
    this.body.replaceChildren(...shown);
    if (focused) this.body.querySelector("[aria-selected] a")?.focus({ preventScroll: true });
    if (last + BEYOND >= this.rows.length) this.more();
  }

  row(row, index) {
    const cells = this.columns.map((each) => h("span", { role: "cell", class: each.class }, each.cell(row)));
    return h("div", {
      class: "row", role: "row", "aria-rowindex": index + 2, "aria-selected": index === this.chosen || null,
      style: { top: `${index * HEIGHT}px` },
    }, cells);
  }
}
