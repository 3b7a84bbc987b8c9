// --- Samples ---

const choice = document.getElementById("choice");
const SHOWN = 24; // cards at once; more by a button
let shownCards = SHOWN, onlySample = null;

const nameOf = (key) => key.split("/").slice(0, 2).join(": ");
const unpacked = new Map();

/** The samples of a task with the answers by their keys: see page_data.py. */
function samplesOf(task) {
  if (!unpacked.has(task)) {
    const { rows, samples } = data.tasks[task];
    unpacked.set(task, samples.map((sample) => {
      const answers = {};
      sample.answers.forEach((entry, place) => {
        if (!entry) return;
        const [text, score, kind, reading, shape, kept, error] = entry, [view, panels, on, span] = data.shapes[shape];
        const placed = { view: sample.views[view] ?? { pictures: [], more: "" }, panels, on, span };
        answers[rows[place]] = { text: sample.texts[text], score, kind: data.kinds[kind], reading, ...placed, kept, error };
      });
      return { ...sample, answers };
    }));
  }
  return unpacked.get(task);
}

/** Show the samples of a cell, of some kinds of flips. */
function visit(key, kinds = data.kinds) {
  dialog.close();
  fillChoices(key.split("/")[2], key);
  for (const box of choice.elements.kind) box.checked = kinds.includes(box.value);
  choose();
  document.getElementById("samples").scrollIntoView();
  choice.row.focus({ preventScroll: true });
}

/** Fill the lists for a task, and keep the rows that are chosen if they have samples of it. */
function fillChoices(task, row = "", beside = "") {
  const order = new Map(Object.keys(data.cells).map((key, place) => [key, place]));
  const keys = data.tasks[task].rows.toSorted((a, b) => order.get(a) - order.get(b));
  const again = (wanted) => keys.find((key) => key.split("/", 2).join() === wanted.split("/", 2).join());
  const options = keys.map((key) => [key, nameOf(key)]);
  choice.task.value = task;
  fill(choice.row, options, again(row) ?? keys.find((key) => data.cells[key].base !== key) ?? keys[0]);
  fill(choice.beside, [["", "vanilla"], ...options], again(beside) ?? "");
  const categories = [...new Set(samplesOf(task).map((sample) => sample.category ?? ""))].filter(Boolean).toSorted(byName);
  fill(choice.category, [["", "all"], ...categories.map((name) => [name, name])], "");
  choice.category.parentElement.hidden = !categories.length;
}

function fill(select, options, value) {
  select.replaceChildren(...options.map(([key, text]) => make("option", { value: key }, text)));
  select.value = value;
}

/** How a row's answer compares with the row next to it; without one, with vanilla as page_samples.py compared them. */
function kindOf(sample, key, beside) {
  const own = sample.answers[key], other = sample.answers[beside];
  if (!beside) return own.kind;
  if (!other) return "uncompared";
  const right = (answer) => answer.score >= 0.5;
  const scored = [own, other].every(({ score }) => typeof score === "number") && !data.cells[key].lower_is_better;
  if (scored && right(own) !== right(other)) return right(own) ? "gained" : "lost";
  const known = [own, other].every(({ reading }) => typeof reading === "number");
  return (known ? own.reading === other.reading : own.text === other.text) ? "same" : "changed";
}

function bits(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

const PANELS = 20; // grids at once that are on no picture

/** The grids of an answer's tokens, a frame each: number of the first token, rows, columns, tokens of a row. */
function grids(answer) {
  const found = [];
  let start = 0;
  for (const [frames, rows, columns, others] of answer.panels) {
    for (let frame = 0; frame < frames; frame += 1) {
      if (rows && columns) found.push({ start, rows, columns, wide: columns + others });
      start += rows * (columns + others);
    }
  }
  return { found, tokens: start };
}

/** Whether the token of a grid at this place is one of those whose flags (a bit per token) are set. */
function isSet({ start, wide, flags }, x, y) {
  const i = start + y * wide + x;
  return Boolean(flags[i >> 3] & (128 >> (i & 7)));
}

/** An image, or the place of one. `cover`: a grid, and flags (bit per token) of which the unset ones are covered. */
function picture(source, cover) {
  const box = make("div", { class: cover ? "picture fitted" : "picture" });
  if (source !== null) box.append(make("img", { src: data.images[source], alt: "" }));
  if (cover) {
    const { rows, columns } = cover, width = 100 / columns, height = 100 / rows;
    let path = "";
    for (let y = 0; y < rows; y += 1) {
      for (let x = 0; x < columns; x += 1) {
        if (!isSet(cover, x, y)) path += `M${x * width} ${y * height}h${width}v${height}h-${width}z`;
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

/** What a model sees of a sample, or the grids of its tokens with those that are not in `kept` (base64, a bit per token)
    covered: on the pictures that they are of, or alone if that is not known. */
function stage(caption, answer, kept) {
  const { view, on } = answer, flags = kept ? bits(kept) : null;
  const covers = kept ? grids(answer).found.map((grid) => ({ ...grid, flags })) : [];
  const figure = (className, ...shown) => make("figure", {}, make("div", { class: className }, ...shown), make("figcaption", {}, caption));
  if (kept && !on) {
    const shown = covers.slice(0, PANELS).map((cover) => picture(null, cover));
    return figure(shown.length > 2 ? "many" : "", ...shown);
  }
  const shots = view.pictures.map(([image, label], place) => {
    const own = kept ? on[place].map((number) => covers[number]) : [];
    const under = own.length ? `${label.replace(/, [\d.]+ s$/, "")}: ${share(own)}` : label;
    return make("div", { class: "shot" },
      ...(kept ? own.map((cover) => picture(image, cover)) : [picture(image)]),
      label ? make("p", {}, under) : null);
  });
  if (!shots.length) shots.push(picture(null));
  return figure("shots", ...shots, !kept && view.more ? make("p", { class: "rest" }, `and ${view.more}`) : null);
}

/** How many tokens of these grids are kept: "3 of 16". */
function share(covers) {
  let left = 0, all = 0;
  for (const cover of covers) {
    all += cover.rows * cover.columns;
    for (let y = 0; y < cover.rows; y += 1) {
      for (let x = 0; x < cover.columns; x += 1) left += isSet(cover, x, y);
    }
  }
  return `${left} of ${all}`;
}

function count(kept) {
  return bits(kept).reduce((sum, byte) => sum + byte.toString(2).replaceAll("0", "").length, 0);
}

function stages(cell, answer) {
  const entering = cell.entering, first = entering.findIndex((n) => n > 0);
  const last = entering.findLastIndex((n) => n > 0);
  const { view, on, span } = answer, several = view.pictures.length > 1 || view.more;
  const { tokens } = grids(answer), all = tokens ? `${tokens} tokens` : several ? "images" : "image";
  const enter = first < 0 ? "enter no layer" : first > 0 ? `enter before layer ${first + 1}` : "enter at once";
  const leave = first >= 0 && last < entering.length - 1 ? `, leave before layer ${last + 2}` : "";
  const shown = make("div", { class: several ? "stages several" : "stages" }, stage(`${all}, ${enter}${leave}`, answer));
  for (const [after, kept] of answer.kept ?? []) {
    const where = after === 0 ? "before layer 1" : `after layer ${after}`;
    const left = count(kept);
    const merged = left === 0 ? " (the rest merged or dropped)" : "";
    const shared = on && span > 1 ? `, a grid for ${span} frames` : "";
    shown.append(stage(`${left} kept ${where}${merged}${shared}`, answer, kept));
  }
  if (!answer.kept && cell.method !== "vanilla" && first >= 0) {
    shown.append(make("p", {}, "The kept tokens do not map to image patches, or were not recorded."));
  } else if (answer.kept?.length && !on && view.pictures.length) {
    const number = grids(answer).found.length, first = number > PANELS ? ` The first ${PANELS} of ${number} are shown.` : "";
    shown.append(make("p", {}, `It was not recorded which part of which picture each grid shows: they are in the order of the tokens.${first}`));
  }
  return shown;
}

/** An answer with a mark. Without a score, and where smaller scores are better, it is neither right nor wrong. */
function answerText(answer, cell) {
  const judged = typeof answer.score === "number" && !cell.lower_is_better;
  const text = answer.error ? `failed: ${answer.error}` : answer.text || "(empty)";
  return judged ? `${text} ${answer.score >= 0.5 ? "✓" : "✗"}` : text;
}

function card(sample, key, beside) {
  const cell = data.cells[key], answer = sample.answers[key], base = sample.answers[cell.base];
  const texts = make("dl"), kind = kindOf(sample, key, beside);
  const add = (name, text) => texts.append(make("dt", {}, name), make("dd", {}, text));
  add("correct", sample.target);
  if (base && cell.base !== key && cell.base !== beside) add("vanilla", answerText(base, cell));
  const column = (row) => make("div", {},
    make("h4", {}, nameOf(row)),
    row in sample.answers
      ? make("p", {}, answerText(sample.answers[row], data.cells[row]))
      : make("p", {}, "no answer to this sample"),
    row in sample.answers ? stages(data.cells[row], sample.answers[row]) : null);
  if (!beside) add(key.split("/")[1], answerText(answer, cell));
  const link = make("a", { href: `#${fragment({ sample: sample.doc })}` }, `sample ${sample.doc}`);
  return make("li", { class: `card ${kind}` },
    make("h3", {}, make("span", { class: `kind-${kind}` }, kind), " · ", link, sample.category ? ` · ${sample.category}` : ""),
    beside ? make("div", { class: "pair" }, column(key), column(beside)) : stages(cell, answer),
    sample.question ? make("pre", {}, sample.question) : null,
    texts);
}

function showCards() {
  const key = choice.row.value, beside = choice.beside.value, category = choice.category.value, boxes = [...choice.elements.kind];
  const wanted = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
  const fits = query(choice.text.value);
  const texts = (sample) => [sample.question, sample.target, ...[key, beside, data.cells[key].base].map((row) => sample.answers[row]?.text)];
  const all = samplesOf(choice.task.value).filter((sample) => key in sample.answers);
  const own = all.filter((sample) => (onlySample === null || String(sample.doc) === onlySample)
    && (!category || sample.category === category) && fits(texts(sample).join(" ")));
  const kinds = new Map(own.map((sample) => [sample, kindOf(sample, key, beside)]));
  // Of all samples that were asked, not only of those that the page has room for.
  const cell = data.cells[key], counted = data.units[cell.task] ? {} : cell.stats?.against ?? {};
  const known = (kind) => (beside ? null : flipsOf(key, kind)?.length ?? counted[kind]);
  for (const box of boxes) {
    const number = [...kinds.values()].filter((kind) => kind === box.value).length;
    const asked = known(box.value), of = asked > number ? ` of ${asked}` : "";
    box.parentElement.querySelector(".count").textContent = `(${number}${of})`;
  }
  const rank = (sample) => data.kinds.indexOf(kinds.get(sample));
  const shown = own.filter((sample) => wanted.has(kinds.get(sample))).toSorted((a, b) => rank(a) - rank(b));
  document.getElementById("cards").replaceChildren(...shown.slice(0, shownCards).map((sample) => card(sample, key, beside)));
  document.getElementById("more").hidden = shown.length <= shownCards;
  choice.all.hidden = onlySample === null;
  const seen = shown.length > shownCards ? `, ${shownCards} of them below` : "";
  const more = cell.n > all.length ? ` (of ${samplesOfCell(key)} that were asked)` : "";
  choice.querySelector("output").value = `${shown.length} of ${all.length} samples on this page${more}${seen}`;
  remember();
}

/** Show the samples of another choice, from the first one on. */
function choose() {
  shownCards = SHOWN;
  onlySample = null;
  showCards();
}

if (choice) {
  choice.addEventListener("submit", (event) => event.preventDefault());
  choice.addEventListener("change", (event) => {
    if (event.target === choice.task) fillChoices(choice.task.value, choice.row.value, choice.beside.value);
    choose();
  });
  choice.text.addEventListener("input", choose);
  choice.all.addEventListener("click", choose);
  document.getElementById("more").addEventListener("click", () => { shownCards += SHOWN; showCards(); });
  parts.push({
    write(parameters) {
      const boxes = [...choice.elements.kind], task = choice.task.value;
      const { row, beside } = choice, first = choice.task.options[0].value;
      if (task !== first) parameters.set("task", task);
      if (row.value !== defaultRow) parameters.set("row", row.value);
      if (beside.value) parameters.set("beside", beside.value);
      if (choice.category.value) parameters.set("category", choice.category.value);
      if (choice.text.value) parameters.set("text", choice.text.value);
      if (boxes.some((box) => !box.checked)) parameters.set("flips", boxes.filter((box) => box.checked).map((box) => box.value).join(","));
      if (onlySample !== null) parameters.set("sample", onlySample);
    },
    read(parameters) {
      const row = parameters.get("row") ?? "", task = parameters.get("task") ?? row.split("/")[2];
      fillChoices(task in data.tasks ? task : choice.task.options[0].value, row, parameters.get("beside") ?? "");
      choice.category.value = parameters.get("category") ?? "";
      if (choice.category.selectedIndex < 0) choice.category.value = "";
      choice.text.value = parameters.get("text") ?? "";
      const flips = parameters.get("flips")?.split(",");
      for (const box of choice.elements.kind) box.checked = !flips || flips.includes(box.value);
      shownCards = SHOWN;
      onlySample = parameters.get("sample");
      showCards();
      if (["row", "task", "beside", "sample"].some((name) => parameters.has(name)) && !parameters.has("detail")) {
        document.getElementById("samples").scrollIntoView();
      }
    },
  });
}
const defaultRow = choice ? (fillChoices(choice.task.value), choice.row.value) : "";

// --- Begin ---

document.querySelectorAll(".scripted").forEach((element) => { element.hidden = false; });
// A jump to a section keeps the state in the address.
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", (event) => {
    if (!location.hash.includes("=")) return;
    event.preventDefault();
    document.querySelector(link.getAttribute("href")).scrollIntoView();
  });
}
restore();
