"use strict";
// Everything that a model wrote enters the page as a text node; nothing here makes markup from a string.
const PAGE = 25, DIFF = 1500; // rows of the list; words of each side beyond which answers are not compared word by word
const index = JSON.parse(document.getElementById("index").textContent);
const blocks = document.getElementsByClassName("block");
const VERDICT = { c: "✓ correct", w: "✗ wrong", t: "✗ timeout", e: "! error", n: "– not judged", l: "– left out", "-": "– not asked" };

function el(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

// --- the values of a curve under the pointer
for (const svg of document.querySelectorAll(".curve svg")) {
  const output = svg.closest("figure").querySelector("output"), rest = output.textContent;
  let points = null, line = null;
  svg.addEventListener("pointermove", (event) => {
    points ||= svg.dataset.points.trim().split(" ").map((pair) => pair.split(",").map(Number));
    const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
    const x = ((event.clientX - box.left) / box.width) * view.width + view.x;
    const first = points[0][0], last = points[points.length - 1][0], width = view.width - 8;
    const wanted = first + (x / width) * (last - first);
    const [step, value] = points.reduce((a, b) => (Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a));
    if (!line) svg.append((line = document.createElementNS("http://www.w3.org/2000/svg", "path")));
    line.setAttribute("class", "at");
    line.setAttribute("d", `M${((step - first) / (last - first || 1)) * width} 0V${view.height - 8}`);
    output.textContent = `step ${step}: ${value}`;
  });
  svg.addEventListener("pointerleave", () => { output.textContent = rest; if (line) line.remove(); line = null; });
}

// --- the answers
const unpacked = new Map();
async function unpack(number) {
  // The blocks stand last in the file, and the page is of use while they are read; the last one that is there may be torn.
  while (document.readyState === "loading" && blocks.length < number + 2) await new Promise((go) => setTimeout(go, 20));
  const bytes = Uint8Array.from(atob(blocks[number].textContent), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}
function block(number) {
  if (!unpacked.has(number)) {
    unpacked.set(number, unpack(number));
    if (unpacked.size > 64) unpacked.delete(unpacked.keys().next().value);
  }
  return unpacked.get(number);
}
const SIZE = 200;
const instance = async (task, number) => (await block(task.first + Math.floor(number / SIZE)))[number % SIZE];

function diff(a, b) {
  const words = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || [];
  const x = words(a), y = words(b);
  if (x.length > DIFF || y.length > DIFF) return null;
  const columns = y.length + 1, longest = new Uint16Array((x.length + 1) * columns);
  for (let i = x.length - 1; i >= 0; i--)
    for (let j = y.length - 1; j >= 0; j--)
      longest[i * columns + j] = x[i] === y[j] ? longest[(i + 1) * columns + j + 1] + 1
        : Math.max(longest[(i + 1) * columns + j], longest[i * columns + j + 1]);
  const pieces = [];
  const put = (kind, word) => {
    if (pieces.length && pieces[pieces.length - 1][0] === kind) pieces[pieces.length - 1][1] += word;
    else pieces.push([kind, word]);
  };
  let i = 0, j = 0;
  while (i < x.length || j < y.length) {
    if (i < x.length && j < y.length && x[i] === y[j]) { put("same", x[i]); i++; j++; }
    else if (j >= y.length || (i < x.length && longest[(i + 1) * columns + j] >= longest[i * columns + j + 1])) put("del", x[i++]);
    else put("ins", y[j++]);
  }
  return pieces;
}

function answer(label, entry, letter, pieces, skip) {
  const [, response, score, detail, finish, , length] = entry;
  const body = el("pre");
  if (pieces) body.append(...pieces.filter(([kind]) => kind !== skip).map(([kind, text]) => (kind === "same" ? text : el(kind, {}, text))));
  else body.append(response);
  const about = [`score ${score}`, detail, finish === "stop" ? null : finish, length === null ? null : `${length} tokens`];
  return el("div", {}, el("h4", {}, `${label} `, el("span", { class: `verdict ${letter}` }, VERDICT[letter])), body,
    el("small", {}, about.filter((part) => part).join(" · ")));
}

const form = document.getElementById("ask");
if (form && index.tasks.length) {
  const { task: taskInput, a: aInput, b: bInput, show, text } = form.elements;
  const list = document.getElementById("list"), one = document.getElementById("one"), found = document.getElementById("found");
  index.tasks.forEach((task, number) => taskInput.append(el("option", { value: number }, `${task.suite}: ${task.task}`)));
  let page = 0, shown = [], asked = 0;
  const task = () => index.tasks[Number(taskInput.value)];

  function models() {
    const labels = Object.keys(task().outcomes), first = index.compare[task().suite] || [labels[Math.max(0, labels.length - 2)], labels[labels.length - 1]];
    for (const [select, wanted] of [[aInput, first[0]], [bInput, first[1]]]) {
      const kept = select.value;
      select.replaceChildren(...labels.map((label) => el("option", { value: label }, label)));
      select.value = labels.includes(kept) ? kept : labels.includes(wanted) ? wanted : labels[0];
    }
  }

  const KEEP = {
    all: () => true, gained: (a, b) => /[wte]/.test(a) && b === "c", lost: (a, b) => a === "c" && /[wte]/.test(b), differ: (a, b) => a !== b,
    right: (a, b) => a === "c" && b === "c", wrong: (a, b) => a !== "c" && b !== "c", failed: (a, b) => /[te]/.test(a + b),
  };

  async function search() {
    const turn = ++asked, { outcomes, n } = task();
    const a = outcomes[aInput.value], b = outcomes[bInput.value], keep = KEEP[show.value], wanted = text.value.toLowerCase();
    let numbers = [];
    for (let i = 0; i < n; i++) if (keep(a[i], b[i])) numbers.push(i);
    if (wanted) {
      const kept = [];
      for (const [at, number] of numbers.entries()) {
        const entry = await instance(task(), number);
        if (turn !== asked) return;
        if (at % 5000 === 4999) found.textContent = `looked through ${at + 1} of ${numbers.length} …`;
        const said = [entry[0], ...entry[1], entry[2][aInput.value]?.[1], entry[2][bInput.value]?.[1]];
        if (said.some((part) => part && part.toLowerCase().includes(wanted))) kept.push(number);
      }
      numbers = kept;
    }
    shown = numbers;
    page = 0;
    one.replaceChildren();
    found.textContent = `${shown.length.toLocaleString("en")} of ${n.toLocaleString("en")} instances`;
    await draw(turn);
  }

  async function draw(turn = asked) {
    const { outcomes } = task(), a = outcomes[aInput.value], b = outcomes[bInput.value];
    const numbers = shown.slice(page * PAGE, (page + 1) * PAGE);
    const entries = await Promise.all(numbers.map((number) => instance(task(), number)));
    if (turn !== asked) return;
    const rows = entries.map((entry, at) => {
      const letters = [a[numbers[at]], b[numbers[at]]], same = aInput.value === bInput.value;
      const verdict = el("span", { class: "verdict" });
      (same ? letters.slice(1) : letters).forEach((letter, k) => verdict.append(k ? " → " : "", el("span", { class: letter === "-" ? "absent" : letter }, VERDICT[letter].slice(0, 1))));
      const said = `${(same ? letters.slice(1) : letters).map((letter) => VERDICT[letter].slice(2)).join(" → ")}`;
      const button = el("button", { type: "button", class: "row", "aria-label": `${entry[0]}, ${said}`, onclick: () => open(entry, letters, button) },
        verdict, el("span", {}, el("span", { class: "id" }, entry[0]), ` ${entry[1][0].replace(/\s+/g, " ").slice(0, 160)}`));
      return el("li", {}, button);
    });
    const last = Math.max(0, Math.ceil(shown.length / PAGE) - 1);
    const turnTo = (way) => async () => { page += way; await draw(); list.querySelector("button")?.focus(); };
    list.replaceChildren(el("ol", {}, ...rows), el("div", { class: "pages" },
      el("button", { type: "button", disabled: page === 0, onclick: turnTo(-1) }, "Previous"), `page ${page + 1} of ${last + 1}`,
      el("button", { type: "button", disabled: page === last, onclick: turnTo(1) }, "Next")));
  }

  function open(entry, letters, button) {
    for (const other of list.querySelectorAll("[aria-current]")) other.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
    const [id, prompts, answers] = entry, a = answers[aInput.value], b = answers[bInput.value];
    const parts = [el("h3", {}, id)];
    const asked = new Set([a, b].filter((side) => side).map((side) => side[0]));
    for (const number of asked) parts.push(el("h4", {}, asked.size > 1 ? `prompt to ${a && number === a[0] ? aInput.value : bInput.value}` : "prompt"), el("pre", {}, prompts[number]));
    const pieces = a && b && aInput.value !== bInput.value ? diff(a[1], b[1]) : null;
    if (a && aInput.value !== bInput.value) parts.push(answer(aInput.value, a, letters[0], pieces, "ins"));
    if (b) parts.push(answer(bInput.value, b, letters[1], pieces, "del"));
    one.replaceChildren(...parts);
    if (matchMedia("(max-width: 48rem)").matches) one.focus();
  }

  let waiting = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => { if (event.target === taskInput) models(); if (event.target !== text) search(); });
  text.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 250); });
  form.hidden = false;
  models();
  search();
}
