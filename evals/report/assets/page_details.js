// --- Details of a number ---

const dialog = document.getElementById("detail");

function fixed(value, digits = 1) {
  return typeof value === "number" ? value.toFixed(digits) : "-";
}

function between(pair, digits = 1) {
  return pair ? `${fixed(pair[0], digits)} to ${fixed(pair[1], digits)}` : "-";
}

/** A definition list of [name, value] pairs; pairs without a value are left out. A value is text or an element. */
function listOf(entries) {
  const list = make("dl");
  for (const [name, value] of entries) {
    if (value === null || value === undefined || value === "") continue;
    list.append(make("dt", {}, name), make("dd", {}, ...(Array.isArray(value) ? value : [value])));
  }
  return list;
}

/** A cell's samples in words, with the groups that its score counts: "500 samples: 125 questions with all ...". */
function samplesOfCell(key) {
  const { n, task } = data.cells[key], groups = data.counted[key];
  return `${n} samples${groups === undefined ? "" : `: ${groups} ${data.units[task]}`}`;
}

function numbers(key) {
  const cell = data.cells[key], stats = cell.stats ?? {}, against = stats.against;
  const digits = cell.own_scale && Math.abs(cell.value) <= 1 ? 3 : 1; // a score from 0 to 1
  const entries = [
    [cell.metric, `${cell.unscored ?? fixed(cell.value, digits === 3 ? 4 : 2)} on ${samplesOfCell(key)}`],
    ["95 % interval (bootstrap over images)", stats.interval && between(stats.interval, digits)],
    ["samples that failed", cell.n_failed || null],
    ["warnings", (cell.warnings ?? []).join("; ")],
    ["answered yes", stats.yes_ratio === undefined ? null : `${fixed(stats.yes_ratio)} %`],
  ];
  if (against) {
    const p = against.p_holm, verdict = p < data.alpha ? "more than chance" : "may be chance";
    const units = data.units[cell.task];
    entries.push(
      [`against ${cell.base}`, `${against.difference > 0 ? "+" : ""}${fixed(against.difference, digits)}`],
      ["95 % interval of the difference, of this score alone", between(against.interval, digits)],
      ["p of the changed samples, corrected for all scores (McNemar, Holm)", typeof p === "number" ? `${p.toPrecision(2)} (${verdict})` : null],
      [`wrong to right, right to wrong${units ? ` (${units})` : ""}`, flipped(cell) && `${against.gained}, ${against.lost}`],
      ["same answer as vanilla", `${fixed(against.loyalty)} %`],
    );
  }
  entries.push(["visual tokens entering layers", runs(cell.entering)]);
  return listOf(entries);
}

/** Whether a cell has samples that are lost or gained: not vanilla, and not where smaller scores are better. */
function flipped(cell) {
  return !cell.lower_is_better && typeof cell.stats?.against?.gained === "number";
}

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** All doc_ids that a cell lost or gained, see flip_lists.py; null if the page does not have them. */
function flipsOf(key, kind) {
  const lists = data.flips[key], text = Array.isArray(lists) ? lists[data.kinds.indexOf(kind)] : null, found = [];
  if (typeof text !== "string") return null;
  let doc = -1, gap = 0, shift = 0;
  for (const letter of text) {
    const digit = DIGITS.indexOf(letter);
    gap |= (digit & 31) << shift;
    shift += 5;
    if (digit & 32) continue;
    doc += gap + 1;
    found.push(doc);
    gap = shift = 0;
  }
  return found;
}

/** What a row lost and gained: all doc_ids, to copy, and a way to those that the page shows. */
function flipLists(key) {
  if (!flipped(data.cells[key])) return [];
  const why = data.flips[key] ?? "the cell's journal (samples/) was missing when the page was written";
  const parts = Array.isArray(data.flips[key]) ? ["lost", "gained"].map((kind) => flipList(key, kind))
    : [make("p", {}, `No list: ${why}. `, make("code", {}, "report"), " lists them where the run's samples/ is.")];
  return [make("h3", {}, "Which samples"), ...parts];
}

function button(text, click) {
  return make("button", { type: "button", on: { click } }, text);
}

function flipList(key, kind) {
  const docs = flipsOf(key, kind), task = data.cells[key].task, own = cardsOf(key);
  const shown = docs.filter((doc) => own.has(doc));
  const samples = `${docs.length} sample${docs.length === 1 ? "" : "s"}`;
  if (!docs.length) return make("p", {}, `${kind}: no sample`);
  const text = docs.join(", "), done = make("output", { "aria-live": "polite" });
  const place = { task, row: key, flips: kind, beside: null, category: null, text: null, detail: null };
  const link = (doc) => make("a", { href: `#${fragment({ ...place, sample: doc })}` }, String(doc));
  const ids = docs.flatMap((doc, number) => [number ? ", " : "", own.has(doc) ? link(doc) : String(doc)]);
  const copy = async () => {
    done.value = await toClipboard(`${text}\n`) ? `${samples} copied` : "This browser does not let the page copy";
  };
  const legend = "Their numbers in the task's data (doc_id), from 0 on. Those that this page shows are links.";
  return make("div", { class: "flips" },
    make("details", {}, make("summary", {}, `${kind}: ${samples}`),
      make("p", { class: "ids" }, ...ids),
      make("p", {}, button("Copy", copy), " ", done, " ", make("span", { class: "legend" }, legend))),
    shown.length
      ? button(`Show ${kind} (${shown.length} on this page)`, () => visit(key, [kind]))
      : make("span", { class: "legend" }, "this page shows none of them"));
}

/** The doc_ids of the samples that the page shows of a cell. */
function cardsOf(key) {
  const task = data.cells[key].task, samples = task in data.tasks ? samplesOf(task) : [];
  return new Set(samples.filter((sample) => key in sample.answers).map((sample) => sample.doc));
}

/** Layers with their tokens, equal neighbors merged: "1-2: 0, 3: 144". */
function runs(entering) {
  const found = [];
  entering.forEach((count, i) => {
    const last = found.at(-1);
    if (last && last.count === count) last.to = i + 1;
    else found.push({ count, from: i + 1, to: i + 1 });
  });
  return found.map((run) => `${run.from === run.to ? run.from : `${run.from}-${run.to}`}: ${run.count}`).join(", ");
}

/** The first letters of a hash. All of it is under "Everything, as JSON". */
function short(hash) {
  return typeof hash === "string" ? hash.slice(0, 12) : hash;
}

/** A value in words: texts as they are, others as JSON with spaces, so that lines break between its parts. */
function words(value) {
  if (value === null || value === undefined) return null;
  const separator = typeof value[0] === "object" ? "; " : ", ";
  if (Array.isArray(value)) return value.map((one) => words(one) ?? "none").join(separator);
  if (typeof value !== "object") return String(value);
  const inside = (one) => (Array.isArray(one) ? `[${words(one)}]` : words(one) ?? "none");
  return Object.entries(value).map(([name, one]) => `${name}: ${inside(one)}`).join(", ");
}

/** A text whose addresses are links. */
function linked(text) {
  const parts = text.split(/(https:\/\/[^\s,)]+)/);
  return parts.map((part, place) => (place % 2 ? make("a", { href: part, rel: "noreferrer" }, part) : part));
}

/** What the row's method does, if it is one of hidrop's. */
function methodOf(cell) {
  const [does, paper, code] = data.methods[cell.method] ?? [];
  return [
    ["method", does ? `${cell.method}: ${does}` : `${cell.method} (not one of hidrop's)`],
    ["its paper", paper && linked(paper)],
    ["its code", code && linked(code)],
  ];
}

/** What made a number, in plain words. identity: what its journal says, if the page has it. */
function origin(cell, identity = {}) {
  const { made } = data, [protocol, version] = identity.protocol ?? [cell.protocol ?? made.protocol];
  const source = words(made.sources?.[cell.model]), from = words(made.data?.[cell.task]);
  const digest = (text, hash) => [text, hash && `sha256 ${short(hash)}`].filter(Boolean).join(", ");
  const settings = [identity.dtype, identity.attention, words(identity.quantization)];
  settings.push(identity.graphs && "CUDA graphs", identity.compile && "compiled norms and MLPs");
  const entries = [
    ["model", source ? `${cell.model} (${source})` : cell.model],
    ["weights", digest("", identity.weights ?? cell.weights)],
    ...methodOf(cell),
    ["its fields", words(identity.fields)],
    ["task", `${data.names[cell.task]} (${cell.task})`],
    ["protocol", [protocol, version && `version ${version}`].filter(Boolean).join(", ")],
    ["data", digest(from, identity.data)],
    ["samples", identity.limit ? `the first ${identity.limit}` : "limit" in identity ? "all" : null],
    ["computed in", settings.filter(Boolean).join(", ")],
    ["pixels of an image", words(identity.pixels ?? cell.pixels)],
    ["frames of a video", words(identity.film ?? cell.film)],
    ["decoding", words(identity.decoding ?? cell.decoding)],
    ["scored by", words(cell.judge)],
    ["batch size", words(identity.batch_size ?? cell.batch_size)],
  ];
  const sessions = cell.provenance?.length ? cell.provenance : [made];
  for (const { date, commit, versions, hardware } of sessions) {
    const machine = hardware && [hardware.gpu, hardware.cpu, `${hardware.cores} cores`].filter(Boolean).join(", ");
    entries.push(["answered", words(date)], ["commit", words(commit)]);
    entries.push(["versions", words(versions)], ["machine", machine]);
  }
  return listOf([...entries, ["command", words(made.command)]]);
}

/** Everything that the page knows of a number, folded. */
function raw(cell, identity) {
  const line = (list) => list.replace(/\s+/g, " ").replace("[ ", "[").replace(" ]", "]");
  const text = JSON.stringify({ identity, cell, run: data.made }, null, 1).replace(/\[[^[\]{}"]*\]/g, line);
  const box = make("pre", { class: "raw", tabindex: "0" }, text);
  return make("details", {}, make("summary", {}, "Everything, as JSON"), box);
}

function showDetail(keys) {
  const [model, label, task] = keys[0].split("/");
  document.getElementById("detail-title").textContent = `${data.names[task]}: ${label} on ${model}`;
  const body = dialog.querySelector("div");
  body.replaceChildren();
  for (const key of keys) {
    const cell = data.cells[key], identity = data.identities[key];
    if (keys.length > 1) body.append(make("h3", {}, key.split("/")[1]));
    body.append(numbers(key), ...flipLists(key));
    const own = data.tasks[task]?.rows.includes(key);
    if (own) body.append(make("p", {}, button("Show samples", () => visit(key))));
    body.append(make("h3", {}, "Where it comes from"), origin(cell, identity), raw(cell, identity));
  }
  shownKeys = keys;
  if (!dialog.open) dialog.showModal();
  remember();
}

let shownKeys = null;
dialog.addEventListener("close", () => { shownKeys = null; remember(); });
parts.push({
  write(parameters) { if (shownKeys) parameters.set("detail", shownKeys.join(" ")); },
  read(parameters) {
    const keys = (parameters.get("detail") ?? "").split(" ").filter((key) => key in data.cells);
    if (keys.length) showDetail(keys);
    else if (dialog.open) dialog.close();
  },
});
