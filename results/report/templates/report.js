"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Numbers as in the tables: .446, +.021, -.004
  const short = (value) => value.toFixed(3).replace(/^(-?)0\./, "$1.");
  const signed = (value) => (value > 0 ? "+" : "") + short(value);
  const between = (low, high, form) => (low === null || high === null ? "" : ` [${form(low)}, ${form(high)}]`);

  // Columns sort by their button. What has no value stays last in either direction.
  function sort(table, column, kind, direction) {
    const body = table.tBodies[0];
    const value = (row) => {
      const cell = row.cells[column];
      if (kind === "text") return cell.textContent.trim();
      return cell.dataset.v === "" || cell.dataset.v === undefined ? null : Number(cell.dataset.v);
    };
    const rows = [...body.rows].map((row, i) => ({ row, i, v: value(row) }));
    rows.sort((a, b) => {
      if (a.v === null || b.v === null) return (a.v === null) - (b.v === null) || a.i - b.i;
      const order = kind === "text" ? a.v.localeCompare(b.v, "en", { numeric: true }) : a.v - b.v;
      return direction * order || a.i - b.i;
    });
    body.append(...rows.map((one) => one.row));
  }

  function sortable(table) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      if (!head.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const number = head.dataset.sort === "number";
        const before = head.getAttribute("aria-sort");
        const rising = before ? before === "descending" : !number || head.dataset.rising === "1";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", rising ? "ascending" : "descending");
        sort(table, column, head.dataset.sort, rising ? 1 : -1);
        table.classList.add("sorted");
      });
    });
  }
  all("table.sortable, #scores").forEach(sortable);

  // The leaderboard: another metric, fewer rows.
  const data = JSON.parse(document.getElementById("data").textContent);
  const table = document.getElementById("scores");
  const form = document.querySelector(".controls");
  const metric = document.getElementById("metric");
  const head = document.getElementById("metric-name");

  function show(number) {
    const chosen = data.metrics[number];
    if (!chosen) return;
    const ends = data.rows.map((row) => row[number]).filter(Boolean).flatMap((v) => [v[0], v[1] ?? v[0], v[2] ?? v[0]]);
    const least = Math.min(...ends), width = Math.max(...ends) - least || 1;
    (head.querySelector("button") || head).textContent = chosen.name + (chosen.error ? " (lower is better)" : "");
    head.dataset.rising = chosen.error ? "1" : "";
    heads().forEach((other) => other.removeAttribute("aria-sort"));
    for (const row of table.tBodies[0].rows) {
      const values = data.rows[Number(row.dataset.i)][number];
      const score = row.querySelector(".score"), diff = row.querySelector(".diff");
      score.dataset.v = values ? values[0] : "";
      diff.dataset.v = values && values[3] !== null ? values[3] : "";
      diff.textContent = values && values[3] !== null ? signed(values[3]) + between(values[4], values[5], signed) : "–";
      const bar = score.querySelector(".bar");
      if (!bar) continue;
      bar.hidden = !values;
      const text = score.querySelector(".value"), mark = score.querySelector(".mark");
      text.textContent = values ? short(values[0]) + between(values[1], values[2], short) : "–";
      text.className = "value" + (values && values[6] ? " top" : "");
      mark.textContent = values ? values[6] : "";
      mark.className = "mark " + (values ? values[6] : "");
      if (!values) continue;
      const place = (value) => String((100 * (value - least)) / width);
      bar.style.setProperty("--l", place(values[1] ?? values[0]));
      bar.style.setProperty("--m", place(values[0]));
      bar.style.setProperty("--h", place(values[2] ?? values[0]));
    }
  }
  const heads = () => all("thead th", table);

  function filter() {
    const wanted = all("[data-filter]", form).filter((select) => select.value);
    let n = 0;
    for (const row of table.tBodies[0].rows) {
      row.hidden = !wanted.every((select) => row.dataset[select.dataset.filter] === select.value);
      n += !row.hidden;
    }
    document.getElementById("shown").textContent = `${n} of ${table.tBodies[0].rows.length} rows`;
  }

  if (form) {
    metric.addEventListener("change", () => show(Number(metric.value)));
    form.addEventListener("change", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => {
      const rows = [...table.tBodies[0].rows].sort((a, b) => a.dataset.i - b.dataset.i);
      table.tBodies[0].append(...rows);
      table.classList.remove("sorted");
      show(Number(metric.value));
      filter();
    }));
    if (metric.value !== "0") show(Number(metric.value)); // a browser may remember the choice
    filter();
  }

  // Tabs: what is a long page without this script.
  all(".tabs").forEach((box, number) => {
    const tabs = all(":scope > .tab", box);
    if (tabs.length < 2) return;
    const list = document.createElement("div");
    list.className = "tablist";
    list.setAttribute("role", "tablist");
    list.setAttribute("aria-label", box.dataset.label);
    const buttons = tabs.map((tab, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.id = `tab-${number}-${i}`;
      tab.id = `panel-${number}-${i}`;
      button.setAttribute("role", "tab");
      button.setAttribute("aria-controls", tab.id);
      tab.setAttribute("role", "tabpanel");
      tab.setAttribute("aria-labelledby", button.id);
      button.textContent = tab.dataset.name;
      button.addEventListener("click", () => choose(i));
      list.append(button);
      return button;
    });
    function choose(chosen) {
      tabs.forEach((tab, i) => { tab.hidden = i !== chosen; });
      buttons.forEach((button, i) => {
        button.setAttribute("aria-selected", String(i === chosen));
        button.tabIndex = i === chosen ? 0 : -1;
      });
    }
    list.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = (buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length;
      choose(next);
      buttons[next].focus();
      event.preventDefault();
    });
    box.prepend(list);
    choose(0);
  });

  addEventListener("beforeprint", () => {
    all("details").forEach((one) => { one.open = true; });
    all("img[loading]").forEach((one) => { one.loading = "eager"; });
  });
})();
