// A conversation as people read it: messages with their roles, tool calls, images; and what is no conversation, as JSON.

import { button, h, long } from "./dom.js";

const FIRST = 100;
const IMAGES = { "image/png": [0x89, 0x50, 0x4e, 0x47], "image/jpeg": [0xff, 0xd8, 0xff], "image/gif": [0x47, 0x49, 0x46, 0x38], "image/webp": [0x52, 0x49, 0x46, 0x46] };
const MOST_IMAGE = 20 * 1024 * 1024;

/** What a body says, by its text: a list of elements. */
export function request(text) {
  const body = parsed(text);
  if (body === undefined) return [long(text)];
  const messages = messagesOf(body);
  if (!messages.length) return [json(body)];
  return paged(messages, message);
}

/** The answer's messages, put together by the server. */
export function answer(output) {
  return paged(output, message);
}

export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The messages of a request, of whichever API. */
export function messagesOf(body) {
  if (body === null || typeof body !== "object") return [];
  const found = [];
  for (const name of ["system", "instructions"]) if (body[name] !== undefined) found.push({ role: name, content: body[name] });
  if (Array.isArray(body.messages)) found.push(...body.messages);
  for (const name of ["prompt", "input"]) {
    if (body[name] === undefined) continue;
    const isItems = Array.isArray(body[name]) && body[name].some((each) => each !== null && typeof each === "object");
    if (isItems) found.push(...body[name]);
    else found.push({ role: name, content: body[name] });
  }
  return found;
}

function paged(items, make) {
  const place = h("div", { class: "messages" });
  let shown = 0;
  const more = button("", () => add());
  const add = () => {
    place.append(...items.slice(shown, shown + FIRST).map(make));
    shown += FIRST;
    if (shown >= items.length) more.remove();
    else more.textContent = `${items.length - shown} more messages`;
  };
  const box = h("div", {}, place, more);
  add();
  return [box];
}

function message(each) {
  if (each === null || typeof each !== "object") return h("article", { class: "message" }, long(String(each)));
  const role = String(each.role ?? each.type ?? "?").slice(0, 40);
  const parts = [];
  for (const name of ["reasoning_content", "reasoning", "thinking"]) {
    if (typeof each[name] === "string" && each[name]) parts.push(h("details", { class: "reasoning" }, h("summary", {}, name), long(each[name])));
  }
  const content = each.content ?? each.text ?? each.output;
  if (content !== undefined && content !== null) parts.push(...[content].flat().map(part));
  for (const call of each.tool_calls ?? []) {
    parts.push(tool(call?.function?.name ?? call?.name, call?.function?.arguments ?? call?.input, call?.id));
  }
  if (typeof each.name === "string" && each.type === "function_call") parts.push(tool(each.name, each.arguments, each.call_id));
  if (!parts.length) parts.push(json(each));
  return h("article", { class: "message" }, h("h4", {}, role, each.tool_call_id ? h("span", { class: "note" }, ` ${each.tool_call_id}`) : null), parts);
}

function part(each) {
  if (typeof each === "string") return readable(each);
  if (each === null || typeof each !== "object") return long(String(each));
  if (typeof each.text === "string") return readable(each.text);
  const url = each.image_url?.url ?? each.image_url;
  if (typeof url === "string") return image(url);
  if (each.type === "image" && each.source?.type === "base64") return image(`data:${each.source.media_type};base64,${each.source.data}`);
  if (each.type === "tool_use") return tool(each.name, each.input, each.id);
  return json(each);
}

function readable(text) {
  return long(text);
}

function tool(name, given, id) {
  const value = typeof given === "string" ? parsed(given) ?? given : given;
  return h("div", { class: "tool" }, h("strong", {}, `${name ?? "?"}()`), id ? h("span", { class: "note" }, ` ${id}`) : null,
    typeof value === "string" ? long(value) : json(value));
}

/** An image only where its bytes are of a type that browsers decode safely; a link to elsewhere is never followed. */
function image(url) {
  const match = /^data:(image\/(?:png|jpeg|gif|webp));base64,([A-Za-z0-9+/=\s]+)$/.exec(url.slice(0, MOST_IMAGE * 2));
  if (!match) return h("p", { class: "note" }, `an image that is not shown: ${url.slice(0, 200)}`);
  let bytes;
  try {
    bytes = Uint8Array.from(atob(match[2].replaceAll(/\s/g, "")), (each) => each.charCodeAt(0));
  } catch {
    return h("p", { class: "note" }, "an image that is no base64");
  }
  if (!IMAGES[match[1]].every((each, index) => bytes[index] === each)) return h("p", { class: "note" }, `an image that is no ${match[1]}`);
  const address = URL.createObjectURL(new Blob([bytes], { type: match[1] }));
  return h("img", { src: address, alt: `an image of the conversation, ${match[1]}, ${bytes.length} bytes`, onload: () => URL.revokeObjectURL(address) });
}

/** A JSON value, folded where it is deep. */
export function json(value, name = null, depth = 0) {
  const label = name === null ? null : h("span", { class: "member" }, `${name}: `);
  if (value === null || typeof value !== "object") {
    const text = typeof value === "string" ? JSON.stringify(value) : String(value);
    return text.length > 300 ? h("div", {}, label, long(text)) : h("div", { class: "leaf" }, label, text);
  }
  const entries = Object.entries(value);
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  if (!entries.length) return h("div", { class: "leaf" }, label, open + close);
  const inside = h("div", { class: "inside" });
  const fold = h("details", { class: "json" }, h("summary", {}, label, `${open} ${entries.length} ${close}`), inside);
  let filled = false;
  const show = () => {
    if (filled) return;
    filled = true;
    inside.append(...entries.slice(0, 500).map(([key, each]) => json(each, key, depth + 1)));
    if (entries.length > 500) inside.append(h("p", { class: "note" }, `and ${entries.length - 500} more`));
  };
  fold.addEventListener("toggle", show);
  if (depth < 1 && entries.length <= 40) {
    show();
    fold.open = true;
  }
  return fold;
}
