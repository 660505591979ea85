// Elements out of data. What comes from traffic is only ever a text node: there is no way here to make markup of it.

/** An element: `h("td", {class: "number", onclick: f}, "text", child, ...)`. False and null children are left out. */
export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...nodes(children));
  return element;
}

/** Put these into an element instead of what is there. */
export function render(element, ...children) {
  element.replaceChildren(...nodes(children));
}

function nodes(children) {
  return children.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false).map(node);
}

function node(child) {
  return child instanceof Node ? child : document.createTextNode(visible(String(child)));
}

// What changes the direction of text, is invisible, or is no character stands as an escape, as on the command line.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** A text in which nothing is hidden. */
export function visible(text) {
  return text.replace(HIDDEN, (one) => "\\u" + one.charCodeAt(0).toString(16).padStart(4, "0"));
}

/** A button that does something. */
export function button(text, action, attributes = {}) {
  return h("button", { type: "button", onclick: action, ...attributes }, text);
}

/** Long text, of which the rest is shown when it is asked for. */
export function long(text, most = 4000) {
  if (text.length <= most) return h("pre", {}, text);
  const pre = h("pre", {}, text.slice(0, most));
  let shown = most;
  const more = button(`${text.length - most} more characters`, () => {
    pre.append(visible(text.slice(shown, shown + 50000)));
    shown += 50000;
    if (shown >= text.length) more.remove();
    else more.textContent = `${text.length - shown} more characters`;
  });
  return h("div", {}, pre, more);
}
