"use strict";
// The data that page.py and page_samples.py write: {cells, made, names, alpha, tasks, images, identities, notes}.
const data = JSON.parse(document.getElementById("data").textContent);

/** An element with attributes and children (strings become text, null is skipped). */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// --- Tables: sort and filter ---

const byName = new Intl.Collator(undefined, { numeric: true }).compare;

/** The number at the start of a field, as in "84.4 ± 0.3" or "+1.2 [-0.4, 2.8]"; else NaN. */
function numberOf(row, column) {
  return Number.parseFloat(row.cells[column].textContent);
}

function compare(column, number, sign) {
  return (a, b) => {
    if (!number) return sign * byName(a.cells[column].textContent, b.cells[column].textContent);
    const [x, y] = [numberOf(a, column), numberOf(b, column)];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // missing values come last
    return sign * (x - y);
  };
}

/** Sort by a heading. Numbers: descending, then ascending, then the original order with sections. */
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const sections = [...table.tBodies].map((body) => [body, [...body.rows].filter((row) => row.className !== "section")]);
  const together = make("tbody", { hidden: "" });
  table.append(together);
  heads.forEach((head, column) => {
    const number = head.classList.contains("number");
    const button = make("button", { type: "button", on: { click } }, head.textContent);
    head.replaceChildren(button);
    function click() {
      const order = number ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
      const next = order[(order.indexOf(head.getAttribute("aria-sort") ?? "none") + 1) % 3];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      const sorted = next !== "none";
      if (sorted) head.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      const rows = sections.flatMap(([, own]) => own);
      if (sorted) together.append(...rows.toSorted(compare(column, number, sign)));
      else for (const [body, own] of sections) body.append(...own);
      together.hidden = !sorted;
      for (const [body] of sections) body.hidden = sorted;
      filter();
    }
  });
  for (const [body, rows] of sections) for (const row of rows) row.dataset.section = body.dataset.section;
}

const filterForm = document.getElementById("filter");

function filter() {
  const words = filterForm.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const section = filterForm.section.value;
  let shown = 0, all = 0;
  for (const table of document.querySelectorAll("table.sheet")) {
    const main = table.classList.contains("main");
    for (const row of table.querySelectorAll("tbody tr:not(.section)")) {
      const name = `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase();
      const fits = words.every((word) => name.includes(word)) && (!main || !section || row.dataset.section === section);
      row.hidden = !fits;
      if (main) { all += 1; shown += fits; }
    }
    for (const body of table.tBodies) {
      const head = body.querySelector(".section");
      if (head) head.hidden = [...body.rows].every((row) => row === head || row.hidden);
    }
  }
  filterForm.querySelector("output").value = shown === all ? `${all} rows` : `${shown} of ${all} rows`;
}

// --- Details of a number ---

const dialog = document.getElementById("detail");

function fixed(value, digits = 1) {
  return typeof value === "number" ? value.toFixed(digits) : "-";
}

function between(pair, digits = 1) {
  return pair ? `${fixed(pair[0], digits)} to ${fixed(pair[1], digits)}` : "-";
}

function listOf(entries) {
  const list = make("dl");
  for (const [name, value] of entries) {
    if (value === null || value === undefined || value === "") continue;
    list.append(make("dt", {}, name), make("dd", {}, typeof value === "object" ? JSON.stringify(value) : String(value)));
  }
  return list;
}

function numbers(cell) {
  const stats = cell.stats ?? {}, against = stats.against;
  const digits = cell.own_scale && Math.abs(cell.value) <= 1 ? 3 : 1; // a score from 0 to 1
  const entries = [
    [cell.metric, `${cell.unscored ?? fixed(cell.value, digits === 3 ? 4 : 2)} on ${cell.n} samples`],
    ["95 % interval (bootstrap over images)", stats.interval && between(stats.interval, digits)],
    ["samples that failed", cell.n_failed || null],
    ["warnings", (cell.warnings ?? []).join("; ")],
    ["answered yes", stats.yes_ratio === undefined ? null : `${fixed(stats.yes_ratio)} %`],
  ];
  if (against) {
    const p = against.p_holm, verdict = p < data.alpha ? "more than chance" : "may be chance";
    const flips = cell.lower_is_better || typeof against.gained !== "number" ? null : `${against.gained}, ${against.lost}`;
    entries.push(
      [`against ${cell.base}`, `${against.difference > 0 ? "+" : ""}${fixed(against.difference, digits)}`],
      ["95 % interval of the difference", between(against.interval, digits)],
      ["McNemar's p, after Holm", typeof p === "number" ? `${p.toPrecision(2)} (${verdict})` : null],
      ["wrong to right, right to wrong", flips],
      ["same answer as vanilla", `${fixed(against.loyalty)} %`],
    );
  }
  entries.push(["visual tokens entering layers", runs(cell.entering)]);
  return listOf(entries);
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

function showDetail(keys) {
  const [model, label, task] = keys[0].split("/");
  document.getElementById("detail-title").textContent = `${data.names[task]}: ${label} on ${model}`;
  const body = dialog.querySelector("div");
  body.replaceChildren();
  for (const key of keys) {
    const identity = data.identities[key];
    if (keys.length > 1) body.append(make("h3", {}, key.split("/")[1]));
    body.append(numbers(data.cells[key]));
    const own = data.tasks[task]?.some((sample) => key in sample.answers);
    if (own) body.append(make("p", {}, make("button", { type: "button", on: { click: () => visit(key) } }, "Show samples")));
    body.append(make("h3", {}, "Where it comes from"));
    body.append(listOf(identity ? Object.entries(identity) : [["id", data.cells[key].id]]));
    for (const { date, ...session } of data.cells[key].provenance ?? []) {
      body.append(listOf([["answered from", date], ...Object.entries(session)]));
    }
  }
  body.append(make("h3", {}, "The run"), listOf(Object.entries(data.made)));
  dialog.showModal();
}

// --- Samples ---

const choice = document.getElementById("choice");
const SHOWN = 60;

function visit(key) {
  dialog.close();
  const task = key.split("/")[2];
  choice.task.value = task;
  fillRows(key);
  showCards();
  document.getElementById("samples").scrollIntoView();
  choice.row.focus({ preventScroll: true });
}

function fillRows(wanted) {
  const before = (wanted ?? choice.row.value).split("/").slice(0, 2).join("/");
  const keys = [...new Set(data.tasks[choice.task.value].flatMap((sample) => Object.keys(sample.answers)))];
  keys.sort((a, b) => Object.keys(data.cells).indexOf(a) - Object.keys(data.cells).indexOf(b));
  choice.row.replaceChildren(
    ...keys.map((key) => make("option", { value: key }, key.split("/").slice(0, 2).join(": "))),
  );
  const again = keys.find((key) => key.startsWith(`${before}/`));
  choice.row.value = again ?? keys.find((key) => data.cells[key].base !== key) ?? keys[0];
}

function bits(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

const PANELS = 20;

/** The grids of an answer's tokens, a frame each: number of the first token, rows, columns, tokens of a row. */
function grids(answer) {
  const found = [];
  let start = 0;
  for (const [frames, rows, columns, others] of answer.panels) {
    for (let frame = 0; frame < frames; frame += 1) {
      if (columns) found.push({ start, rows, columns, wide: columns + others, still: frames === 1 });
      start += rows * (columns + others);
    }
  }
  return { found: found.slice(0, PANELS), tokens: start };
}

/** The picture of a sample. `cover`: a grid, and flags (bit per token) of which the unset ones are covered. */
function picture(source, cover) {
  const box = make("div", { class: cover ? "picture fitted" : "picture" });
  if (source !== null) box.append(make("img", { src: data.images[source], alt: "" }));
  if (cover) {
    const { start, rows, columns, wide, flags } = cover, width = 100 / columns, height = 100 / rows;
    let path = "";
    for (let y = 0; y < rows; y += 1) {
      for (let x = 0; x < columns; x += 1) {
        const i = start + y * wide + x;
        if (!(flags[i >> 3] & (128 >> (i & 7)))) path += `M${x * width} ${y * height}h${width}v${height}h-${width}z`;
      }
    }
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 100 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const cells = document.createElementNS("http://www.w3.org/2000/svg", "path");
    cells.setAttribute("d", path);
    svg.append(cells);
    box.append(svg);
    box.style.aspectRatio = `${columns} / ${rows}`;
    if (rows > columns) box.style.width = `${(100 * columns) / rows}%`;
  }
  return box;
}

/** A sample's image, or its grids with the tokens that are not in `kept` (base64, a bit per token) covered.
    The image is under a grid only if the grid is of all that the model sees of it. */
function stage(sample, caption, answer, kept) {
  const source = answer.whole ? sample.whole : sample.image;
  const flags = kept ? bits(kept) : null;
  const shown = kept
    ? grids(answer).found.map((grid) => picture(answer.one && grid.still ? source : null, { ...grid, flags }))
    : [picture(source)];
  const many = shown.length > 2 ? "many" : "";
  return make("figure", {}, make("div", { class: many }, ...shown), make("figcaption", {}, caption));
}

function count(kept) {
  return bits(kept).reduce((sum, byte) => sum + byte.toString(2).replaceAll("0", "").length, 0);
}

function stages(sample, cell, answer) {
  const entering = cell.entering, first = entering.findIndex((n) => n > 0);
  const last = entering.findLastIndex((n) => n > 0);
  const { tokens } = grids(answer), all = tokens ? `${tokens} tokens` : "image";
  const enter = first < 0 ? "enter no layer" : first > 0 ? `enter before layer ${first + 1}` : "enter at once";
  const leave = first >= 0 && last < entering.length - 1 ? `, leave before layer ${last + 2}` : "";
  const shown = make("div", { class: "stages" }, stage(sample, `${all}, ${enter}${leave}`, answer));
  for (const [after, kept] of answer.kept ?? []) {
    const where = after === 0 ? "before layer 1" : `after layer ${after}`;
    const left = count(kept);
    const merged = left === 0 ? " (the rest merged or dropped)" : "";
    shown.append(stage(sample, `${left} kept ${where}${merged}`, answer, kept));
  }
  if (!answer.kept && cell.method !== "vanilla" && first >= 0) {
    shown.append(make("p", {}, "The kept tokens do not map to image patches, or were not recorded."));
  }
  return shown;
}

function card(sample, key) {
  const cell = data.cells[key], answer = sample.answers[key], base = sample.answers[cell.base];
  const texts = make("dl");
  // Without a score, and where smaller scores are better, an answer is neither right nor wrong.
  const judged = (one) => typeof one.score === "number" && !cell.lower_is_better;
  const mark = (one) => (judged(one) ? ` ${one.score >= 0.5 ? "✓" : "✗"}` : null);
  const add = (name, one) => texts.append(
    make("dt", {}, name),
    make("dd", {}, one.error ? `failed: ${one.error}` : one.text || "(empty)", mark(one)),
  );
  texts.append(make("dt", {}, "correct"), make("dd", {}, sample.target));
  if (base && cell.base !== key) add("vanilla", base);
  add(key.split("/")[1], answer);
  return make("li", { class: `card ${answer.kind}` },
    make("h3", {}, make("span", { class: `kind-${answer.kind}` }, answer.kind), ` · sample ${sample.doc}${sample.category ? ` · ${sample.category}` : ""}`),
    stages(sample, cell, answer),
    sample.question ? make("pre", {}, sample.question) : null,
    texts);
}

function showCards() {
  const key = choice.row.value;
  const kinds = [...choice.elements.kind].map((box) => box.value);
  const wanted = new Set([...choice.elements.kind].filter((box) => box.checked).map((box) => box.value));
  const own = data.tasks[choice.task.value].filter((sample) => key in sample.answers);
  for (const box of choice.elements.kind) {
    const number = own.filter((sample) => sample.answers[key].kind === box.value).length;
    box.parentElement.querySelector(".count").textContent = `(${number})`;
  }
  const rank = (sample) => kinds.indexOf(sample.answers[key].kind);
  const shown = own.filter((sample) => wanted.has(sample.answers[key].kind)).toSorted((a, b) => rank(a) - rank(b));
  document.getElementById("cards").replaceChildren(...shown.slice(0, SHOWN).map((sample) => card(sample, key)));
  choice.querySelector("output").value = `${shown.length} of ${own.length} samples on this page`;
}

// --- Begin ---

document.querySelectorAll("table.sheet").forEach(sortable);
document.querySelectorAll(".scripted").forEach((element) => { element.hidden = false; });
for (const field of document.querySelectorAll("td[data-cells]")) {
  const keys = field.dataset.cells.split(" ");
  field.replaceChildren(make("button", { type: "button", on: { click: () => showDetail(keys) } }, field.textContent.trim()));
}
filterForm.hidden = false;
for (const event of ["input", "change"]) filterForm.addEventListener(event, filter);
filterForm.addEventListener("reset", () => setTimeout(filter));
filterForm.addEventListener("submit", (event) => event.preventDefault());
filter();
if (choice) {
  choice.addEventListener("submit", (event) => event.preventDefault());
  choice.task.addEventListener("change", () => fillRows());
  choice.addEventListener("change", showCards);
  fillRows();
  showCards();
}
