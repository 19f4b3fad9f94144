"use strict";
// Sorting and filtering of the tables, and the choice between light and dark. The page is whole without it.
(() => {
  const value = (cell) => {
    const number = cell.dataset.value;
    return number === undefined ? cell.textContent.trim().toLowerCase() : number === "" ? null : Number(number);
  };
  const compare = (a, b, sign) => {
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1; // what is not there comes last either way
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  };
  const sort = (table, heading) => {
    const descending = heading.getAttribute("aria-sort") === "ascending" ||
      (heading.getAttribute("aria-sort") === null && heading.dataset.first === "descending");
    const place = [...heading.parentNode.children].indexOf(heading);
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, at) => ({ row, at, key: value(row.cells[place]) }));
    rows.sort((a, b) => compare(a.key, b.key, descending ? -1 : 1) || a.at - b.at);
    rows.forEach(({ row }) => body.append(row));
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  };
  const filter = (board) => {
    const words = board.querySelector("input[type=search]").value.toLowerCase().split(/\s+/).filter(Boolean);
    const method = board.querySelector("select").value;
    let shown = 0;
    for (const row of board.querySelector("tbody").rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word)) && (!method || row.dataset.method === method));
      shown += row.hidden ? 0 : 1;
    }
    board.querySelector("[role=status]").textContent = `${shown} of ${board.querySelector("tbody").rows.length} rows`;
  };
  for (const board of document.querySelectorAll(".board")) {
    const table = board.querySelector("table");
    table.tHead.addEventListener("click", (event) => {
      const heading = event.target.closest("th");
      if (heading && heading.querySelector("button")) sort(table, heading);
    });
    board.querySelector("input[type=search]").addEventListener("input", () => filter(board));
    board.querySelector("select").addEventListener("change", () => filter(board));
    board.querySelector(".more").addEventListener("click", (event) => {
      const all = table.classList.toggle("all");
      event.target.setAttribute("aria-pressed", String(all));
    });
    filter(board);
  }
  const button = document.getElementById("theme");
  const dark = () => document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    name();
  });
  name();
})();
