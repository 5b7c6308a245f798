"use strict";
// One trial is picked at a time: everything that carries its id stands out. The table's rows say what it is.
const bar = document.getElementById("picked");
const table = document.getElementById("all");
const REACH = [[0, 0], [0, -4], [4, 0], [0, 4], [-4, 0], [5, -5], [5, 5], [-5, 5], [-5, -5]];
let picked = "";

const marks = trial => document.querySelectorAll(`[data-trial="${CSS.escape(trial)}"]`);
const rows = () => table ? [...table.tBodies[0].rows] : [];

function pick(trial) {
  for (const mark of document.querySelectorAll(".picked")) mark.classList.remove("picked");
  picked = trial;
  document.body.classList.toggle("choosing", trial !== "");
  bar.hidden = trial === "";
  for (const mark of marks(trial)) {
    mark.classList.add("picked");
    if (mark.ownerSVGElement) mark.parentNode.append(mark);  // on top of the others
  }
  bar.textContent = trial && describe(trial);
}

function describe(trial) {
  const row = rows().find(one => one.dataset.trial === trial);
  const names = [...table.tHead.rows[0].cells].map(cell => cell.textContent);
  const told = [...row.cells].map((cell, i) => cell.textContent && `${names[i]} ${cell.textContent}`);
  return told.slice(1).filter(Boolean).join(" · ");
}

// The trial at or near a point: lines are thin.
function trialNear(x, y) {
  for (const [dx, dy] of REACH) {
    const mark = document.elementFromPoint(x + dx, y + dy)?.closest("[data-trial]");
    if (mark) return mark.dataset.trial;
  }
  return "";
}

function sortBy(column) {
  const head = table.tHead.rows[0].cells[column];
  const down = head.ariaSort === "ascending";
  for (const cell of table.tHead.rows[0].cells) cell.ariaSort = "none";
  head.ariaSort = down ? "descending" : "ascending";
  const value = row => row.cells[column].dataset.value;
  const compare = (a, b) => a - b || (isNaN(a - b) ? a.localeCompare(b) : 0);
  const order = rows().sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (!a || !b) return !a - !b;  // what is blank stays below
    return down ? compare(b, a) : compare(a, b);
  });
  table.tBodies[0].append(...order);
}

document.addEventListener("click", event => {
  const button = event.target.closest("#all th button");
  if (button) return sortBy(button.parentNode.cellIndex);
  if (!event.target.closest("figure, #all tbody")) return;
  const trial = trialNear(event.clientX, event.clientY);
  pick(trial === picked ? "" : trial);
});

let over = "";
document.addEventListener("pointermove", event => {
  const trial = event.target.closest("figure, #all") ? trialNear(event.clientX, event.clientY) : "";
  if (trial === over) return;
  for (const mark of marks(over)) mark.classList.remove("over");
  for (const mark of marks(trial)) mark.classList.add("over");
  over = trial;
});

document.addEventListener("keydown", event => {
  const row = event.target.closest("#all tbody tr");
  if (event.key === "Escape") pick("");
  if (!row) return;
  const step = {ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling}[event.key];
  if (step) step.focus();
  if (event.key === "Enter" || event.key === " ") pick(row.dataset.trial === picked ? "" : row.dataset.trial);
  if (step || event.key === " ") event.preventDefault();
});

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(one => { one.open = true; }));
