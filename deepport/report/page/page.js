// Filters the list of results, and opens what is folded before printing. The page is complete without it.
const form = document.querySelector(".filter");
const rows = Array.from(document.querySelectorAll(".results tbody tr"), (row) => [row, row.textContent.toLowerCase()]);
const [status, search, told] = ["select", "input", "output"].map((name) => form.querySelector(name));
const filter = () => {
  const wanted = search.value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const [row, text] of rows) {
    row.hidden = (status.value && row.dataset.s !== status.value) || !wanted.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  told.textContent = `${shown} of ${rows.length}`;
};
form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
filter();
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
