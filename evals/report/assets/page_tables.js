// --- Tables: sort, filter, columns, copy ---

const byName = new Intl.Collator(undefined, { numeric: true }).compare;
const filterForm = document.getElementById("filter");
const sheets = [...document.querySelectorAll("table.sheet")];
const mains = sheets.filter((table) => table.classList.contains("main"));

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

/** Make headings sort. Numbers: descending, then ascending, then the original order with sections. */
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const sections = [...table.tBodies].map((body) => [body, [...body.rows].filter((row) => row.className !== "section")]);
  const together = make("tbody", { hidden: "" });
  table.append(together);
  heads.forEach((head, column) => {
    const orders = head.classList.contains("number") ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
    head.replaceChildren(make("button", { type: "button", on: { click } }, head.textContent));
    function click() {
      sort(column, orders[(orders.indexOf(head.getAttribute("aria-sort") ?? "none") + 1) % 3]);
      filter();
    }
  });
  function sort(column, order) {
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    const sorted = order !== "none";
    if (sorted) {
      heads[column].setAttribute("aria-sort", order);
      const number = heads[column].classList.contains("number"), sign = order === "descending" ? -1 : 1;
      together.append(...sections.flatMap(([, own]) => own).toSorted(compare(column, number, sign)));
    } else for (const [body, own] of sections) body.append(...own);
    together.hidden = !sorted;
    for (const [body] of sections) body.hidden = sorted;
  }
  return sort;
}

function filter() {
  const fits = query(filterForm.text.value), section = filterForm.section.value;
  let shown = 0, all = 0;
  for (const table of sheets.filter((one) => one.closest("#results"))) {
    let own = 0;
    const rows = table.querySelectorAll("tbody tr:not(.section)");
    for (const row of rows) {
      const name = `${row.cells[0].textContent} ${row.cells[1].textContent}`;
      // Published rows are of no budget of this page.
      const kept = fits(name) && (!section || (row.dataset.section ?? section) === section);
      row.hidden = !kept;
      own += kept;
    }
    if (mains.includes(table)) { all += rows.length; shown += own; }
    else table.closest("details").querySelector(".count").textContent = `(${counted(own, rows.length)})`;
    for (const body of table.tBodies) {
      const head = body.querySelector(".section");
      if (head) head.hidden = [...body.rows].every((row) => row === head || row.hidden);
    }
  }
  filterForm.querySelector("output").value = counted(shown, all);
  remember();
}

function counted(shown, all) {
  return shown === all ? `${all} rows` : `${shown} of ${all} rows`;
}

const headings = (table) => [...table.tHead.rows[0].cells];

/** Hide the columns of the main tables whose box is not checked. */
function showColumns() {
  const hidden = new Set(columnBoxes().filter((box) => !box.checked).map((box) => box.value));
  for (const table of mains) {
    const flags = headings(table).map((head) => hidden.has(head.textContent));
    for (const row of table.rows) {
      if (row.className === "section") row.cells[0].colSpan = flags.filter((flag) => !flag).length;
      else [...row.cells].forEach((field, column) => { field.hidden = flags[column]; });
    }
  }
  fitTables();
}

const columnBoxes = () => [...filterForm.querySelectorAll("[name=column]")];

/** A table that is not wider than the page needs no box of its own: its headings then stick to the window. */
function fitTables() {
  for (const table of sheets) {
    const box = table.parentElement;
    box.classList.remove("fits");
    box.classList.toggle("fits", box.offsetWidth > 0 && table.offsetWidth <= box.offsetWidth); // then it has no scroll bar
    hintAt(box);
  }
}

/** Say above a box that scrolls sideways how many columns are out of sight on its right. */
function hintAt(box) {
  const end = box.getBoundingClientRect().left + box.clientWidth, fits = box.classList.contains("fits");
  const right = headings(box.querySelector("table")).filter((head) => head.getBoundingClientRect().right > end + 1);
  const more = fits ? 0 : right.length, columns = `${more} more column${more === 1 ? "" : "s"}`;
  const hint = box.previousElementSibling;
  hint.hidden = fits || !box.clientWidth;
  hint.textContent = more ? `${columns}: scroll the table sideways →` : "← scroll the table back";
  box.classList.toggle("more", more > 0);
}

// A field that a spreadsheet would take for a formula gets a quote, as in leaderboard.csv.
const FORMULA = /^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r\n]/, NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?$/;

function csvField(text) {
  const safe = FORMULA.test(text) && !NUMBER.test(text) ? `'${text}` : text;
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const LATEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
const latexText = (text) => text.replace(/[\\~^&%$#_{}]/g, (mark) => LATEX[mark] ?? `\\${mark}`).replaceAll("±", "$\\pm$");
const markdownText = (text) => text.replace(/[\\|*_<`[]/g, (mark) => `\\${mark}`);

/** What a main table shows: [["head", fields], ["section", title], ["row", fields], ...] with {text, mark} as fields. */
function shownLines(table) {
  const columns = headings(table).flatMap((head, column) => (head.hidden ? [] : [column]));
  const field = (cell) => ({
    text: cell.textContent.trim() + (cell.classList.contains("significant") ? "*" : ""),
    mark: ["best", "second"].find((mark) => cell.classList.contains(mark)),
    number: cell.classList.contains("number"),
  });
  const lines = [["head", columns.map((column) => field(headings(table)[column]))]];
  for (const body of table.tBodies) {
    for (const row of body.hidden ? [] : body.rows) {
      if (row.hidden) continue;
      if (row.className === "section") lines.push(["section", row.textContent.trim()]);
      else lines.push(["row", columns.map((column) => field(row.cells[column])), row.dataset.section]);
    }
  }
  return lines;
}

const FORMATS = {
  CSV(lines) {
    const rows = lines.filter(([kind]) => kind !== "section");
    // Numbers without the star of a difference, and the budget, which is a heading on the page.
    return rows.map(([kind, fields, section]) => [
      kind === "head" ? "Budget" : section, ...fields.map(({ text, number }) => (number ? text.replace(/\*$/, "") : text)),
    ].map(csvField).join(",")).join("\n");
  },
  LaTeX(lines) {
    const head = lines[0][1], marks = { best: "\\textbf", second: "\\underline" };
    const one = ({ text, mark }) => (mark ? `${marks[mark]}{${latexText(text)}}` : latexText(text));
    const written = lines.slice(1).map(([kind, fields]) => (kind === "section"
      ? `\\midrule\n\\multicolumn{${head.length}}{l}{\\textit{${latexText(fields)}}} \\\\`
      : `${fields.map(one).join(" & ")} \\\\`));
    const first = lines[1]?.[0] === "section" ? [] : ["\\midrule"];
    return [
      `% needs \\usepackage{booktabs}\n\\begin{tabular}{${head.map(({ number }) => (number ? "r" : "l")).join("")}}`,
      `\\toprule\n${head.map(one).join(" & ")} \\\\`, ...first, ...written, "\\bottomrule\n\\end{tabular}",
    ].join("\n");
  },
  Markdown(lines) {
    const head = lines[0][1], marks = { best: "**", second: "" };
    const one = ({ text, mark }) => `${marks[mark] ?? ""}${markdownText(text)}${marks[mark] ?? ""}`;
    const written = lines.map(([kind, fields]) => (kind === "section"
      ? `| ***${markdownText(fields)}*** ${"| ".repeat(head.length - 1)}|`
      : `| ${fields.map(one).join(" | ")} |`));
    written.splice(1, 0, `| ${head.map(({ number }) => (number ? "---:" : ":---")).join(" | ")} |`);
    return written.join("\n");
  },
};

/** Put text on the clipboard. Where the browser gives a page no clipboard, as without https, by its older command. */
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const box = make("textarea", { class: "skip", "aria-hidden": "true" });
    box.value = text;
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    return done;
  }
}

async function copyTables(format) {
  const shown = mains.map(shownLines);
  const done = await toClipboard(`${shown.map(FORMATS[format]).join("\n\n")}\n`);
  const rows = shown.flat().filter(([kind]) => kind === "row").length;
  filterForm.querySelector("output").value = done ? `${rows} rows copied as ${format}` : "This browser does not let the page copy";
}

const sorts = sheets.map(sortable);
for (const field of document.querySelectorAll("td[data-cells]")) {
  const keys = field.dataset.cells.split(" ");
  field.replaceChildren(make("button", { type: "button", on: { click: () => showDetail(keys) } }, field.textContent.trim()));
}
const columnNames = [...new Set(mains.flatMap((table) => headings(table).slice(2).map((head) => head.textContent)))];
filterForm.querySelector(".chooser div").append(...columnNames.map((name) => {
  const box = make("input", { type: "checkbox", name: "column", value: name, checked: "" });
  return make("label", {}, box, ` ${name}`);
}));
filterForm.hidden = false;
for (const event of ["input", "change"]) {
  filterForm.addEventListener(event, ({ target }) => {
    if (target.name === "column") showColumns();
    filter();
  });
}
filterForm.addEventListener("reset", () => setTimeout(() => { showColumns(); filter(); }));
filterForm.addEventListener("submit", (event) => event.preventDefault());
for (const button of filterForm.querySelectorAll("[name=copy]")) button.addEventListener("click", () => copyTables(button.value));
// A click elsewhere closes the list of columns, as a menu's.
document.addEventListener("click", (event) => {
  const chooser = filterForm.querySelector(".chooser");
  if (chooser.open && !chooser.contains(event.target)) chooser.open = false;
});
for (const table of sheets) {
  const box = table.parentElement;
  box.before(make("p", { class: "hint", hidden: "", "aria-hidden": "true" }));
  box.addEventListener("scroll", () => hintAt(box), { passive: true });
}
addEventListener("resize", fitTables);
for (const part of document.querySelectorAll("#results > details, #speed details")) part.addEventListener("toggle", fitTables);

parts.push({
  write(parameters) {
    if (filterForm.text.value) parameters.set("find", filterForm.text.value);
    if (filterForm.section.value) parameters.set("budget", filterForm.section.value);
    for (const box of columnBoxes()) if (!box.checked) parameters.append("hide", box.value);
    sheets.forEach((table, number) => {
      const head = headings(table).find((one) => one.hasAttribute("aria-sort"));
      if (head) parameters.append("sort", `${number}:${head.getAttribute("aria-sort")}:${head.textContent}`);
    });
  },
  read(parameters) {
    filterForm.text.value = parameters.get("find") ?? "";
    filterForm.section.value = parameters.get("budget") ?? "";
    if (filterForm.section.selectedIndex < 0) filterForm.section.value = ""; // a budget that this page does not have
    const hidden = parameters.getAll("hide");
    for (const box of columnBoxes()) box.checked = !hidden.includes(box.value);
    const asked = new Map(parameters.getAll("sort").map((text) => text.split(/:(.*)/, 2)));
    sheets.forEach((table, number) => {
      const [order, name] = (asked.get(String(number)) ?? "").split(/:(.*)/, 2);
      const column = headings(table).findIndex((head) => head.textContent === name);
      sorts[number](column, column >= 0 && ["ascending", "descending"].includes(order) ? order : "none");
    });
    showColumns();
    filter();
  },
});
