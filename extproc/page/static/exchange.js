// One exchange: when what happened, what was said, what was asked for, and what to do with it.

import { quarantine, replays } from "./actions.js";
import { download, get, request } from "./api.js";
import { answer, json, parsed, request as conversation } from "./conversation.js";
import { button, h, long, render } from "./dom.js";
import { outcome } from "./rows.js";
import { duration, quoted, shortId, size, time } from "./words.js";

const MOST_READ = 32 * 1024 * 1024;

export async function show({ main, signal, rest: [id], about }) {
  const found = await get(`/exchanges/${encodeURIComponent(id)}`, { bodies: "no" }, { signal });
  document.title = `${shortId(found.id)} - extproc`;
  const said = h("div", {});
  const got = h("div", {});
  render(main,
    h("div", { class: "title" }, h("h1", {}, `${found.method ?? "?"} ${found.path ?? "?"}`)),
    h("p", { class: "verdict" }, h("strong", {}, found.status ?? "no answer"), " ", outcome(found), ` ${duration(found.duration_ms)}`, " ", h("code", {}, found.id)),
    actions(found, about),
    replays(found.id, about),
    section("Timeline", timeline(found)),
    h("div", { class: "two" }, section("Request", said), section("Answer", got)),
    h("div", { class: "two" },
      section("Parameters", parameters(found, about, signal)),
      section("Facts", facts(found, about))),
    conversationOf(found, signal),
    h("div", { class: "two" }, section("Request headers", headers(found.request)), section("Answer's headers", headers(found.response))),
    found.llm?.fingerprint ? section("Quarantine", quarantine(found.id, (entry) => entry.fingerprint === found.llm.fingerprint, about, signal)) : null,
    found.envoy ? section("Envoy's access log", pairs(Object.entries(found.envoy))) : null);
  await Promise.all([body(found, "request", said, signal), body(found, "response", got, signal)]);
}

function section(title, ...children) {
  return h("section", { "aria-label": title }, h("h2", {}, title), children);
}

function pairs(entries) {
  const shown = entries.filter(([, value]) => value !== null && value !== undefined && value !== "" && !(Array.isArray(value) && !value.length));
  return h("dl", {}, shown.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value instanceof Node ? value : typeof value === "object" ? json(value) : String(value))]));
}

function actions(found, about) {
  const status = h("span", { role: "status", "aria-live": "polite", class: "note" });
  const copy = (text, what) => async () => {
    try {
      await navigator.clipboard.writeText(await text());
      status.textContent = `${what} copied`;
    } catch (error) {
      status.textContent = error.message;
    }
  };
  const read = async () => (await request(`/exchanges/${encodeURIComponent(found.id)}/body/request`)).text();
  const curl = async () => (await request(`/exchanges/${encodeURIComponent(found.id)}/curl`)).text();
  const other = h("input", { placeholder: "another id", "aria-label": "Another exchange's id", class: "id" });
  const compare = (event) => {
    event.preventDefault();
    if (other.value.trim()) location.hash = `#/compare/${encodeURIComponent(found.id)}/${encodeURIComponent(other.value.trim())}`;
  };
  const file = (direction) => () => download(`/exchanges/${encodeURIComponent(found.id)}/body/${direction}`, `${found.id}.${direction}`);
  return h("div", { class: "actions" },
    button("Copy extproc show", copy(() => `extproc show ${found.id}`, "The command")),
    about.redacted ? null : [
      button("Copy as curl", copy(curl, "The curl command")),
      button("Copy as Python", copy(async () => python(found, await read()), "The Python program")),
      found.request ? button("Save the request", file("request")) : null,
      found.response ? button("Save the answer", file("response")) : null,
    ],
    h("form", { onsubmit: compare }, other, h("button", {}, "Compare")), status);
}

const METHODS = { "chat.completions": "chat.completions", completions: "completions", embeddings: "embeddings", responses: "responses" };

function python(found, text) {
  const method = METHODS[found.llm?.api];
  if (!method) return `# There is no call of OpenAI's library for ${JSON.stringify(found.path)}.\n`;
  const base = `${found.scheme ?? "http"}://${found.authority}/v1`;
  return `import json\n\nfrom openai import OpenAI\n\nclient = OpenAI(base_url=${JSON.stringify(base)})\nbody = json.loads(${JSON.stringify(text)})\nfor name in ("stream", "stream_options"):\n    body.pop(name, None)\nprint(client.${method}.create(extra_body=body, ${required(method)}))\n`;
}

/** Everything goes into extra_body, so that no parameter is lost that the library does not know. */
function required(method) {
  const named = { "chat.completions": "model, messages", completions: "model, prompt", embeddings: "model, input", responses: "model, input" }[method];
  return named.split(", ").map((each) => `${each}=body.pop("${each}")`).join(", ");
}

function timeline(found) {
  const total = found.duration_ms ?? Date.now() - new Date(found.started_at).getTime();
  const times = found.envoy?.times_ms ?? {};
  const response = found.response ?? {};
  const marks = [
    ["the request's headers", 0],
    ...Object.entries(times).map(([name, at]) => [`Envoy: ${name.replaceAll("_", " ")}`, at]),
    ["first byte of the answer", response.first_byte_ms],
    ["first token", found.llm?.ttft_ms],
    ["a silence begins", response.max_silence_ms > 1000 ? response.silence_at_ms : null],
    ["last byte of the answer", response.last_byte_ms],
    [found.outcome ? `end: ${found.outcome}` : "in flight still", found.duration_ms ?? total],
  ].filter(([, at]) => typeof at === "number").sort((a, b) => a[1] - b[1]);
  return h("ol", { class: "timeline" }, marks.map(([name, at]) => h("li", {},
    h("span", { class: "at" }, duration(at)),
    h("span", { class: "track", "aria-hidden": "true" }, h("span", { class: "dot", style: { left: `${Math.min(100, (at / Math.max(total, 0.001)) * 100)}%` } })),
    h("span", {}, name))));
}

function parameters(found, about, signal) {
  const params = found.llm?.params;
  if (!params || !Object.keys(params).length) return h("p", { class: "note" }, "none");
  const place = h("div", {}, pairs(Object.entries(params)));
  if (!about.redacted) {
    get(`/exchanges/${encodeURIComponent(found.id)}/rare`, {}, { signal }).then((rare) => {
      const few = rare.parameters.filter((each) => each.share < 0.05);
      if (few.length) place.prepend(h("p", { class: "rare" }, h("strong", {}, "Rare"), ` among ${rare.of} requests for this model that were served: `,
        few.map((each) => `${each.name} (${each.count})`).join(", ")));
    }).catch(() => {});
  }
  return place;
}

const RELATIONS = { earlier: "this one goes on with it", later: "it goes on with this one", same: "it says the same", branch: "it begins alike, then differs" };

function conversationOf(found, signal) {
  const place = h("section", { "aria-label": "Conversation", hidden: true });
  get(`/exchanges/${encodeURIComponent(found.id)}/conversation`, {}, { signal }).then(({ others, more }) => {
    if (!others.length) return;
    render(place, h("h2", {}, "Conversation"), h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Exchanges of this conversation" }, h("table", {},
      h("thead", {}, h("tr", {}, ["exchange", "started", "messages", "outcome", "what it is to this one"].map((each) => h("th", { scope: "col" }, each)))),
      h("tbody", {}, others.map(({ exchange, relation, messages }) => h("tr", {},
        h("th", { scope: "row" }, h("a", { href: `#/exchanges/${encodeURIComponent(exchange.id)}` }, shortId(exchange.id))),
        h("td", {}, time(exchange.started_at)), h("td", {}, messages), h("td", {}, outcome(exchange)), h("td", {}, RELATIONS[relation])))))),
    more ? h("p", { class: "note" }, "The nearest; there are more.") : null);
    place.hidden = false;
  }).catch(() => {});
  return place;
}

function facts(found, about) {
  const same = (name, value) => value ? h("a", { href: `#/exchanges?q=${encodeURIComponent(`${name}=${quoted(String(value))}`)}` }, value) : null;
  const llm = found.llm ?? {};
  const silence = found.response?.max_silence_ms;
  return pairs([
    ["started", `${time(found.started_at)} (${found.started_at})`],
    ["client", found.client], ["key", same("key", found.key)], ["upstream", same("upstream", found.upstream)],
    ["cluster", found.cluster], ["route", found.route], ["model", same("model", llm.model ?? llm.response_model)],
    ["fingerprint", same("fingerprint", llm.fingerprint)],
    ["usage", llm.usage], ["finish reasons", llm.finish_reasons], ["error", llm.error], ["message", llm.error_message],
    ["longest silence", silence > 1000 ? duration(silence) : null],
    ["request", direction(found.request)], ["answer", direction(found.response)],
    ["flags", found.response_flags?.join(" ")], ["details", found.response_code_details],
    ["attempts", found.attempts], ["failed attempts", found.failed_attempts],
    ["integrity", found.integrity?.length ? found.integrity : "as Envoy counted, or not compared"],
    ["late messages", found.protocol && Object.keys(found.protocol.late ?? {}).length ? found.protocol.late : null],
    ["request id", found.request_id], ["response id", llm.response_id],
    ["trace", found.trace_id && about.jaeger_url ? h("a", { href: `${about.jaeger_url}/trace/${encodeURIComponent(found.trace_id)}`, rel: "noreferrer" }, found.trace_id) : found.trace_id],
    ["in flight then", h("a", { href: `#/exchanges?q=${encodeURIComponent(`at=${found.ended_at ?? found.started_at}`)}` }, "what else was")],
  ]);
}

function direction(part) {
  if (!part) return "none was seen";
  return `${size(part.bytes)} in ${part.chunks} ${part.chunks === 1 ? "chunk" : "chunks"}, ${part.ended_by ? `ended by ${part.ended_by}` : "not ended"}${part.truncated ? ", not whole" : ""}`;
}

function headers(part) {
  const shown = (value) => typeof value === "string" ? value : `base64 ${value?.base64 ?? ""}`;
  const all = [...(part?.headers ?? []), ...(part?.trailers ?? [])];
  return all.length ? h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Headers" }, h("table", { class: "headers" }, h("tbody", {}, all.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, shown(value))))))) : h("p", { class: "note" }, "none");
}

async function body(found, which, place, signal) {
  const part = found[which];
  if (!part || !part.bytes) {
    place.append(h("p", { class: "note" }, part ? "without a body" : "none was seen"));
    return;
  }
  if (part.bytes > MOST_READ) {
    place.append(h("p", { class: "note" }, `${size(part.bytes)}: too much to be shown here; save it.`));
    return;
  }
  const raw = h("div", { hidden: true });
  const read = h("div", {});
  const views = [["As people read it", read], ["The bytes", raw]];
  const tabs = views.map(([name, view], index) => button(name, () => {
    views.forEach(([, each]) => { each.hidden = each !== view; });
    tabs.forEach((each, number) => each.setAttribute("aria-pressed", String(number === index)));
  }, { "aria-pressed": String(index === 0) }));
  place.append(h("div", { class: "tabs" }, tabs), read, raw);
  try {
    const response = await request(`/exchanges/${encodeURIComponent(found.id)}/body/${which}`, { decoded: "yes" }, { signal });
    const text = await response.text();
    raw.append(long(text));
    if (which === "request") read.append(...conversation(text));
    else if (found.llm?.output?.length) read.append(...answer(found.llm.output));
    else read.append(parsed(text) === undefined ? long(text) : json(parsed(text)));
  } catch (error) {
    if (!signal.aborted) read.append(h("p", { class: "problem", role: "alert" }, error.message));
  }
}

